from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.relays.pace import Pace, failed, full, held, passed


def test_after_a_hold_one_slot_begins_and_each_quiet_second_doubles_it() -> None:
    pace = held(full(10), now_ms=5_000)
    seen = []
    for now_ms in range(5_000, 10_000, 500):
        pace = passed(pace, now_ms=now_ms)
        seen.append(pace.slots)
    assert seen == [1, 1, 2, 2, 4, 4, 8, 8, 10, 10]


def test_a_late_call_makes_up_for_the_seconds_that_passed() -> None:
    assert passed(held(full(10), now_ms=0), now_ms=3_999).slots == 8


def test_a_failure_halves_at_most_once_a_second_and_never_to_none() -> None:
    pace = full(9)
    seen = []
    for now_ms in (0, 999, 1_000, 2_000, 3_000, 4_000):
        pace = failed(pace, now_ms=now_ms)
        seen.append(pace.slots)
    assert seen == [4, 4, 2, 1, 1, 1]


def test_a_failure_that_halves_nothing_still_ends_the_quiet_second() -> None:
    pace = failed(failed(full(8), now_ms=0), now_ms=900)
    assert passed(pace, now_ms=1_899).slots == 4
    assert passed(pace, now_ms=1_900).slots == 8


@given(
    st.integers(1, 64), st.lists(st.tuples(st.sampled_from([held, failed, passed]), st.integers(0, 3_000)))
)
def test_there_is_always_a_slot_and_never_one_too_many(
    slots: int, history: list[tuple[Callable[..., Pace], int]]
) -> None:
    pace, now_ms = full(slots), 0
    halved: list[int] = []
    for change, later_ms in history:
        now_ms += later_ms
        before = pace
        pace = change(pace, now_ms=now_ms)
        assert 1 <= pace.slots <= slots
        if change is failed and pace.slots < before.slots:
            halved.append(now_ms)
    assert all(second - first >= 1_000 for first, second in pairwise(halved))
