"""The scheduler: claims due deliveries and hands them to the sender slots."""

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
from galaxy_mail.telemetry.repeated import Repeated

log = structlog.get_logger()

CHECK_EVERY_S: Final = 1.0  # for deliveries that other processes scheduled, and for expired claims
STOP_WITHIN_S: Final = 1.0
WAIT_MIN_S: Final = 0.001  # rounding can make a shorter wait end before its time
PAUSE_AFTER_FAILURE_S: Final = 0.25


class Lost(Struct, frozen=True):
    """An attempt whose owner was lost, with its conclusion, which is not recorded yet."""

    claim: Claim
    conclusion: Conclusion


class Scheduler:
    """Claims as many deliveries as the lanes have places. Runs at the next due time, when woken, and every second.

    A held lane has no places. What waits in it goes back to the schedule, due when it was; what a lost owner had begun is
    concluded all the same.
    Ends when cancelled: it completes its turn and releases the claims that no slot has taken, within a bounded time.
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
        self._may_wait_s = store.claim_ttl_ms / 2000  # how long a claim may wait for a slot
        self._check_again_s = float("-inf")  # the next check for CHECK_EVERY_S
        self._lost: deque[Lost] = deque()
        self._stopping = False
        self._failure = Repeated()

    async def run(self) -> None:
        # A cancelled turn would lose the claims of a reply until they expire, so a started turn is completed.
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
                        self._failure.over()
                    except RedisFailure as failure:
                        if self._failure.is_new(str(failure)):
                            log.warning("claiming_failed", error=str(failure))
                        wait_s = PAUSE_AFTER_FAILURE_S
                    if not self._stopping:
                        await self.lanes.wait_woken(min(wait_s, self._until_withdrawal_s()))
            finally:
                with trio.move_on_after(STOP_WITHIN_S):
                    await self._release(self.lanes.drain())

    async def turn(self) -> float:
        """Claims once; returns the seconds until the next turn. Raises RedisFailure."""
        now_s = trio.current_time()
        await self._conclude_lost()  # first: their claims must not expire meanwhile
        await self._release(
            self.lanes.withdraw_held() + self.lanes.withdraw(before_s=now_s - self._may_wait_s)
        )
        places = self.lanes.places()
        check_lost = now_s >= self._check_again_s
        if not places and not check_lost:
            self.lanes.backlog = frozenset(
                Lane
            )  # claim as soon as there is a place: something may have become due
            return self._until_next_check_s()
        claimed = await self.store.claim(
            priority_places=places.priority, normal_places=places.normal, check_lost=check_lost
        )
        if check_lost and sum(claim.losses > 0 for claim in claimed.claims) < LOST_PLACES:
            # With LOST_PLACES losses there may be more: check again at once.
            self._check_again_s = now_s + CHECK_EVERY_S
        for delivery_id in claimed.parked:
            log.error("delivery_unreadable", delivery_id=delivery_id)
        not_now: list[Claim] = []
        for claim in claimed.claims:
            conclusion = self._conclusion(claim)
            if conclusion is not None:
                self._lost.append(Lost(claim, conclusion))
            elif self._stopping or not self.lanes.takes(claim.lane):  # no slot may begin it
                not_now.append(claim)
            else:
                self.lanes.put(claim, since_s=now_s)
        self.lanes.backlog = claimed.more
        await self._release(not_now)
        await self._conclude_lost()  # last: if this fails, the other claims are in their lanes
        if self.lanes.has_places_for_more():
            return 0
        wait_s = self._until_next_check_s()
        if claimed.next_due_ms is not None and claimed.next_due_ms > claimed.now_ms:
            wait_s = min(wait_s, (claimed.next_due_ms - claimed.now_ms) / 1000)
        return wait_s

    def _until_next_check_s(self) -> float:
        return max(WAIT_MIN_S, self._check_again_s - trio.current_time())

    def _until_withdrawal_s(self) -> float:
        """Seconds until the oldest waiting claim has waited too long, well before it expires."""
        return max(
            WAIT_MIN_S, self.lanes.waiting_since_s() + self._may_wait_s + WAIT_MIN_S - trio.current_time()
        )

    def _conclusion(self, claim: Claim) -> Conclusion | None:
        """The conclusion of an attempt that a lost owner had begun. None: the attempt can begin as it is.

        An attempt in progress without a claim counts as lost, too: the janitor scheduled it again.
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
        """Records the conclusions of lost attempts. Raises RedisFailure; the next turn records the rest.

        If we let these claims expire instead, each would count as another loss, and a delivery may have only a few.
        """
        while self._lost:
            self.heartbeat.beat()
            lost = self._lost.popleft()
            try:
                await self.store.finish(lost.claim, lost.conclusion)
            except StaleClaim:  # the claim expired meanwhile, and another process took the delivery over
                continue
            except RedisFailure:
                self._lost.append(lost)
                raise
            self.metrics.concluded(lost.conclusion)
            self.lanes.wake()  # the next attempt is due at once

    async def _release(self, claims: list[Claim]) -> None:
        """Releases the claims concurrently, so that a hundred take little longer than one."""
        async with trio.open_nursery() as nursery:
            for claim in claims:
                nursery.start_soon(self._release_one, claim)

    async def _release_one(self, claim: Claim) -> None:
        returned = give_back(claim.delivery, claim.attempt, now_ms=self.clock.now_ms())
        try:
            await self.store.release(claim, returned)
        except StaleClaim:
            pass
        except RedisFailure as failure:  # the claim expires, and the delivery is taken over
            log.warning("release_failed", delivery_id=claim.delivery_id, error=str(failure))
