"""How records are spelt as JSON and read again: one spelling, short, and readable by older and newer releases."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from galaxy_mail.domain.records import (
    Attachment,
    Attempt,
    AttemptStatus,
    Blame,
    Content,
    DeadLetter,
    Delivery,
    DeliveryStatus,
    Envelope,
    Failure,
    IdempotencyRecord,
    Lane,
    MalformedCommand,
    PayloadMode,
    RefusedRecipient,
    RenderedContent,
    Result,
    SendResult,
    Source,
    SuppressedRecipient,
    Suppression,
    decode,
    encode,
)
from tests.deliveries import NOW_MS, acceptance_of, delivery_of, login_code_of, request_of

FAILURE = Failure(code="relay_busy", summary="wait — “please”")
WHOLE_DELIVERY = Delivery(
    delivery_id="a.b~c-1",
    source=Source.OPERATOR_RESEND,
    lane=Lane.PRIORITY,
    status=DeliveryStatus.DEAD_LETTER,
    payload_mode=PayloadMode.TEMPLATE,
    template_id="auth.login_code",
    locale="fr-CA",
    locale_used="fr",
    locale_fallback_used=False,
    envelope=Envelope(
        to=("a@x.example",), cc=("b@x.example",), bcc=("ü@x.example",), reply_to=("r@x.example",)
    ),
    suppressed_recipients=(SuppressedRecipient(address="s@x.example", reason="bounced"),),
    subject="Grüße, \u2028 日本",
    idempotency_key='k"\\ ',
    parent_delivery_id="p",
    attempt_count=4,
    retries_used=3,
    begun_losses=2,
    relay_failures=1,
    relay_failed_at_ms=NOW_MS,
    next_attempt_at_ms=2**53 - 1,
    failure=FAILURE,
    message_id="a.b~c-1@mail.example",
    request_id="r",
    trace_id="t",
    traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01",
    requested_at_ms=1,
    resent_by="op",
    created_at_ms=NOW_MS,
    updated_at_ms=NOW_MS + 1,
    rendered_at_ms=NOW_MS + 2,
    finished_at_ms=NOW_MS + 3,
)
WHOLE: tuple[msgspec.Struct, ...] = (
    WHOLE_DELIVERY,
    Attempt(
        delivery_id="d",
        attempt_no=2,
        status=AttemptStatus.TIMED_OUT,
        scheduled_for_ms=1,
        started_at_ms=2,
        finished_at_ms=3,
        result=Result.TRANSIENT_FAILURE,
        failure=FAILURE,
        blame=Blame.RELAY,
        provider="smtp",
        provider_code="451 4.3.0",
        refused_recipients=(RefusedRecipient(address="a@x", provider_code="550 5.1.1", summary="no"),),
        outcome_unknown=True,
    ),
    Content(
        envelope=WHOLE_DELIVERY.envelope,
        subject="s",
        text_body="t",
        html_body="<p>",
        attachments=(Attachment(filename="f", content_type="a/b", content_base64="AA==", content_id="c"),),
    ),
    Content(
        envelope=Envelope(to=("a@x",)),
        template_id="t",
        locale="en",
        variables={"b": [1, 2.5, None, {"z": True, "a": ""}], "a": "ä"},
    ),
    RenderedContent(subject="s", text_body="t", html_body="h", locale_used="en", locale_fallback_used=True),
    DeadLetter(delivery_id="d", reason="crash_loop", failure=FAILURE, attempt_count=3, created_at_ms=1),
    IdempotencyRecord(fingerprint="f", delivery_id="d", outcome="sent", expires_at_ms=1),
    MalformedCommand(
        entry_id="1-0", fields={"b": "2", "a": "1"}, failure_code="c", message="m", recorded_at_ms=1
    ),
    Suppression(address="@x.example", reason="r", created_by="op", created_at_ms=1),
    SendResult(
        result=Result.TRANSIENT_FAILURE,
        status=AttemptStatus.TIMED_OUT,
        failure=FAILURE,
        blame=Blame.RELAY,
        provider_code="4",
        refused_recipients=(RefusedRecipient(address="a@x", provider_code="550", summary="no"),),
        outcome_unknown=True,
    ),
)


@pytest.mark.parametrize("record", WHOLE, ids=lambda record: type(record).__name__)
def test_a_record_with_every_member_set_comes_back_equal(record: msgspec.Struct) -> None:
    assert decode(encode(record), type(record)) == record


@pytest.mark.parametrize("record", WHOLE[:2], ids=lambda record: type(record).__name__)
def test_the_example_has_no_member_at_its_default(record: msgspec.Struct) -> None:
    """Else a member that is not written would go unnoticed above."""
    members = msgspec.json.decode(encode(record))
    assert set(members) == {field.encode_name for field in fields(record)}


def test_what_has_its_default_is_not_written() -> None:
    members = msgspec.json.decode(encode(delivery_of()))
    assert set(members) == {
        "delivery_id",
        "source",
        "status",
        "payload_mode",
        "envelope",
        "subject",
        "idempotency_key",
        "attempt_count",
        "next_attempt_at_ms",
        "message_id",
        "created_at_ms",
        "updated_at_ms",
    }


def test_the_spelling_is_sorted_and_has_no_white_space() -> None:
    assert encode(Failure(summary="s", code="c")) == b'{"code":"c","summary":"s"}'
    one = Content(envelope=Envelope(to=("a@x",)), template_id="t", locale="en", variables={"b": 1, "a": 2})
    other = replace(one, variables={"a": 2, "b": 1})
    assert encode(one) == encode(other)


def test_members_that_a_newer_release_added_are_passed_over() -> None:
    record = msgspec.json.decode(encode(delivery_of()))
    later = msgspec.json.encode({**record, "invented_later": [1, {"x": None}]})
    assert decode(later, Delivery) == delivery_of()


@pytest.mark.parametrize("missing", ["delivery_id", "status", "envelope", "created_at_ms", "message_id"])
def test_a_record_without_a_member_that_it_must_have_is_none(missing: str) -> None:
    record = msgspec.json.decode(encode(delivery_of()))
    del record[missing]
    with pytest.raises(msgspec.ValidationError, match=missing):
        decode(msgspec.json.encode(record), Delivery)


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{", b'"x"', b'{"delivery_id":1}', b"\xff"],
    ids=["nothing", "null", "a list", "cut off", "text", "a wrong type", "not UTF-8"],
)
def test_what_is_no_record_is_refused_with_one_kind_of_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(data, Delivery)


def test_a_status_that_nobody_knows_is_refused() -> None:
    record = msgspec.json.decode(encode(delivery_of()))
    with pytest.raises(msgspec.ValidationError, match="status"):
        decode(msgspec.json.encode({**record, "status": "teleported"}), Delivery)


@settings(deadline=None)
@given(
    subject=st.none() | st.text(),
    to=st.lists(st.text(min_size=1), min_size=1, max_size=4),
    at_ms=st.integers(min_value=0, max_value=2**53),
    count=st.integers(min_value=0, max_value=100),
    failure=st.none() | st.builds(Failure, code=st.text(), summary=st.text()),
)
def test_any_text_and_any_time_come_back(
    subject: str | None, to: list[str], at_ms: int, count: int, failure: Failure | None
) -> None:
    delivery = replace(
        delivery_of(),
        subject=_utf8(subject),
        envelope=Envelope(to=tuple(map(_utf8, to))),
        created_at_ms=at_ms,
        attempt_count=count,
        failure=failure
        if failure is None
        else Failure(code=_utf8(failure.code), summary=_utf8(failure.summary)),
    )
    data = encode(delivery)
    assert decode(data, Delivery) == delivery
    assert encode(decode(data, Delivery)) == data


def _utf8(text: Any) -> Any:
    """Lone surrogates have no UTF-8; no decoder of ours lets them in."""
    return text if text is None else text.encode("utf-8", "replace").decode()


def test_everyone_is_named_once_in_the_order_of_to_cc_bcc() -> None:
    envelope = Envelope(to=("a@x", "b@x", "a@x"), cc=("c@x", "b@x"), bcc=("d@x", "a@x"), reply_to=("r@x",))
    assert envelope.recipients() == ("a@x", "b@x", "c@x", "d@x")


def test_an_envelope_loses_recipients_wherever_they_stand_and_keeps_whom_to_reply_to() -> None:
    envelope = Envelope(to=("a@x", "b@x"), cc=("b@x", "c@x"), bcc=("b@x", "d@x"), reply_to=("b@x", "r@x"))
    assert envelope.without(frozenset({"b@x", "d@x"})) == Envelope(
        to=("a@x",), cc=("c@x",), bcc=(), reply_to=("b@x", "r@x")
    )


def test_ready_content_is_what_is_sent() -> None:
    content = Content(envelope=Envelope(to=("a@x",)), subject="s", text_body="", html_body="h")
    assert content.rendered() == RenderedContent(subject="s", text_body="", html_body="h")


def test_content_of_a_template_has_to_be_rendered_first() -> None:
    assert login_code_of().content.rendered() is None


def test_an_attachment_with_a_content_id_is_inline() -> None:
    attachment = Attachment(filename="f", content_type="a/b", content_base64="")
    assert not attachment.inline
    assert replace(attachment, content_id="c").inline


@pytest.mark.parametrize(("lane", "secret"), [(Lane.PRIORITY, True), (Lane.NORMAL, False)])
def test_what_goes_by_the_priority_lane_is_secret(lane: Lane, secret: bool) -> None:
    """Login codes go there, and their resends keep the lane."""
    assert acceptance_of(request_of(lane=lane)).delivery.secret is secret
