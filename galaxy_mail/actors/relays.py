"""Keeps what this process knows of the holds up to date, and carries out what the relay's breaker asks for."""

from collections.abc import Callable
from math import inf
from secrets import token_hex
from typing import Final

import structlog
import trio
from msgspec.structs import replace

from galaxy_mail.actors.lanes import Lanes
from galaxy_mail.actors.probe import DeliveryProbe
from galaxy_mail.actors.sender import Sender
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.holds import Cause, Hold, hold_field, relay_scope
from galaxy_mail.domain.records import Blame
from galaxy_mail.providers.provider import Provider
from galaxy_mail.relays.breaker import probe_due_ms
from galaxy_mail.relays.breaker_events import (
    BreakerHold,
    Leased,
    Probe,
    ProbeGivenUp,
    ProbeRefused,
    ProbeWell,
    Replace,
    Seen,
    StartProbe,
    Tick,
)
from galaxy_mail.relays.holds import CurrentHolds, Snapshot, as_hold, breaker_hold
from galaxy_mail.relays.relay import Relay, kind_of
from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.links.errors import RedisFailure
from galaxy_mail.storage.operations.hold_store import HoldStore, StoredHold
from galaxy_mail.telemetry.repeated import Repeated

log = structlog.get_logger()

READ_EVERY_S: Final = 1.0
PAUSE_AFTER_FAILURE_S: Final = 0.25  # of Redis, before what is to be done is tried again
WAIT_MIN_S: Final = 0.001  # rounding can make a shorter wait end before its time
KEPT_MS: Final = 10_000  # after its end, so that a process whose clock is ahead ends no hold for the others
LEASE_MS: Final = 5_000
LEASE_AFTER_PROBE_MS: Final = 1_000  # then all processes together probe at most once a second


class Relays:
    """Reads the holds every second, recomputes which lanes are held when one ends, and probes the relay for its breaker.

    Ends when cancelled. Touches the holds, the relay, the lanes and a provider of its own. When Redis fails, the last holds
    that were read stay in force.
    """

    def __init__(
        self,
        *,
        relay: Relay,
        store: HoldStore,
        holds: CurrentHolds,
        lanes: Lanes,
        provider: Callable[[], Provider],
        sender: Callable[[DeliveryProbe], Sender],
        clock: Clock,
        heartbeat: Heartbeat,
    ) -> None:
        self._relay = relay
        self._store = store
        self._holds = holds
        self._lanes = lanes
        self._provider = provider
        self._sender = sender
        self._clock = clock
        self._heartbeat = heartbeat
        self._owner = token_hex(8)  # of probe leases
        self._failure = Repeated()
        self._unreadable: set[str] = set()  # fields that were reported
        self._read_at_s = trio.current_time()
        self._lease_at_s = trio.current_time()  # when the lease may be asked for again
        self._leased_until_s = trio.current_time()
        self._not_before_s = trio.current_time()  # the next turn, if nobody wakes this actor
        self._probing: trio.CancelScope | None = None
        self._delivery_probe: DeliveryProbe | None = None
        self._probed = False  # a probe has ended, and the lease is still ours

    async def run(self) -> None:
        self._relay.begin_anew()
        async with trio.open_nursery() as nursery:
            while True:
                self._heartbeat.beat()
                try:
                    await self._turn(nursery)
                    self._failure.over()
                except RedisFailure as failure:
                    if self._failure.is_new(str(failure)):
                        log.warning("holds_not_read", error=str(failure))
                    self._not_before_s = trio.current_time() + PAUSE_AFTER_FAILURE_S
                    self._judge(self._holds.snapshot)
                await self._relay.wait_woken(self._next_turn_s())

    async def _turn(self, nursery: trio.Nursery) -> None:
        """Raises RedisFailure; the next turn does the rest."""
        if trio.current_time() >= self._read_at_s:
            self._read_at_s = trio.current_time() + READ_EVERY_S
            await self._keep_lease()
            await self.read()
            # A probe that waits for a delivery is none yet: it must not make the hold last.
            if self._delivery_probe is None or self._delivery_probe.has_claim:
                self._relay.tell(Tick())
            self._relay.second_passed()
            self._lanes.hand_out()
        await self._carry_out(nursery)
        if self._probed:
            await self._lease(LEASE_AFTER_PROBE_MS)
            self._probed = False
        await self._ask_for_lease()
        await self._carry_out(nursery)
        self._judge(self._holds.snapshot)

    async def read(self) -> None:
        """Reads the holds, and removes those that ended long ago. Raises RedisFailure."""
        stored = await self._store.read()
        self._report_unreadable(stored)
        held = tuple(one.hold for one in stored if one.hold is not None)
        self._judge(Snapshot(held, (self._relay.name,)))
        # Pending actions: the breaker has changed its hold, and Redis still has the old one.
        if not self._relay.actions:
            field = hold_field(Cause.BREAKER, relay_scope(self._relay.name))
            ours = next((hold for hold in held if hold.field == field), None)
            self._relay.tell(Seen(breaker_hold(ours)))
        for one in stored:
            if one.hold is not None and not one.hold.in_force(self._clock.now_ms() - KEPT_MS):
                await self._store.remove(one)

    # The breaker

    async def _carry_out(self, nursery: trio.Nursery) -> None:
        actions = self._relay.actions
        while actions:
            match actions[0]:
                case Replace(before, after):
                    standing = await self._replace(before, after)
                    actions.popleft()
                    self._relay.tell(Seen(standing))
                    await self.read()
                case StartProbe(probe):
                    actions.popleft()
                    nursery.start_soon(self._probe, probe)

    async def _replace(self, before: BreakerHold | None, after: BreakerHold | None) -> BreakerHold | None:
        """Replaces the breaker's hold if `before` stands there. Returns what stands there then. Raises RedisFailure."""
        scope = relay_scope(self._relay.name)
        stored = await self._store.get(Cause.BREAKER, scope)
        standing = None if stored is None else breaker_hold(stored.hold)
        # A hold that is over stands for none.
        counts = standing is not None and standing.until_ms > self._clock.now_ms()
        if before != (standing if counts or before == standing else None):
            return standing
        if after is not None:
            saved = await self._store.save(as_hold(self._relay.name, after), instead_of=stored)
        else:
            saved = stored is None or await self._store.remove(stored)
        if saved:
            return after
        again = await self._store.get(Cause.BREAKER, scope)
        return None if again is None else breaker_hold(again.hold)

    async def _ask_for_lease(self) -> None:
        """Begins a probe that is due, if no other process probes."""
        due_ms = probe_due_ms(self._relay.breaker)
        now_s = trio.current_time()
        if (
            due_ms is None
            or due_ms > self._clock.now_ms()
            or self._probing is not None
            or now_s < self._lease_at_s
        ):
            return
        self._lease_at_s = now_s + READ_EVERY_S
        if not await self._lease(LEASE_MS):
            return
        await self.read()  # after the lease: what the last prober did is known
        self._relay.tell(Leased())
        if not any(isinstance(action, StartProbe) for action in self._relay.actions):
            await self._lease(0)

    async def _keep_lease(self) -> None:
        """Renews the lease while a probe is under way. If another process has it, a session ends, and a delivery goes on."""
        probing = self._probing
        if probing is None:
            return
        leased = await self._lease(LEASE_MS)
        if probing.deadline < inf:  # a session
            probing.deadline = self._leased_until_s if leased else -inf

    async def _lease(self, ttl_ms: int) -> bool:
        asked_s = trio.current_time()
        leased = await self._store.lease_probe(self._relay.name, owner=self._owner, ttl_ms=ttl_ms)
        if leased:
            self._leased_until_s = asked_s + ttl_ms / 1000
        return leased

    async def _probe(self, probe: Probe) -> None:
        answered = False
        # Cut off past its dot, a delivery would be sent twice. A session loses nothing.
        deadline_s = self._leased_until_s if probe is Probe.SESSION else inf
        with trio.CancelScope(deadline=deadline_s) as self._probing:
            if probe is Probe.SESSION:
                answered = await self._probe_by_session()
            else:
                self._delivery_probe = DeliveryProbe(self._lanes, self._relay)
                answered = await self._delivery_probe.run(self._sender)
        self._probing = self._delivery_probe = None
        self._probed = True
        if not answered:
            self._relay.tell(ProbeGivenUp())
        self._relay.wake()

    async def _probe_by_session(self) -> bool:
        """Whether the relay answered. False: the failure is not the relay's."""
        async with self._provider() as provider:
            refused = await provider.probe()
        if refused is None:
            self._relay.tell(ProbeWell())
            return True
        if refused.failure is None or refused.blame is Blame.SERVICE:
            return False
        self._relay.tell(ProbeRefused(kind=kind_of(refused), failure=refused.failure))
        return True

    # The holds

    def _judge(self, snapshot: Snapshot | None) -> None:
        """Recomputes which lanes are held, and logs which holds began, changed and ended."""
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

    def _next_turn_s(self) -> float:
        """When the next read, the end of a hold or a probe is due, in trio's time."""
        now_ms, now_s = self._clock.now_ms(), trio.current_time()
        snapshot = self._holds.snapshot
        end_ms = None if snapshot is None else snapshot.next_end_ms(now_ms)
        due_ms = probe_due_ms(self._relay.breaker) if self._probing is None else None
        next_s = self._read_at_s
        if end_ms is not None:
            next_s = min(next_s, now_s + max(WAIT_MIN_S, (end_ms - now_ms) / 1000))
        if due_ms is not None:
            next_s = min(next_s, max(self._lease_at_s, now_s + max(WAIT_MIN_S, (due_ms - now_ms) / 1000)))
        return max(next_s, self._not_before_s)


def _to_tell(hold: Hold) -> Hold:
    """What is worth a line when it changes. A breaker's hold ends later with each probe."""
    return replace(hold, until_ms=None, pause_ms=None) if hold.cause is Cause.BREAKER else hold


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
