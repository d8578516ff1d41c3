"""Deliveries and attempts as Redis holds them: short, and the same record again for whatever they hold."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from galaxy_mail.domain.ids import DELIVERY_ID
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Delivery,
    Envelope,
    Failure,
    Lane,
    PayloadMode,
    Result,
    Source,
)
from galaxy_mail.storage.records.encoding import (
    decode_attempt,
    decode_delivery,
    encode_attempt,
    encode_delivery,
    readable,
    readable_attempt,
    readable_delivery,
)
from tests.deliveries import NOW_MS, delivery_of

# Pieces of the JSON itself among them: what looks like a member inside a string is none.
TEXTS = st.one_of(
    st.text(),
    st.sampled_from(
        [
            '"message_id":"@',
            '","message_id":"@x","a":"',
            '"delivery_id":"d",',
            ',"updated_at_ms":1',
            "\\",
            '"finished_at_ms":7,',
            '"locale":"en",',
            '"status":"provider_accepted"',
        ]
    ),
)
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
IDS = st.from_regex(DELIVERY_ID, fullmatch=True)
TIMES = st.integers(0, 2**53)


@st.composite
def deliveries(draw: Any) -> Delivery:
    delivery_id = draw(IDS)
    updated_at_ms = draw(TIMES)
    locale_used = draw(st.none() | st.just("en") | TEXTS)
    traceparent = draw(st.none() | st.just(TRACEPARENT) | TEXTS)
    return replace(
        delivery_of(),
        delivery_id=delivery_id,
        idempotency_key=draw(st.one_of(st.just(delivery_id), TEXTS)),
        subject=draw(st.none() | TEXTS),
        source=draw(st.sampled_from(Source)),
        lane=draw(st.sampled_from(Lane)),
        payload_mode=draw(st.sampled_from(PayloadMode)),
        template_id=draw(st.sampled_from([None, "auth.login_code", "orders.shipped"])),
        locale=draw(st.just(locale_used) | st.none() | TEXTS),
        locale_used=locale_used,
        locale_fallback_used=draw(st.sampled_from([None, False, True])),
        trace_id=draw(st.none() | st.just(TRACE_ID) | TEXTS),
        traceparent=traceparent,
        resent_by=draw(st.none() | TEXTS),
        failure=draw(st.none() | st.builds(Failure, code=TEXTS, summary=TEXTS)),
        envelope=Envelope(to=(draw(TEXTS),)),
        message_id=draw(st.one_of(st.just(delivery_id), IDS)) + "@" + draw(TEXTS),
        attempt_count=draw(st.integers(0, 9)),
        updated_at_ms=updated_at_ms,
        finished_at_ms=draw(st.one_of(st.none(), st.just(updated_at_ms), TIMES)),
    )


@given(deliveries())
def test_a_delivery_comes_back_as_it_was(delivery: Delivery) -> None:
    assert decode_delivery(encode_delivery(delivery), delivery.delivery_id) == delivery


@given(
    st.builds(
        Attempt,
        delivery_id=IDS,
        attempt_no=st.integers(1, 10**6),
        status=st.sampled_from(AttemptStatus),
        scheduled_for_ms=TIMES,
        finished_at_ms=st.none() | TIMES,
        result=st.none() | st.sampled_from(Result),
        provider=st.none() | st.just("smtp") | TEXTS,
        provider_code=st.none() | TEXTS,
        failure=st.none() | st.builds(Failure, code=TEXTS, summary=TEXTS),
    )
)
def test_an_attempt_comes_back_as_it_was(attempt: Attempt) -> None:
    data = encode_attempt(attempt)
    assert decode_attempt(data, attempt.delivery_id, attempt.attempt_no) == attempt


def test_nothing_is_stored_twice() -> None:
    delivery = replace(
        delivery_of(),
        delivery_id="some-id",
        source=Source.AUTHSESSION,
        lane=Lane.PRIORITY,
        payload_mode=PayloadMode.TEMPLATE,
        template_id="auth.login_code",
        locale="pt-BR",
        locale_used="pt-BR",
        locale_fallback_used=False,
        idempotency_key="key",
        message_id="some-id@mail.example",
        envelope=Envelope(to=("a@example.org",)),
        subject=None,
        attempt_count=1,
        trace_id=TRACE_ID,
        traceparent=TRACEPARENT,
        updated_at_ms=NOW_MS + 5,
        finished_at_ms=NOW_MS + 5,
    )
    data = encode_delivery(delivery)
    members = msgspec.json.decode(data)
    assert list(members) == sorted(members)
    assert members["message_id"] == "@mail.example"
    derived = {"attempt_count", "delivery_id", "lane", "locale", "locale_fallback_used", "payload_mode"}
    derived |= {"template_id", "trace_id", "updated_at_ms"}
    assert not derived & members.keys()
    for once in ("pt-BR", TRACE_ID, str(NOW_MS + 5)):
        assert data.count(once.encode()) == 1
    assert b"some-id" not in data


def test_a_locale_that_was_not_asked_for_is_stored() -> None:
    delivery = replace(delivery_of(), locale="pt-BR", locale_used="en", locale_fallback_used=True)
    members = msgspec.json.decode(encode_delivery(delivery))
    assert (members["locale"], members["locale_used"], members["locale_fallback_used"]) == (
        "pt-BR",
        "en",
        True,
    )


def test_a_mail_that_was_taken_says_so_once() -> None:
    attempt = Attempt(
        delivery_id="d",
        attempt_no=1,
        status=AttemptStatus.PROVIDER_ACCEPTED,
        result=Result.ACCEPTED,
        provider="smtp",
        scheduled_for_ms=1,
        started_at_ms=2,
        finished_at_ms=3,
    )
    assert encode_attempt(attempt) == (
        b'{"finished_at_ms":3,"scheduled_for_ms":1,"started_at_ms":2,"status":"provider_accepted"}'
    )


def test_an_attempt_is_an_object_without_its_delivery_and_number() -> None:
    attempt = Attempt(delivery_id="some-id", attempt_no=3, status=AttemptStatus.SCHEDULED, scheduled_for_ms=1)
    assert encode_attempt(attempt) == b'{"scheduled_for_ms":1,"status":"scheduled"}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b"null",
        b"?",
        b'{"status":"teleported"}',
        b"\xff{}",
        b'{"message_id":7}',
        b'{"traceparent":5}',
        b'{"source":[]}',
    ],
)
def test_what_is_no_record_is_told(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_delivery(data, "d")
    with pytest.raises(msgspec.DecodeError):
        decode_attempt(data, "d", 1)
    assert readable_delivery(data, "d") is None
    assert readable_attempt(data, "d", 1) is None
    assert readable(data, Failure) is None


def test_where_nothing_is_there_is_no_record() -> None:
    assert readable_delivery(None, "d") is None
    assert readable_attempt(None, "d", 1) is None
    assert readable(None, Failure) is None


def test_an_id_of_another_alphabet_is_quoted() -> None:
    """Keys may be anybody's: an id that no acceptance lets in is read as it is, or not at all."""
    delivery = replace(delivery_of(), delivery_id='a"},\\', message_id="m@x")
    assert decode_delivery(encode_delivery(delivery), delivery.delivery_id) == delivery
