"""The scheduler against the real scripts: how often it asks, what it hands on, what it leaves behind when it stops."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio
from trio.testing import MockClock

from galaxy_mail.actors.lanes import Lanes
from galaxy_mail.actors.scheduler import Scheduler
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.records import Lane
from galaxy_mail.telemetry.metrics import Metrics
from tests.deliveries import login_code_of, request_of
from tests.storehouse import POLICY, Storehouse

SLOTS: Final = 4
BACKLOG: Final = 60


def scheduler_of(house: Storehouse, slots: int = SLOTS) -> Scheduler:
    return Scheduler(
        lanes=Lanes(slots), store=house.store, policy=POLICY, metrics=Metrics(), heartbeat=Heartbeat()
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
        scheduler.lanes.ring()
        claim = await scheduler.lanes.take(priority_only=True)
        assert claim.delivery_id == "c1"
        assert trio.current_time() < 0.6
