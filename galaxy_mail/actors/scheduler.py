"""The scheduler: claims what is due and hands it to the sender slots."""

from collections import deque
from typing import Final

import structlog
import trio
from msgspec import Struct

from galaxy_mail.actors.lanes import Lanes
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.conclusion import Conclusion, RetryPolicy, conclude_lost_owner, give_back
from galaxy_mail.domain.records import AttemptStatus, Lane
from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.links.errors import RedisFailure
from galaxy_mail.storage.operations.claims import Claim, StaleClaim
from galaxy_mail.storage.operations.store import LOST_PLACES, Store
from galaxy_mail.telemetry.logs import delivery_fields
from galaxy_mail.telemetry.metrics import Metrics

log = structlog.get_logger()

CHECK_EVERY_S: Final = 1.0  # for what other processes scheduled, and for what lost owners held
STOP_WITHIN_S: Final = 1.0
MOMENT_S: Final = 0.001  # shorter waits are none: a difference of two floats can be too small to pass
PAUSE_AFTER_TROUBLE_S: Final = 0.25


class Lost(Struct, frozen=True):
    """An attempt that its owner lost, and how it ends, which is not recorded yet."""

    claim: Claim
    conclusion: Conclusion


class Scheduler:
    """Claims for as many places as the lanes have; wakes at the next due time, when rung, and every second.

    Ends when cancelled: then it ends its turn and gives back what no slot has begun, within a bounded time.
    Touches the lanes' scheduler side and the store; no slot, no provider.
    """

    def __init__(
        self,
        *,
        lanes: Lanes,
        store: Store,
        clock: Clock,
        policy: RetryPolicy,
        metrics: Metrics,
        heartbeat: Heartbeat,
    ) -> None:
        self.lanes = lanes
        self.store = store
        self.clock = clock
        self.policy = policy
        self.metrics = metrics
        self.heartbeat = heartbeat
        self._may_wait_s = store.claim_ttl_ms / 2000  # a claim, for a slot
        self._check_again_s = float("-inf")  # when to look for what was lost, and for what others scheduled
        self._lost: deque[Lost] = deque()
        self._stopping = False
        self._failure: str | None = None  # what keeps it from claiming

    async def run(self) -> None:
        # What Redis has claimed while nobody listened would be lost until it expires: a turn goes on to its end.
        shield = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._turn_until_stopped, shield)
            try:
                await trio.sleep_forever()
            finally:
                self._stopping = True
                self.lanes.wake()
                shield.deadline = trio.current_time() + STOP_WITHIN_S

    async def _turn_until_stopped(self, shield: trio.CancelScope) -> None:
        with shield:
            try:
                while not self._stopping:
                    self.heartbeat.beat()
                    try:
                        wait_s = await self.turn()
                        self._failure = None
                    except RedisFailure as trouble:
                        if self._failure != str(trouble):  # once for each reason, not for each try
                            self._failure = str(trouble)
                            log.warning("claiming_failed", error=self._failure)
                        wait_s = PAUSE_AFTER_TROUBLE_S
                    if not self._stopping:
                        await self.lanes.wait_woken(min(wait_s, self._until_withdrawal_s()))
            finally:
                with trio.move_on_after(STOP_WITHIN_S):
                    await self._release(self.lanes.drain())

    async def turn(self) -> float:
        """One look at the schedule; how many seconds to wait for the next. Raises RedisTrouble."""
        now_s = trio.current_time()
        await self._conclude_lost()  # before a claim can find them expired
        await self._release(self.lanes.withdraw(before_s=now_s - self._may_wait_s))
        places = self.lanes.places()
        check_lost = now_s >= self._check_again_s
        if not places and not check_lost:
            self.lanes.backlog = frozenset(Lane)  # whatever rang is looked for once there is a place
            return self._until_next_check_s()
        claimed = await self.store.claim(
            priority_places=places.priority, normal_places=places.normal, check_lost=check_lost
        )
        if check_lost and sum(claim.losses > 0 for claim in claimed.claims) < LOST_PLACES:
            # Otherwise there may be more of it at once: a process with many slots was lost.
            self._check_again_s = now_s + CHECK_EVERY_S
        for delivery_id in claimed.parked:
            log.error("delivery_unreadable", delivery_id=delivery_id)
        too_late: list[Claim] = []
        for claim in claimed.claims:
            conclusion = self._conclusion(claim)
            if conclusion is not None:
                self._lost.append(Lost(claim, conclusion))
            elif self._stopping:  # it was asked for before, and no slot may begin it any more
                too_late.append(claim)
            else:
                self.lanes.put(claim, since_s=now_s)
        self.lanes.backlog = claimed.more
        await self._release(too_late)
        await self._conclude_lost()  # last: when Redis is away meanwhile, the others are in their lanes
        if self.lanes.has_places_for_more():
            return 0
        wait_s = self._until_next_check_s()
        if claimed.next_due_ms is not None and claimed.next_due_ms > claimed.now_ms:
            wait_s = min(wait_s, (claimed.next_due_ms - claimed.now_ms) / 1000)
        return wait_s

    def _until_next_check_s(self) -> float:
        return max(MOMENT_S, self._check_again_s - trio.current_time())

    def _until_withdrawal_s(self) -> float:
        """A claim that waited too long is given back well before it expires, however short claims are."""
        return max(MOMENT_S, self.lanes.waiting_since_s() + self._may_wait_s + MOMENT_S - trio.current_time())

    def _conclusion(self, claim: Claim) -> Conclusion | None:
        """How an attempt ends that an owner has begun and lost; None: it goes on as it is.

        One in progress that nobody had claimed was found by the janitor: its owner is as lost as any other.
        """
        if claim.losses == 0 and claim.attempt.status is AttemptStatus.SCHEDULED:
            return None
        losses = max(1, claim.losses)
        self.metrics.claim_lost()
        conclusion = conclude_lost_owner(
            claim.delivery, claim.attempt, self.policy, losses=losses, now_ms=self.clock.now_ms()
        )
        log.warning(
            "claim_lost",
            **delivery_fields(claim.delivery, claim.attempt.attempt_no),
            losses=losses,
            begun=conclusion is not None,
        )
        return conclusion

    async def _conclude_lost(self) -> None:
        """Raises RedisTrouble; what is left then comes again with the next turn.

        To let its claim expire would count as another loss, and a delivery has few of them.
        """
        while self._lost:
            self.heartbeat.beat()
            lost = self._lost.popleft()
            try:
                await self.store.finish(lost.claim, lost.conclusion)
            except StaleClaim:  # it expired meanwhile, and somebody found it once more
                continue
            except RedisFailure:
                self._lost.append(lost)
                raise
            self.metrics.concluded(lost.conclusion)
            self.lanes.wake()  # the next attempt is due at once

    async def _release(self, claims: list[Claim]) -> None:
        """At once, so that a hundred of them cost little more time than one."""
        async with trio.open_nursery() as nursery:
            for claim in claims:
                nursery.start_soon(self._release_one, claim)

    async def _release_one(self, claim: Claim) -> None:
        returned = give_back(claim.delivery, claim.attempt, now_ms=self.clock.now_ms())
        try:
            await self.store.release(claim, returned)
        except StaleClaim:
            pass
        except RedisFailure as trouble:  # it expires by itself and is taken over
            log.warning("release_failed", delivery_id=claim.delivery_id, error=str(trouble))
