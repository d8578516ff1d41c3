"""The janitor's chores: each in its time, none kept from the others, nothing a crash that is only trouble."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog.testing
import trio
from trio.testing import MockClock

from galaxy_mail.actors.janitor import (
    PURGE_EVERY_S,
    PURGE_FOR_S,
    RECONCILE_EVERY_S,
    SAMPLE_EVERY_S,
    TRIM_EVERY_S,
    Janitor,
)
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.records import Lane
from galaxy_mail.storage.links.errors import RedisUnavailable
from galaxy_mail.storage.operations.command_stream import StreamState
from galaxy_mail.storage.operations.upkeep import BATCH, Depths, Repaired

DEPTHS = Depths(scheduled=dict.fromkeys(Lane, 3), oldest_due_ms=dict.fromkeys(Lane), claims=2)
STATE = StreamState(offset="1-0", length=9, last_entry_id="9-0", lag=8, lost=0, restarted=False, consumed=1)


class Store:
    """Upkeep and stream in one: what was asked for, and what it finds."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.trouble: dict[str, Exception] = {}
        self.takes_s: dict[str, float] = {}
        self.past_their_time = 0
        self.repaired = Repaired()
        self.kept_ms: list[int] = []

    async def _call(self, name: str) -> None:
        self.asked[name] += 1
        await trio.sleep(self.takes_s.get(name, 0))
        if name in self.trouble:
            raise self.trouble[name]

    async def state(self) -> StreamState:
        await self._call("state")
        return STATE

    async def depths(self) -> Depths:
        await self._call("depths")
        return DEPTHS

    async def purge(self) -> int:
        await self._call("forget")
        gone = min(BATCH, self.past_their_time)
        self.past_their_time -= gone
        return gone

    async def purge_malformed(self) -> int:
        await self._call("forget_malformed")
        return 0

    async def reconcile(self) -> Repaired:
        await self._call("reconcile")
        return self.repaired

    async def trim(self, *, keep_ms: int) -> int:
        await self._call("trim")
        self.kept_ms.append(keep_ms)
        return 0


class Desk:
    def __init__(self) -> None:
        self.store = Store()
        self.samples: list[tuple[Depths, int]] = []
        self.heartbeat = Heartbeat()
        self.janitor = Janitor(
            upkeep=self.store,  # type: ignore[arg-type]  # a fake with all that the janitor asks for
            stream=self.store,  # type: ignore[arg-type]  # likewise
            stream_kept_ms=1234,
            on_sample=lambda depths, lag: self.samples.append((depths, lag)),
            heartbeat=self.heartbeat,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.janitor.run)
            yield
            nursery.cancel_scope.cancel()


async def test_every_task_is_done_at_once_and_then_in_its_time(autojump_clock: MockClock) -> None:
    desk = Desk()
    async with desk.running():
        await trio.sleep(0.1)
        assert set(desk.store.asked.values()) == {1}
        await trio.sleep(60)
    assert desk.store.asked["depths"] == 1 + 60 / SAMPLE_EVERY_S
    assert desk.store.asked["forget"] == 1 + 60 / PURGE_EVERY_S
    assert desk.store.asked["reconcile"] == 1 + 60 / RECONCILE_EVERY_S
    assert desk.store.asked["trim"] == 1 + 60 / TRIM_EVERY_S
    assert desk.samples[0] == (DEPTHS, 8)
    assert set(desk.store.kept_ms) == {1234}


@pytest.mark.parametrize("name", ["state", "depths", "forget", "forget_malformed", "reconcile", "trim"])
async def test_an_error_in_one_task_delays_no_other(name: str, autojump_clock: MockClock) -> None:
    desk = Desk()
    desk.store.trouble[name] = RedisUnavailable("away")
    async with desk.running():
        await trio.sleep(60.1)
        del desk.store.trouble[name]
        await trio.sleep(60)
    for other, every_s in (
        ("forget", PURGE_EVERY_S),
        ("reconcile", RECONCILE_EVERY_S),
        ("trim", TRIM_EVERY_S),
    ):
        assert desk.store.asked[other] == 1 + 120 // every_s
    assert desk.samples


async def test_a_bug_is_a_crash(autojump_clock: MockClock) -> None:
    desk = Desk()
    desk.store.trouble["reconcile"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await desk.janitor.run()


async def test_it_forgets_as_much_as_there_is_within_a_bound(autojump_clock: MockClock) -> None:
    desk = Desk()
    desk.store.past_their_time = 10 * BATCH + 7
    assert await desk.janitor.purge() == 10 * BATCH + 7
    assert desk.store.asked["forget"] == 11
    desk.store.past_their_time = 10**9
    desk.store.takes_s["forget"] = 0.1
    began_s = trio.current_time()
    await desk.janitor.purge()
    assert PURGE_FOR_S <= trio.current_time() - began_s <= PURGE_FOR_S + 0.2


async def test_a_flood_to_purge_delays_no_other_task(autojump_clock: MockClock) -> None:
    desk = Desk()
    desk.store.past_their_time = 10**9
    desk.store.takes_s["forget"] = 0.1
    async with desk.running():
        await trio.sleep(60)
    assert len(desk.samples) >= 15
    assert desk.store.asked["trim"] >= 2


async def test_its_heart_beats_while_its_chores_take_their_time(autojump_clock: MockClock) -> None:
    desk = Desk()
    for name in ("state", "depths", "forget", "reconcile", "trim"):
        desk.store.takes_s[name] = 5  # the gateway's deadline
    desk.store.past_their_time = 10**9
    async with desk.running():
        for _ in range(200):
            await trio.sleep(1)
            assert desk.heartbeat.due_s > trio.current_time()


async def test_what_it_repaired_is_logged_by_name(autojump_clock: MockClock) -> None:
    desk = Desk()
    desk.store.repaired = Repaired(
        rescheduled=("a",), unscheduled=("b",), not_understood=("c",), requeued=("d",)
    )
    with structlog.testing.capture_logs() as logs:
        await desk.janitor.reconcile()
    assert [(line["event"], line["delivery_id"]) for line in logs] == [
        ("delivery_was_not_scheduled", "a"),
        ("finished_delivery_was_scheduled", "b"),
        ("scheduled_without_record", "c"),
        ("parked_delivery_taken_up", "d"),
    ]
