"""Deliveries and attempts as Redis holds them: their canonical JSON less what stands there already.

There is one of each for every mail, for months, so nothing is said twice. What a key says is no member: a delivery's id
(nor is it the start of its Message-ID), an attempt's delivery and number. What follows from another member is none
either; the member is there where it says something else. A delivery

    updated_at_ms         is finished_at_ms
    locale                is locale_used: most get the language that they asked for
    locale_fallback_used  is false where there is a locale_used
    trace_id              is the one inside of traceparent
    lane                  is `priority` where the source is `authsession`
    template_id           is `auth.login_code` there
    payload_mode          is `template`
    attempt_count         is 1

and an attempt whose status is `provider_accepted` has the result `accepted` and the provider `smtp`. Inside a JSON string
every quotation mark is escaped, so what is cut here is always a member; of two members of one name the later counts.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from galaxy_mail.domain.ids import trace_id_in
from galaxy_mail.domain.login_code import LOGIN_CODE_TEMPLATE_ID
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Delivery,
    Lane,
    PayloadMode,
    Result,
    Source,
    decode,
    encode,
)

_MESSAGE_ID: Final = b'"message_id":"'
_ACCEPTED: Final = b'"status":"provider_accepted"'
_LOGIN_CODE: Final = msgspec.json.encode(LOGIN_CODE_TEMPLATE_ID)


class _Said(Struct, frozen=True, kw_only=True):
    """What the members that are left out of a delivery follow from."""

    source: Source
    locale_used: str | None = None
    traceparent: str | None = None
    finished_at_ms: int | None = None


def encode_delivery(delivery: Delivery) -> bytes:
    """The value at `mail:deliveries:<delivery_id>`. Equal records give equal bytes."""
    own_id = _spelt(delivery.delivery_id)
    data = encode(delivery).replace(b'"delivery_id":' + own_id + b",", b"", 1)
    data = data.replace(_MESSAGE_ID + own_id[1:-1] + b"@", _MESSAGE_ID + b"@", 1)
    data = _less(data, b'"attempt_count":', b"1", delivery.attempt_count, 1)
    if delivery.payload_mode is PayloadMode.TEMPLATE:
        data = data.replace(b'"payload_mode":"template",', b"", 1)
    if delivery.source is Source.AUTHSESSION:
        data = _less(data, b'"lane":', b'"priority"', delivery.lane, Lane.PRIORITY)
        data = _less(data, b'"template_id":', _LOGIN_CODE, delivery.template_id, LOGIN_CODE_TEMPLATE_ID)
    if delivery.locale_used is not None:
        locale_used = _spelt(delivery.locale_used)
        data = _less(data, b'"locale":', locale_used, delivery.locale, delivery.locale_used)
        data = _less(data, b'"locale_fallback_used":', b"false", delivery.locale_fallback_used, False)
    if delivery.traceparent is not None:
        trace_id = trace_id_in(delivery.traceparent)
        data = _less(data, b'"trace_id":', _spelt(trace_id), delivery.trace_id, trace_id)
    if delivery.updated_at_ms == delivery.finished_at_ms:  # the last member, as they are sorted
        data = data.replace(b',"updated_at_ms":%d' % delivery.updated_at_ms, b"", 1)
    return data


def decode_delivery(data: bytes, delivery_id: str) -> Delivery:
    """The delivery at that id's key. Raises msgspec.DecodeError (a ValueError) where it is none."""
    own_id = _spelt(delivery_id)
    said = decode(data, _Said)
    unsaid = b'{"attempt_count":1,"delivery_id":%b,"payload_mode":"template",' % own_id
    if said.finished_at_ms is not None:
        unsaid += b'"updated_at_ms":%d,' % said.finished_at_ms
    if said.source is Source.AUTHSESSION:
        unsaid += b'"lane":"priority","template_id":%b,' % _LOGIN_CODE
    if said.locale_used is not None:
        unsaid += b'"locale":%b,"locale_fallback_used":false,' % _spelt(said.locale_used)
    if said.traceparent is not None:
        unsaid += b'"trace_id":%b,' % _spelt(trace_id_in(said.traceparent))
    data = data.replace(_MESSAGE_ID + b"@", _MESSAGE_ID + own_id[1:-1] + b"@", 1)
    return decode(unsaid + data[1:], Delivery)


def encode_attempt(attempt: Attempt) -> bytes:
    """The value at `mail:attempts:<delivery_id>:<attempt_no>`. Equal records give equal bytes."""
    data = b"{" + encode(attempt)[len(_own(attempt.delivery_id, attempt.attempt_no)) :]
    if attempt.status is AttemptStatus.PROVIDER_ACCEPTED:
        data = _less(data, b'"provider":', b'"smtp"', attempt.provider, "smtp")
        data = _less(data, b'"result":', b'"accepted"', attempt.result, Result.ACCEPTED)
    return data


def decode_attempt(data: bytes, delivery_id: str, attempt_no: int) -> Attempt:
    """The attempt at that key. Raises msgspec.DecodeError (a ValueError) where it is none."""
    unsaid = _own(delivery_id, attempt_no)
    if _ACCEPTED in data:
        unsaid += b'"provider":"smtp","result":"accepted",'
    return decode(unsaid + data[1:], Attempt)


R = TypeVar("R", bound=Struct)


def readable(data: bytes | None, kind: type[R]) -> R | None:
    """The record, or None where there is none, or a newer release wrote what this one can't read."""
    return _or_none(data, lambda found: decode(found, kind))


def readable_delivery(data: bytes | None, delivery_id: str) -> Delivery | None:
    """Likewise."""
    return _or_none(data, lambda found: decode_delivery(found, delivery_id))


def readable_attempt(data: bytes | None, delivery_id: str, attempt_no: int) -> Attempt | None:
    """Likewise."""
    return _or_none(data, lambda found: decode_attempt(found, delivery_id, attempt_no))


def _or_none(data: bytes | None, read: Callable[[bytes], R]) -> R | None:
    if data is None:
        return None
    try:
        return read(data)
    except msgspec.DecodeError:
        return None


def _less(data: bytes, name: bytes, unsaid: bytes, value: object, follows: object) -> bytes:
    """An object less a member, never its last, whose value follows; a default that does not follow is said instead."""
    if value == follows:
        return data.replace(name + unsaid + b",", b"", 1)
    return data if name in data else b"{" + name + msgspec.json.encode(value) + b"," + data[1:]


def _own(delivery_id: str, attempt_no: int) -> bytes:
    """How the canonical JSON of an attempt begins: these two members come first."""
    return b'{"attempt_no":%d,"delivery_id":%b,' % (attempt_no, _spelt(delivery_id))


def _spelt(text: str) -> bytes:
    return msgspec.json.encode(text)
