"""The moves of deliveries and attempts, against the specification's own tables written down here once more."""

from itertools import product

import pytest
from msgspec.structs import replace

from galaxy_mail.domain.records import Attempt, AttemptStatus, Delivery, DeliveryStatus
from galaxy_mail.domain.states import (
    ATTEMPT_MOVES,
    DELIVERY_MOVES,
    FINISHED,
    TERMINAL,
    IllegalMove,
    move,
    move_attempt,
)
from tests.deliveries import NOW_MS, attempt_of, delivery_of

S, A = DeliveryStatus, AttemptStatus

# Spec section 3, sentence by sentence; nothing here is read from the code under test.
LEGAL = {
    ("accepted", "queued"),
    ("accepted", "suppressed"),
    ("queued", "rendered"),
    ("queued", "sending"),
    ("queued", "failed"),  # render failure
    ("queued", "suppressed"),  # late suppression
    ("queued", "dead_letter"),  # crash loop
    ("rendered", "sending"),
    ("rendered", "suppressed"),
    ("rendered", "dead_letter"),
    ("sending", "sent"),
    ("sending", "suppressed"),
    ("sending", "failed"),
    ("sending", "dead_letter"),
    ("sending", "queued"),  # retry, or work returned
    ("sending", "rendered"),  # work returned whose content is fixed
}
LEGAL_OF_ATTEMPTS = {
    ("scheduled", "in_progress"),
    ("scheduled", "provider_rejected"),  # render failure, late suppression
    ("scheduled", "timed_out"),  # crash loop
    ("in_progress", "provider_accepted"),
    ("in_progress", "provider_rejected"),
    ("in_progress", "transport_failed"),
    ("in_progress", "timed_out"),
    ("in_progress", "scheduled"),  # work returned
}


@pytest.mark.parametrize(("before", "after"), list(product(S, repeat=2)))
def test_a_delivery_moves_as_specified_and_in_no_other_way(
    before: DeliveryStatus, after: DeliveryStatus
) -> None:
    delivery = replace(delivery_of(), status=before)
    if (before, after) in LEGAL:
        assert move(delivery, after, at_ms=NOW_MS + 5).status is after
    else:
        with pytest.raises(IllegalMove) as refused:
            move(delivery, after, at_ms=NOW_MS + 5)
        assert (refused.value.before, refused.value.after) == (before, after)
        assert delivery.delivery_id in str(refused.value)


@pytest.mark.parametrize(("before", "after"), list(product(A, repeat=2)))
def test_an_attempt_moves_as_specified_and_in_no_other_way(
    before: AttemptStatus, after: AttemptStatus
) -> None:
    attempt = replace(attempt_of(), status=before)
    if (before, after) in LEGAL_OF_ATTEMPTS:
        assert move_attempt(attempt, after, provider="stub") == replace(
            attempt, status=after, provider="stub"
        )
    else:
        with pytest.raises(IllegalMove) as refused:
            move_attempt(attempt, after)
        assert f"{attempt.delivery_id}:{attempt.attempt_no}" in str(refused.value)


def test_every_status_has_its_row() -> None:
    assert set(DELIVERY_MOVES) == set(S)
    assert set(ATTEMPT_MOVES) == set(A)


def test_the_ends_are_the_specified_ones() -> None:
    assert set(TERMINAL) == {"sent", "suppressed", "failed", "dead_letter"}
    assert set(FINISHED) == {"provider_accepted", "provider_rejected", "transport_failed", "timed_out"}


@pytest.mark.parametrize("start", [status for status in S if status not in TERMINAL])
def test_every_delivery_that_has_not_ended_can_reach_each_end_that_its_kind_has(
    start: DeliveryStatus,
) -> None:
    reached, frontier = {start}, [start]
    while frontier:
        following = DELIVERY_MOVES[frontier.pop()] - reached
        reached |= following
        frontier += following
    assert reached >= TERMINAL


def test_a_move_tells_its_time_and_changes_what_it_is_told() -> None:
    delivery = delivery_of()
    moved = move(delivery, S.SENDING, at_ms=NOW_MS + 7, next_attempt_at_ms=None)
    assert moved == replace(delivery, status=S.SENDING, updated_at_ms=NOW_MS + 7, next_attempt_at_ms=None)
    assert delivery.status is S.QUEUED, "records don't change"


def test_a_path_is_walked_step_by_step() -> None:
    assert move(delivery_of(), S.RENDERED, S.SENDING, at_ms=NOW_MS).status is S.SENDING
    with pytest.raises(IllegalMove) as refused:
        move(delivery_of(), S.RENDERED, S.QUEUED, S.SENDING, at_ms=NOW_MS)
    assert (refused.value.before, refused.value.after) == (S.RENDERED, S.QUEUED)


@pytest.mark.parametrize("end", sorted(TERMINAL))
def test_an_end_has_a_time_and_no_next_attempt(end: DeliveryStatus) -> None:
    sending = replace(delivery_of(), status=S.SENDING, next_attempt_at_ms=NOW_MS + 60_000)
    ended = move(sending, end, at_ms=NOW_MS + 9)
    assert ended.finished_at_ms == NOW_MS + 9
    assert ended.updated_at_ms == NOW_MS + 9
    assert ended.next_attempt_at_ms is None


@pytest.mark.parametrize("status", [S.QUEUED, S.RENDERED])
def test_what_has_not_ended_has_no_end(status: DeliveryStatus) -> None:
    moved = move(replace(delivery_of(), status=S.SENDING), status, at_ms=NOW_MS + 9)
    assert moved.finished_at_ms is None


def test_records_can_not_be_changed_in_place() -> None:
    delivery: Delivery = delivery_of()
    attempt: Attempt = attempt_of()
    with pytest.raises(AttributeError):
        delivery.status = S.SENT  # type: ignore[misc]  # that it is refused is the point
    with pytest.raises(AttributeError):
        attempt.status = A.TIMED_OUT  # type: ignore[misc]  # likewise
