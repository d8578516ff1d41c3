"""Decides how the records change when an attempt begins, ends, is released or loses its owner.

Pure: each function takes records and returns the records that one script writes.
"""

from typing import Final, assert_never

from msgspec import Struct
from msgspec.structs import replace

from galaxy_mail.domain.acceptance import Suppressed, drop_suppressed
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Blame,
    DeadLetter,
    Delivery,
    DeliveryStatus,
    Failure,
    RenderedContent,
    Result,
    SendResult,
)
from galaxy_mail.domain.states import move, move_attempt

S = DeliveryStatus
A = AttemptStatus

RECIPIENTS_SUPPRESSED: Final = "recipients_suppressed"
ALL_SUPPRESSED: Final = Failure(code=RECIPIENTS_SUPPRESSED, summary="every recipient is suppressed")
RETRIES_EXHAUSTED: Final = "retries_exhausted"
CRASH_LOOP: Final = "crash_loop"
OWNERSHIP_LOST: Final = "ownership_lost"
OUTCOME_UNKNOWN: Final = "outcome_unknown"

BEGUN_LOSSES_MAX: Final = 3  # lost owners of begun attempts end the delivery: it may crash them
LOSSES_MAX: Final = 10  # lost owners in all end the delivery

FREE: Final = frozenset({Blame.RELAY, Blame.SERVICE})  # failures with this blame use up no retry
# After them: 1 s, doubled each time.
FREE_DELAY_MS: Final = 1_000
FREE_DELAY_MAX_MS: Final = 60_000
RELAY_FAILURES_FREE: Final = 3  # later ones are the message's fault if the relay accepts other mail


class RetryPolicy(Struct, frozen=True, kw_only=True):
    delays_ms: tuple[int, ...] = (60_000, 300_000, 1_800_000)
    fail_unknown_outcome: bool = False  # MAIL_UNKNOWN_OUTCOME=fail: fail rather than risk a second copy


class Begun(Struct, frozen=True, kw_only=True):
    """The records of a begun attempt. The provider call may start after they are written."""

    delivery: Delivery
    attempt: Attempt


class Conclusion(Struct, frozen=True, kw_only=True):
    """The records after an attempt's end. `next_attempt` and `dead_letter` exclude each other."""

    before: Delivery  # the stored record, for moving the delivery between indexes
    delivery: Delivery
    attempt: Attempt
    next_attempt: Attempt | None = None
    dead_letter: DeadLetter | None = None


class Returned(Struct, frozen=True, kw_only=True):
    """The records of a released attempt: same number, original due time."""

    before: Delivery
    delivery: Delivery
    attempt: Attempt


def begin(
    delivery: Delivery, attempt: Attempt, *, rendered: RenderedContent | None, provider: str, now_ms: int
) -> Begun:
    """The records for rendered content and a started attempt. `rendered` is given if this attempt rendered the content."""
    path: tuple[S, ...] = (S.SENDING,)
    changes: dict[str, object] = {"next_attempt_at_ms": None}
    if delivery.rendered_at_ms is None:
        changes["rendered_at_ms"] = now_ms
        if delivery.status is S.QUEUED:
            path = (S.RENDERED, S.SENDING)
    if rendered is not None:
        changes["locale_used"] = rendered.locale_used
        changes["locale_fallback_used"] = rendered.locale_fallback_used
        if not delivery.secret:
            changes["subject"] = rendered.subject
    return Begun(
        delivery=move(delivery, *path, at_ms=now_ms, **changes),
        attempt=move_attempt(attempt, A.IN_PROGRESS, started_at_ms=now_ms, provider=provider),
    )


def conclude(
    delivery: Delivery,
    attempt: Attempt,
    result: SendResult,
    policy: RetryPolicy,
    *,
    now_ms: int,
    due_in_ms: int | None = None,
) -> Conclusion:
    """The records after a provider's answer to an attempt in progress.

    A failure that is not the message's fault uses up no retry and is transient, even after a 5yz answer. The
    delivery is due again after the usual delay, or after `due_in_ms`.
    """
    free = result.blame in FREE
    outcome = Result.TRANSIENT_FAILURE if free else result.result
    ended = move_attempt(
        attempt,
        result.status,
        finished_at_ms=now_ms,
        result=outcome,
        failure=result.failure,
        blame=result.blame,
        provider_code=result.provider_code,
        refused_recipients=result.refused_recipients,
        outcome_unknown=result.outcome_unknown,
    )
    match outcome:
        case Result.ACCEPTED:
            after = move(delivery, S.SENT, at_ms=now_ms, failure=None)
        case Result.SUPPRESSED:
            after = move(delivery, S.SUPPRESSED, at_ms=now_ms, failure=None)
        case Result.PERMANENT_FAILURE:
            after = move(delivery, S.FAILED, at_ms=now_ms, failure=result.failure)
        case Result.TRANSIENT_FAILURE:
            if result.outcome_unknown and policy.fail_unknown_outcome:
                return _failed_unknown(delivery, ended, now_ms=now_ms)
            if free:
                return _again_free(delivery, ended, due_in_ms, now_ms=now_ms)
            if delivery.retries_used >= len(policy.delays_ms):
                return _dead(delivery, ended, RETRIES_EXHAUSTED, result.failure, now_ms=now_ms)
            due_ms = now_ms + policy.delays_ms[delivery.retries_used]
            return _again(
                delivery,
                ended,
                due_ms=due_ms,
                failure=result.failure,
                now_ms=now_ms,
                retries=delivery.retries_used + 1,
            )
        case _:
            assert_never(outcome)
    return Conclusion(before=delivery, delivery=after, attempt=ended)


def blamed(delivery: Delivery, result: SendResult, *, relay_accepted_at_ms: int | None) -> SendResult:
    """The result, with the blame `message` if the delivery failed often and the relay accepts other mail.

    So one delivery can't be tried for ever.

    `relay_accepted_at_ms`: when the relay accepted its latest mail; None if it accepted none.
    """
    if (
        result.blame is Blame.RELAY
        and delivery.relay_failures >= RELAY_FAILURES_FREE
        and relay_accepted_at_ms is not None
        and delivery.relay_failed_at_ms is not None
        and relay_accepted_at_ms > delivery.relay_failed_at_ms
    ):
        return replace(result, blame=Blame.MESSAGE)
    return result


def conclude_render_failure(
    delivery: Delivery, attempt: Attempt, failure: Failure, *, now_ms: int
) -> Conclusion:
    """The records after a render failure: the delivery fails without a provider call, because no retry would help."""
    return _without_provider(delivery, attempt, S.FAILED, Result.PERMANENT_FAILURE, failure, now_ms=now_ms)


def suppress_late(delivery: Delivery, suppressed: Suppressed) -> Delivery:
    """The delivery without recipients that were suppressed after acceptance. The status stays."""
    envelope, dropped = drop_suppressed(delivery.envelope, suppressed)
    return replace(
        delivery, envelope=envelope, suppressed_recipients=delivery.suppressed_recipients + dropped
    )


def conclude_late_suppression(delivery: Delivery, attempt: Attempt, *, now_ms: int) -> Conclusion:
    """The records if every recipient was suppressed after acceptance: no provider call, and not a failure."""
    return _without_provider(
        delivery, attempt, S.SUPPRESSED, Result.SUPPRESSED, ALL_SUPPRESSED, now_ms=now_ms
    )


def conclude_lost_owner(
    delivery: Delivery, attempt: Attempt, policy: RetryPolicy, *, losses: int, now_ms: int
) -> Conclusion | None:
    """The records after the loss of an attempt's owner. None: the attempt had not begun, and the new owner begins it.

    `losses` counts the lost owners of the delivery, including this one.
    """
    crash_loop = Failure(code=CRASH_LOOP, summary=f"the process that held it was lost {losses} times")
    if attempt.status is A.SCHEDULED:
        if losses < LOSSES_MAX:
            return None
        ended = move_attempt(
            attempt,
            A.TIMED_OUT,
            finished_at_ms=now_ms,
            result=Result.TRANSIENT_FAILURE,
            failure=crash_loop,
            blame=Blame.SERVICE,
        )
        return _dead(delivery, ended, CRASH_LOOP, crash_loop, now_ms=now_ms)
    begun_losses = delivery.begun_losses + 1
    lost = Failure(
        code=OWNERSHIP_LOST, summary="the process that sent it was lost before it recorded the outcome"
    )
    ended = move_attempt(
        attempt,
        A.TIMED_OUT,
        finished_at_ms=now_ms,
        result=Result.TRANSIENT_FAILURE,
        failure=lost,
        blame=Blame.SERVICE,
        outcome_unknown=True,
    )
    counted = replace(delivery, begun_losses=begun_losses)
    if policy.fail_unknown_outcome:
        after = _failed_unknown(counted, ended, now_ms=now_ms)
    elif begun_losses >= BEGUN_LOSSES_MAX or losses >= LOSSES_MAX:
        after = _dead(counted, ended, CRASH_LOOP, crash_loop, now_ms=now_ms)
    else:
        retries = delivery.retries_used
        after = _again(counted, ended, due_ms=now_ms, failure=lost, now_ms=now_ms, retries=retries)
    return replace(after, before=delivery)


def give_back(delivery: Delivery, attempt: Attempt, *, now_ms: int) -> Returned:
    """The records of an attempt that is released before the provider can have the message, as if it had not begun.

    If the content was rendered, it is kept and the status is `rendered`; otherwise the status is `queued`.
    """
    if attempt.status is A.SCHEDULED:
        return Returned(before=delivery, delivery=delivery, attempt=attempt)
    fixed = S.RENDERED if delivery.rendered_at_ms is not None else S.QUEUED
    return Returned(
        before=delivery,
        delivery=move(delivery, fixed, at_ms=now_ms, next_attempt_at_ms=attempt.scheduled_for_ms),
        attempt=move_attempt(attempt, A.SCHEDULED, started_at_ms=None, provider=None),
    )


def free_delay_ms(delivery: Delivery) -> int:
    """The delay after a failure that uses up no retry: 1 s, doubled with each such failure of the delivery, at most 60 s.

    Lost owners don't count: their claims had to expire, which was delay enough.
    """
    earlier = delivery.attempt_count - 1 - delivery.retries_used - delivery.begun_losses
    return min(FREE_DELAY_MAX_MS, FREE_DELAY_MS << min(earlier, 6))


def _again_free(delivery: Delivery, ended: Attempt, due_in_ms: int | None, *, now_ms: int) -> Conclusion:
    """The next attempt after a failure that is not the message's fault."""
    counted = delivery
    if ended.blame is Blame.RELAY:
        counted = replace(
            delivery, relay_failures=delivery.relay_failures + 1, relay_failed_at_ms=ended.finished_at_ms
        )
    again = _again(
        counted,
        ended,
        due_ms=now_ms + (free_delay_ms(delivery) if due_in_ms is None else due_in_ms),
        failure=ended.failure,
        now_ms=now_ms,
        retries=delivery.retries_used,
    )
    return replace(again, before=delivery)


def _without_provider(
    delivery: Delivery, attempt: Attempt, to: S, result: Result, failure: Failure, *, now_ms: int
) -> Conclusion:
    failed = to is S.FAILED
    return Conclusion(
        before=delivery,
        delivery=move(delivery, to, at_ms=now_ms, failure=failure if failed else None),
        attempt=move_attempt(
            attempt,
            A.PROVIDER_REJECTED,
            finished_at_ms=now_ms,
            result=result,
            failure=failure,
            blame=Blame.MESSAGE if failed else None,
        ),
    )


def _again(
    delivery: Delivery, ended: Attempt, *, due_ms: int, failure: Failure | None, now_ms: int, retries: int
) -> Conclusion:
    number = ended.attempt_no + 1
    return Conclusion(
        before=delivery,
        delivery=move(
            delivery,
            S.QUEUED,
            at_ms=now_ms,
            failure=failure,
            attempt_count=number,
            retries_used=retries,
            next_attempt_at_ms=due_ms,
        ),
        attempt=ended,
        next_attempt=Attempt(
            delivery_id=delivery.delivery_id, attempt_no=number, status=A.SCHEDULED, scheduled_for_ms=due_ms
        ),
    )


def _dead(
    delivery: Delivery, ended: Attempt, reason: str, failure: Failure | None, *, now_ms: int
) -> Conclusion:
    return Conclusion(
        before=delivery,
        delivery=move(delivery, S.DEAD_LETTER, at_ms=now_ms, failure=failure),
        attempt=ended,
        dead_letter=DeadLetter(
            delivery_id=delivery.delivery_id,
            reason=reason,
            failure=failure,
            attempt_count=delivery.attempt_count,
            created_at_ms=now_ms,
        ),
    )


def _failed_unknown(delivery: Delivery, ended: Attempt, *, now_ms: int) -> Conclusion:
    failure = Failure(
        code=OUTCOME_UNKNOWN, summary="the provider may have the message; a retry could send a second copy"
    )
    return Conclusion(
        before=delivery, delivery=move(delivery, S.FAILED, at_ms=now_ms, failure=failure), attempt=ended
    )
