"""The state tables of deliveries and attempts. Every change of a status goes through this module."""

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.records import Attempt, AttemptStatus, Delivery, DeliveryStatus

S = DeliveryStatus
A = AttemptStatus

DELIVERY_MOVES: Final[Mapping[S, frozenset[S]]] = {
    S.ACCEPTED: frozenset({S.QUEUED, S.SUPPRESSED}),
    # FAILED: render failure. SUPPRESSED: every recipient was suppressed after acceptance. DEAD_LETTER: crash loop.
    S.QUEUED: frozenset({S.RENDERED, S.SENDING, S.FAILED, S.SUPPRESSED, S.DEAD_LETTER}),
    S.RENDERED: frozenset({S.SENDING, S.SUPPRESSED, S.DEAD_LETTER}),
    # QUEUED: retry or release. RENDERED: release after rendering.
    S.SENDING: frozenset({S.SENT, S.SUPPRESSED, S.FAILED, S.DEAD_LETTER, S.QUEUED, S.RENDERED}),
    S.SENT: frozenset(),
    S.SUPPRESSED: frozenset(),
    S.FAILED: frozenset(),
    S.DEAD_LETTER: frozenset(),
}
TERMINAL: Final = frozenset(status for status, moves in DELIVERY_MOVES.items() if not moves)

ATTEMPT_MOVES: Final[Mapping[A, frozenset[A]]] = {
    # PROVIDER_REJECTED: render failure or late suppression, without a provider call. TIMED_OUT: crash loop.
    A.SCHEDULED: frozenset({A.IN_PROGRESS, A.PROVIDER_REJECTED, A.TIMED_OUT}),
    # SCHEDULED: release before the provider can have the message.
    A.IN_PROGRESS: frozenset(
        {A.PROVIDER_ACCEPTED, A.PROVIDER_REJECTED, A.TRANSPORT_FAILED, A.TIMED_OUT, A.SCHEDULED}
    ),
    A.PROVIDER_ACCEPTED: frozenset(),
    A.PROVIDER_REJECTED: frozenset(),
    A.TRANSPORT_FAILED: frozenset(),
    A.TIMED_OUT: frozenset(),
}
FINISHED: Final = frozenset(status for status, moves in ATTEMPT_MOVES.items() if not moves)


class IllegalMove(GalaxyMailError):
    """The tables above do not allow this change of a status. A bug; nothing was written."""

    def __init__(self, what: str, before: S | A, after: S | A) -> None:
        super().__init__(f"{what} may not go from {before} to {after}")
        self.what = what
        self.before = before
        self.after = after


def move(delivery: Delivery, *path: S, at_ms: int, **changes: Any) -> Delivery:
    """The delivery after the moves of `path`, which are one write. Raises IllegalMove if the table lacks a move."""
    status = delivery.status
    for to in path:
        if to not in DELIVERY_MOVES[status]:
            raise IllegalMove(f"delivery {delivery.delivery_id}", status, to)
        status = to
    if status in TERMINAL:
        changes = {"finished_at_ms": at_ms, "next_attempt_at_ms": None, **changes}
    return replace(delivery, status=status, updated_at_ms=at_ms, **changes)


def move_attempt(attempt: Attempt, to: A, **changes: Any) -> Attempt:
    """The attempt in status `to`. Raises IllegalMove if the table lacks the move."""
    if to not in ATTEMPT_MOVES[attempt.status]:
        raise IllegalMove(f"attempt {attempt.delivery_id}:{attempt.attempt_no}", attempt.status, to)
    return replace(attempt, status=to, **changes)
