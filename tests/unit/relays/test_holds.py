"""What holds mean for lanes and relays."""

import pytest

from galaxy_mail.domain.holds import Cause, Hold
from galaxy_mail.domain.records import Lane
from galaxy_mail.relays.holds import CurrentHolds, Snapshot

NOW_MS = 1_000
BOTH = frozenset(Lane)
NONE: frozenset[Lane] = frozenset()
PRIORITY = frozenset({Lane.PRIORITY})
NORMAL = frozenset({Lane.NORMAL})


def hold(scope: str, *, until_ms: int | None = None, cause: Cause = Cause.OPERATOR) -> Hold:
    return Hold(scope=scope, cause=cause, reason="move", since_ms=1, until_ms=until_ms)


@pytest.mark.parametrize(
    ("scopes", "held"),
    [
        ([], NONE),
        (["all"], BOTH),
        (["lane:priority"], PRIORITY),
        (["lane:normal"], NORMAL),
        (["lane:priority", "lane:normal"], BOTH),
        (["relay:one"], NONE),
        (["relay:one", "relay:two"], BOTH),
        (["relay:one", "lane:normal"], NORMAL),
        (["relay:gone", "relay:two"], NONE),
    ],
)
def test_a_lane_is_held_by_its_own_hold_by_one_of_all_or_when_every_relay_is_held(
    scopes: list[str], held: frozenset[Lane]
) -> None:
    snapshot = Snapshot(tuple(map(hold, scopes)), ("one", "two"))
    assert snapshot.held_lanes(NOW_MS) == held


def test_a_relay_is_held_by_its_own_hold_or_by_one_of_all() -> None:
    assert Snapshot((hold("all"),), ("one",)).holds_relay("one", NOW_MS)
    assert Snapshot((hold("relay:one"),), ("one", "two")).holds_relay("one", NOW_MS)
    assert not Snapshot((hold("relay:one"),), ("one", "two")).holds_relay("two", NOW_MS)
    assert not Snapshot((hold("lane:priority"), hold("lane:normal")), ("one",)).holds_relay("one", NOW_MS)


def test_a_breaker_and_an_operator_hold_each_for_themselves() -> None:
    both = (hold("relay:one", cause=Cause.BREAKER, until_ms=NOW_MS), hold("relay:one"))
    assert Snapshot(both, ("one",)).holds_relay("one", NOW_MS)


def test_a_hold_whose_time_is_over_counts_no_more() -> None:
    snapshot = Snapshot((hold("lane:priority", until_ms=NOW_MS), hold("lane:normal", until_ms=NOW_MS + 1)))
    assert snapshot.held_lanes(NOW_MS) == NORMAL
    assert snapshot.next_end_ms(NOW_MS) == NOW_MS + 1
    assert snapshot.next_end_ms(NOW_MS + 1) is None


def test_without_relays_only_holds_of_lanes_count() -> None:
    assert Snapshot((hold("relay:one"),)).held_lanes(NOW_MS) == NONE


def test_until_the_first_read_every_lane_is_held() -> None:
    holds = CurrentHolds()
    assert holds.lanes == BOTH
    assert holds.update(Snapshot(), NOW_MS)
    assert holds.lanes == NONE


def test_an_update_tells_whether_other_lanes_are_held() -> None:
    holds = CurrentHolds(lanes=NONE)
    snapshot = Snapshot((hold("lane:priority", until_ms=NOW_MS + 5),), ("one",))
    assert holds.update(snapshot, NOW_MS)
    assert not holds.update(snapshot, NOW_MS + 1)
    assert holds.in_force == snapshot.holds
    assert holds.update(snapshot, NOW_MS + 5), "its time is over"
    assert (holds.lanes, holds.in_force) == (NONE, ())
