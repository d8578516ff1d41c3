"""The clock that follows Redis': how it is set, when it is set again, and that it doesn't run backwards."""

from collections.abc import Sequence

import pytest

from galaxy_mail.storage.links.errors import RedisRefused
from galaxy_mail.storage.links.protocol import Call, Command, Reply
from galaxy_mail.storage.links.redis_clock import HELD_MS, RedisClock

MS = 1_000_000
REDIS_EPOCH_NS = 1_111_111_111_111_111_000  # odd: mixed-up clocks show at once


class World:
    """A local clock, and a Redis whose TIME is `ahead_ms` before it, half of each round trip away."""

    def __init__(self) -> None:
        self.local_ns = 5_000_000_000
        self.ahead_ns = REDIS_EPOCH_NS
        self.round_trips_ms: list[float] = []

    def monotonic_ns(self) -> int:
        return self.local_ns

    async def pipeline(self, commands: Sequence[Command | Call]) -> list[Reply]:
        assert commands == [("TIME",)]
        round_trip_ns = round((self.round_trips_ms.pop(0) if self.round_trips_ms else 1) * MS)
        self.local_ns += round_trip_ns // 2
        redis_us = (self.local_ns + self.ahead_ns) // 1000
        self.local_ns += round_trip_ns - round_trip_ns // 2
        return [[str(redis_us // 1_000_000).encode(), str(redis_us % 1_000_000).encode()]]

    def redis_ms(self) -> int:
        return (self.local_ns + self.ahead_ns) // MS

    def pass_ms(self, ms: float) -> None:
        self.local_ns += round(ms * MS)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def clock(world: World) -> RedisClock:
    return RedisClock(world.monotonic_ns)


async def test_it_shows_redis_time_and_moves_with_the_local_clock(world: World, clock: RedisClock) -> None:
    await clock.measure(world.pipeline)
    assert clock.error_ms == 0.5
    for step_ms in (0, 1, 999, 123_456):
        world.pass_ms(step_ms)
        assert clock.now_ms() == world.redis_ms()


async def test_the_quickest_of_its_questions_counts(world: World, clock: RedisClock) -> None:
    world.round_trips_ms = [40, 0.2, 90]
    await clock.measure(world.pipeline)
    assert clock.error_ms == pytest.approx(0.1)


async def test_a_slow_measurement_does_not_spoil_a_good_one(world: World, clock: RedisClock) -> None:
    await clock.measure(world.pipeline)
    world.pass_ms(10_000)
    world.round_trips_ms = [200, 300, 400]
    await clock.measure(world.pipeline)
    assert clock.error_ms == 0.5
    assert clock.now_ms() == world.redis_ms()


async def test_after_hours_any_measurement_is_better_than_the_old_one(
    world: World, clock: RedisClock
) -> None:
    await clock.measure(world.pipeline)
    world.pass_ms(3_600_000)
    world.ahead_ns += 200 * MS  # the clocks have parted
    world.round_trips_ms = [50, 60, 70]
    await clock.measure(world.pipeline)
    assert clock.error_ms == 25
    assert clock.now_ms() == pytest.approx(world.redis_ms(), abs=25)


async def test_a_clock_that_jumped_is_followed_however_slow_the_answer_was(
    world: World, clock: RedisClock
) -> None:
    await clock.measure(world.pipeline)
    world.ahead_ns += 60_000 * MS
    world.round_trips_ms = [200, 200, 200]
    await clock.measure(world.pipeline)
    assert clock.now_ms() == pytest.approx(world.redis_ms(), abs=100)


@pytest.mark.parametrize("back_ms", [1, 50, HELD_MS])
async def test_a_small_step_back_is_waited_out(back_ms: int, world: World, clock: RedisClock) -> None:
    await clock.measure(world.pipeline)
    before = clock.now_ms()
    world.ahead_ns -= (back_ms + 3) * MS
    await clock.measure(world.pipeline)  # takes 3 ms
    assert clock.now_ms() == before
    world.pass_ms(back_ms / 2)
    assert clock.now_ms() == before
    world.pass_ms(back_ms + 1)
    assert clock.now_ms() == world.redis_ms()
    assert clock.now_ms() > before


async def test_a_large_step_back_is_followed_since_due_times_are_judged_there(
    world: World, clock: RedisClock
) -> None:
    await clock.measure(world.pipeline)
    clock.now_ms()
    world.ahead_ns -= 3_600_000 * MS
    await clock.measure(world.pipeline)
    assert clock.now_ms() == world.redis_ms()


async def test_a_server_that_does_not_tell_its_time_leaves_the_clock_as_it_was(
    world: World, clock: RedisClock
) -> None:
    async def refused(commands: Sequence[Command | Call]) -> list[Reply]:
        return [RedisRefused("NOPERM this user has no permissions to run the 'time' command")]

    before = clock.offset_ms
    await clock.measure(refused)
    assert clock.offset_ms == pytest.approx(before, abs=1000)
    assert clock.error_ms is None
