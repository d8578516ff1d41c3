"""What deliveries hold in Redis. Never: a guess; lengths are asked for, key by key."""

from collections.abc import Iterator, Sequence
from typing import Final

from tests.bench.valkey import Valkey

PAYLOADS: Final = "mail:payloads:"


def content_bytes(valkey: Valkey, delivery_ids: Sequence[str]) -> float:
    """Mean bytes of a delivery's stored content: what was asked for and what was rendered."""
    lengths: Iterator[int] = valkey.connection.pipeline(
        ("HSTRLEN", PAYLOADS + delivery_id, field)
        for delivery_id in delivery_ids
        for field in ("content", "rendered")
    )
    return sum(lengths) / len(delivery_ids)
