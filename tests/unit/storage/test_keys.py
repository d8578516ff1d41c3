"""The catalog of keys: spelt as the specification says, and never two things under one name."""

import ast
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import galaxy_mail
from galaxy_mail.domain.records import DeliveryStatus, Envelope, Lane, Source, SuppressedRecipient
from galaxy_mail.storage.records.keys import Keys
from tests.deliveries import delivery_of, login_code_of, request_of
from tests.keys import k

# Spec section 4, the table.
SPELLINGS = {
    k.delivery("d.1"): "mail:deliveries:d.1",
    k.payload("d.1"): "mail:payloads:d.1",
    k.attempt("d.1", 2): "mail:attempts:d.1:2",
    k.idempotency(Source.AUTHSESSION, "a:b c"): "mail:idempotency:authsession:a:b c",
    k.dead_letter("d.1"): "mail:dead_letters:d.1",
    k.malformed("1-0"): "mail:malformed_commands:1-0",
    k.malformed_index: "mail:idx:malformed_commands",
    k.command_stream: "mail:delivery_commands",
    k.offset: "mail:stream_offsets:mail:delivery_commands",
    k.consumed: "mail:stream_consumed:mail:delivery_commands",
    k.lane(Lane.NORMAL): "mail:attempt_schedule",
    k.lane(Lane.PRIORITY): "mail:attempt_schedule:priority",
    k.claims: "mail:attempt_claims",
    k.claim_sequence: "mail:claim_sequence",
    k.claim_losses: "mail:claim_losses",
    k.meta: "mail:meta",
    k.ingress_lease: "mail:ingress_lease",
    k.job("j"): "mail:jobs:j",
    k.children_index("d.1"): "mail:idx:children:d.1",
    k.expires_index: "mail:idx:expires",
    k.suppressions: "mail:suppressions",
    k.recipient_index("Ann@x.example"): "mail:idx:recipient:ann@x.example",
    k.status_index(DeliveryStatus.DEAD_LETTER): "mail:idx:status:dead_letter",
    k.source_index(Source.NOTIFICATION): "mail:idx:source:notification",
    k.template_index("auth.login_code"): "mail:idx:template:auth.login_code",
    k.idempotency_index(Source.OPERATOR_RESEND, "k"): "mail:idx:idempotency:operator_resend:k",
    k.created_at_index: "mail:idx:created_at",
    k.dead_letters_index: "mail:idx:dead_letters",
}


@pytest.mark.parametrize(("made", "specified"), SPELLINGS.items(), ids=list(SPELLINGS.values()))
def test_a_key_is_written_as_specified(made: str, specified: str) -> None:
    assert made == specified


def test_names_that_operators_chose_are_followed() -> None:
    keys = Keys(command_stream="jobs", schedule="due", dead_letters="dead:")
    assert (keys.offset, keys.consumed) == ("mail:stream_offsets:jobs", "mail:stream_consumed:jobs")
    assert (keys.lane(Lane.NORMAL), keys.lane(Lane.PRIORITY)) == ("due", "due:priority")
    assert keys.dead_letter("d") == "dead:d"


def test_nobody_else_spells_a_key() -> None:
    """Constants in the code, not prose; the configuration has three defaults that a test above compares."""
    package = Path(galaxy_mail.__file__).parent
    found = {
        f"{path.relative_to(package)}: {node.value}"
        for path in package.rglob("*.py")
        if path.relative_to(package).as_posix() not in {"storage/records/keys.py", "config.py"}
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("mail:")
    }
    assert found == set()


RUNS = st.text("ab1_~-", min_size=1, max_size=3)
IDS = st.lists(RUNS, min_size=1, max_size=3).map(".".join)  # all of the grammar that can matter here
KEYS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30)


@settings(deadline=None)
@given(one=IDS, other=IDS, numbers=st.tuples(st.integers(1, 99), st.integers(1, 99)))
def test_two_deliveries_share_no_key(one: str, other: str, numbers: tuple[int, int]) -> None:
    assume(one != other)

    def all_of(delivery_id: str) -> set[str]:
        return {
            k.delivery(delivery_id),
            k.payload(delivery_id),
            k.attempt(delivery_id, numbers[0]),
            k.attempt(delivery_id, numbers[1]),
            k.dead_letter(delivery_id),
            k.children_index(delivery_id),
        }

    assert not all_of(one) & all_of(other)
    assert len(all_of(one)) == 5 + (numbers[0] != numbers[1])


@settings(deadline=None)
@given(one=st.tuples(st.sampled_from(Source), KEYS), other=st.tuples(st.sampled_from(Source), KEYS))
def test_an_idempotency_key_counts_for_its_source_alone(
    one: tuple[Source, str], other: tuple[Source, str]
) -> None:
    assume(one != other)
    assert k.idempotency(*one) != k.idempotency(*other)
    assert k.idempotency_index(*one) != k.idempotency_index(*other)


def test_the_list_of_names_lacks_none() -> None:
    """Names that operators choose are compared with it."""
    constants = {
        value for value in vars(Keys).values() if isinstance(value, str) and value.startswith("mail:")
    }
    assert constants - {Keys.everything, Keys.indexes} == set(Keys.fixed)


def test_no_kind_of_key_begins_like_another() -> None:
    """What is scanned by its prefix is of one kind."""
    prefixes = [
        k.deliveries,
        k.payloads,
        k.attempts,
        k.idempotency_records,
        k.malformed_commands,
        k.jobs,
        k.dead_letters,
    ]
    prefixes += [k.stream_offsets, k.stream_consumed, "mail:idx:"]
    whole = [k.claims, k.claim_sequence, k.claim_losses, k.meta, k.ingress_lease, k.suppressions]
    whole += [k.command_stream, k.schedule, k.priority_schedule]
    for one, other in combinations(prefixes, 2):
        assert not one.startswith(other)
        assert not other.startswith(one)
    assert not [(key, prefix) for key in whole for prefix in prefixes if key.startswith(prefix)]
    assert len(set(whole)) == len(whole)


def test_a_delivery_stands_in_an_index_for_each_thing_it_is_looked_for_by() -> None:
    delivery = replace(
        delivery_of(login_code_of()),
        envelope=Envelope(to=("A@x.example",), cc=("b@x.example", "a@X.example"), bcc=("c@x.example",)),
        suppressed_recipients=(
            SuppressedRecipient(address="D@x.example", reason="r"),
            SuppressedRecipient(address="b@x.example", reason="r"),
        ),
    )
    indexes = k.fixed_indexes(delivery)
    assert sorted(indexes) == [
        "mail:idx:created_at",
        "mail:idx:idempotency:authsession:key of c1",
        "mail:idx:recipient:a@x.example",
        "mail:idx:recipient:b@x.example",
        "mail:idx:recipient:c@x.example",
        "mail:idx:recipient:d@x.example",
        "mail:idx:source:authsession",
        "mail:idx:template:auth.login_code",
    ]


def test_mail_without_a_template_stands_in_no_index_of_templates() -> None:
    assert not [index for index in k.fixed_indexes(delivery_of(request_of())) if "template" in index]


def test_the_indexes_of_a_delivery_never_change() -> None:
    """Those that acceptance wrote are those that are removed; recipients suppressed later stay findable."""
    delivery = delivery_of(request_of(to=("a@x.example", "b@x.example")))
    later = replace(
        delivery,
        status=DeliveryStatus.SENT,
        envelope=Envelope(to=("b@x.example",)),
        suppressed_recipients=(SuppressedRecipient(address="a@x.example", reason="r"),),
    )
    assert set(k.fixed_indexes(later)) == set(k.fixed_indexes(delivery))
