"""Whether the store is still the one that this process knows.

On every connect a process compares the store's id, the sequence of claims and the stream's offset with the highest values
that it has seen. Another id, or none: the store was wiped or replaced, accepted mail is gone, and intake stops until an
operator restarts the service. Lower values: the store was rolled back (a failover, a restored snapshot); this process
drops its claims and continues.
"""

import secrets
from collections.abc import Callable
from enum import StrEnum

from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.links.errors import RedisFailure
from galaxy_mail.storage.links.protocol import Pipeline
from galaxy_mail.storage.operations.identify import IDENTIFY, IdentifyArgs, IdentifyKeys, Identity
from galaxy_mail.storage.records.keys import Keys


class Verdict(StrEnum):
    """What a connect found."""

    SAME = "same"
    REPLACED = "strange"  # wiped or exchanged
    ROLLED_BACK = "rolled_back"


class StoreReplaced(RedisFailure):
    """Redis is not the store that this process knows: it was wiped or replaced. Intake is stopped."""


class StoreIdentity:
    """The store's identity over reconnects. `number` grows when claims that this process holds become invalid."""

    def __init__(self, keys: Keys, *, clock: Clock, on_verdict: Callable[[Verdict], None]) -> None:
        self.number = 0
        self.replaced = False
        self.store_id: str | None = None
        self._keys = keys
        self._clock = clock
        self._on_verdict = on_verdict
        self._sequence = 0
        self._offset = (0, 0)

    def saw_sequence(self, sequence: int) -> None:
        if not self.replaced:  # another store's figures say nothing of the known one, should it come back
            self._sequence = max(self._sequence, sequence)

    def saw_offset(self, entry_id: str) -> None:
        if not self.replaced:
            self._offset = max(self._offset, entry_number(entry_id))

    def refuse_if_replaced(self) -> None:
        """Raises StoreReplaced while nothing may be accepted."""
        if self.replaced:
            raise StoreReplaced("Redis was wiped or exchanged since this process started")

    async def check(self, pipeline: Pipeline) -> Verdict:
        """Run on every connect, before anything else uses the connection. Raises RedisFailure."""
        new_id = secrets.token_hex(8) if self.store_id is None else None
        # Only what was seen before it is asked: meanwhile another connection may see what is newer than the answer.
        seen = (self._sequence, self._offset)
        call = IDENTIFY.call(
            IdentifyKeys(meta=self._keys.meta, sequence=self._keys.claim_sequence, offset=self._keys.offset),
            IdentifyArgs(id=new_id, created_at_ms=self._clock.now_ms()),
        )
        [reply] = await pipeline([call])
        found = IDENTIFY.decode(reply)
        if self.store_id is None:
            self.store_id = found.store_id
        verdict = self._verdict(found, *seen)
        self.replaced = verdict is Verdict.REPLACED
        if verdict is not Verdict.SAME:
            self.number += 1
        if verdict is Verdict.ROLLED_BACK:  # what it lost is lost; from here on it is measured anew
            self._sequence, self._offset = found.sequence, entry_number(found.offset)
        else:
            self.saw_sequence(found.sequence)
            self.saw_offset(found.offset)
        self._on_verdict(verdict)
        return verdict

    def _verdict(self, found: Identity, seen_sequence: int, seen_offset: tuple[int, int]) -> Verdict:
        if found.store_id != self.store_id:
            return Verdict.REPLACED
        if found.sequence < seen_sequence or entry_number(found.offset) < seen_offset:
            return Verdict.ROLLED_BACK
        return Verdict.SAME


def entry_number(entry_id: str) -> tuple[int, int]:
    """A stream entry id as what it is, two integers: "9-0" comes before "10-0". The empty one comes first."""
    milliseconds, _, sequence = entry_id.partition("-")
    return (int(milliseconds or 0), int(sequence or 0))
