"""The hand-over between the scheduler and the sender slots.

The scheduler's side keeps one queue for each lane. A slot with nothing to do waits on its own memory channel of size 0.
`send_nowait` to that channel succeeds only while the slot waits in `receive`, also when the slot is cancelled in the same
moment. So a claim is in a queue, with a slot or with a probe, and none is dropped in between.

Slots that take both lanes prefer the priority lane. While normal claims wait, every `FAIR_SHARE`-th claim is a normal one,
so that neither lane starves the other. Nobody renews a claim that waits here: the scheduler takes back those that waited
too long. A held lane has no places, and the scheduler takes back what waits in it.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Final

import trio
from msgspec import Struct

from galaxy_mail.domain.records import Lane
from galaxy_mail.relays.holds import CurrentHolds
from galaxy_mail.storage.operations.claims import Claim

PREFETCH_MIN: Final = 8
FAIR_SHARE: Final = 10


class EndOfLanes(Exception):
    """The lanes are closed and empty."""


class Places(Struct, frozen=True):
    """How many more claims each lane can hold."""

    priority: int
    normal: int

    def __bool__(self) -> bool:
        return self.priority > 0 or self.normal > 0


class Waiting(Struct, frozen=True):
    claim: Claim
    since_s: float  # trio.current_time() when it was claimed


class IdleSlot(Struct, frozen=True, eq=False):
    """A slot that waits for a claim on its own channel."""

    claims: trio.MemorySendChannel[Claim]
    priority_only: bool


class Lanes:
    """Two bounded queues of claims, and the slots that wait for a claim.

    With two slots or more, one takes only the priority lane, so that a login code does not wait for a long attempt: unless
    fewer slots may begin, after a breaker's hold or failures of the relay.
    """

    def __init__(
        self,
        slots: int,
        holds: CurrentHolds | None = None,
        may_begin: Callable[[], int] | None = None,  # how many slots; None: all
    ) -> None:
        self.slots = slots
        self._may_begin = may_begin or (lambda: slots)
        self._probe: trio.MemorySendChannel[Claim] | None = None  # who waits for a claim of a held lane
        self.holds = holds or CurrentHolds(lanes=frozenset())  # None: nothing is ever held
        self._prefetch = max(PREFETCH_MIN, slots)
        self._queues: dict[Lane, deque[Waiting]] = {Lane.PRIORITY: deque(), Lane.NORMAL: deque()}
        self._idle: list[IdleSlot] = []  # in the order in which they began to wait
        self._since_normal = 0  # priority claims taken since the last normal one, while normal claims waited
        self._closed = False
        # In these lanes more was due at the last claim than there were places: a free place wakes the scheduler.
        self.backlog: frozenset[Lane] = frozenset()
        # Wakes the scheduler: work was accepted, a place became free, or the set of held lanes has changed.
        self._wake, self._woken = trio.open_memory_channel[None](1)

    # The scheduler's side

    def places(self) -> Places:
        """Places for the idle slots and for a prefetch.

        A lane offers places once half of its prefetch is taken: claiming in batches costs less per delivery. A held lane
        offers none, and neither does any while no slot may begin.
        """
        if self._probe is not None:
            return Places(int(self.may_probe(Lane.PRIORITY)), int(self.may_probe(Lane.NORMAL)))
        return Places(self._places_in(Lane.PRIORITY), self._places_in(Lane.NORMAL))

    def has_places_for_more(self) -> bool:
        """Whether a lane with a backlog has places."""
        return any(map(self._places_in, self.backlog))

    def _places_in(self, lane: Lane) -> int:
        if self.is_held(lane) or self._may_begin() == 0:
            return 0
        free = len(self._idle)
        if free and lane is Lane.NORMAL:
            free -= sum(slot.priority_only for slot in self._idle)
        free = max(0, min(free, self._may_begin() - self.busy_slots()))
        count = free + self._prefetch - len(self._queues[lane])
        return count if count >= self._prefetch // 2 else 0

    def put(self, claim: Claim, *, since_s: float) -> None:
        """Gives a claim to a probe or a slot, or queues it.

        The queues stay bounded: the scheduler claims only for places.
        """
        if self._probe is not None and self.is_held(claim.lane) and self.may_probe(claim.lane):
            probe, self._probe = self._probe, None
            with suppress(trio.WouldBlock):  # the probe was cancelled and has not run since
                probe.send_nowait(claim)
                return
        self._queues[claim.lane].append(Waiting(claim, since_s))
        self.hand_out()

    def hand_out(self) -> None:
        """Gives waiting claims to idle slots, as far as slots may begin.

        A priority claim goes first to a slot of the priority lane, so that the other slots stay free for normal mail.
        """
        for slot in sorted(self._idle, key=lambda slot: not slot.priority_only):
            if not self._has_room():
                return
            waiting = self._next(priority_only=slot.priority_only)
            if waiting is not None and not self._give(slot, waiting.claim):
                self._queues[waiting.claim.lane].appendleft(waiting)

    def _give(self, slot: IdleSlot, claim: Claim) -> bool:
        try:
            slot.claims.send_nowait(claim)
        except trio.WouldBlock:  # the slot was cancelled and has not run since
            return False
        self._idle.remove(slot)
        return True

    def _has_room(self) -> bool:
        """Whether one more slot may begin."""
        return self.busy_slots() < self._may_begin()

    def withdraw(self, *, before_s: float) -> list[Claim]:
        """Takes back the claims that have waited since before `before_s`."""
        withdrawn: list[Claim] = []
        for queue in self._queues.values():
            while queue and queue[0].since_s < before_s:
                withdrawn.append(queue.popleft().claim)
        return withdrawn

    def withdraw_held(self) -> list[Claim]:
        """Takes back the claims that wait in held lanes."""
        withdrawn: list[Claim] = []
        for lane, queue in self._queues.items():
            if self.is_held(lane):
                withdrawn += [waiting.claim for waiting in queue]
                queue.clear()
        return withdrawn

    def drain(self) -> list[Claim]:
        """Takes back all waiting claims."""
        return self.withdraw(before_s=inf)

    def waiting_since_s(self) -> float:
        """The time since which the oldest waiting claim waits; infinite if none waits."""
        return min((queue[0].since_s for queue in self._queues.values() if queue), default=inf)

    async def wait_woken(self, timeout_s: float) -> None:
        """Waits until there may be work or places, at most `timeout_s`."""
        with trio.move_on_after(timeout_s):
            await self._woken.receive()

    # The slots' side

    async def take(self, *, priority_only: bool) -> Claim:
        """The next claim for this slot. Raises EndOfLanes once the lanes are closed and empty."""
        if trio.current_effective_deadline() == -inf:
            await trio.sleep_forever()  # raises Cancelled now, before a claim is taken
        # This slot counts as busy, though it is not.
        waiting = self._next(priority_only=priority_only) if self.busy_slots() <= self._may_begin() else None
        claim = waiting.claim if waiting is not None else await self._wait(priority_only=priority_only)
        if self.has_places_for_more():
            self.wake()
        return claim

    async def _wait(self, *, priority_only: bool) -> Claim:
        if self._closed:
            raise EndOfLanes
        send, receive = trio.open_memory_channel[Claim](0)
        slot = IdleSlot(send, priority_only)
        self._idle.append(slot)
        self.hand_out()  # this slot makes room for another, which may take other lanes
        if self.has_places_for_more():
            self.wake()
        try:
            return await receive.receive()
        except trio.EndOfChannel:
            raise EndOfLanes from None
        finally:
            if slot in self._idle:  # this slot was cancelled
                self._idle.remove(slot)

    def _next(self, *, priority_only: bool) -> Waiting | None:
        priority, normal = self._queues[Lane.PRIORITY], self._queues[Lane.NORMAL]
        if normal and not priority_only and (not priority or self._since_normal >= FAIR_SHARE - 1):
            self._since_normal = 0
            return normal.popleft()
        if priority:
            if normal and not priority_only:
                self._since_normal += 1
            return priority.popleft()
        return None

    async def take_probe(self) -> Claim:
        """A claim of a held lane, with which its relay is probed. One task at a time."""
        self._probe, receive = trio.open_memory_channel[Claim](0)
        self.wake()
        try:
            return await receive.receive()
        finally:
            self._probe = None

    # Anyone's

    def takes(self, lane: Lane) -> bool:
        """Whether a claim of this lane may be put."""
        return not self.is_held(lane) or (self._probe is not None and self.may_probe(lane))

    def may_probe(self, lane: Lane) -> bool:
        """Whether a delivery of this lane may probe a held relay."""
        return lane not in self.holds.operators_lanes

    def is_held(self, lane: Lane) -> bool:
        """Whether nothing may begin in this lane now."""
        return lane in self.holds.lanes

    def all_may_begin(self) -> bool:
        """Whether every slot may have a message in hand."""
        return self._may_begin() >= self.slots

    def wake(self) -> None:
        """Wakes the scheduler: a delivery was accepted, a place is free, or the set of held lanes has changed."""
        with suppress(trio.WouldBlock):  # a wake-up is pending
            self._wake.send_nowait(None)

    def close(self) -> None:
        """Ends the slots after they have finished their claim and the waiting claims. Nothing may be put afterwards."""
        self._closed = True
        for slot in self._idle:
            slot.claims.close()
        self._idle.clear()

    def idle_slots(self) -> int:
        return len(self._idle)

    def busy_slots(self) -> int:
        """The slots that do not wait for a claim. One that is being restarted counts, too."""
        return self.slots - len(self._idle)

    def waiting(self, lane: Lane) -> int:
        return len(self._queues[lane])
