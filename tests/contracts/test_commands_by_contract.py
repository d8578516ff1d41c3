"""What the AsyncAPI contract calls valid is accepted, and nothing else is."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from galaxy_mail.domain.acceptance import MailRequest
from galaxy_mail.domain.commands import CommandLimits, FailureCode, Malformed, decode_command
from tests.contracts.documents import asyncapi, validator
from tests.contracts.entries import Fields, examples, fields_of, invalid_examples, mutations

LIMITS = CommandLimits()
EXAMPLES = list(examples(asyncapi()))
EXAMPLE_IDS = [f"{message}: {name}" for message, name, _ in EXAMPLES]


@pytest.mark.parametrize(("message", "name", "entry"), EXAMPLES, ids=EXAMPLE_IDS)
def test_an_example_is_accepted(message: str, name: str, entry: dict[str, str]) -> None:
    decoded = decode_command("1-0", fields_of(entry), LIMITS)
    assert isinstance(decoded, MailRequest)
    assert decoded.delivery_id == entry["delivery_id"]


INVALID = list(invalid_examples(asyncapi()))


@pytest.mark.parametrize(("name", "failure_code", "fields"), INVALID, ids=[name for name, _, _ in INVALID])
def test_an_invalid_example_gets_its_failure_code(name: str, failure_code: str, fields: Fields) -> None:
    decoded = decode_command("7-1", fields, LIMITS)
    assert isinstance(decoded, Malformed)
    assert (decoded.entry_id, decoded.failure_code) == ("7-1", failure_code)


def test_every_failure_code_but_the_store_s_has_an_example() -> None:
    shown = {failure_code for _, failure_code, _ in INVALID}
    # Ten megabytes don't fit in a document.
    elsewhere = {
        FailureCode.IDEMPOTENCY_CONFLICT,
        FailureCode.DELIVERY_ID_CONFLICT,
        FailureCode.PAYLOAD_TOO_LARGE,
    }
    assert shown == set(FailureCode) - elsewhere


def _entry_mutations(entry: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    for where, mutated in mutations(entry):
        if isinstance(mutated, dict) and all(isinstance(value, str) for value in mutated.values()):
            yield where, mutated


@pytest.mark.parametrize(("message", "name", "entry"), EXAMPLES, ids=EXAMPLE_IDS)
def test_schema_and_decoder_agree_on_every_mutation_of_an_entry(
    message: str, name: str, entry: dict[str, str]
) -> None:
    judge = validator(asyncapi(), asyncapi()["components"]["messages"][message]["payload"])
    verdicts = set()
    for where, mutated in _entry_mutations(entry):
        if where.startswith(".payload_json") and "removed" not in where and "misspelt" not in where:
            continue  # its content is the next test's
        accepted = isinstance(decode_command("1-0", fields_of(mutated), LIMITS), MailRequest)
        valid = judge.is_valid(mutated) and int(mutated["requested_at_ms"]) < 2**53
        assert accepted == valid, where
        verdicts.add(accepted)
    assert verdicts == {True, False}


@pytest.mark.parametrize(("message", "name", "entry"), EXAMPLES, ids=EXAMPLE_IDS)
def test_schema_and_decoder_agree_on_every_mutation_of_a_payload(
    message: str, name: str, entry: dict[str, str]
) -> None:
    judge = validator(asyncapi(), asyncapi()["components"]["messages"][message]["x-payload-json"])
    verdicts = set()
    for where, mutated in mutations(json.loads(entry["payload_json"])):
        fields = fields_of({**entry, "payload_json": json.dumps(mutated)})
        decoded = decode_command("1-0", fields, LIMITS)
        valid = judge.is_valid(mutated) and _follows_the_prose(mutated)
        assert isinstance(decoded, MailRequest) == valid, (where, decoded)
        if isinstance(decoded, Malformed):
            assert decoded.failure_code is FailureCode.INVALID_PAYLOAD, where
        verdicts.add(valid)
    assert verdicts == {True, False}


def _follows_the_prose(payload: Any) -> bool:
    """What the descriptions say and a schema can't."""
    envelope = payload["envelope"]
    recipients = sum(len(envelope.get(name, [])) for name in ("to", "cc", "bcc"))
    content_ids = [a["content_id"] for a in payload.get("attachments", []) if "content_id" in a]
    return recipients <= LIMITS.recipients_max and len(set(content_ids)) == len(content_ids)
