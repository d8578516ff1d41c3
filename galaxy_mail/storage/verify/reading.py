"""Reads the store in batches. A key of the wrong type counts as absent."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

from galaxy_mail.domain.records import Delivery
from galaxy_mail.storage.links.errors import RedisRefused
from galaxy_mail.storage.links.protocol import Call, Command, RedisLink, Reply
from galaxy_mail.storage.links.replies import (
    answered,
    as_bytes,
    as_int,
    as_list,
    as_optional_bytes,
    as_optional_bytes_list,
    as_scan,
)
from galaxy_mail.storage.records.encoding import readable_delivery
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import Retention

BATCH: Final = 100
NEVER: Final = -1  # PEXPIRETIME of a key that does not expire
GONE: Final = -2  # PEXPIRETIME of a key that does not exist


class Reading:
    """One pass over the store. Different reads may see different moments."""

    def __init__(self, link: RedisLink, keys: Keys, retention: Retention, now_ms: int) -> None:
        self.keys = keys
        self.retention = retention
        self.now_ms = now_ms
        self._link = link

    async def run(self, commands: Sequence[Command | Call]) -> list[Reply]:
        """One reply per command; None for a key of the wrong type, which the pass reports once."""
        if not commands:
            return []
        return [
            None if is_wrong_type(reply) else answered(reply) for reply in await self._link.pipeline(commands)
        ]

    async def one(self, command: Command | Call) -> Reply:
        [reply] = await self.run([command])
        return reply

    async def values(self, keys: Sequence[str]) -> list[bytes | None]:
        return as_optional_bytes_list(await self.one(("MGET", *keys))) if keys else []

    async def value(self, key: str) -> bytes | None:
        return as_optional_bytes(await self.one(("GET", key)))

    async def scores(self, index: str, members: Sequence[str]) -> list[float | None]:
        found = await self.one(("ZMSCORE", index, *members)) if members else []
        return [None] * len(members) if found is None else [score(one) for one in as_list(found)]

    async def ends_ms(self, keys: Sequence[str]) -> list[int]:
        """When each key expires, or NEVER or GONE."""
        return [as_int(reply) for reply in await self.run([("PEXPIRETIME", key) for key in keys])]

    async def exist(self, keys: Sequence[str]) -> list[bool]:
        return [reply == 1 for reply in await self.run([("EXISTS", key) for key in keys])]

    async def records(self, ids: Sequence[str]) -> "dict[str, StoredDelivery]":
        ids = list(dict.fromkeys(ids))
        found = await self.values([self.keys.delivery(delivery_id) for delivery_id in ids])
        return {
            i: StoredDelivery(data, readable_delivery(data, i)) for i, data in zip(ids, found, strict=True)
        }

    async def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        """Every key with this prefix, in batches. A key may come twice."""
        cursor = "0"
        while True:
            cursor, raw = as_scan(
                await self.one(("SCAN", cursor, "MATCH", f"{_escaped(prefix)}*", "COUNT", BATCH * 10))
            )
            names = [key.decode() for key in raw]
            for start in range(0, len(names), BATCH):
                yield names[start : start + BATCH]
            if cursor == "0":
                return

    async def members(self, indexes: Iterable[str]) -> AsyncIterator[list[tuple[str, str, float]]]:
        """(index, member, score) of all these sorted sets, in batches."""
        cursors = dict.fromkeys(indexes, "0")
        while cursors:
            names = list(cursors)[:BATCH]
            for name, reply in zip(
                names,
                await self.run([("ZSCAN", name, cursors[name], "COUNT", BATCH) for name in names]),
                strict=True,
            ):
                following, flat = _scanned(reply)
                found = [(name, m.decode(), float(s)) for m, s in zip(flat[::2], flat[1::2], strict=True)]
                for start in range(0, len(found), BATCH * 10):
                    yield found[start : start + BATCH * 10]
                if following == "0":
                    del cursors[name]
                else:
                    cursors[name] = following

    async def fields(self, key: str) -> AsyncIterator[list[tuple[str, bytes]]]:
        """Fields and values, in batches."""
        cursor = "0"
        while True:
            cursor, flat = _scanned(await self.one(("HSCAN", key, cursor, "COUNT", BATCH)))
            yield [(field.decode(), value) for field, value in zip(flat[::2], flat[1::2], strict=True)]
            if cursor == "0":
                return


class StoredDelivery:
    """The value of a delivery's key. `delivery` is None if there is none or it can't be decoded."""

    __slots__ = ("data", "delivery")

    def __init__(self, data: bytes | None, delivery: Delivery | None) -> None:
        self.data = data
        self.delivery = delivery


def is_wrong_type(reply: Reply) -> bool:
    return isinstance(reply, RedisRefused) and reply.code == "WRONGTYPE"


def score(reply: Reply) -> float | None:
    return None if reply is None else float(as_bytes(reply))


def _scanned(reply: Reply) -> tuple[str, list[bytes]]:
    """The next cursor and the elements; none for a key of the wrong type."""
    return ("0", []) if reply is None else as_scan(reply)


def _escaped(prefix: str) -> str:
    """The prefix with SCAN's pattern characters escaped."""
    return "".join(f"\\{char}" if char in "*?[]\\^" else char for char in prefix)
