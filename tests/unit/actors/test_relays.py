"""The actor `relays`, in virtual time: when it reads, what it makes of the holds, what it logs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog.testing
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from galaxy_mail.actors.lanes import Lanes
from galaxy_mail.actors.probe import DeliveryProbe
from galaxy_mail.actors.relays import KEPT_MS, Relays
from galaxy_mail.actors.sender import Sender
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.holds import Cause, Hold
from galaxy_mail.domain.records import Lane, encode
from galaxy_mail.relays.holds import CurrentHolds
from galaxy_mail.relays.relay import Relay
from galaxy_mail.storage.links.errors import RedisUnavailable
from galaxy_mail.storage.operations.hold_store import StoredHold, stored_hold
from tests.unit.actors.fakes import START_MS, FakeProvider, TrioClock

BOTH = frozenset(Lane)
NONE: frozenset[Lane] = frozenset()
PRIORITY = frozenset({Lane.PRIORITY})
HOLD = Hold(scope="lane:priority", cause=Cause.OPERATOR, reason="move", since_ms=START_MS)


class Store:
    """The holds in Redis, while it can be reached."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.away = False
        self.read_at_s: list[float] = []

    async def read(self) -> list[StoredHold]:
        self.read_at_s.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.away:
            raise RedisUnavailable("away")
        return [stored_hold(field, data) for field, data in sorted(self.stored.items())]

    async def remove(self, stored: StoredHold) -> bool:
        await trio.lowlevel.checkpoint()
        return self.stored.pop(stored.field, None) is not None

    def put(self, *holds: Hold) -> None:
        self.stored |= {hold.field: encode(hold) for hold in holds}


class Desk:
    """The actor with all that it touches."""

    def __init__(self) -> None:
        self.store = Store()
        self.holds = CurrentHolds()
        self.relay = Relay("default", slots=1, clock=TrioClock())
        self.lanes = Lanes(1, self.holds)
        self.provider = FakeProvider()

    def sender(self, probe: DeliveryProbe) -> Sender:
        raise AssertionError("no delivery probes here")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        actor = Relays(
            store=self.store,  # type: ignore[arg-type]  # a fake with all that the actor asks for
            holds=self.holds,
            relay=self.relay,
            lanes=self.lanes,
            provider=lambda: self.provider,
            sender=self.sender,
            clock=TrioClock(),
            heartbeat=Heartbeat(),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(actor.run)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def test_it_reads_every_second(desk: Desk, autojump_clock: MockClock) -> None:
    async with desk.running():
        await trio.sleep(3.5)
    assert desk.store.read_at_s == pytest.approx([0, 1, 2, 3], abs=0.01)


async def test_a_new_hold_counts_within_a_second_and_wakes_the_scheduler(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with desk.running():
        await trio.sleep(0.5)
        assert desk.holds.lanes == NONE
        await desk.lanes.wait_woken(0.01)  # by the first read
        desk.store.put(HOLD)
        with trio.fail_after(1):
            await desk.lanes.wait_woken(10)
        assert desk.holds.lanes == PRIORITY
        desk.store.stored.clear()
        with trio.fail_after(1.1):
            await desk.lanes.wait_woken(10)
        assert desk.holds.lanes == NONE


async def test_a_hold_ends_at_its_time_and_not_at_the_next_read(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.store.put(replace(HOLD, until_ms=START_MS + 1_400))
    async with desk.running():
        await trio.sleep(1.3)
        assert desk.holds.lanes == PRIORITY
        await desk.lanes.wait_woken(0.01)
        with trio.fail_after(0.15):
            await desk.lanes.wait_woken(10)
        assert desk.holds.lanes == NONE


async def test_before_the_first_read_everything_is_held(desk: Desk, autojump_clock: MockClock) -> None:
    desk.store.away = True
    async with desk.running():
        await trio.sleep(2.5)
        assert desk.holds.lanes == BOTH
        desk.store.away = False
        await trio.sleep(1)
        assert desk.holds.lanes == NONE


async def test_when_redis_fails_the_last_holds_stay_and_still_end(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.store.put(HOLD, replace(HOLD, scope="lane:normal", until_ms=START_MS + 5_000))
    with structlog.testing.capture_logs() as logs:
        async with desk.running():
            await trio.sleep(0.5)
            desk.store.away = True
            await trio.sleep(3)
            assert desk.holds.lanes == BOTH
            await trio.sleep(3)
            assert desk.holds.lanes == PRIORITY
    assert [line["event"] for line in logs].count("holds_not_read") == 1


async def test_every_relay_held_holds_both_lanes(desk: Desk, autojump_clock: MockClock) -> None:
    desk.store.put(replace(HOLD, scope="relay:default"))
    async with desk.running():
        await trio.sleep(0.1)
        assert desk.holds.lanes == BOTH


async def test_opening_changing_and_ending_are_one_line_each(desk: Desk, autojump_clock: MockClock) -> None:
    with structlog.testing.capture_logs() as logs:
        async with desk.running():
            desk.store.put(HOLD)
            await trio.sleep(3.5)
            desk.store.put(replace(HOLD, reason="longer move"))
            await trio.sleep(3)
            desk.store.stored.clear()
            await trio.sleep(3)
    assert [(line["event"], line["scope"], line["reason"]) for line in logs] == [
        ("hold_opened", "lane:priority", "move"),
        ("hold_changed", "lane:priority", "longer move"),
        ("hold_ended", "lane:priority", "longer move"),
    ]


async def test_a_breakers_hold_that_lasts_longer_is_no_change(desk: Desk, autojump_clock: MockClock) -> None:
    hold = Hold(scope="relay:default", cause=Cause.BREAKER, reason="it fails", since_ms=START_MS)
    with structlog.testing.capture_logs() as logs:
        async with desk.running():
            for until_ms in (START_MS + 60_000, START_MS + 66_000):
                desk.store.put(replace(hold, until_ms=until_ms))
                await trio.sleep(1.5)
            desk.store.put(replace(hold, until_ms=START_MS + 66_000, reason="it refuses our login"))
            await trio.sleep(1.5)
    assert [line["event"] for line in logs] == ["hold_opened", "hold_changed"]


async def test_an_actor_that_starts_again_repeats_no_line(desk: Desk, autojump_clock: MockClock) -> None:
    desk.store.put(HOLD)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            async with desk.running():
                await trio.sleep(1.5)
                assert desk.holds.lanes == PRIORITY
    assert [line["event"] for line in logs] == ["hold_opened"]


async def test_a_hold_that_ended_long_ago_is_removed(desk: Desk, autojump_clock: MockClock) -> None:
    desk.store.put(HOLD, replace(HOLD, scope="all", until_ms=START_MS + 500))
    async with desk.running():
        await trio.sleep(KEPT_MS / 1000)
        assert set(desk.store.stored) == {"operator:lane:priority", "operator:all"}
        await trio.sleep(2)
    assert set(desk.store.stored) == {"operator:lane:priority"}


async def test_what_can_not_be_read_is_reported_once_and_holds_where_an_operator_held(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.store.stored |= {"operator:lane:priority": b"?", "breaker:relay:default": b"?"}
    with structlog.testing.capture_logs() as logs:
        async with desk.running():
            await trio.sleep(3.5)
            assert desk.holds.lanes == PRIORITY
    reported = [(line["hold"], line["counts"]) for line in logs if line["event"] == "hold_unreadable"]
    assert reported == [("breaker:relay:default", False), ("operator:lane:priority", True)]
