"""A large store made of copies of a small one that the service itself filled.

Every copy of a delivery has its own id, keys and times: all times are shifted by the same, so that order and retention
stay true. Indexes are copied as they are found, whatever there are.
"""

from collections.abc import Iterator
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import asdict, replace

from galaxy_mail.domain.records import IdempotencyRecord, decode, encode
from galaxy_mail.storage.records.encoding import (
    decode_attempt,
    decode_delivery,
    encode_attempt,
    encode_delivery,
)
from tests.bench.valkey import Command, Connection, Word

SHIFT_MS: Final = 60_000  # from one copy to the next: 200 copies reach back some hours

_DELIVERIES: Final = "mail:deliveries:"
_ATTEMPTS: Final = "mail:attempts:"
_IDEMPOTENCY: Final = "mail:idempotency:"
R = TypeVar("R", bound=Struct)

_PAYLOADS: Final = b"mail:payloads:"
_INDEXES: Final = "mail:idx:"
_IDEMPOTENCY_INDEX: Final = b"mail:idx:idempotency:"


def multiply(connection: Connection, times: int) -> None:
    """Leaves `times` deliveries for each that was there, itself included."""
    for answer in connection.pipeline(_copies(connection, times)):
        assert answer is not None


def _copies(connection: Connection, times: int) -> Iterator[Command]:
    ids = [bytes(delivery_id) for delivery_id in connection.call("ZRANGE", "mail:idx:created_at", 0, -1)]
    for prefix in (_DELIVERIES, _ATTEMPTS, _IDEMPOTENCY):
        for key in _keys(connection, prefix):
            data = connection.call("GET", key)
            expires_ms = connection.call("PEXPIRETIME", key)
            for copy in range(1, times):
                value = _copied(prefix, key.decode().removeprefix(prefix), data, copy)
                yield ("SET", _renamed(key, prefix, copy), value, *_expiry(expires_ms, copy))
    for delivery_id in ids:
        key = _PAYLOADS + delivery_id
        payload = connection.call("HGETALL", key)
        expires_ms = connection.call("PEXPIRETIME", key)
        for copy in range(1, times):
            yield ("HSET", key + _suffix(copy), *payload)
            if expires_ms >= 0:
                yield ("PEXPIREAT", key + _suffix(copy), expires_ms - copy * SHIFT_MS)
    for key in _keys(connection, _INDEXES):
        members = connection.call("ZRANGE", key, 0, -1, "WITHSCORES")
        pairs = list(zip(members[::2], members[1::2], strict=True))
        for copy in range(1, times):
            words: list[bytes] = []
            for delivery_id, score in pairs:
                words += (repr(float(score) - copy * SHIFT_MS).encode(), _id(delivery_id, copy))
            own = key.startswith(_IDEMPOTENCY_INDEX)  # of one delivery alone
            yield ("ZADD", key + _suffix(copy) if own else key, *words)


def _keys(connection: Connection, prefix: str) -> list[bytes]:
    keys: list[bytes] = []
    cursor: bytes = b"0"
    while True:
        cursor, found = connection.call("SCAN", cursor, "MATCH", prefix + "*", "COUNT", 1000)
        keys += found
        if cursor == b"0":
            return sorted(set(keys))


def _expiry(expires_ms: int, copy: int) -> tuple[Word, ...]:
    """SET's words for a time to live, none for none."""
    return ("PXAT", expires_ms - copy * SHIFT_MS) if expires_ms >= 0 else ()


def _suffix(copy: int) -> bytes:
    return b"~%d" % copy


def _id(delivery_id: bytes, copy: int) -> bytes:
    return delivery_id + _suffix(copy)


def _renamed(key: bytes, prefix: str, copy: int) -> bytes:
    if prefix != _ATTEMPTS:
        return key + _suffix(copy)
    delivery_id, _, attempt_no = key.rpartition(b":")
    return _id(delivery_id, copy) + b":" + attempt_no


def _copied(prefix: str, name: str, data: bytes, copy: int) -> bytes:
    """The copy of a record whose key is called so."""
    if prefix == _DELIVERIES:
        return encode_delivery(_shifted(decode_delivery(data, name), copy))
    if prefix == _ATTEMPTS:
        delivery_id, _, number = name.rpartition(":")
        return encode_attempt(_shifted(decode_attempt(data, delivery_id, int(number)), copy))
    return encode(_shifted(decode(data, IdempotencyRecord), copy))


def _shifted(record: R, copy: int) -> R:
    suffix = _suffix(copy).decode()
    changes: dict[str, object] = {}
    for name, value in asdict(record).items():
        if name.endswith("_ms") and isinstance(value, int):
            changes[name] = value - copy * SHIFT_MS
        elif name in {"delivery_id", "idempotency_key"}:
            changes[name] = value + suffix
        elif name == "message_id":
            local, at, domain = value.rpartition("@")
            changes[name] = local + suffix + at + domain
    return replace(record, **changes)
