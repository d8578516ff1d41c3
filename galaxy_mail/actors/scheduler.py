"""The scheduler: claims what is due and hands it to the sender slots. Never: sends, or decides what an outcome means."""

from contextlib import suppress
from typing import Final

import structlog
import trio

from galaxy_mail.actors.lanes import Lanes
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.conclusion import RetryPolicy, conclude_lost_owner, give_back
from galaxy_mail.storage.errors import RedisTrouble
from galaxy_mail.storage.store import Claim, StaleClaim, Store
from galaxy_mail.telemetry.logs import delivery_fields
from galaxy_mail.telemetry.metrics import Metrics

log = structlog.get_logger()

LOOK_EVERY_S: Final = 1.0  # for what other processes scheduled, and for what lost owners held
RELEASE_WITHIN_S: Final = 1.0
MOMENT_S: Final = 0.001  # shorter waits are none: a difference of two floats can be too small to pass
PAUSE_AFTER_TROUBLE_S: Final = 0.25


class Scheduler:
    """Claims for as many places as the lanes have; wakes at the next due time, when rung, and every second.

    Ends when cancelled: then it gives back what no slot has begun, within a bounded time.
    Touches the lanes' scheduler side and the store; no slot, no provider.
    """

    def __init__(
        self, *, lanes: Lanes, store: Store, policy: RetryPolicy, metrics: Metrics, heartbeat: Heartbeat
    ) -> None:
        self.lanes = lanes
        self.store = store
        self.policy = policy
        self.metrics = metrics
        self.heartbeat = heartbeat
        self._look_again_s = float("-inf")  # when to look for what was lost, and for what others scheduled

    async def run(self) -> None:
        try:
            while True:
                self.heartbeat.beat()
                try:
                    wait_s = await self.turn()
                except RedisTrouble as trouble:
                    log.warning("claiming_failed", error=str(trouble))
                    wait_s = PAUSE_AFTER_TROUBLE_S
                await self.lanes.wait_rung(wait_s)
        finally:
            with trio.move_on_after(RELEASE_WITHIN_S, shield=True):
                await self._release(self.lanes.drain())

    async def turn(self) -> float:
        """One look at the schedule; how many seconds to wait for the next. Raises RedisTrouble."""
        now_s = trio.current_time()
        await self._release(self.lanes.withdraw(before_s=now_s - self.store.claim_ttl_ms / 2000))
        places = self.lanes.places()
        look_for_lost = now_s >= self._look_again_s
        if not places and not look_for_lost:
            return self._until_next_look_s()
        claimed = await self.store.claim(
            priority_places=places.priority, normal_places=places.normal, look_for_lost=look_for_lost
        )
        if look_for_lost:
            self._look_again_s = now_s + LOOK_EVERY_S
        for delivery_id in claimed.parked:
            log.error("delivery_unreadable", delivery_id=delivery_id)
        for claim in claimed.claims:
            if claim.losses == 0 or await self._goes_on(claim):
                self.lanes.put(claim, since_s=now_s)
        self.lanes.hungry = claimed.more
        if self.lanes.has_places_for_more():
            return 0
        wait_s = self._until_next_look_s()
        if claimed.next_due_ms is not None and claimed.next_due_ms > claimed.now_ms:
            wait_s = min(wait_s, (claimed.next_due_ms - claimed.now_ms) / 1000)
        return wait_s

    def _until_next_look_s(self) -> float:
        return max(MOMENT_S, self._look_again_s - trio.current_time())

    async def _goes_on(self, claim: Claim) -> bool:
        """Whether the attempt that an owner lost goes on as it is; otherwise it has been concluded."""
        self.metrics.claim_lost()
        now_ms = self.store.now_ms()
        conclusion = conclude_lost_owner(
            claim.delivery, claim.attempt, self.policy, losses=claim.losses, now_ms=now_ms
        )
        log.warning(
            "claim_lost",
            **delivery_fields(claim.delivery, claim.attempt.attempt_no),
            losses=claim.losses,
            begun=conclusion is not None,
        )
        if conclusion is None:
            return True
        with suppress(StaleClaim):
            await self.store.finish(claim, conclusion)
            self.metrics.concluded(conclusion)
            self.lanes.ring()  # the next attempt is due at once
        return False

    async def _release(self, claims: list[Claim]) -> None:
        now_ms = self.store.now_ms()
        for claim in claims:
            try:
                await self.store.release(claim, give_back(claim.delivery, claim.attempt, now_ms=now_ms))
            except StaleClaim:
                continue
            except RedisTrouble as trouble:  # it expires by itself and is taken over
                log.warning("release_failed", delivery_id=claim.delivery_id, error=str(trouble))
