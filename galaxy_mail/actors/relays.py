"""Keeps what this process knows of the holds up to date."""

from typing import Final

import structlog
import trio
from msgspec.structs import replace

from galaxy_mail.actors.lanes import Lanes
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.holds import Cause, Hold
from galaxy_mail.relays.holds import CurrentHolds, Snapshot
from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.links.errors import RedisFailure
from galaxy_mail.storage.operations.hold_store import HoldStore, StoredHold
from galaxy_mail.telemetry.repeated import Repeated

log = structlog.get_logger()

READ_EVERY_S: Final = 1.0
WAIT_MIN_S: Final = 0.001  # rounding can make a shorter wait end before its time
KEPT_MS: Final = 10_000  # after its end, so that a process whose clock is ahead ends no hold for the others


class Relays:
    """Reads the holds every second, and judges them again when one of them ends.

    Ends when cancelled. Touches the holds, and wakes the scheduler when other lanes are held. When Redis fails, the last
    holds that were read stay in force.
    """

    def __init__(
        self,
        *,
        store: HoldStore,
        holds: CurrentHolds,
        relays: tuple[str, ...],
        lanes: Lanes,
        clock: Clock,
        heartbeat: Heartbeat,
    ) -> None:
        self._store = store
        self._holds = holds
        self._relays = relays
        self._lanes = lanes
        self._clock = clock
        self._heartbeat = heartbeat
        self._failure = Repeated()
        self._unreadable: set[str] = set()  # fields that were reported

    async def run(self) -> None:
        read_at_s = trio.current_time()
        while True:
            self._heartbeat.beat()
            if trio.current_time() >= read_at_s:
                read_at_s = trio.current_time() + READ_EVERY_S
                try:
                    await self.read()
                    self._failure.over()
                except RedisFailure as failure:
                    if self._failure.is_new(str(failure)):
                        log.warning("holds_not_read", error=str(failure))
            self._judge(self._holds.snapshot)
            await trio.sleep_until(min(read_at_s, self._next_end_s()))

    async def read(self) -> None:
        """Reads the holds, and removes those that ended long ago. Raises RedisFailure."""
        stored = await self._store.read()
        self._report_unreadable(stored)
        self._judge(Snapshot(tuple(one.hold for one in stored if one.hold is not None), self._relays))
        for one in stored:
            if one.hold is not None and not one.hold.in_force(self._clock.now_ms() - KEPT_MS):
                await self._store.remove(one)

    def _judge(self, snapshot: Snapshot | None) -> None:
        """Decides what is held now."""
        if snapshot is None:
            return
        before = {hold.field: hold for hold in self._holds.in_force}
        if self._holds.update(snapshot, self._clock.now_ms()):
            self._lanes.wake()
        after = {hold.field: hold for hold in self._holds.in_force}
        for field, hold in after.items():
            if field not in before:
                log.warning("hold_opened", **_facts(hold))
            elif _to_tell(hold) != _to_tell(before[field]):
                log.warning("hold_changed", **_facts(hold))
        for field, hold in before.items():
            if field not in after:
                log.info("hold_ended", **_facts(hold))

    def _report_unreadable(self, stored: list[StoredHold]) -> None:
        unreadable = {one.field: one for one in stored if not one.readable}
        for field in sorted(unreadable.keys() - self._unreadable):
            log.error("hold_unreadable", hold=field, counts=unreadable[field].hold is not None)
        self._unreadable = set(unreadable)

    def _next_end_s(self) -> float:
        """When the next hold ends, in trio's time."""
        now_ms = self._clock.now_ms()
        snapshot = self._holds.snapshot
        end_ms = None if snapshot is None else snapshot.next_end_ms(now_ms)
        if end_ms is None:
            return float("inf")
        return trio.current_time() + max(WAIT_MIN_S, (end_ms - now_ms) / 1000)


def _to_tell(hold: Hold) -> Hold:
    """What is worth a line when it changes. A breaker's hold ends later with each probe."""
    return replace(hold, until_ms=None) if hold.cause is Cause.BREAKER else hold


def _facts(hold: Hold) -> dict[str, object]:
    return {
        "scope": hold.scope,
        "cause": hold.cause,
        "reason": hold.reason,
        "failure": hold.failure.code if hold.failure else None,
        "created_by": hold.created_by,
        "since_ms": hold.since_ms,
        "until_ms": hold.until_ms,
    }
