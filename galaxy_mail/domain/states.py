"""Which moves a delivery and an attempt may make. Whatever changes a status asks here; what follows is computed."""

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.records import Attempt, AttemptStatus, Delivery, DeliveryStatus

S = DeliveryStatus
A = AttemptStatus

DELIVERY_MOVES: Final[Mapping[S, frozenset[S]]] = {
    S.ACCEPTED: frozenset({S.QUEUED, S.SUPPRESSED}),
    # FAILED: would not render. SUPPRESSED: every recipient was suppressed since. DEAD_LETTER: crash loop.
    S.QUEUED: frozenset({S.RENDERED, S.SENDING, S.FAILED, S.SUPPRESSED, S.DEAD_LETTER}),
    S.RENDERED: frozenset({S.SENDING, S.SUPPRESSED, S.DEAD_LETTER}),
    # QUEUED: retry, or work returned. RENDERED: work returned whose content is fixed.
    S.SENDING: frozenset({S.SENT, S.SUPPRESSED, S.FAILED, S.DEAD_LETTER, S.QUEUED, S.RENDERED}),
    S.SENT: frozenset(),
    S.SUPPRESSED: frozenset(),
    S.FAILED: frozenset(),
    S.DEAD_LETTER: frozenset(),
}
TERMINAL: Final = frozenset(status for status, moves in DELIVERY_MOVES.items() if not moves)

ATTEMPT_MOVES: Final[Mapping[A, frozenset[A]]] = {
    # PROVIDER_REJECTED: render failure or late suppression, without a call. TIMED_OUT: crash loop.
    A.SCHEDULED: frozenset({A.IN_PROGRESS, A.PROVIDER_REJECTED, A.TIMED_OUT}),
    # SCHEDULED: work returned before the provider could have taken the message.
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
    """A status would change in a way that the tables above lack: a bug, and nothing was written."""

    def __init__(self, what: str, before: S | A, after: S | A) -> None:
        super().__init__(f"{what} may not go from {before} to {after}")
        self.what = what
        self.before = before
        self.after = after


def move(delivery: Delivery, *path: S, at_ms: int, **changes: Any) -> Delivery:
    """This delivery after the moves of `path`, one write. Raises IllegalMove when the table lacks one of them."""
    status = delivery.status
    for to in path:
        if to not in DELIVERY_MOVES[status]:
            raise IllegalMove(f"delivery {delivery.delivery_id}", status, to)
        status = to
    if status in TERMINAL:
        changes = {"finished_at_ms": at_ms, "next_attempt_at_ms": None, **changes}
    return replace(delivery, status=status, updated_at_ms=at_ms, **changes)


def move_attempt(attempt: Attempt, to: A, **changes: Any) -> Attempt:
    """This attempt in status `to`. Raises IllegalMove when the table lacks the move."""
    if to not in ATTEMPT_MOVES[attempt.status]:
        raise IllegalMove(f"attempt {attempt.delivery_id}:{attempt.attempt_no}", attempt.status, to)
    return replace(attempt, status=to, **changes)
