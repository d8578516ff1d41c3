"""Holds in Redis: one for each cause and scope, so that a breaker never touches an operator's."""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from galaxy_mail.domain.holds import Cause, Hold, hold_field, parse_field
from galaxy_mail.domain.records import encode
from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.links.protocol import RedisLink
from galaxy_mail.storage.links.replies import as_bytes_list, as_optional_bytes
from galaxy_mail.storage.operations.lease import LEASE, LeaseArgs, LeaseKeys
from galaxy_mail.storage.operations.save_hold import SAVE_HOLD, SaveHoldArgs, SaveHoldKeys
from galaxy_mail.storage.records.encoding import readable
from galaxy_mail.storage.records.keys import Keys

UNREADABLE: Final = "the stored hold can't be read"


class StoredHold(Struct, frozen=True):
    """What is stored for a cause and a scope, with the bytes that the next save replaces.

    An operator's hold that this release can't read counts as a hold of its scope: its author wanted mail to stop, and mail
    that waits can still be sent, but mail that was sent can't be taken back. It is visible, and an operator can lift it. A
    breaker's hold that can't be read counts as nothing: no person would lift it, and if the relay still fails, the breaker
    opens again.
    """

    field: str
    raw: bytes
    hold: Hold | None  # None: it holds nothing, because this release can't read it or does not know its scope
    readable: bool

    def in_force(self, now_ms: int) -> bool:
        return self.hold is not None and self.hold.in_force(now_ms)


class HoldStore:
    """Reads and changes holds. Every change is made only while the record is as it was read."""

    def __init__(self, link: RedisLink, keys: Keys, clock: Clock) -> None:
        self._link = link
        self._keys = keys
        self._clock = clock

    async def read(self) -> list[StoredHold]:
        """Everything that is stored, sorted by field; holds whose time is over included. Raises RedisFailure."""
        [reply] = await self._link.pipeline([("HGETALL", self._keys.holds)])
        parts = as_bytes_list(reply)
        fields = [field.decode(errors="backslashreplace") for field in parts[::2]]
        return [stored_hold(*entry) for entry in sorted(zip(fields, parts[1::2], strict=True))]

    async def get(self, cause: Cause, scope: str) -> StoredHold | None:
        """Raises RedisFailure."""
        field = hold_field(cause, scope)
        [reply] = await self._link.pipeline([("HGET", self._keys.holds, field)])
        data = as_optional_bytes(reply)
        return None if data is None else stored_hold(field, data)

    async def put(self, hold: Hold) -> bool:
        """Adds or replaces the hold of this cause and scope; True where none was in force. Raises RedisFailure."""
        while True:
            before = await self.get(hold.cause, hold.scope)
            if await self.save(hold, instead_of=before):
                return before is None or not before.in_force(hold.since_ms)

    async def lift(self, cause: Cause, scope: str, *, now_ms: int) -> bool:
        """Removes the hold of this cause and scope; False where none was in force. Raises RedisFailure."""
        while True:
            before = await self.get(cause, scope)
            if before is None:
                return False
            if await self.remove(before):
                return before.in_force(now_ms)

    async def save(self, hold: Hold, *, instead_of: StoredHold | None) -> bool:
        """Writes it; False where another record than `instead_of` stands there by now. Raises RedisFailure."""
        expected = None if instead_of is None else instead_of.raw
        return await self._save(SaveHoldArgs(field=hold.field, expected=expected, record=encode(hold)))

    async def remove(self, stored: StoredHold) -> bool:
        """Removes it; False where another record stands there by now. Raises RedisFailure."""
        return await self._save(SaveHoldArgs(field=stored.field, expected=stored.raw, record=None))

    # Probes

    async def probe_by(self, scope: str, *, until_ms: int, now_ms: int) -> bool:
        """Lets the breaker's hold end at `until_ms`, from which processes learn when to probe, unless it ends before.

        False where none is in force. Raises RedisFailure.
        """
        while True:
            before = await self.get(Cause.BREAKER, scope)
            if before is None or before.hold is None or not before.in_force(now_ms):
                return False
            ends_ms = before.hold.until_ms
            sooner = replace(before.hold, until_ms=until_ms if ends_ms is None else min(ends_ms, until_ms))
            if await self.save(sooner, instead_of=before):
                return True

    async def lease_probe(self, relay: str, *, owner: str, ttl_ms: int) -> bool:
        """Takes or keeps the right to probe the relay; 0: gives it up. False while another process has it.

        Raises RedisFailure.
        """
        return await LEASE.run(
            self._link,
            LeaseKeys(lease=self._keys.probe_lease(relay)),
            LeaseArgs(owner=owner, now_ms=self._clock.script_ms(), ttl_ms=ttl_ms),
        )

    async def _save(self, args: SaveHoldArgs) -> bool:
        return await SAVE_HOLD.run(self._link, SaveHoldKeys(holds=self._keys.holds), args)


def stored_hold(field: str, data: bytes) -> StoredHold:
    """What these bytes at this field mean."""
    hold = readable(data, Hold)
    if hold is not None and hold.field == field and parse_field(field) is not None:
        return StoredHold(field, data, hold, readable=True)
    return StoredHold(field, data, _assumed(field), readable=False)


def _assumed(field: str) -> Hold | None:
    """The hold that counts in the place of one that can't be read."""
    match parse_field(field):
        case (Cause.OPERATOR, scope):
            return Hold(scope=scope, cause=Cause.OPERATOR, reason=UNREADABLE, since_ms=0)
        case _:
            return None
