"""The actor `relays` on a real store, in virtual time, beside a scheduler and a slot: what a hold stops, and what not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from galaxy_mail.actors.relays import Relays
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.holds import Cause, Hold
from galaxy_mail.domain.records import DeliveryStatus, Lane
from galaxy_mail.relays.holds import CurrentHolds
from galaxy_mail.relays.relay import Relay
from tests.deliveries import login_code_of, request_of
from tests.integration.actors.test_sending import Process, sleeping
from tests.keys import k
from tests.storehouse import Storehouse


class HoldingProcess(Process):
    """A process whose lanes obey holds."""

    def __init__(self, house: Storehouse) -> None:
        super().__init__(house)
        self.holds = CurrentHolds()
        self.lanes.holds = self.holds
        self.relays = Relays(
            store=house.holds,
            holds=self.holds,
            relay=Relay("default", slots=len(self.senders), clock=house.clock),
            lanes=self.lanes,
            provider=lambda: self.providers[0],
            sender=lambda _: self.senders[0],
            clock=house.clock,
            heartbeat=Heartbeat(),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.CancelScope]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.relays.run)
            async with super().running() as senders:
                yield senders
            nursery.cancel_scope.cancel()

    async def hold(self, scope: str, *, for_ms: int | None = None) -> None:
        now_ms = self.house.clock.now_ms()
        until_ms = None if for_ms is None else now_ms + for_ms
        await self.house.holds.put(
            Hold(scope=scope, cause=Cause.OPERATOR, reason="move", since_ms=now_ms, until_ms=until_ms)
        )
        await trio.sleep(1.1)  # every process has read it


@pytest.fixture
async def process(house: Storehouse) -> HoldingProcess:
    house.clock.follow_trio()
    return HoldingProcess(house)


async def test_a_held_lane_waits_and_the_other_one_does_not(
    process: HoldingProcess, autojump_clock: MockClock
) -> None:
    async with process.running():
        await process.hold("lane:priority")
        await process.accept(login_code_of("code"), request_of("bulk"))
        await trio.sleep(5)
        assert process.taken() == ["bulk"]
        await process.house.holds.lift(Cause.OPERATOR, "lane:priority", now_ms=process.house.clock.now_ms())
        await process.until_ended(within_s=1.1)
    assert process.taken() == ["bulk", "code"]


@pytest.mark.parametrize("scope", ["all", "relay:default"])
async def test_a_hold_that_ends_by_itself_lets_everything_go_at_its_time(
    scope: str, process: HoldingProcess, autojump_clock: MockClock
) -> None:
    async with process.running():
        await process.hold(scope, for_ms=10_400)
        await process.accept(login_code_of("code"), request_of("bulk"))
        await trio.sleep(9.2)
        assert process.taken() == []
        await process.until_ended(within_s=0.3)
    assert sorted(process.taken()) == ["bulk", "code"]


async def test_what_has_begun_goes_on_and_what_waits_goes_back_as_it_was(
    process: HoldingProcess, autojump_clock: MockClock
) -> None:
    process.providers[0].before_dot = sleeping(5)
    async with process.running():
        await trio.sleep(0.5)
        await process.accept(request_of("begun"))
        await trio.sleep(0.1)
        await process.accept(request_of("waits"))
        due_ms = process.house.delivery("waits").next_attempt_at_ms
        await trio.sleep(0.1)
        assert process.lanes.waiting(Lane.NORMAL) == 1
        await process.hold("lane:normal")
        assert process.house.run("HKEYS", k.claims) == [b"begun"]
        assert process.house.score(process.house.keys.schedule, "waits") == due_ms
        await trio.sleep(10)
        assert process.taken() == ["begun"]
        assert process.house.delivery("begun").status is DeliveryStatus.SENT
        assert process.house.delivery("waits").status is DeliveryStatus.QUEUED
