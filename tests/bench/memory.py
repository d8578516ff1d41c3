"""What deliveries hold in Redis."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from tests.bench.service import STREAM
from tests.bench.valkey import Valkey

PAYLOADS: Final = "mail:payloads:"

# Keys of which every delivery has its own, by how they start; the longer one first.
_OWN: Final = (
    "mail:deliveries:",
    PAYLOADS,
    "mail:attempts:",
    "mail:idempotency:",
    "mail:idx:idempotency:",
    "mail:idx:recipient:",
)


def content_bytes(valkey: Valkey, delivery_ids: Sequence[str]) -> float:
    """Mean bytes of a delivery's stored content: what was asked for and what was rendered."""
    lengths: Iterator[int] = valkey.connection.pipeline(
        ("HSTRLEN", PAYLOADS + delivery_id, field)
        for delivery_id in delivery_ids
        for field in ("content", "rendered")
    )
    return sum(lengths) / len(delivery_ids)


def bytes_by_kind(valkey: Valkey) -> dict[str, int]:
    """Bytes of all keys of each kind, their names included (MEMORY USAGE, exact). The stream is left out."""
    connection = valkey.connection
    keys: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, found = connection.call("SCAN", cursor, "MATCH", "mail:*", "COUNT", 1000)
        keys += found
        if cursor == b"0":
            break
    held: Counter[str] = Counter()
    usages = connection.pipeline(("MEMORY", "USAGE", key, "SAMPLES", 0) for key in keys)
    for key, usage in zip(keys, usages, strict=True):
        name = key.decode()
        kind = next((own + "*" for own in _OWN if name.startswith(own)), name)
        held[kind] += usage or 0
    del held[STREAM]
    return dict(held)
