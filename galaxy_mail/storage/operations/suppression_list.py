"""The suppression list in Redis: who is not mailed, and why."""

from typing import cast

from galaxy_mail.domain.records import Suppression, decode, encode
from galaxy_mail.storage.links.protocol import RedisLink
from galaxy_mail.storage.operations.answers import answered
from galaxy_mail.storage.records import keys as k


class SuppressionList:
    """Addresses and whole domains, as `domain.addresses.parse_suppression_entry` spells them."""

    def __init__(self, link: RedisLink) -> None:
        self.link = link

    async def put(self, suppression: Suppression) -> bool:
        """Adds or replaces; True where it is new. Raises RedisTrouble."""
        [reply] = await self.link.pipeline(
            [("HSET", k.SUPPRESSIONS, suppression.address, encode(suppression))]
        )
        return answered(reply) == 1

    async def put_all(self, suppressions: list[Suppression]) -> int:
        """Adds or replaces many; how many are new. Raises RedisTrouble."""
        if not suppressions:
            return 0
        pairs = [part for s in suppressions for part in (s.address, encode(s))]
        [reply] = await self.link.pipeline([("HSET", k.SUPPRESSIONS, *pairs)])
        return cast("int", answered(reply))

    async def get(self, address: str) -> Suppression | None:
        """The entry of exactly this address or `@domain`. Raises RedisTrouble."""
        [reply] = await self.link.pipeline([("HGET", k.SUPPRESSIONS, address)])
        data = cast("bytes | None", answered(reply))
        return None if data is None else decode(data, Suppression)

    async def remove(self, address: str) -> bool:
        """False where there was none. Raises RedisTrouble."""
        [reply] = await self.link.pipeline([("HDEL", k.SUPPRESSIONS, address)])
        return answered(reply) == 1

    async def scan(self, cursor: str = "0", *, count: int = 500) -> tuple[str, list[Suppression]]:
        """Some entries and the cursor of the next ones, "0" after the last. Raises RedisTrouble."""
        [reply] = await self.link.pipeline([("HSCAN", k.SUPPRESSIONS, cursor, "COUNT", count)])
        following, flat = cast("tuple[bytes, list[bytes]]", answered(reply))
        return following.decode(), [decode(data, Suppression) for data in flat[1::2]]
