"""The scheduler against the real scripts: how often it asks, what it hands on, what it leaves behind when it stops."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from galaxy_mail.actors.lanes import Lanes
from galaxy_mail.actors.scheduler import STOP_WITHIN_S, Scheduler
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.records import AttemptStatus, DeliveryStatus, Failure, Lane
from galaxy_mail.storage.links.errors import RedisUnavailable
from galaxy_mail.storage.operations.claims import Claimed
from galaxy_mail.storage.operations.store import LOST_PLACES
from galaxy_mail.telemetry.metrics import Metrics
from tests.deliveries import login_code_of, request_of
from tests.keys import k
from tests.storehouse import POLICY, START_MS, TTL_MS, Fault, Storehouse

SLOTS: Final = 4
BACKLOG: Final = 60


def scheduler_of(house: Storehouse, slots: int = SLOTS) -> Scheduler:
    return Scheduler(
        lanes=Lanes(slots),
        store=house.store,
        clock=house.clock,
        policy=POLICY,
        metrics=Metrics(),
        heartbeat=Heartbeat(),
    )


@asynccontextmanager
async def running(run: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Runs it while the block runs."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield
        nursery.cancel_scope.cancel()


async def test_a_backlog_behind_a_full_lane_makes_no_more_calls_than_the_clock(
    house: Storehouse, autojump_clock: MockClock
) -> None:
    """A slow relay: nothing is taken, and that the other lane has places is no reason to ask."""
    for number in range(BACKLOG):
        await house.accept(request_of(f"d{number}"))
    scheduler = scheduler_of(house)
    async with running(scheduler.run):
        await trio.sleep(10)
        assert house.link.asked.count("claim") <= 12
        assert scheduler.lanes.waiting(Lane.NORMAL) > 0


async def test_places_that_come_free_are_filled_without_waiting(
    house: Storehouse, autojump_clock: MockClock
) -> None:
    for number in range(BACKLOG):
        await house.accept(request_of(f"d{number}"))
    scheduler = scheduler_of(house)
    async with running(scheduler.run):
        taken = {(await scheduler.lanes.take(priority_only=False)).delivery_id for _ in range(BACKLOG)}
        assert len(taken) == BACKLOG
        assert trio.current_time() < 0.1
    assert house.link.asked.count("claim") < BACKLOG / 2


async def test_a_login_code_is_claimed_at_once_behind_any_backlog(
    house: Storehouse, autojump_clock: MockClock
) -> None:
    for number in range(BACKLOG):
        await house.accept(request_of(f"d{number}"))
    scheduler = scheduler_of(house)
    async with running(scheduler.run):
        await trio.sleep(0.5)
        await house.accept(login_code_of())
        scheduler.lanes.wake()
        claim = await scheduler.lanes.take(priority_only=True)
        assert claim.delivery_id == "c1"
        assert trio.current_time() < 0.6


@pytest.mark.parametrize("at", range(0, 60, 3))
async def test_a_stop_at_any_moment_leaves_nothing_claimed(at: int, house: Storehouse) -> None:
    """In the middle of a claim, too: what Redis has given by then is given back, due when it was."""
    for number in range(10):
        await house.accept(request_of(f"d{number}"))
        await house.accept(login_code_of(f"c{number}"))
    house.link.steps = 5
    scheduler = scheduler_of(house)
    async with running(scheduler.run):
        for _ in range(at):
            await trio.lowlevel.checkpoint()
    assert house.run("HLEN", k.claims) == 0
    assert house.score(house.keys.schedule, "d0") == START_MS
    assert house.run("HLEN", k.claim_losses) == 0


async def test_a_stop_lasts_no_longer_than_it_may_where_redis_hangs(
    house: Storehouse, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.accept(request_of())

    async def hangs(*_: object, **__: object) -> NoReturn:
        await trio.sleep_forever()

    with monkeypatch.context() as patch:
        patch.setattr(house.link, "pipeline", hangs)
        async with running(scheduler_of(house).run):
            await trio.sleep(10)
        assert trio.current_time() <= 10 + STOP_WITHIN_S


async def test_what_cannot_be_concluded_does_not_keep_other_claims_from_their_lanes(
    house: Storehouse,
) -> None:
    """The work of a lost owner comes first in a claim; when recording its end fails, the rest of the claim is not lost."""
    await house.begun(request_of("lost"))
    house.clock.ms += TTL_MS
    await house.accept(login_code_of())
    house.link.fail("finish", "refused")
    scheduler = scheduler_of(house)
    with pytest.raises(RedisUnavailable):
        await scheduler.turn()
    assert scheduler.lanes.waiting(Lane.PRIORITY) == 1
    house.clock.ms += TTL_MS // 2
    await scheduler._release(scheduler.lanes.drain())
    house.clock.ms += TTL_MS // 2
    await scheduler_of(house).turn()
    assert house.attempt("lost", 1).failure == Failure(
        code="ownership_lost",
        summary="the process that sent it was lost before it recorded the outcome",
    )


async def test_an_attempt_in_progress_that_nobody_had_claimed_counts_as_lost(house: Storehouse) -> None:
    """The janitor finds such a delivery and schedules it; no slot may begin its attempt a second time."""
    await house.begun(request_of())
    house.run("DEL", k.claims, house.keys.schedule)
    assert (await house.upkeep.reconcile()).rescheduled == ("d1",)
    scheduler = scheduler_of(house)
    await scheduler.turn()
    assert house.attempt("d1", 1).status is AttemptStatus.TIMED_OUT
    assert house.attempt("d1", 1).outcome_unknown
    assert house.delivery("d1").status is DeliveryStatus.QUEUED
    await scheduler._release(scheduler.lanes.drain())


async def test_all_that_a_process_with_many_slots_held_is_taken_over_together(
    house: Storehouse, autojump_clock: MockClock
) -> None:
    """Within two seconds of its expiry, and not so many of it every second."""
    count = 3 * LOST_PLACES + 1
    for number in range(count):
        await house.accept(request_of(f"lost{number}"))
    for claim in (await house.claim(count)).claims:
        await house.begin(claim)
    house.clock.ms += TTL_MS
    async with running(scheduler_of(house).run):
        await trio.sleep(0.5)
        assert house.run("ZCARD", k.status_index(DeliveryStatus.SENDING)) == 0


async def test_a_claim_of_much_lost_work_asks_redis_no_more_than_one_of_little(house: Storehouse) -> None:
    """Whatever fails between Redis' claim and the lanes costs the whole batch: there is little that can."""
    for number in range(20):
        await house.accept(request_of(f"d{number}"))
    for claim in (await house.claim()).claims:
        await house.begin(claim)
    house.clock.ms += TTL_MS
    house.link.asked.clear()
    claimed = await house.claim()
    assert [claim.attempt.status for claim in claimed.claims] == [AttemptStatus.IN_PROGRESS] * 20
    assert house.link.asked == ["claim", "read_claimed", "MGET"]


@pytest.mark.parametrize("at", range(2, 14, 2))
async def test_what_a_claim_brings_after_a_stop_is_begun_by_nobody(at: int, house: Storehouse) -> None:
    """Slots that are free would begin it, and the stop would have to wait for them."""
    for number in range(4):
        await house.accept(request_of(f"d{number}"))
    house.link.steps = 12
    scheduler = scheduler_of(house)
    taken: list[str] = []

    async def slot() -> None:
        taken.append((await scheduler.lanes.take(priority_only=False)).delivery_id)

    async with trio.open_nursery() as slots:
        for _ in range(4):
            slots.start_soon(slot)
        async with running(scheduler.run):
            for _ in range(at):
                await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        slots.cancel_scope.cancel()
    assert "claim" in house.link.asked
    assert taken == []
    assert house.run("HLEN", k.claims) == 0


async def test_what_keeps_it_from_claiming_is_told_once_for_each_reason(
    house: Storehouse, autojump_clock: MockClock
) -> None:
    """Redis may be away for hours, and it asks four times a second."""
    scheduler = scheduler_of(house)
    with capture_logs() as lines:
        async with running(scheduler.run):
            faults: tuple[Fault, ...] = ("refused", "lost_call", "refused")
            for fault in faults:
                house.link.fail("claim", *[fault] * 20)
                await trio.sleep(10)
    told = [line["error"] for line in lines if line["event"] == "claiming_failed"]
    assert told == ["away, as the test has it", "lost before it was run", "away, as the test has it"]


async def test_a_claim_that_took_long_to_ask_for_is_concluded_all_the_same(
    house: Storehouse, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process stood still between the turn's begin and the claim: seed 321 had it count another loss."""
    house.clock.follow_trio()
    await house.begun(request_of())
    await trio.sleep(TTL_MS / 1000)
    scheduler = scheduler_of(house)
    real = house.store.claim

    async def late(**asked: Any) -> Claimed:
        await trio.sleep(2 * TTL_MS / 1000)
        return await real(**asked)

    monkeypatch.setattr(house.store, "claim", late)
    await scheduler.turn()
    assert house.attempt("d1", 1).status is AttemptStatus.TIMED_OUT
    assert house.run("HGET", k.claim_losses, "d1") == b"1"


async def test_what_could_not_be_concluded_comes_before_the_next_claim(
    house: Storehouse, autojump_clock: MockClock
) -> None:
    """Redis was away for longer than the claim lives: it has expired, nobody took it, and it is not lost once more."""
    house.clock.follow_trio()
    await house.begun(request_of())
    await trio.sleep(TTL_MS / 1000)
    scheduler = scheduler_of(house)
    house.link.fail("finish", "refused")
    with pytest.raises(RedisUnavailable):
        await scheduler.turn()
    await trio.sleep(2 * TTL_MS / 1000)
    await scheduler.turn()
    assert house.attempt("d1", 1).status is AttemptStatus.TIMED_OUT
    assert house.run("HGET", k.claim_losses, "d1") == b"1"
    await scheduler._release(scheduler.lanes.drain())
