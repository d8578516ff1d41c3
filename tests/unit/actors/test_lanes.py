"""The hand-over between the scheduler and the slots: fair, bounded, and nothing is ever dropped in it."""

from collections import Counter

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from galaxy_mail.actors.lanes import FAIR_SHARE, PREFETCH_MIN, EndOfLanes, Lanes, Places
from galaxy_mail.domain.holds import Cause, Hold
from galaxy_mail.domain.records import Lane
from galaxy_mail.relays.holds import CurrentHolds, Snapshot
from tests.unit.actors.claims import claim_of

P, N = Lane.PRIORITY, Lane.NORMAL


class Slots:
    """Slots that take one claim each time they are told to, and remember whose it was."""

    def __init__(self, lanes: Lanes, nursery: trio.Nursery) -> None:
        self.lanes = lanes
        self.taken: list[str] = []
        self.ended = 0
        self._nursery = nursery

    async def wait_for_claim(self, *, priority_only: bool = False) -> trio.CancelScope:
        """A slot that waits for its next claim."""
        scope = trio.CancelScope()
        self._nursery.start_soon(self._take, scope, priority_only)
        await wait_all_tasks_blocked()
        return scope

    async def _take(self, scope: trio.CancelScope, priority_only: bool) -> None:
        with scope:
            try:
                claim = await self.lanes.take(priority_only=priority_only)
            except EndOfLanes:
                self.ended += 1
            else:
                self.taken.append(claim.delivery_id)


def put(lanes: Lanes, *names: str, lane: Lane = N, since_s: float = 0) -> None:
    for name in names:
        lanes.put(claim_of(name, lane), since_s=since_s)


async def take(lanes: Lanes, *, priority_only: bool = False) -> str:
    return (await lanes.take(priority_only=priority_only)).delivery_id


# Which one comes next


async def test_each_lane_is_a_queue() -> None:
    lanes = Lanes(1)
    put(lanes, "a", "b", "c")
    assert [await take(lanes) for _ in range(3)] == ["a", "b", "c"]


async def test_the_priority_lane_comes_first() -> None:
    lanes = Lanes(1)
    put(lanes, "bulk")
    put(lanes, "code", lane=P)
    assert [await take(lanes) for _ in range(2)] == ["code", "bulk"]


async def test_the_priority_lane_does_not_starve_the_normal_one() -> None:
    lanes = Lanes(1)
    put(lanes, *(f"bulk-{number}" for number in range(5)))
    put(lanes, *(f"code-{number}" for number in range(60)), lane=P)
    kinds = [(await take(lanes)).partition("-")[0] for _ in range(50)]
    assert Counter(kinds)["bulk"] == 5
    assert [number for number, kind in enumerate(kinds, start=1) if kind == "bulk"] == [
        FAIR_SHARE * turn for turn in range(1, 6)
    ]


async def test_while_no_bulk_waits_codes_save_up_no_turn_for_it() -> None:
    lanes = Lanes(1)
    for number in range(3 * FAIR_SHARE):
        put(lanes, f"code-{number}", lane=P)
        await take(lanes)
    put(lanes, "bulk")
    put(lanes, "code", lane=P)
    assert await take(lanes) == "code"


async def test_a_slot_for_codes_takes_nothing_else() -> None:
    lanes = Lanes(2)
    put(lanes, "bulk")
    put(lanes, *(f"code-{number}" for number in range(3 * FAIR_SHARE)), lane=P)
    for number in range(3 * FAIR_SHARE):
        assert await take(lanes, priority_only=True) == f"code-{number}"
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        await slots.wait_for_claim(priority_only=True)
        assert slots.taken == []
        nursery.cancel_scope.cancel()
    assert await take(lanes) == "bulk"


# Waiting slots


async def test_a_waiting_slot_gets_what_comes() -> None:
    lanes = Lanes(1)
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        await slots.wait_for_claim()
        put(lanes, "a")
        await wait_all_tasks_blocked()
        assert slots.taken == ["a"]


async def test_a_claim_for_a_slot_that_is_cancelled_in_the_same_moment_stays_in_its_queue() -> None:
    """The slot has not run since it was cancelled, so it still stands among those that wait."""
    lanes = Lanes(2)
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        scope = await slots.wait_for_claim()
        scope.cancel()
        put(lanes, "a")
        assert lanes.waiting(N) == 1
        await wait_all_tasks_blocked()
        assert (slots.taken, lanes.waiting(N), lanes.idle_slots()) == ([], 1, 0)


async def test_a_slot_that_is_cancelled_behind_the_hand_over_has_the_claim() -> None:
    lanes = Lanes(1)
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        scope = await slots.wait_for_claim()
        put(lanes, "a")
        scope.cancel()
        await wait_all_tasks_blocked()
        assert (slots.taken, lanes.waiting(N)) == (["a"], 0)


async def test_lanes_that_close_while_a_slot_is_cancelled_end_it() -> None:
    lanes = Lanes(1)
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        (await slots.wait_for_claim()).cancel()
        lanes.close()
        await wait_all_tasks_blocked()
    assert (slots.taken, lanes.idle_slots()) == ([], 0)


async def test_as_many_slots_wake_as_there_are_claims() -> None:
    lanes = Lanes(4)
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        for _ in range(4):
            await slots.wait_for_claim()
        put(lanes, "a", "b", "c")
        await wait_all_tasks_blocked()
        assert sorted(slots.taken) == ["a", "b", "c"]
        assert lanes.idle_slots() == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("codes_slot_first", [True, False])
async def test_the_slot_for_codes_leaves_the_others_to_bulk(codes_slot_first: bool) -> None:
    """Whichever waits longer: a code and a bulk mail that come together go out together."""
    lanes = Lanes(2)
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        await slots.wait_for_claim(priority_only=codes_slot_first)
        await slots.wait_for_claim(priority_only=not codes_slot_first)
        put(lanes, "code", lane=P)
        put(lanes, "bulk")
        await wait_all_tasks_blocked()
        assert sorted(slots.taken) == ["bulk", "code"]


async def test_bulk_wakes_no_slot_that_may_not_take_it() -> None:
    lanes = Lanes(2)
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        await slots.wait_for_claim(priority_only=True)
        await slots.wait_for_claim()
        put(lanes, "bulk")
        await wait_all_tasks_blocked()
        assert slots.taken == ["bulk"]
        assert lanes.idle_slots() == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("lane", Lane)
async def test_what_a_slot_was_woken_for_goes_to_another_where_that_slot_is_cancelled(lane: Lane) -> None:
    """An actor is killed in the moment between its wake-up and its next step."""
    lanes = Lanes(2)
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        first = await slots.wait_for_claim()
        second = await slots.wait_for_claim()
        put(lanes, "a", lane=lane)
        first.cancel()
        await wait_all_tasks_blocked()
        assert slots.taken == ["a"]
        second.cancel()


async def test_a_slot_that_gave_up_waiting_is_not_woken() -> None:
    lanes = Lanes(2)
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        first = await slots.wait_for_claim()
        await slots.wait_for_claim()
        first.cancel()
        await wait_all_tasks_blocked()
        assert lanes.idle_slots() == 1
        put(lanes, "a")
        await wait_all_tasks_blocked()
        assert slots.taken == ["a"]


async def test_a_cancelled_slot_takes_nothing_even_if_something_waits() -> None:
    lanes = Lanes(1)
    put(lanes, "a")
    with trio.CancelScope() as scope:
        scope.cancel()
        await take(lanes)
    assert scope.cancelled_caught
    assert await take(lanes) == "a"


# Closing


async def test_closed_lanes_are_emptied_before_they_end() -> None:
    lanes = Lanes(1)
    put(lanes, "a")
    lanes.close()
    assert await take(lanes) == "a"
    with pytest.raises(EndOfLanes):
        await take(lanes)


async def test_every_waiting_slot_ends_when_the_lanes_are_closed() -> None:
    lanes = Lanes(4)
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        for number in range(4):
            await slots.wait_for_claim(priority_only=number == 0)
        lanes.close()
        await wait_all_tasks_blocked()
        assert slots.ended == 4


async def test_bulk_left_in_closed_lanes_does_not_hold_the_slot_for_codes() -> None:
    lanes = Lanes(2)
    put(lanes, "bulk")
    lanes.close()
    with pytest.raises(EndOfLanes):
        await take(lanes, priority_only=True)
    assert await take(lanes) == "bulk"


# Taking back


async def test_what_waits_too_long_is_taken_back_and_the_rest_stays() -> None:
    lanes = Lanes(1)
    put(lanes, "old", since_s=1)
    put(lanes, "young", since_s=3)
    put(lanes, "old code", lane=P, since_s=2)
    assert {claim.delivery_id for claim in lanes.withdraw(before_s=3)} == {"old", "old code"}
    assert lanes.withdraw(before_s=3) == []
    assert (lanes.waiting(P), lanes.waiting(N)) == (0, 1)
    assert lanes.waiting_since_s() == 3
    assert [claim.delivery_id for claim in lanes.drain()] == ["young"]
    assert lanes.waiting_since_s() == float("inf")


# Places


async def test_there_are_places_for_a_prefetch_and_for_every_free_slot() -> None:
    lanes = Lanes(2)
    assert lanes.places() == Places(PREFETCH_MIN, PREFETCH_MIN)
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        await slots.wait_for_claim(priority_only=True)
        await slots.wait_for_claim()
        assert lanes.places() == Places(PREFETCH_MIN + 2, PREFETCH_MIN + 1)
        nursery.cancel_scope.cancel()
    assert Lanes(20).places() == Places(20, 20)


async def test_a_lane_is_refilled_once_half_of_its_prefetch_is_gone() -> None:
    lanes = Lanes(1)
    put(lanes, *map(str, range(PREFETCH_MIN)))
    assert lanes.places() == Places(PREFETCH_MIN, 0)
    for _ in range(PREFETCH_MIN // 2 - 1):
        await take(lanes)
        assert lanes.places().normal == 0
    await take(lanes)
    assert lanes.places() == Places(PREFETCH_MIN, PREFETCH_MIN // 2)


def test_no_places_are_false() -> None:
    assert not Places(0, 0)
    assert Places(1, 0)
    assert Places(0, 1)


# The bell


async def wakes(lanes: Lanes, timeout_s: float = 10) -> bool:
    """Whether the bell rings before the time is over; virtual time, of course."""
    began_s = trio.current_time()
    await lanes.wait_woken(timeout_s)
    return trio.current_time() < began_s + timeout_s


async def test_the_bell_is_heard_later_too_and_once(autojump_clock: MockClock) -> None:
    lanes = Lanes(1)
    lanes.wake()
    lanes.wake()
    assert await wakes(lanes)
    assert not await wakes(lanes)


async def test_a_place_that_comes_free_is_news_only_where_more_is_due(autojump_clock: MockClock) -> None:
    lanes = Lanes(1)
    put(lanes, *map(str, range(PREFETCH_MIN)))
    for _ in range(PREFETCH_MIN):
        await take(lanes)
    assert not await wakes(lanes)
    put(lanes, *map(str, range(PREFETCH_MIN)))
    lanes.backlog = frozenset({P})
    assert lanes.has_places_for_more(), "the priority lane has places"
    lanes.backlog = frozenset({N})
    assert not lanes.has_places_for_more()
    for number in range(PREFETCH_MIN // 2):
        assert not await wakes(lanes, 0.1), number
        await take(lanes)
    assert await wakes(lanes)
    assert lanes.has_places_for_more()


async def test_a_slot_that_becomes_free_is_news_as_well(autojump_clock: MockClock) -> None:
    lanes = Lanes(4)
    lanes.backlog = frozenset({N})
    async with trio.open_nursery() as nursery:
        await Slots(lanes, nursery).wait_for_claim()
        assert await wakes(lanes)
        nursery.cancel_scope.cancel()


# Whatever happens, nothing is lost and nobody gets two of a kind


@settings(max_examples=150, deadline=None)
@given(
    slots=st.integers(1, 4),
    actions=st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "code", "wait", "wait", "cancel", "withdraw", "settle", "settle"]),
            st.integers(0, 9),
        ),
        max_size=60,
    ),
)
def test_every_claim_is_taken_once_or_taken_back(slots: int, actions: list[tuple[str, int]]) -> None:
    trio.run(_play, slots, actions)


async def _play(count: int, actions: list[tuple[str, int]]) -> None:
    lanes = Lanes(count)
    taken: list[str] = []
    given: list[str] = []
    back: list[str] = []
    scopes: list[trio.CancelScope] = []

    async def slot(scope: trio.CancelScope, priority_only: bool) -> None:
        with scope:
            claim = await lanes.take(priority_only=priority_only)
            taken.append(claim.delivery_id)

    def offer(lane: Lane) -> None:
        given.append(f"{lane}-{len(given)}")
        put(lanes, given[-1], lane=lane, since_s=len(given))

    async with trio.open_nursery() as nursery:
        for action, number in actions:
            match action:
                case "put":
                    offer(N)
                case "code":
                    offer(P)
                case "wait":
                    scopes.append(trio.CancelScope())
                    nursery.start_soon(slot, scopes[-1], count >= 2 and number == 0)
                case "cancel" if scopes:
                    scopes.pop(number % len(scopes)).cancel()
                case "withdraw":
                    back += [c.delivery_id for c in lanes.withdraw(before_s=len(given) - number)]
                case "settle":
                    await wait_all_tasks_blocked()
                    # Nobody who could take it waits beside a claim.
                    assert not (lanes.waiting(P) and lanes.idle_slots())
                    assert not (lanes.waiting(N) and any(not slot.priority_only for slot in lanes._idle))
                case _:
                    pass
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    back += [claim.delivery_id for claim in lanes.drain()]
    assert sorted(taken + back) == sorted(given)


# How many may begin


class Limit:
    """How many slots may begin, as the test has it."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self) -> int:
        return self.count


@pytest.mark.parametrize("limit", [0, 1, 2, 3])
async def test_no_more_slots_begin_than_may_and_the_rest_waits(limit: int) -> None:
    lanes = Lanes(4, may_begin=Limit(limit))
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        for number in range(4):
            await slots.wait_for_claim(priority_only=number == 0)
        put(lanes, *"abcd")
        await wait_all_tasks_blocked()
        assert (len(slots.taken), lanes.waiting(N)) == (limit, 4 - limit)
        nursery.cancel_scope.cancel()


async def test_a_slot_that_takes_without_waiting_obeys_the_limit_too() -> None:
    limit = Limit(1)
    lanes = Lanes(2, may_begin=limit)
    put(lanes, "a", "b")
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        await slots.wait_for_claim()
        await slots.wait_for_claim()
        assert slots.taken == ["a"], "the other one begins when the first comes back"
        await slots.wait_for_claim()
        assert slots.taken == ["a", "b"]
        nursery.cancel_scope.cancel()


async def test_the_slot_of_the_priority_lane_alone_keeps_no_room_from_the_others() -> None:
    """It comes back, may not take what waits, and so another one does."""
    lanes = Lanes(2, may_begin=Limit(1))
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        await slots.wait_for_claim()
        put(lanes, "bulk")  # the other slot still counts as busy
        await wait_all_tasks_blocked()
        assert slots.taken == []
        await slots.wait_for_claim(priority_only=True)
        assert slots.taken == ["bulk"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("priority_slot", [0, 1, 2])
async def test_when_more_may_begin_what_waits_is_handed_out(priority_slot: int) -> None:
    limit = Limit(1)
    lanes = Lanes(3, may_begin=limit)
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        for number in range(3):
            await slots.wait_for_claim(priority_only=number == priority_slot)
        put(lanes, "bulk-1", "bulk-2", "bulk-3")
        put(lanes, "code", lane=P)
        await wait_all_tasks_blocked()
        assert slots.taken == ["bulk-1"]
        limit.count = 3
        lanes.hand_out()
        await wait_all_tasks_blocked()
        assert sorted(slots.taken) == ["bulk-1", "bulk-2", "code"], "each to a slot that may take it"
        nursery.cancel_scope.cancel()


async def test_what_came_earlier_goes_first_when_more_may_begin() -> None:
    limit = Limit(0)
    lanes = Lanes(1, may_begin=limit)
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        await slots.wait_for_claim()
        put(lanes, "first")
        limit.count = 1
        put(lanes, "second")
        await wait_all_tasks_blocked()
        assert slots.taken == ["first"]
        nursery.cancel_scope.cancel()


async def test_a_claim_for_a_slot_that_is_cancelled_while_it_is_handed_out_stays_first() -> None:
    limit = Limit(0)
    lanes = Lanes(1, may_begin=limit)
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        scope = await slots.wait_for_claim()
        put(lanes, "a", "b")
        limit.count = 1
        scope.cancel()
        lanes.hand_out()
        assert lanes.waiting(N) == 2
        await wait_all_tasks_blocked()
    assert [await take(lanes), await take(lanes)] == ["a", "b"]


async def test_idle_slots_that_may_not_begin_add_no_places() -> None:
    limit = Limit(1)
    lanes = Lanes(4, may_begin=limit)
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        for _ in range(4):
            await slots.wait_for_claim()
        assert lanes.places() == Places(PREFETCH_MIN + 1, PREFETCH_MIN + 1)
        limit.count = 0  # this process has no resources: another one may claim
        assert lanes.places() == Places(0, 0)
        nursery.cancel_scope.cancel()


# A claim that probes a held relay

BREAKERS = Hold(scope="relay:default", cause=Cause.BREAKER, reason="mail", since_ms=0)
OPERATORS = Hold(scope="lane:priority", cause=Cause.OPERATOR, reason="move", since_ms=0)


def held(*holds: Hold, slots: int = 1) -> Lanes:
    current = CurrentHolds()
    current.update(Snapshot(holds, ("default",)), 0)
    return Lanes(slots, current)


class Prober:
    """Waits for a claim that probes."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.claimed: list[str] = []

    async def run(self, lanes: Lanes) -> None:
        with self.scope:
            self.claimed.append((await lanes.take_probe()).delivery_id)


async def test_a_probe_gets_one_claim_of_a_held_lane_and_wakes_the_scheduler_for_it(
    autojump_clock: MockClock,
) -> None:
    lanes, prober = held(BREAKERS), Prober()
    assert (lanes.places(), lanes.takes(P), lanes.takes(N)) == (Places(0, 0), False, False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run, lanes)
        assert await wakes(lanes)
        assert (lanes.places(), lanes.takes(P), lanes.takes(N)) == (Places(1, 1), True, True)
        put(lanes, "code", lane=P)
        assert (lanes.places(), lanes.takes(N)) == (Places(0, 0), False), "one is enough"
        await wait_all_tasks_blocked()
        assert prober.claimed == ["code"]


async def test_no_slot_gets_what_probes(autojump_clock: MockClock) -> None:
    lanes, prober = held(BREAKERS), Prober()
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        await slots.wait_for_claim()
        nursery.start_soon(prober.run, lanes)
        await wait_all_tasks_blocked()
        put(lanes, "bulk")
        await wait_all_tasks_blocked()
        assert (prober.claimed, slots.taken) == (["bulk"], [])
        nursery.cancel_scope.cancel()


async def test_what_an_operator_holds_does_not_probe(autojump_clock: MockClock) -> None:
    lanes, prober = held(BREAKERS, OPERATORS), Prober()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run, lanes)
        await wait_all_tasks_blocked()
        assert (lanes.places(), lanes.takes(P), lanes.takes(N)) == (Places(0, 1), False, True)
        assert (lanes.may_probe(P), lanes.may_probe(N)) == (False, True)
        prober.scope.cancel()


@pytest.mark.parametrize("scope", ["all", "relay:default"])
async def test_where_an_operator_holds_everything_nothing_probes(
    scope: str, autojump_clock: MockClock
) -> None:
    lanes, prober = (
        held(BREAKERS, Hold(scope=scope, cause=Cause.OPERATOR, reason="move", since_ms=0)),
        Prober(),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run, lanes)
        await wait_all_tasks_blocked()
        assert (lanes.places(), lanes.takes(P), lanes.takes(N)) == (Places(0, 0), False, False)
        prober.scope.cancel()


async def test_a_probe_that_was_given_up_takes_nothing(autojump_clock: MockClock) -> None:
    lanes, prober = held(BREAKERS), Prober()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run, lanes)
        await wait_all_tasks_blocked()
        prober.scope.cancel()
        put(lanes, "a")  # in the same moment: it goes back with what waits in a held lane
        await wait_all_tasks_blocked()
    assert prober.claimed == []
    assert (lanes.places(), lanes.takes(N)) == (Places(0, 0), False)
    assert [claim.delivery_id for claim in lanes.withdraw_held()] == ["a"]


async def test_a_probe_whose_hold_has_ended_leaves_the_claim_to_a_slot(autojump_clock: MockClock) -> None:
    lanes, prober = held(BREAKERS), Prober()
    async with trio.open_nursery() as nursery:
        slots = Slots(lanes, nursery)
        await slots.wait_for_claim()
        nursery.start_soon(prober.run, lanes)
        await wait_all_tasks_blocked()
        lanes.holds.update(Snapshot((), ("default",)), 0)
        put(lanes, "a")
        await wait_all_tasks_blocked()
        assert (slots.taken, prober.claimed) == (["a"], [])
        prober.scope.cancel()


# No claim waits beside a slot that may begin it


@settings(max_examples=300, deadline=None)
@given(
    slots=st.integers(1, 4),
    actions=st.lists(
        st.tuples(
            st.sampled_from(["put", "code", "done", "done", "limit", "cancel", "restart"]), st.integers(0, 4)
        ),
        max_size=40,
    ),
)
def test_no_claim_is_stuck_while_a_slot_idles_that_may_take_it_and_there_is_room(
    slots: int, actions: list[tuple[str, int]]
) -> None:
    trio.run(_play_limited, slots, actions)


async def _play_limited(count: int, actions: list[tuple[str, int]]) -> None:
    """Slots as they are: each takes a claim, is busy until it is done, and takes the next one."""
    limit = Limit(count)
    lanes = Lanes(count, may_begin=limit)
    done = [trio.Event() for _ in range(count)]
    scopes = [trio.CancelScope() for _ in range(count)]
    busy: set[int] = set()
    begun: list[str] = []
    given: list[str] = []

    async def slot(number: int) -> None:
        scopes[number] = trio.CancelScope()
        with scopes[number]:
            while True:
                claim = await lanes.take(priority_only=number == 0 and count > 1)
                begun.append(claim.delivery_id)
                busy.add(number)
                try:
                    done[number] = trio.Event()
                    await done[number].wait()
                finally:
                    busy.remove(number)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(slot, number)
        down: set[int] = set()
        await wait_all_tasks_blocked()
        for action, number in actions:
            match action:
                case "put" | "code":
                    lane = N if action == "put" else P
                    given.append(f"{lane}-{len(given)}")
                    put(lanes, given[-1], lane=lane)
                case "done":
                    done[number % count].set()
                case "limit":
                    limit.count = min(number, count)
                    lanes.hand_out()  # as the actor `relays` does each second
                case "cancel":
                    scopes[number % count].cancel()
                    down.add(number % count)
                case _ if down:
                    nursery.start_soon(slot, down.pop())
                case _:
                    pass
            before = len(busy)
            await wait_all_tasks_blocked()
            assert len(busy) <= max(before, limit.count), "more than may begin"
            if lanes.busy_slots() < limit.count:
                idle = lanes._idle
                assert not (idle and lanes.waiting(P)), "a priority claim is stuck"
                assert not (lanes.waiting(N) and any(not one.priority_only for one in idle)), (
                    "a claim is stuck"
                )
        nursery.cancel_scope.cancel()
    assert sorted(begun + [claim.delivery_id for claim in lanes.drain()]) == sorted(given)
