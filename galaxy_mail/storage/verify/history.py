"""Checks a delivery's record against itself and against its attempts. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from galaxy_mail.domain.conclusion import OUTCOME_UNKNOWN, OWNERSHIP_LOST
from galaxy_mail.domain.records import Attempt, AttemptStatus, Delivery, DeliveryStatus, Result
from galaxy_mail.domain.states import FINISHED, TERMINAL

S = DeliveryStatus
A = AttemptStatus

ACTIVE: Final = {S.QUEUED: A.SCHEDULED, S.RENDERED: A.SCHEDULED, S.SENDING: A.IN_PROGRESS}
ENDS: Final[Mapping[S, frozenset[Result]]] = {  # the allowed results of a terminal delivery's last attempt
    S.SENT: frozenset({Result.ACCEPTED}),
    S.SUPPRESSED: frozenset({Result.SUPPRESSED}),
    S.FAILED: frozenset(
        {Result.PERMANENT_FAILURE, Result.TRANSIENT_FAILURE}
    ),  # transient: with an unknown outcome
    S.DEAD_LETTER: frozenset({Result.TRANSIENT_FAILURE}),
}
RESULTS: Final[Mapping[A, frozenset[Result]]] = {  # the allowed results of an attempt in this status
    A.PROVIDER_ACCEPTED: frozenset({Result.ACCEPTED}),
    A.PROVIDER_REJECTED: frozenset({Result.SUPPRESSED, Result.PERMANENT_FAILURE, Result.TRANSIENT_FAILURE}),
    A.TRANSPORT_FAILED: frozenset({Result.TRANSIENT_FAILURE}),
    A.TIMED_OUT: frozenset({Result.TRANSIENT_FAILURE}),
}


def check_record(delivery: Delivery) -> Iterator[str]:
    """Contradictions within the record."""
    status, terminal = delivery.status, delivery.status in TERMINAL
    if terminal is (delivery.finished_at_ms is None):
        yield f"is {status}, but finished_at_ms is {delivery.finished_at_ms}"
    if status is S.ACCEPTED:
        yield "is accepted, a status that is never stored"
    if terminal and delivery.next_attempt_at_ms is not None:
        yield f"is {status}, but has a next attempt"
    if status in {S.QUEUED, S.RENDERED} and delivery.next_attempt_at_ms is None:
        yield f"is {status}, but has no next attempt"
    if status is S.SENDING and delivery.next_attempt_at_ms is not None:
        yield "is sending, but has a next attempt"
    if status in {S.RENDERED, S.SENDING, S.SENT} and delivery.rendered_at_ms is None:
        yield f"is {status}, but has no rendered_at_ms"
    if status in {S.FAILED, S.DEAD_LETTER} and delivery.failure is None:
        yield f"is {status} without a failure"
    if status is S.SENT and delivery.failure is not None:
        yield f"is sent, but has the failure {delivery.failure.code}"
    if status is not S.SUPPRESSED and not delivery.envelope.recipients():
        yield f"is {status}, but has no recipients"
    if delivery.secret and delivery.subject is not None:
        yield "has secret content, but its subject is stored"
    if delivery.message_id.partition("@")[0] != delivery.delivery_id:
        yield f"its Message-ID {delivery.message_id} is not made of its id"
    if delivery.attempt_count == 0 and status is not S.SUPPRESSED:
        yield f"is {status} without an attempt"


def check_attempts(delivery: Delivery, attempts: Sequence[Attempt]) -> Iterator[str]:
    """Contradictions between all attempts of a delivery and its record."""
    for attempt in attempts:
        yield from _one(attempt)
    if not attempts:
        return
    *earlier, last = attempts
    for attempt in earlier:
        if attempt.status not in FINISHED:
            yield f"attempt {attempt.attempt_no} is {attempt.status}, but a later one exists"
        elif attempt.result is not Result.TRANSIENT_FAILURE:
            yield f"attempt {attempt.attempt_no} ended as {attempt.result}, but a later one exists"
    yield from _last(delivery, last)
    retries = sum(1 for attempt in earlier if not _lost(attempt))
    if delivery.retries_used != retries:
        yield f"used {retries} retries, but its record says {delivery.retries_used}"
    losses = sum(1 for attempt in attempts if _lost(attempt))
    if delivery.begun_losses != losses:
        yield f"lost {losses} owners of begun attempts, but its record says {delivery.begun_losses}"


def _one(attempt: Attempt) -> Iterator[str]:
    number, status = attempt.attempt_no, attempt.status
    if (status in FINISHED) is (attempt.finished_at_ms is None):
        yield f"attempt {number} is {status}, but finished_at_ms is {attempt.finished_at_ms}"
    if status in FINISHED:
        if attempt.result not in RESULTS[status]:
            yield f"attempt {number} is {status}, but its result is {attempt.result}"
    elif attempt.result is not None or attempt.failure is not None or attempt.outcome_unknown:
        yield f"attempt {number} is {status}, but has an outcome"
    if status is A.SCHEDULED and attempt.started_at_ms is not None:
        yield f"attempt {number} is scheduled, but has begun"
    if status in {A.IN_PROGRESS, A.PROVIDER_ACCEPTED} and attempt.started_at_ms is None:
        yield f"attempt {number} is {status}, but never began"
    if attempt.outcome_unknown and attempt.result is not Result.TRANSIENT_FAILURE:
        yield f"attempt {number} ended as {attempt.result}, but its outcome is unknown"


def _last(delivery: Delivery, last: Attempt) -> Iterator[str]:
    status, number = delivery.status, last.attempt_no
    if status in ACTIVE:
        if last.status is not ACTIVE[status]:
            yield f"is {status}, but attempt {number} is {last.status}"
        elif last.status is A.SCHEDULED and last.scheduled_for_ms != delivery.next_attempt_at_ms:
            due_ms = delivery.next_attempt_at_ms
            yield f"attempt {number} is due at {last.scheduled_for_ms}, but the record says {due_ms}"
    elif status in ENDS:
        if last.status not in FINISHED:
            yield f"is {status}, but attempt {number} is {last.status}"
        elif last.result not in ENDS[status]:
            yield f"is {status}, but attempt {number} ended as {last.status} ({last.result})"
        elif status is S.FAILED and (last.result is Result.TRANSIENT_FAILURE) is not _failed_unknown(
            delivery
        ):
            yield f"is failed, but attempt {number} ended as {last.status} ({last.result})"
        elif _failed_unknown(delivery) and not last.outcome_unknown:
            yield f"is failed for an unknown outcome, but the outcome of attempt {number} is known"


def _failed_unknown(delivery: Delivery) -> bool:
    return delivery.failure is not None and delivery.failure.code == OUTCOME_UNKNOWN


def _lost(attempt: Attempt) -> bool:
    return attempt.failure is not None and attempt.failure.code == OWNERSHIP_LOST
