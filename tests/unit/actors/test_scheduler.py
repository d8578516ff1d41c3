"""The scheduler, in virtual time: when it asks, what it hands over, what it gives back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from galaxy_mail.actors.lanes import PREFETCH_MIN, Lanes
from galaxy_mail.actors.scheduler import CHECK_EVERY_S, PAUSE_AFTER_FAILURE_S, STOP_WITHIN_S, Scheduler
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.conclusion import CRASH_LOOP, LOSSES_MAX, OWNERSHIP_LOST, RetryPolicy, begin
from galaxy_mail.domain.records import DeliveryStatus, Lane
from galaxy_mail.relays.holds import CurrentHolds
from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisUnavailable
from galaxy_mail.storage.operations.claims import Claim, Claimed, StaleClaim
from galaxy_mail.telemetry.metrics import Metrics
from tests.unit.actors.claims import claim_of
from tests.unit.actors.fakes import START_MS, TTL_S, FakeStore, TrioClock

P, N = Lane.PRIORITY, Lane.NORMAL


class Desk:
    """A scheduler with all that it touches."""

    def __init__(self, slots: int = 1, ttl_s: float = TTL_S) -> None:
        self.store = FakeStore(ttl_s)
        self.holds = CurrentHolds(lanes=frozenset())
        self.lanes = Lanes(slots, self.holds)
        self.metrics = Metrics()
        self.heartbeat = Heartbeat()
        self.scheduler = Scheduler(
            lanes=self.lanes,
            store=self.store,  # type: ignore[arg-type]  # a fake with all that the scheduler asks for
            clock=TrioClock(),
            policy=RetryPolicy(),
            metrics=self.metrics,
            heartbeat=self.heartbeat,
        )

    def due(self, *names: str, lane: Lane = N) -> None:
        self.store.due.extend(claim_of(name, lane) for name in names)

    async def take(self) -> str:
        return (await self.lanes.take(priority_only=False)).delivery_id

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.scheduler.run)
            yield
            nursery.cancel_scope.cancel()

    def asked_at_s(self) -> list[float]:
        return [at_s for name, at_s in self.store.at_s if name == "claim"]


def begun(claim: Claim, *, losses: int) -> Claim:
    """As a claim is found whose owner was lost after its begin."""
    made = begin(claim.delivery, claim.attempt, rendered=None, provider="stub", now_ms=START_MS)
    return replace(claim, losses=losses, delivery=made.delivery, attempt=made.attempt)


@pytest.fixture
async def desk() -> Desk:
    return Desk()


# What it asks for


async def test_it_claims_for_as_many_as_there_are_places_and_hands_them_over(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.due("a", "b")
    desk.due("c", lane=P)
    await desk.scheduler.turn()
    assert desk.store.calls == [("claim", f"{PREFETCH_MIN}/{PREFETCH_MIN}/lost")]
    assert [await desk.take() for _ in range(3)] == ["c", "a", "b"]


async def test_full_lanes_are_not_filled_further(desk: Desk, autojump_clock: MockClock) -> None:
    desk.due(*map(str, range(PREFETCH_MIN)))
    desk.due(*(f"c{number}" for number in range(PREFETCH_MIN)), lane=P)
    await desk.scheduler.turn()
    await desk.scheduler.turn()
    assert len(desk.store.calls) == 1
    await trio.sleep(CHECK_EVERY_S)
    await desk.scheduler.turn()
    assert desk.store.calls[1:] == [("claim", "0/0/lost")], "what owners lost is looked for all the same"


async def test_what_was_lost_is_looked_for_every_second_and_not_more_often(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with desk.running():
        for _ in range(30):
            await trio.sleep(0.1)
            desk.lanes.wake()
    asked = zip(desk.store.calls, desk.store.at_s, strict=True)
    looks = [at_s for (_, about), (_, at_s) in asked if "lost" in about]
    assert looks[0] == 0
    assert [later - earlier for earlier, later in pairwise(looks)] == [
        pytest.approx(CHECK_EVERY_S, abs=0.01)
    ] * 2
    assert len(desk.asked_at_s()) >= 30


async def test_idle_it_asks_every_second(desk: Desk, autojump_clock: MockClock) -> None:
    async with desk.running():
        await trio.sleep(5.5)
    assert desk.asked_at_s() == pytest.approx([0, 1, 2, 3, 4, 5], abs=0.01)


async def test_it_wakes_when_the_next_one_is_due(desk: Desk, autojump_clock: MockClock) -> None:
    desk.store.next_due_ms = START_MS + 400
    async with desk.running():
        await trio.sleep(0.9)
    assert desk.asked_at_s()[:2] == pytest.approx([0, 0.4], abs=0.002)


async def test_a_due_time_far_away_keeps_it_from_nothing(desk: Desk, autojump_clock: MockClock) -> None:
    desk.store.next_due_ms = START_MS + 10_000_000
    async with desk.running():
        await trio.sleep(2.5)
    assert len(desk.asked_at_s()) == 3


async def test_woken_it_asks_at_once(desk: Desk, autojump_clock: MockClock) -> None:
    async with desk.running():
        await trio.sleep(0.3)
        desk.lanes.wake()
        await trio.sleep(0.1)
    assert desk.asked_at_s() == pytest.approx([0, 0.3], abs=0.001)


async def test_while_more_is_due_and_there_are_places_it_asks_again_at_once(
    desk: Desk, autojump_clock: MockClock
) -> None:
    """A backlog: slots never wait for a second to pass."""
    desk.due(*map(str, range(100)))
    async with desk.running():
        taken = [await desk.take() for _ in range(100)]
    assert taken == list(map(str, range(100)))
    assert trio.current_time() < 0.1


async def test_what_comes_while_the_lanes_are_full_is_claimed_once_there_are_places(
    desk: Desk, autojump_clock: MockClock
) -> None:
    """The last claim had told that nothing more was due; the bell rang while nothing could be taken in."""
    async with desk.running(), trio.open_nursery() as nursery:
        for lane in Lane:
            desk.due(*(f"{lane}-{number}" for number in range(PREFETCH_MIN)), lane=lane)
        desk.lanes.wake()
        await wait_all_tasks_blocked()
        assert (desk.lanes.waiting(P), desk.lanes.waiting(N)) == (PREFETCH_MIN, PREFETCH_MIN)
        desk.due(*map(str, range(20)))
        desk.lanes.wake()
        await wait_all_tasks_blocked()
        began_s = trio.current_time()
        for _ in range(2 * PREFETCH_MIN + 20):
            await desk.take()
        assert trio.current_time() - began_s < 0.1
        nursery.cancel_scope.cancel()


async def test_a_backlog_in_a_full_lane_makes_it_ask_for_nothing(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.due(*map(str, range(100)))
    async with desk.running():
        await trio.sleep(0.9)
        assert len(desk.asked_at_s()) <= 2


# What owners lost


async def test_what_had_not_begun_goes_on_as_it_is(desk: Desk, autojump_clock: MockClock) -> None:
    desk.store.due.append(claim_of("a", losses=1))
    await desk.scheduler.turn()
    assert await desk.take() == "a"
    assert desk.store.names() == ["claim"]
    assert desk.metrics.lost_claims_total.value() == 1


@pytest.mark.parametrize("losses", [0, 1, 2])
async def test_what_had_begun_is_closed_and_its_next_attempt_is_due_at_once(
    losses: int, desk: Desk, autojump_clock: MockClock
) -> None:
    """Without a loss: the janitor brought it back into the schedule, and nobody had it."""
    desk.store.due.append(begun(claim_of("a"), losses=losses))
    desk.due("b")
    async with desk.running():
        assert await desk.take() == "b"
        await wait_all_tasks_blocked()
        [ended] = desk.store.concluded
        assert ended.delivery.status is DeliveryStatus.QUEUED
        assert ended.attempt.failure is not None
        assert ended.attempt.failure.code == OWNERSHIP_LOST
        assert ended.next_attempt is not None
        assert ended.next_attempt.scheduled_for_ms <= desk.scheduler.clock.now_ms()
        assert len(desk.asked_at_s()) == 2, "it is due: it asks again at once"
    assert desk.metrics.lost_claims_total.value() == 1


async def test_a_crash_loop_ends(desk: Desk, autojump_clock: MockClock) -> None:
    desk.store.due.append(claim_of("a", losses=LOSSES_MAX))
    await desk.scheduler.turn()
    [ended] = desk.store.concluded
    assert ended.dead_letter is not None
    assert ended.dead_letter.reason == CRASH_LOOP
    assert desk.metrics.dead_letters_total.value(CRASH_LOOP) == 1


async def test_what_another_process_concluded_is_left_to_it(desk: Desk, autojump_clock: MockClock) -> None:
    desk.store.due.append(begun(claim_of("a"), losses=1))
    desk.store.fail("finish", StaleClaim("a"))
    await desk.scheduler.turn()
    assert desk.store.concluded == []


async def test_what_redis_did_not_record_is_recorded_once_it_answers(
    desk: Desk, autojump_clock: MockClock
) -> None:
    """And not when our claim has expired, too: that would be another loss."""
    for name in ("a", "b", "c"):
        desk.store.due.append(begun(claim_of(name), losses=1))
    desk.store.fail("finish", OutcomeUnknown("lost"), RedisUnavailable("away"))
    async with desk.running():
        await trio.sleep(3)
        ended = [conclusion.attempt.delivery_id for conclusion in desk.store.concluded]
    assert sorted(ended) == ["a", "b", "c"]
    assert desk.metrics.lost_claims_total.value() == 3


async def test_what_redis_never_records_is_let_go_with_our_claim_and_holds_up_nothing(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.store.due.append(begun(claim_of("bad"), losses=1))
    desk.store.fail("finish", *[RedisUnavailable("no") for _ in range(1_000)])
    async with desk.running():
        await wait_all_tasks_blocked()
        desk.due("good")
        desk.lanes.wake()
        assert await desk.take() == "good"
        await trio.sleep(desk.store.claim_ttl_ms / 1000)
        tries = desk.store.names().count("finish")
        await trio.sleep(desk.store.claim_ttl_ms / 1000)
        assert desk.store.names().count("finish") == tries > 1


async def test_while_redis_hesitates_with_what_was_lost_the_rest_is_sent(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.store.due.append(begun(claim_of("lost"), losses=1))
    desk.due("a")
    desk.store.waits["finish"] = trio.Event()
    async with desk.running():
        assert await desk.take() == "a"


# Trouble


async def test_redis_being_away_is_no_crash(desk: Desk, autojump_clock: MockClock) -> None:
    desk.store.fail("claim", RedisUnavailable("away"), OutcomeUnknown("lost"))
    desk.due("a")
    async with desk.running():
        await trio.sleep(2 * PAUSE_AFTER_FAILURE_S + 0.1)
        desk.lanes.wake()
        await wait_all_tasks_blocked()
    assert desk.asked_at_s()[:3] == pytest.approx(
        [0, PAUSE_AFTER_FAILURE_S, 2 * PAUSE_AFTER_FAILURE_S], abs=0.01
    )


async def test_its_heart_beats_at_every_turn(desk: Desk, autojump_clock: MockClock) -> None:
    async with desk.running():
        await trio.sleep(3.5)
        assert desk.heartbeat.beats == 4
        assert desk.heartbeat.turned_s == pytest.approx(3, abs=0.01)


# What it takes back


async def test_what_waited_for_half_its_time_is_given_back_as_it_was(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.due("a")
    async with desk.running():
        await trio.sleep(TTL_S / 2 - 0.1)
        assert desk.store.returned == []
        await trio.sleep(0.2)
        [returned] = desk.store.returned
    claim = claim_of("a")
    assert (returned.delivery, returned.attempt) == (claim.delivery, claim.attempt)
    assert desk.lanes.waiting(N) == 0


async def test_one_that_can_not_be_given_back_does_not_keep_the_others(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.due("a", "b", "c")
    await desk.scheduler.turn()
    desk.store.fail("release", StaleClaim("a"), RedisUnavailable("away"))
    await trio.sleep(TTL_S)
    await desk.scheduler.turn()
    assert len(desk.store.returned) == 1
    assert desk.store.names().count("release") == 3


async def test_a_stop_gives_back_what_no_slot_has(desk: Desk, autojump_clock: MockClock) -> None:
    desk.due("a", "b", "c")
    async with desk.running():
        assert await desk.take() == "a"
    assert sorted(returned.delivery.delivery_id for returned in desk.store.returned) == ["b", "c"]
    assert trio.current_time() < 0.1


@pytest.mark.parametrize("name", ["claim", "release"])
async def test_a_stop_while_redis_hangs_is_over_in_time(
    name: str, desk: Desk, autojump_clock: MockClock
) -> None:
    desk.due("a")
    if name == "claim":
        desk.store.waits["claim"] = trio.Event()
    async with desk.running():
        await wait_all_tasks_blocked()
        desk.store.waits[name] = trio.Event()
        began_s = trio.current_time()
    assert trio.current_time() - began_s <= STOP_WITHIN_S + 0.01


@pytest.mark.parametrize("lost", [False, True])
def test_stopped_after_any_number_of_steps_it_loses_no_claim(lost: bool) -> None:
    """In the midst of a claim too: Redis has made it, and nobody else would know for half a minute."""

    async def stopped_after(steps: int) -> bool:
        desk = Desk()
        names = [f"d{number}" for number in range(5)]
        desk.due(*names)
        if lost:
            desk.store.due.append(begun(claim_of("lost"), losses=1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.scheduler.run)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            in_time = bool(desk.store.due)
            nursery.cancel_scope.cancel()
        back = [returned.delivery.delivery_id for returned in desk.store.returned]
        assert sorted(back + [c.delivery_id for c in desk.store.due if c.delivery_id != "lost"]) == names
        left = sum(claim.delivery_id == "lost" for claim in desk.store.due)
        assert len(desk.store.concluded) + left == lost
        return in_time

    early = [trio.run(stopped_after, steps, clock=MockClock(autojump_threshold=0)) for steps in range(25)]
    assert True in early
    assert False in early


async def test_after_a_stop_nothing_is_claimed_any_more(desk: Desk, autojump_clock: MockClock) -> None:
    async with desk.running():
        await wait_all_tasks_blocked()
    asked = len(desk.store.calls)
    desk.lanes.wake()
    await trio.sleep(5)
    assert len(desk.store.calls) == asked


async def test_a_withdrawal_is_in_time_however_short_claims_are(autojump_clock: MockClock) -> None:
    desk = Desk(ttl_s=2)
    desk.due("a")
    async with desk.running():
        await trio.sleep(1.2)
        assert len(desk.store.returned) == 1
    released_s = next(at_s for name, at_s in desk.store.at_s if name == "release")
    assert 1.0 <= released_s < 1.1


# Holds


async def test_nothing_is_claimed_for_a_held_lane(desk: Desk, autojump_clock: MockClock) -> None:
    desk.holds.lanes = frozenset({P})
    desk.due("held", lane=P)
    desk.due("bulk")
    assert await desk.scheduler.turn() > 0, "what is due in a held lane makes it try nothing again at once"
    assert desk.store.calls == [("claim", f"0/{PREFETCH_MIN}/lost")]
    assert await desk.take() == "bulk"


async def test_while_both_lanes_are_held_only_lost_work_is_looked_for(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.holds.lanes = frozenset(Lane)
    desk.due("held", lane=P)
    desk.due("bulk")
    async with desk.running():
        await trio.sleep(3.5)
    assert desk.store.calls == [("claim", "0/0/lost")] * 4


async def test_what_waits_in_a_lane_goes_back_when_it_becomes_held_and_not_what_waits_in_the_other(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.due("code", lane=P)
    desk.due("bulk")
    async with desk.running():
        await trio.sleep(0.1)
        desk.holds.lanes = frozenset({P})
        desk.lanes.wake()
        await trio.sleep(0.01)
        assert [call for call in desk.store.calls if call[0] == "release"] == [("release", "code")]
        [returned] = desk.store.returned
        claim = claim_of("code", P)
        assert returned.attempt.scheduled_for_ms == claim.attempt.scheduled_for_ms
        assert await desk.take() == "bulk"


async def test_a_hold_that_ends_lets_the_scheduler_claim_at_once(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.holds.lanes = frozenset({P})
    desk.due("code", lane=P)
    async with desk.running():
        await trio.sleep(0.3)
        desk.holds.lanes = frozenset()
        desk.lanes.wake()
        with trio.fail_after(0.01):
            assert await desk.take() == "code"


async def test_lost_work_of_a_held_lane_is_concluded_if_it_had_begun_and_goes_back_if_not(
    desk: Desk, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.due("began", "waited", lane=P)
    began, waited = desk.store.due
    desk.store.due.clear()
    claimed = await desk.store.claim(priority_places=0, normal_places=0, check_lost=True)

    async def lost(**_: object) -> Claimed:
        return replace(claimed, claims=[begun(began, losses=1), replace(waited, losses=1)])

    monkeypatch.setattr(desk.store, "claim", lost)
    desk.holds.lanes = frozenset({P})
    await desk.scheduler.turn()
    assert [conclusion.delivery.delivery_id for conclusion in desk.store.concluded] == ["began"]
    assert [returned.delivery.delivery_id for returned in desk.store.returned] == ["waited"]
