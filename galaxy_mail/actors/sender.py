"""One sender slot: one attempt at a time on its own provider connection."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from typing import Final, Protocol, TypeVar

import structlog
import trio
from msgspec import Struct

from galaxy_mail.actors.lanes import EndOfLanes
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.acceptance import not_allowed, suppression_entries
from galaxy_mail.domain.conclusion import (
    Begun,
    Conclusion,
    RetryPolicy,
    begin,
    conclude,
    conclude_late_suppression,
    conclude_render_failure,
    give_back,
    suppress_late,
)
from galaxy_mail.domain.errors import leaves
from galaxy_mail.domain.records import Content, Delivery, Failure, Lane, RenderedContent, SendResult
from galaxy_mail.providers.provider import Message, Provider
from galaxy_mail.relays.relay import Judged
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.links.errors import RedisFailure
from galaxy_mail.storage.operations.answers import NewlySuppressed
from galaxy_mail.storage.operations.claims import Claim, Quarantined, StaleClaim
from galaxy_mail.storage.operations.store import Store
from galaxy_mail.telemetry.logs import delivery_fields
from galaxy_mail.telemetry.metrics import Metrics
from galaxy_mail.telemetry.repeated import Repeated
from galaxy_mail.telemetry.traces import Traces

log = structlog.get_logger()
T = TypeVar("T")

RECORD_WITHIN_S: Final = 1.5  # the time that a cancelled slot has to record the outcome or release the claim
SEND_WITHIN_S: Final = 600.0  # a provider has its own deadlines; a slot that sends for longer is stuck
IDLE_CHECK_EVERY_S: Final = 1.0
PAUSES_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)  # between retries of a call to Redis; the last one repeats


class Claims(Protocol):
    """Where a sender gets its claims: the lanes, or the one claim that probes a relay."""

    async def take(self, *, priority_only: bool) -> Claim: ...

    def is_held(self, lane: Lane) -> bool: ...

    def all_may_begin(self) -> bool: ...


class Judge(Protocol):
    """Decides whom to blame for a result: `Relay`, or `DeliveryProbe` for a probe."""

    async def judge(self, delivery: Delivery, result: SendResult) -> Judged: ...


class InHand(Struct):
    """The claim in hand, for the task that renews it."""

    claim: Claim
    renewed_s: float  # trio.current_time() before the latest call that renewed the claim
    sending: trio.CancelScope | None = None  # cancelled when another owner has the claim


class Sender:
    """Takes claims, hands each message to the provider, records the answer.

    Ends when the lanes are closed and the attempt in hand is recorded. When cancelled, it releases the claim if the
    provider can't have the message; otherwise it records the outcome. Touches the lanes' slot side, the store, the relay and
    its own provider; no other slot, no schedule.
    """

    def __init__(
        self,
        *,
        lanes: Claims,
        store: Store,
        clock: Clock,
        provider: Provider,
        relay: Judge,
        catalog: Catalog,
        policy: RetryPolicy,
        metrics: Metrics,
        traces: Traces,
        heartbeat: Heartbeat,
        priority_only: bool = False,
        allowlist: frozenset[str] = frozenset(),  # empty: everyone may be mailed
        send_within_s: float = SEND_WITHIN_S,
    ) -> None:
        self.lanes = lanes
        self.store = store
        self.clock = clock
        self.provider = provider
        self.relay = relay
        self.catalog = catalog
        self.policy = policy
        self.metrics = metrics
        self.traces = traces
        self.heartbeat = heartbeat
        self.priority_only = priority_only
        self.allowlist = allowlist
        self.send_within_s = send_within_s
        self._in_hand: InHand | None = None

    async def run(self) -> None:
        async with self.provider, trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_claim_alive)
            nursery.start_soon(self._close_idle_connection)
            with suppress(EndOfLanes):
                while True:
                    self.heartbeat.rest()
                    claim = await self.lanes.take(priority_only=self.priority_only)
                    self.heartbeat.beat()
                    try:
                        await self._attempt(claim)
                    except StaleClaim:  # the new owner records the outcome
                        self.metrics.claim_stale()
                        log.warning(
                            "claim_stale", **delivery_fields(claim.delivery, claim.attempt.attempt_no)
                        )
                    except Quarantined as error:
                        log.error("delivery_unreadable", delivery_id=error.delivery_id)  # noqa: TRY400  # expected: no traceback
                    finally:
                        self._in_hand = None
            nursery.cancel_scope.cancel()

    async def _close_idle_connection(self) -> None:
        while True:
            await trio.sleep(IDLE_CHECK_EVERY_S)
            # A relay that takes few connections counts idle ones, too.
            await self.provider.close_idle(at_once=not self.lanes.all_may_begin())

    # The claim

    async def _keep_claim_alive(self) -> None:
        """Renews the claim in hand every third of its TTL."""
        third_s = self.store.claim_ttl_ms / 3000
        while True:
            held = self._in_hand
            if held is None:
                await trio.sleep(third_s)
                continue
            if held.renewed_s + third_s > trio.current_time():
                await trio.sleep_until(held.renewed_s + third_s)
                continue
            asked_s = trio.current_time()
            try:
                await self.store.renew(held.claim)
            except StaleClaim:
                if held.sending is not None:
                    held.sending.cancel()
                await trio.sleep(third_s)
            except RedisFailure:
                await trio.sleep(third_s / 4)  # there is time for several retries before the claim expires
            else:
                held.renewed_s = asked_s

    def _may_finish(self) -> bool:
        """Whether the claim lives long enough to write the final dot, after which the message may be delivered."""
        held = self._in_hand
        if held is None:
            return False
        left_s = held.renewed_s + self.store.claim_ttl_ms / 1000 - trio.current_time()
        return left_s >= self.store.claim_ttl_ms / 2000

    # One attempt

    async def _attempt(self, claim: Claim) -> None:
        """Makes one attempt and records its outcome.

        If the claim's lane is held, nothing begins, and the claim is released. Raises StaleClaim if another owner has the
        delivery, Quarantined if its records are unreadable.
        """
        work = Work(claim)
        try:
            conclusion = await self._work(work)
            if conclusion is None:
                with suppress(StaleClaim):
                    await self._release(work)
                return
        except (trio.Cancelled, BaseExceptionGroup) as ended:
            if _is_cancellation(ended):  # only while the provider can't have the message
                await self._give_back(work)
            raise
        await self._record(work.claim, conclusion)

    async def _work(self, work: "Work") -> Conclusion | None:
        """Renders, begins and sends; returns the attempt's conclusion, None if the lane is held and nothing began.

        Raises StaleClaim, Quarantined.
        """
        work.claim = claim = await self._until_answered(partial(self.store.load, work.claim))
        content = _content(claim)
        fixed = claim.rendered or content.rendered()
        fresh: RenderedContent | None = None
        if fixed is None:
            outcome = self._render(claim.delivery, content)
            if isinstance(outcome, Failure):
                return conclude_render_failure(
                    claim.delivery, claim.attempt, outcome, now_ms=self.clock.now_ms()
                )
            fixed = fresh = outcome
        delivery = claim.delivery
        if forbidden := not_allowed(
            delivery.envelope, self.allowlist
        ):  # the allowlist may be newer than the delivery
            delivery = suppress_late(delivery, forbidden)
            if not delivery.envelope.recipients():
                return conclude_late_suppression(delivery, claim.attempt, now_ms=self.clock.now_ms())
        while True:
            if self.lanes.is_held(claim.lane):  # since it was claimed
                return None
            suppressed = await self._begin(work, delivery, fresh)
            if suppressed is None:
                break
            delivery = suppress_late(delivery, suppressed.entries)  # fewer each time
            if not delivery.envelope.recipients():
                return conclude_late_suppression(delivery, claim.attempt, now_ms=self.clock.now_ms())
        begun = work.begun
        assert begun is not None
        result = await self._send(work, begun, content, fixed)
        judged = await self.relay.judge(begun.delivery, result)
        return conclude(
            begun.delivery,
            begun.attempt,
            judged.result,
            self.policy,
            now_ms=self.clock.now_ms(),
            due_in_ms=judged.due_in_ms,
        )

    def _render(self, delivery: Delivery, content: Content) -> RenderedContent | Failure:
        assert content.template_id is not None
        assert content.locale is not None
        with self.traces.rendering(delivery) as span, self.metrics.render_seconds.time():
            outcome = self.catalog.render(content.template_id, content.locale, content.variables or {})
            if isinstance(outcome, Failure):
                span.failed(outcome.code)
            return outcome

    async def _begin(
        self, work: "Work", delivery: Delivery, fresh: RenderedContent | None
    ) -> NewlySuppressed | None:
        """Begins the attempt. Returns newly suppressed recipients if there are any: then nothing was written.

        Raises StaleClaim.
        """
        claim, concerned = work.claim, suppression_entries(delivery.envelope)
        begun = begin(
            delivery,
            claim.attempt,
            rendered=fresh,
            provider=self.provider.name,
            now_ms=self.clock.now_ms(),
        )
        work.begun, work.fresh = begun, fresh
        renewed_s = trio.current_time()

        async def begin_once() -> NewlySuppressed | None:
            nonlocal renewed_s
            renewed_s = (
                trio.current_time()
            )  # the time of the call that succeeds; earlier ones may have failed
            return await self.store.begin(claim, begun, rendered=fresh, unless_suppressed=concerned)

        suppressed = await self._until_answered(begin_once)
        if suppressed is None:
            self._in_hand = InHand(claim, renewed_s=renewed_s)
            self.metrics.attempt_begun(begun)
        else:
            work.begun = None  # nothing was written
        return suppressed

    async def _send(
        self, work: "Work", begun: Begun, content: Content, rendered: RenderedContent
    ) -> SendResult:
        held = self._in_hand
        assert held is not None
        message = Message(
            delivery_id=begun.delivery.delivery_id,
            attempt_no=begun.attempt.attempt_no,
            envelope=begun.delivery.envelope,
            content=rendered,
            attachments=content.attachments,
            message_id=begun.delivery.message_id,
            date_ms=begun.delivery.created_at_ms,
        )
        span = self.traces.sending(begun.delivery, begun.attempt.attempt_no, self.provider.name)
        with trio.CancelScope() as held.sending, span:
            started_s = trio.current_time()
            self.heartbeat.beat(within_s=self.send_within_s)
            result = await self.provider.send(message, may_finish=self._may_finish)
            self.metrics.sent(result, seconds=trio.current_time() - started_s)
            if result.failure is not None:
                span.failed(result.failure.code)
            return result
        raise StaleClaim(work.claim.delivery_id)  # the renewal found another owner, before the final dot

    async def _record(self, claim: Claim, conclusion: Conclusion) -> None:
        """Repeats `finish` until the outcome is recorded or the claim is stale. After a cancel, for a bounded time."""
        finish = partial(self.store.finish, claim, conclusion)
        try:
            await self._until_answered(finish)
        except trio.Cancelled:
            with trio.move_on_after(RECORD_WITHIN_S, shield=True):
                await self._until_answered(finish)
                self._report(conclusion)
            raise
        self._report(conclusion)

    def _report(self, conclusion: Conclusion) -> None:
        self.metrics.concluded(conclusion)
        attempt, delivery = conclusion.attempt, conclusion.delivery
        log.info(
            "attempt_finished",
            **delivery_fields(delivery, attempt.attempt_no),
            attempt_status=attempt.status,
            status=delivery.status,
            result=attempt.result,
            failure=attempt.failure.code if attempt.failure else None,
            provider_code=attempt.provider_code,
            outcome_unknown=attempt.outcome_unknown,
            next_attempt_at_ms=delivery.next_attempt_at_ms,
        )

    async def _give_back(self, work: "Work") -> None:
        """Releases the claim of a cancelled slot. If that fails in time, the claim expires."""
        with trio.move_on_after(RECORD_WITHIN_S, shield=True), suppress(StaleClaim):
            await self._release(work)
            log.info(
                "attempt_returned", **delivery_fields(work.claim.delivery, work.claim.attempt.attempt_no)
            )

    async def _release(self, work: "Work") -> None:
        """Releases the claim with the attempt as it was before. Raises StaleClaim."""
        claim, begun = work.claim, work.begun
        if begun is None:
            returned = give_back(claim.delivery, claim.attempt, now_ms=self.clock.now_ms())
        else:
            # Redis may or may not have run the cancelled call. Repeat it, so that the records are known.
            await self._until_answered(partial(self.store.begin, claim, begun, rendered=work.fresh))
            returned = give_back(begun.delivery, begun.attempt, now_ms=self.clock.now_ms())
        await self._until_answered(partial(self.store.release, claim, returned))

    async def _until_answered(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeats a call until Redis has answered it. Every call must be safe to run twice."""
        repeated = Repeated()
        for pause_s in chain(PAUSES_S, repeat(PAUSES_S[-1])):
            self.heartbeat.beat()
            try:
                return await call()
            except RedisFailure as failure:
                if repeated.is_new(str(failure)):
                    log.warning("redis_trouble", error=str(failure))
            await trio.sleep(pause_s)
        raise AssertionError("an endless loop ended")


class Work(Struct):
    """The progress of an attempt: a cancelled slot needs it to release the claim."""

    claim: Claim
    begun: Begun | None = None  # set before the store's `begin`, which may write it without an answer
    fresh: RenderedContent | None = None


def _is_cancellation(ended: BaseException) -> bool:
    """Whether `ended` is Cancelled or a group of nothing else: a nursery inside `send` raises a group."""
    return all(isinstance(one, trio.Cancelled) for one in leaves(ended))


def _content(claim: Claim) -> Content:
    assert claim.content is not None, "loaded before"
    return claim.content
