"""Deliveries and attempts as Redis holds them: their canonical JSON less what stands there already.

There is one of each for every mail, for months, so nothing is said twice: a delivery's id is in its key, neither a member
nor the start of its Message-ID, and its `updated_at_ms` is left out where it is `finished_at_ms`; an attempt's delivery
and number are in its key. Inside a JSON string every quotation mark is escaped, so what is cut here is always a member.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from galaxy_mail.domain.records import Attempt, Delivery, decode, encode

_MESSAGE_ID: Final = b'"message_id":"'
_FINISHED: Final = b'"finished_at_ms":'
_UPDATED: Final = b',"updated_at_ms":'  # the last member: they are sorted


def spell_delivery(delivery: Delivery) -> bytes:
    """The value at `mail:deliveries:<delivery_id>`. Equal records give equal bytes."""
    own_id = _spelt(delivery.delivery_id)
    data = encode(delivery).replace(b'"delivery_id":' + own_id + b",", b"", 1)
    data = data.replace(_MESSAGE_ID + own_id[1:-1] + b"@", _MESSAGE_ID + b"@", 1)
    if delivery.updated_at_ms == delivery.finished_at_ms:
        data = data[: data.rindex(_UPDATED)] + b"}"
    return data


def read_delivery(data: bytes, delivery_id: str) -> Delivery:
    """The delivery at that id's key. Raises msgspec.DecodeError (a ValueError) where it is none."""
    own_id = _spelt(delivery_id)
    if _UPDATED not in data and _FINISHED in data:
        finished_at_ms = data.partition(_FINISHED)[2].partition(b",")[0]
        data = data[:-1] + _UPDATED + finished_at_ms + b"}"
    data = data.replace(_MESSAGE_ID + b"@", _MESSAGE_ID + own_id[1:-1] + b"@", 1)
    return decode(b'{"delivery_id":' + own_id + b"," + data[1:], Delivery)


def spell_attempt(attempt: Attempt) -> bytes:
    """The value at `mail:attempts:<delivery_id>:<attempt_no>`. Equal records give equal bytes."""
    return b"{" + encode(attempt)[len(_own(attempt.delivery_id, attempt.attempt_no)) :]


def read_attempt(data: bytes, delivery_id: str, attempt_no: int) -> Attempt:
    """The attempt at that key. Raises msgspec.DecodeError (a ValueError) where it is none."""
    return decode(_own(delivery_id, attempt_no) + data[1:], Attempt)


R = TypeVar("R", bound=Struct)


def readable(data: bytes | None, kind: type[R]) -> R | None:
    """The record, or None where there is none, or a newer release wrote what this one can't read."""
    return _or_none(data, lambda found: decode(found, kind))


def readable_delivery(data: bytes | None, delivery_id: str) -> Delivery | None:
    """Likewise."""
    return _or_none(data, lambda found: read_delivery(found, delivery_id))


def readable_attempt(data: bytes | None, delivery_id: str, attempt_no: int) -> Attempt | None:
    """Likewise."""
    return _or_none(data, lambda found: read_attempt(found, delivery_id, attempt_no))


def _or_none(data: bytes | None, read: Callable[[bytes], R]) -> R | None:
    if data is None:
        return None
    try:
        return read(data)
    except msgspec.DecodeError:
        return None


def _own(delivery_id: str, attempt_no: int) -> bytes:
    """How the canonical JSON of an attempt begins: these two members come first."""
    return b'{"attempt_no":%d,"delivery_id":%b,' % (attempt_no, _spelt(delivery_id))


def _spelt(delivery_id: str) -> bytes:
    return msgspec.json.encode(delivery_id)
