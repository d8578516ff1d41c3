"""The suppression list in Redis: who is not mailed, and why."""

from galaxy_mail.domain.records import Suppression, decode, encode
from galaxy_mail.storage.links.protocol import RedisLink
from galaxy_mail.storage.links.replies import as_int, as_optional_bytes
from galaxy_mail.storage.records.keys import Keys


class SuppressionList:
    """Addresses and whole domains, as `domain.addresses.parse_suppression_entry` spells them."""

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def put(self, suppression: Suppression) -> bool:
        """Adds or replaces; True where it is new. Raises RedisFailure."""
        [reply] = await self._link.pipeline(
            [("HSET", self._keys.suppressions, suppression.address, encode(suppression))]
        )
        return as_int(reply) == 1

    async def put_all(self, suppressions: list[Suppression]) -> int:
        """Adds or replaces many; how many are new. Raises RedisFailure."""
        if not suppressions:
            return 0
        pairs = [part for s in suppressions for part in (s.address, encode(s))]
        [reply] = await self._link.pipeline([("HSET", self._keys.suppressions, *pairs)])
        return as_int(reply)

    async def get(self, address: str) -> Suppression | None:
        """The entry of exactly this address or `@domain`. Raises RedisFailure."""
        [reply] = await self._link.pipeline([("HGET", self._keys.suppressions, address)])
        data = as_optional_bytes(reply)
        return None if data is None else decode(data, Suppression)

    async def remove(self, address: str) -> bool:
        """False where there was none. Raises RedisFailure."""
        [reply] = await self._link.pipeline([("HDEL", self._keys.suppressions, address)])
        return as_int(reply) == 1
