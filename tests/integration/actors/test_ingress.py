"""The ingress on a real store, in virtual time: one reader at a time, batch after batch, through every trouble."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from galaxy_mail.actors.ingress import LEASE_TTL_MS, Ingress
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.storage.operations.command_stream import BATCH_ENTRIES
from galaxy_mail.storage.operations.identity import Verdict
from tests.integration.intake.desk import Desk, count, entry, malformed_code
from tests.keys import k
from tests.servers import ValkeyServer
from tests.storehouse import Fault, Storehouse

STREAM = "mail:delivery_commands"
BLOCK_MS = 2_000


class Reader:
    """One process' ingress with all that it touches. Its clock is trio's, and so is the store's."""

    def __init__(self, house: Storehouse) -> None:
        self.house = house
        self.desk = Desk(house)
        self.ingress: Ingress | None = None
        self.heartbeat = Heartbeat()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.CancelScope]:
        self.ingress = Ingress(
            stream=self.house.stream,
            intake=self.desk.commands,
            block_ms=BLOCK_MS,
            metrics=self.desk.metrics,
            heartbeat=self.heartbeat,
        )
        scope = trio.CancelScope()

        async def run() -> None:
            assert self.ingress is not None
            with scope:
                await self.ingress.run()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield scope
            scope.cancel()

    def reads(self) -> bool:
        return self.ingress is not None and self.ingress.reading


@pytest.fixture
async def reader(house: Storehouse) -> Reader:
    house.clock.follow_trio()
    return Reader(house)


@pytest.fixture
async def other(empty_valkey: ValkeyServer, reader: Reader) -> AsyncIterator[Reader]:
    """Another process on the same store, by the same clock."""
    other = Storehouse(empty_valkey.socket, owner="other")
    other.clock.follow(reader.house.clock.now_ms)
    await other.epoch.check(other.link.pipeline)
    yield Reader(other)
    other.close()


def publish(house: Storehouse, *names: str, **fields: str) -> None:
    for name in names:
        _, pairs = entry("", name, **fields)
        house.run("XADD", STREAM, "*", *(part for pair in pairs for part in pair))


async def until(condition: Callable[[], bool], within_s: float = 10) -> float:
    """How long it takes, in virtual time."""
    began_s = trio.current_time()
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await trio.sleep(0.01)
    return trio.current_time() - began_s


async def until_read(house: Storehouse, within_s: float = 10) -> float:
    """How long it takes until the offset has reached the stream's end."""

    def is_read() -> bool:
        facts = cast("list[object]", house.run("XINFO", "STREAM", STREAM))
        return house.run("GET", house.keys.offset) == facts[facts.index(b"last-generated-id") + 1]

    return await until(is_read, within_s)


async def test_what_is_published_is_taken_in(reader: Reader, autojump_clock: MockClock) -> None:
    publish(reader.house, "n1", "n2")
    async with reader.running():
        await until_read(reader.house)
        publish(reader.house, "n3")
        assert await until_read(reader.house) <= BLOCK_MS / 1000 + 0.1
    assert count(reader.house) == 3
    assert reader.desk.rung == 3


async def test_a_bad_command_holds_nobody_up(reader: Reader, autojump_clock: MockClock) -> None:
    house = reader.house
    publish(house, "n1", payload_json="{")
    publish(house, "n2")
    async with reader.running():
        await until_read(house)
    [bad] = cast("list[bytes]", house.run("ZRANGE", k.malformed_index, 0, -1))
    assert malformed_code(house, bad.decode()) == "invalid_payload"
    assert count(house) == 1


@pytest.mark.parametrize(
    "backlog", [1, BATCH_ENTRIES - 1, BATCH_ENTRIES, BATCH_ENTRIES + 1, 2 * BATCH_ENTRIES]
)
async def test_after_a_backlog_of_any_length_it_goes_on(
    backlog: int, reader: Reader, autojump_clock: MockClock
) -> None:
    publish(reader.house, *(f"a{number}" for number in range(backlog)))
    async with reader.running():
        await until_read(reader.house)
        assert count(reader.house) == backlog
        await trio.sleep(0.1)
        publish(reader.house, "later")
        assert await until_read(reader.house) <= BLOCK_MS / 1000 + 0.1
        assert count(reader.house) == backlog + 1
        publish(reader.house, "again")
        assert await until_read(reader.house) <= BLOCK_MS / 1000 + 0.1
    assert reader.house.run("GET", reader.house.keys.consumed) == str(backlog + 2).encode()


async def test_idle_it_asks_redis_seldom(reader: Reader, autojump_clock: MockClock) -> None:
    async with reader.running():
        await trio.sleep(1)
        reader.house.link.asked.clear()
        await trio.sleep(20)
        assert len(reader.house.link.asked) < 100


# One reader at a time


async def test_one_of_two_processes_reads(reader: Reader, other: Reader, autojump_clock: MockClock) -> None:
    async with reader.running():
        await trio.sleep(0.1)
        async with other.running():
            publish(reader.house, *(f"n{number}" for number in range(20)))
            await trio.sleep(20)
            assert (reader.reads(), other.reads()) == (True, False)
    assert count(reader.house) == 20
    assert other.desk.rung == 0


async def test_a_stop_lets_the_next_reader_in_within_a_second(
    reader: Reader, other: Reader, autojump_clock: MockClock
) -> None:
    async with reader.running() as scope:
        await until(reader.reads)
        async with other.running():
            await trio.sleep(3)
            assert not other.reads()
            scope.cancel()
            assert await until(other.reads) <= 1.1


async def test_another_takes_over_from_one_that_died_within_five_seconds(
    reader: Reader, other: Reader, autojump_clock: MockClock
) -> None:
    async with reader.running() as scope:
        await until(reader.reads)
        async with other.running():
            await trio.sleep(3)
            for _ in range(100):  # kill -9: it gives up nothing
                reader.house.link.fail("lease", "lost_call")
            scope.cancel()
            publish(reader.house, "n1")
            assert await until(other.reads) <= LEASE_TTL_MS / 1000 + 1.1
            await until_read(other.house)
    assert count(other.house) == 1


async def test_who_can_not_renew_its_lease_stops_reading_when_it_ran_out(
    reader: Reader, autojump_clock: MockClock
) -> None:
    async with reader.running():
        await trio.sleep(0.5)
        for _ in range(8):
            reader.house.link.fail("lease", "refused")
        await trio.sleep(2)
        assert reader.reads(), "its lease is good for three seconds"
        await trio.sleep(2.5)
        assert not reader.reads()
        await trio.sleep(10)
        assert reader.reads()


async def test_who_learns_that_another_has_the_lease_stops_reading(
    reader: Reader, autojump_clock: MockClock
) -> None:
    house = reader.house
    async with reader.running():
        await trio.sleep(0.5)
        assert reader.reads()
        house.run("SET", k.ingress_lease, f"another {house.clock.now_ms() + 3_000}")
        await trio.sleep(1.1)
        assert not reader.reads()
        await trio.sleep(5)
        assert reader.reads()


async def test_two_readers_of_one_stream_take_it_in_once(
    reader: Reader, other: Reader, autojump_clock: MockClock
) -> None:
    """The lease failed to keep them apart; the offset does."""
    publish(reader.house, *(f"n{number}" for number in range(300)))
    reader.house.run("DEL", k.ingress_lease)
    other.house.clock.scripts = lambda: reader.house.clock.now_ms() + 10_000  # a lease looks old to it
    async with reader.running(), other.running():
        await until_read(reader.house, within_s=60)
        publish(reader.house, "last")
        await until_read(reader.house, within_s=60)
    assert count(reader.house) == 301
    assert reader.house.run("GET", reader.house.keys.consumed) == b"301"
    assert reader.desk.rung + other.desk.rung == 301
    assert reader.house.run("ZCARD", k.malformed_index) == 0


# Trouble


@pytest.mark.parametrize("fault", ["refused", "lost_call", "lost_reply"])
@pytest.mark.parametrize(
    "name", ["lease", "GET", "read_commands", "XREAD", "accept", "EXISTS", "stream_state"]
)
async def test_no_failure_of_redis_is_a_crash_or_a_loss(
    name: str, fault: Fault, reader: Reader, autojump_clock: MockClock
) -> None:
    house = reader.house
    publish(house, "n1", "n2")
    house.link.fail(name, fault, fault)
    async with reader.running():
        await until_read(house)
        publish(house, "n3")
        await until_read(house)
        await trio.sleep(10)
        house.link.faults.clear()
        publish(house, "n4")
        await until_read(house)
    assert count(house) == 4
    assert house.run("GET", house.keys.consumed) == b"4"
    assert house.run("ZCARD", k.malformed_index) == 0


async def test_a_full_redis_is_waited_out(reader: Reader, autojump_clock: MockClock) -> None:
    house = reader.house
    publish(house, "n1")
    with capture_logs() as lines:
        async with reader.running():
            await until_read(house)
            for number in (2, 3):
                publish(house, f"n{number}")
                house.run("CONFIG", "SET", "maxmemory", "1")
                await trio.sleep(10)
                assert count(house) == number - 1
                house.run("CONFIG", "SET", "maxmemory", "0")
                await until_read(house)
    assert count(house) == 3
    told = [line["error"] for line in lines if line["event"] == "reading_commands_failed"]
    assert ["OOM" in error for error in told] == [True, True], "once for each time that it was full"


async def test_a_redis_that_is_away_twice_is_told_twice_though_nothing_came_meanwhile(
    reader: Reader, autojump_clock: MockClock
) -> None:
    house = reader.house
    with capture_logs() as lines:
        async with reader.running():
            for _ in range(2):
                faults: list[Fault] = ["lost_call"] * 8
                house.link.fail("lease", *faults)
                await trio.sleep(20)
    assert [line["event"] for line in lines].count("reading_commands_failed") == 2


async def test_a_read_ahead_that_fails_costs_nothing(reader: Reader, autojump_clock: MockClock) -> None:
    house = reader.house
    publish(house, *(f"n{number}" for number in range(BATCH_ENTRIES + 20)))
    house.link.fail("read_commands", "none", "refused")
    async with reader.running():
        await until_read(house)
    assert count(house) == BATCH_ENTRIES + 20


async def test_where_a_batch_stops_what_was_read_ahead_is_read_again(
    reader: Reader, autojump_clock: MockClock
) -> None:
    house = reader.house
    names = [f"n{number}" for number in range(BATCH_ENTRIES + 20)]
    publish(house, *names)
    house.link.fail("accept", "lost_reply")
    async with reader.running():
        await until_read(house)
    assert count(house) == len(names)
    assert house.run("ZCARD", k.malformed_index) == 0


async def test_a_replaced_store_is_not_read(reader: Reader, autojump_clock: MockClock) -> None:
    house = reader.house
    async with reader.running():
        await trio.sleep(1)
        house.run("FLUSHALL")
        publish(house, "n1")
        assert await house.epoch.check(house.link.pipeline) is Verdict.REPLACED
        await trio.sleep(30)
    assert count(house) == 0
    assert house.run("EXISTS", house.keys.offset) == 0


async def test_a_store_that_was_rolled_back_is_read_from_where_it_is(
    reader: Reader, autojump_clock: MockClock
) -> None:
    """A snapshot of before: what was taken in since comes from the stream once more."""
    house = reader.house
    publish(house, "n1")
    async with reader.running():
        await until_read(house)
        house.run("COPY", house.keys.offset, "saved")
        publish(house, "n2")
        await until_read(house)
        house.run("DEL", k.delivery("n2"), k.payload("n2"), k.attempt("n2", 1))
        house.run("DEL", "mail:idempotency:notification:key of n2", k.recipient_index("n2@example.org"))
        house.run("DEL", "mail:idx:idempotency:notification:key of n2")
        for index in ("mail:idx:created_at", "mail:idx:status:queued", "mail:idx:source:notification"):
            house.run("ZREM", index, "n2")
        house.run("ZREM", house.keys.schedule, "n2")
        house.run("RENAME", "saved", house.keys.offset)
        house.run("SET", house.keys.consumed, 1)
        assert await house.epoch.check(house.link.pipeline) is Verdict.ROLLED_BACK
        house.link.fail("XREAD", "refused")  # the connection on which it was noticed is a new one
        await until_read(house)
    assert count(house) == 2


# Losses


async def test_what_was_trimmed_unread_is_told_once(
    reader: Reader, other: Reader, autojump_clock: MockClock
) -> None:
    house = reader.house
    publish(house, *(f"n{number}" for number in range(5)))
    house.run("XTRIM", STREAM, "MAXLEN", 2)
    async with reader.running(), other.running():
        await until_read(house)
        await trio.sleep(20)
        publish(house, *(f"m{number}" for number in range(5)))
        house.run("XTRIM", STREAM, "MAXLEN", 0)
        await trio.sleep(20)
    told = reader.desk.metrics.ingress_gap_total.value() + other.desk.metrics.ingress_gap_total.value()
    assert told == 8 - count(house) + 2
    assert house.run("HGET", k.meta, "stream_lost") == str(told).encode()


async def test_a_stream_that_begins_again_below_the_offset_is_an_alarm(
    reader: Reader, autojump_clock: MockClock
) -> None:
    house = reader.house
    house.run("XADD", STREAM, "9999999999999-0", *(p for pair in entry("", "n1")[1] for p in pair))
    with capture_logs() as lines:
        async with reader.running():
            await until_read(house)
            house.run("DEL", STREAM)
            publish(house, "n2")
            await trio.sleep(10)
        assert [line["event"] for line in lines].count("stream_begins_again_below_offset") == 1
        assert reader.desk.metrics.store_alarms_total.value("stream_restarted") == 1
    assert count(house) == 1
    house.broken = True  # what was published will never be read


# Its end


async def test_its_heart_beats_however_long_nothing_comes(reader: Reader, autojump_clock: MockClock) -> None:
    async with reader.running():
        for _ in range(50):
            await trio.sleep(5)
            assert reader.heartbeat.due_s > trio.current_time()


async def test_a_stop_while_redis_is_away_is_over_in_time(reader: Reader, autojump_clock: MockClock) -> None:
    async with reader.running() as scope:
        await trio.sleep(1)
        for _ in range(10):
            reader.house.link.fail("lease", "refused")
        began_s = trio.current_time()
        scope.cancel()
    assert trio.current_time() - began_s <= 1


@pytest.mark.parametrize("turn", range(6))
async def test_cut_after_any_number_of_steps_it_loses_and_doubles_nothing(
    turn: int, reader: Reader, autojump_clock: MockClock
) -> None:
    house = reader.house
    house.link.steps = 2
    publish(house, *(f"n{number}" for number in range(7)), "n3")
    publish(house, "n4", idempotency_key="another")
    for steps in range(turn, 60, 6):
        async with Reader(house).running():
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
    async with reader.running():
        await until_read(house)
    assert count(house) == 7
    assert house.run("GET", house.keys.consumed) == b"9"
    assert house.run("ZCARD", k.malformed_index) == 1
