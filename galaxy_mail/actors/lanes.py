"""The hand-over between the scheduler and the sender slots: one queue a lane.

The scheduler puts claims in as long as there are `places`; a slot takes the next one. The priority lane comes first, but
every `FAIR_SHARE`-th claim of a slot that may take both is a normal one while some wait, so that neither lane starves
the other. What waited too long is withdrawn by the scheduler and given back: nobody renews a claim that waits here.
"""

from collections import OrderedDict, deque
from contextlib import suppress
from math import inf
from typing import Final

import trio
from msgspec import Struct

from galaxy_mail.domain.records import Lane
from galaxy_mail.storage.operations.claims import Claim

PREFETCH_MIN: Final = 8
FAIR_SHARE: Final = 10


class EndOfLanes(Exception):
    """The lanes are closed and nothing is left to take."""


class Places(Struct, frozen=True):
    """How many more claims each lane can take in."""

    priority: int
    normal: int

    def __bool__(self) -> bool:
        return self.priority > 0 or self.normal > 0


class Waiting(Struct, frozen=True):
    claim: Claim
    since_s: float  # trio.current_time() when it was claimed


class Lanes:
    """Two bounded queues with one way in and one way out.

    With two slots or more, one takes the priority lane only, so that a login code never waits for a long attempt.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._prefetch = max(PREFETCH_MIN, slots)
        self._queues: dict[Lane, deque[Waiting]] = {Lane.PRIORITY: deque(), Lane.NORMAL: deque()}
        # Slots that wait, the longest first, and whether they take the priority lane only.
        self._takers: OrderedDict[trio.lowlevel.Task, bool] = OrderedDict()
        self._handed_over: dict[trio.lowlevel.Task, Claim] = {}  # to slots that are about to wake up
        self._since_normal = 0
        self._closed = False
        # In these lanes more was due at the last claim than there were places: a free place there is news.
        self.backlog: frozenset[Lane] = frozenset()
        # Rung when there is something for the scheduler to do: work was accepted, places have come free.
        self._wake, self._woken = trio.open_memory_channel[None](1)

    # The scheduler's side

    def places(self) -> Places:
        """Room for a prefetch beyond what the free slots take at once.

        A lane is refilled once half of its prefetch is gone: claiming in batches costs less per delivery.
        """
        return Places(self._places_in(Lane.PRIORITY), self._places_in(Lane.NORMAL))

    def has_places_for_more(self) -> bool:
        """Whether a lane in which more is due than was claimed can take some of it now."""
        return any(map(self._places_in, self.backlog))

    def _places_in(self, lane: Lane) -> int:
        free = len(self._takers)
        if free and lane is Lane.NORMAL:
            free -= sum(self._takers.values())
        count = free + self._prefetch - len(self._queues[lane])
        return count if count >= self._prefetch // 2 else 0

    def put(self, claim: Claim, *, since_s: float) -> None:
        """Hands a claim over. Never blocks: the scheduler claims no more than there are places."""
        task = self._taker(claim.lane)
        if task is None:
            self._queues[claim.lane].append(Waiting(claim, since_s))
        else:
            del self._takers[task]
            self._handed_over[task] = claim
            trio.lowlevel.reschedule(task)

    def withdraw(self, *, before_s: float) -> list[Claim]:
        """Takes back what waits since before then."""
        withdrawn: list[Claim] = []
        for queue in self._queues.values():
            while queue and queue[0].since_s < before_s:
                withdrawn.append(queue.popleft().claim)
        return withdrawn

    def drain(self) -> list[Claim]:
        """Takes back everything."""
        return self.withdraw(before_s=inf)

    def waiting_since_s(self) -> float:
        """Since when the claim waits that waits longest; infinite where none does."""
        return min((queue[0].since_s for queue in self._queues.values() if queue), default=inf)

    async def wait_woken(self, timeout_s: float) -> None:
        """Returns when there may be work or places, at the latest after `timeout_s`."""
        with trio.move_on_after(timeout_s):
            await self._woken.receive()

    # The slots' side

    async def take(self, *, priority_only: bool) -> Claim:
        """The next claim for this slot. Raises EndOfLanes once the lanes are closed and empty."""
        await trio.lowlevel.checkpoint_if_cancelled()  # first, so that what is taken is never dropped
        claim = self._next(priority_only=priority_only) or await self._wait(priority_only=priority_only)
        if self.has_places_for_more():
            self.wake()
        return claim

    async def _wait(self, *, priority_only: bool) -> Claim:
        if self._closed:
            raise EndOfLanes
        task = trio.lowlevel.current_task()
        self._takers[task] = priority_only
        if self.has_places_for_more():
            self.wake()

        def abort(_: object) -> trio.lowlevel.Abort:
            del self._takers[task]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        # Handed to this slot alone: cancelled in the same moment, it still has it, and gives it back.
        claim = self._handed_over.pop(task, None)
        if claim is None:
            raise EndOfLanes
        return claim

    def _taker(self, lane: Lane) -> trio.lowlevel.Task | None:
        """The slot for this lane that waits longest. Codes leave those that take both lanes to bulk, if they can."""
        if lane is Lane.PRIORITY:
            for task, priority_only in self._takers.items():
                if priority_only:
                    return task
        return next((task for task, priority_only in self._takers.items() if not priority_only), None)

    def _next(self, *, priority_only: bool) -> Claim | None:
        priority, normal = self._queues[Lane.PRIORITY], self._queues[Lane.NORMAL]
        if normal and not priority_only and (not priority or self._since_normal >= FAIR_SHARE - 1):
            self._since_normal = 0
            return normal.popleft().claim
        if priority:
            if normal and not priority_only:
                self._since_normal += 1
            return priority.popleft().claim
        return None

    # Anyone's

    def wake(self) -> None:
        """Wakes the scheduler: something was accepted, or a place is free."""
        with suppress(trio.WouldBlock):  # it is awake already
            self._wake.send_nowait(None)

    def close(self) -> None:
        """No more claims will come: slots end when they have finished what they hold and what waits here."""
        self._closed = True
        while self._takers:
            task, _ = self._takers.popitem(last=False)
            trio.lowlevel.reschedule(task)

    def idle_slots(self) -> int:
        return len(self._takers)

    def waiting(self, lane: Lane) -> int:
        return len(self._queues[lane])
