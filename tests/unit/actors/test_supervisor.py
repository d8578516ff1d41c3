"""Restarts, their bound, kills, states and heartbeats."""

from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from random import Random

import pytest
import trio
import trio.lowlevel
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from galaxy_mail.actors.supervisor import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    STEADY_AFTER_S,
    Actor,
    ActorReport,
    ActorStatus,
    Child,
    Heartbeat,
    RestartsExhausted,
    Supervisor,
)

Body = Callable[[Heartbeat, int], Awaitable[None]]


class Played(Actor):
    """An actor that does what the test says; `run_no` counts its runs from 1."""

    def __init__(self, body: Body, heartbeat: Heartbeat, run_no: int) -> None:
        self.body, self.heartbeat, self.run_no = body, heartbeat, run_no

    async def run(self) -> None:
        await self.body(self.heartbeat, self.run_no)


class Cast:
    """Children that play a body, and when each of their runs began."""

    def __init__(self) -> None:
        self.began_s: list[float] = []

    def child(self, body: Body, name: str = "actor", within_s: float = 30.0) -> Child:
        def build(heartbeat: Heartbeat) -> Actor:
            self.began_s.append(trio.current_time())
            return Played(body, heartbeat, len(self.began_s))

        return Child(name=name, build=build, turns_within_s=within_s)


@pytest.fixture
def cast() -> Cast:
    return Cast()


async def ends(_heartbeat: Heartbeat, _run_no: int) -> None:
    await trio.lowlevel.checkpoint()


async def forever(heartbeat: Heartbeat, _run_no: int) -> None:
    while True:
        heartbeat.beat()
        await trio.sleep(1)


def only(supervisor: Supervisor) -> ActorReport:
    [report] = supervisor.statistics()
    return report


async def test_an_actor_that_returns_is_not_restarted(cast: Cast, autojump_clock: MockClock) -> None:
    async def returns(_heartbeat: Heartbeat, _run_no: int) -> None:
        await trio.sleep(1)

    supervisor = Supervisor()
    await supervisor.keep_alive(cast.child(returns))
    assert len(cast.began_s) == 1
    assert only(supervisor) == ActorReport(
        name="actor", status=ActorStatus.STOPPED, restarts=0, last_error=None, turned_s=None
    )


@pytest.mark.parametrize(
    "error", [ValueError("x"), ExceptionGroup("nursery", [OSError("a"), ValueError("b"), OSError("c")])]
)
async def test_an_actor_that_crashes_is_built_anew(
    cast: Cast, autojump_clock: MockClock, error: Exception
) -> None:
    async def crashes_twice(_heartbeat: Heartbeat, run_no: int) -> None:
        if run_no <= 2:
            raise error

    restarted: list[str] = []
    supervisor = Supervisor(on_restart=restarted.append)
    with capture_logs() as lines:
        await supervisor.keep_alive(cast.child(crashes_twice, name="sender-12"))
    assert len(cast.began_s) == 3
    assert restarted == ["sender", "sender"]
    report = only(supervisor)
    assert report.restarts == 2
    assert report.last_error == ("OSError, ValueError" if isinstance(error, ExceptionGroup) else "ValueError")
    assert [(line["event"], line["actor"], line["exc_info"]) for line in lines] == [
        ("actor_crashed", "sender-12", error)
    ] * 2


async def test_an_actor_that_cannot_be_built_is_tried_again(autojump_clock: MockClock) -> None:
    builds = 0

    def build(heartbeat: Heartbeat) -> Actor:
        nonlocal builds
        builds += 1
        if builds == 1:
            raise OSError("no such socket")
        return Played(ends, heartbeat, builds)

    with capture_logs():
        await Supervisor().keep_alive(Child(name="gateway", build=build))
    assert builds == 2


async def test_pauses_double_up_to_the_longest_and_then_it_is_enough(
    cast: Cast, autojump_clock: MockClock
) -> None:
    async def crashes(_heartbeat: Heartbeat, run_no: int) -> None:
        raise ValueError(f"run {run_no}")

    with (
        capture_logs(),
        pytest.raises(
            RestartsExhausted, match="actor actor crashed, and the limit of 10 crashes in a row"
        ) as error,
    ):
        await Supervisor(random=Random(7)).keep_alive(cast.child(crashes))
    assert str(error.value.__cause__) == "run 10"
    assert len(cast.began_s) == 10
    assert cast.began_s[-1] - cast.began_s[0] > 20, "time enough for what is only away for a moment"
    pauses = [after - before for before, after in zip(cast.began_s, cast.began_s[1:], strict=False)]
    for number, pause_s in enumerate(pauses):
        longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**number)
        assert longest_s / 2 <= pause_s <= longest_s
    assert (
        len(
            {
                round(pause_s / min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**n), 6)
                for n, pause_s in enumerate(pauses)
            }
        )
        > 6
    )


@pytest.mark.parametrize(("seed", "same"), [(1, True), (2, False)])
async def test_a_seed_makes_pauses_repeatable(autojump_clock: MockClock, seed: int, same: bool) -> None:
    async def crashes(_heartbeat: Heartbeat, run_no: int) -> None:
        if run_no <= 4:
            raise ValueError

    async def pauses(seed: int) -> list[float]:
        cast = Cast()
        with capture_logs():
            await Supervisor(random=Random(seed)).keep_alive(cast.child(crashes))
        return [round(at_s - cast.began_s[0], 6) for at_s in cast.began_s]

    assert (await pauses(1) == await pauses(seed)) is same


async def test_a_steady_run_forgives_earlier_crashes(cast: Cast, autojump_clock: MockClock) -> None:
    async def crashes(_heartbeat: Heartbeat, run_no: int) -> None:
        if run_no == 6:
            await trio.sleep(STEADY_AFTER_S + 1)
        if run_no <= 6:
            raise ValueError

    with capture_logs():
        await Supervisor().keep_alive(cast.child(crashes))
    fifth_pause_s = cast.began_s[5] - cast.began_s[4]
    sixth_pause_s = cast.began_s[6] - cast.began_s[5] - STEADY_AFTER_S - 1
    assert sixth_pause_s <= FIRST_PAUSE_S + 1e-6 < fifth_pause_s


async def test_restarts_are_bounded_over_all_children(autojump_clock: MockClock) -> None:
    casts = [Cast(), Cast()]

    async def crashes(_heartbeat: Heartbeat, _run_no: int) -> None:
        raise ValueError("why")

    supervisor = Supervisor(restarts_max=6)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for number, cast in enumerate(casts):
                nursery.start_soon(supervisor.keep_alive, cast.child(crashes, name=f"sender-{number}"))

    with capture_logs() as lines, pytest.raises(ExceptionGroup) as exhausted:
        await run()
    assert [line["event"] for line in lines] == ["actor_crashed"] * 7, (
        "six restarts, and the crash that was too many"
    )
    [error] = exhausted.value.exceptions
    assert isinstance(error, RestartsExhausted)
    assert error.actor in {"sender-0", "sender-1"}
    assert error.limit == "6 restarts of actors within 60 s"
    assert str(error.__cause__) == "why"
    assert {report.status for report in supervisor.statistics()} == {ActorStatus.STOPPED}


async def test_what_all_slots_share_may_crash_them_all_at_once(autojump_clock: MockClock) -> None:
    slots = [Cast() for _ in range(100)]

    async def crashes_twice(_heartbeat: Heartbeat, run_no: int) -> None:
        if run_no <= 2:
            raise ValueError

    supervisor = Supervisor()
    with capture_logs():
        async with trio.open_nursery() as nursery:
            for number, cast in enumerate(slots):
                nursery.start_soon(supervisor.keep_alive, cast.child(crashes_twice, name=f"sender-{number}"))
    assert [len(cast.began_s) for cast in slots] == [3] * 100


async def test_restarts_spread_over_time_are_no_reason_to_end(cast: Cast, autojump_clock: MockClock) -> None:
    async def crashes_seldom(_heartbeat: Heartbeat, run_no: int) -> None:
        await trio.sleep(31)
        if run_no <= 20:
            raise ValueError

    with capture_logs():
        await Supervisor(restarts_max=2, window_s=60).keep_alive(cast.child(crashes_seldom))
    assert len(cast.began_s) == 21


async def test_a_killed_actor_is_restarted_and_others_go_on(autojump_clock: MockClock) -> None:
    casts = {"scheduler": Cast(), "janitor": Cast()}
    supervisor = Supervisor()
    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            for name, cast in casts.items():
                nursery.start_soon(supervisor.keep_alive, cast.child(forever, name=name))
            await trio.sleep(5.5)
            assert supervisor.kill("scheduler")
            await trio.sleep(FIRST_PAUSE_S / 4)  # the pause is at least half of the first one
            janitor, scheduler = supervisor.statistics()
            assert (scheduler.status, scheduler.last_error) == (ActorStatus.BACKING_OFF, "Killed")
            assert not supervisor.kill("scheduler"), "it does not run now"
            assert janitor.status is ActorStatus.RUNNING
            await trio.sleep(1)
            assert [report.status for report in supervisor.statistics()] == [ActorStatus.RUNNING] * 2
            nursery.cancel_scope.cancel()
    assert [len(cast.began_s) for cast in casts.values()] == [2, 1]
    assert [line["event"] for line in lines] == ["actor_killed"]


async def test_a_killed_actor_that_winds_up_by_itself_is_restarted_too(
    cast: Cast, autojump_clock: MockClock
) -> None:
    async def ends_well(_heartbeat: Heartbeat, run_no: int) -> None:
        if run_no == 1:
            with trio.CancelScope(shield=True):
                await trio.sleep(10)

    supervisor = Supervisor()
    with capture_logs():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.keep_alive, cast.child(ends_well))
            await trio.sleep(1)
            supervisor.kill("actor")
    assert len(cast.began_s) == 2


async def test_kills_neither_lengthen_the_pauses_nor_count_as_crashes_in_a_row(
    cast: Cast, autojump_clock: MockClock
) -> None:
    supervisor = Supervisor()
    with capture_logs():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.keep_alive, cast.child(forever))
            for _ in range(20):
                await trio.sleep(FIRST_PAUSE_S * 1.5)
                assert supervisor.kill("actor")
            await trio.sleep(FIRST_PAUSE_S * 1.5)
            nursery.cancel_scope.cancel()
    assert len(cast.began_s) == 21


async def test_a_kill_counts_toward_the_bound(cast: Cast, autojump_clock: MockClock) -> None:
    supervisor = Supervisor(restarts_max=1)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.keep_alive, cast.child(forever))
            for _ in range(2):
                await trio.sleep(2)
                supervisor.kill("actor")

    with capture_logs(), pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(RestartsExhausted)


async def test_nobody_can_kill_whom_nobody_knows() -> None:
    with pytest.raises(KeyError):
        Supervisor().kill("nobody")


async def test_two_actors_cannot_have_one_name(cast: Cast) -> None:
    supervisor = Supervisor()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.keep_alive, cast.child(forever))
        await wait_all_tasks_blocked()
        with pytest.raises(ValueError, match="already"):
            await supervisor.keep_alive(cast.child(forever))
        assert only(supervisor).status is ActorStatus.RUNNING
        nursery.cancel_scope.cancel()


async def test_a_stop_restarts_nothing_and_is_not_swallowed(cast: Cast, autojump_clock: MockClock) -> None:
    supervisor = Supervisor()
    after = False
    with trio.move_on_after(5) as stop:
        await supervisor.keep_alive(cast.child(forever))
        after = True
    assert stop.cancelled_caught
    assert not after
    assert len(cast.began_s) == 1
    assert only(supervisor).status is ActorStatus.STOPPED


async def crashes_at_the_end(_heartbeat: Heartbeat, _run_no: int) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("while stopping")


async def crashes_at_the_end_in_a_nursery(heartbeat: Heartbeat, run_no: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crashes_at_the_end, heartbeat, run_no)
        nursery.start_soon(trio.sleep_forever)


@pytest.mark.parametrize("body", [crashes_at_the_end, crashes_at_the_end_in_a_nursery])
async def test_a_crash_during_a_stop_is_told_and_restarts_nothing(
    cast: Cast, autojump_clock: MockClock, body: Body
) -> None:
    restarted: list[str] = []
    supervisor = Supervisor(on_restart=restarted.append, restarts_max=0)
    with capture_logs() as lines, trio.move_on_after(5) as stop:
        await supervisor.keep_alive(cast.child(body))
    assert stop.cancelled_caught
    assert restarted == []
    assert len(cast.began_s) == 1
    assert [line["event"] for line in lines] == ["actor_crashed"]
    assert only(supervisor).last_error == "ValueError"


async def test_a_crash_while_being_killed_is_a_crash(cast: Cast, autojump_clock: MockClock) -> None:
    async def body(heartbeat: Heartbeat, run_no: int) -> None:
        if run_no == 1:
            await crashes_at_the_end_in_a_nursery(heartbeat, run_no)

    supervisor = Supervisor()
    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.keep_alive, cast.child(body))
            await wait_all_tasks_blocked()
            supervisor.kill("actor")
    assert [line["event"] for line in lines] == ["actor_crashed"]
    assert len(cast.began_s) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_process_passes(cast: Cast, error: type[BaseException]) -> None:
    async def interrupted(_heartbeat: Heartbeat, _run_no: int) -> None:
        raise BaseExceptionGroup("nursery", [error(), ValueError("too")])

    with capture_logs() as lines, pytest.raises(BaseExceptionGroup) as raised:
        await Supervisor().keep_alive(cast.child(interrupted))
    assert [type(inner) for inner in raised.value.exceptions] == [error]
    assert [line["event"] for line in lines] == ["actor_crashed"]


async def test_a_stop_ends_a_pause(cast: Cast, autojump_clock: MockClock) -> None:
    async def crashes(_heartbeat: Heartbeat, _run_no: int) -> None:
        raise ValueError

    supervisor = Supervisor(random=Random(1))
    with capture_logs(), trio.move_on_after(FIRST_PAUSE_S / 4) as stop:
        await supervisor.keep_alive(cast.child(crashes))
    assert stop.cancelled_caught
    assert len(cast.began_s) == 1


async def test_who_is_retired_is_not_started_anew(cast: Cast, autojump_clock: MockClock) -> None:
    """Neither what is in a pause nor what crashes afterwards; what still runs comes to its own end."""
    retired = trio.Event()

    async def crashes_later(_heartbeat: Heartbeat, _run_no: int) -> None:
        await retired.wait()
        raise ValueError("after all")

    async def crashes(_heartbeat: Heartbeat, _run_no: int) -> None:
        raise ValueError("at once")

    async def goes_on(_heartbeat: Heartbeat, _run_no: int) -> None:
        await retired.wait()
        await trio.sleep(1_000)

    supervisor = Supervisor()
    with capture_logs():
        async with trio.open_nursery() as nursery:
            for body in (crashes_later, crashes, goes_on):
                child = cast.child(body, name=body.__name__)
                nursery.start_soon(partial(supervisor.keep_alive, child, retired=retired))
            await wait_all_tasks_blocked()
            assert len(cast.began_s) == 3
            before_s = trio.current_time()
            retired.set()
            await wait_all_tasks_blocked()
            statuses = {report.name: report.status for report in supervisor.statistics()}
            assert statuses == {
                "crashes": ActorStatus.STOPPED,
                "crashes_later": ActorStatus.STOPPED,
                "goes_on": ActorStatus.STARTING,
            }
            assert trio.current_time() == before_s
    assert len(cast.began_s) == 3
    assert trio.current_time() == before_s + 1_000
    assert all(report.restarts == 0 for report in supervisor.statistics())


async def test_an_actor_is_starting_until_its_loop_has_turned(cast: Cast, autojump_clock: MockClock) -> None:
    async def slow_to_start(heartbeat: Heartbeat, run_no: int) -> None:
        await trio.sleep(3)
        await forever(heartbeat, run_no)

    supervisor = Supervisor()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.keep_alive, cast.child(slow_to_start))
        await trio.sleep(2.5)
        assert only(supervisor).status is ActorStatus.STARTING
        await trio.sleep(1)
        assert only(supervisor).status is ActorStatus.RUNNING
        assert only(supervisor).turned_s == pytest.approx(3 + cast.began_s[0])
        nursery.cancel_scope.cancel()


async def test_an_actor_without_a_loop_runs_at_once_and_is_never_stuck(
    cast: Cast, autojump_clock: MockClock
) -> None:
    async def only_waits(_heartbeat: Heartbeat, _run_no: int) -> None:
        await trio.sleep_forever()

    supervisor = Supervisor()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.keep_alive, cast.child(only_waits, within_s=inf))
        await wait_all_tasks_blocked()
        assert only(supervisor).status is ActorStatus.RUNNING
        await trio.sleep(10_000)
        assert supervisor.stuck() == ()
        nursery.cancel_scope.cancel()


async def test_an_actor_whose_loop_does_not_turn_is_stuck(autojump_clock: MockClock) -> None:
    async def hangs(heartbeat: Heartbeat, _run_no: int) -> None:
        heartbeat.beat()
        await trio.sleep_forever()

    async def never_turns(_heartbeat: Heartbeat, _run_no: int) -> None:
        await trio.sleep_forever()

    supervisor = Supervisor()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.keep_alive, Cast().child(forever, name="turns", within_s=5))
        nursery.start_soon(supervisor.keep_alive, Cast().child(hangs, name="hangs", within_s=5))
        nursery.start_soon(supervisor.keep_alive, Cast().child(never_turns, name="never", within_s=8))
        await trio.sleep(4.5)
        assert supervisor.stuck() == ()
        assert set(supervisor.stuck(trio.current_time() + 2)) == {"hangs"}, "turns has beaten since"
        await trio.sleep(2)
        assert set(supervisor.stuck()) == {"hangs"}
        await trio.sleep(4)
        assert set(supervisor.stuck()) == {"hangs", "never"}
        with capture_logs():
            supervisor.kill("hangs")
            await trio.sleep(FIRST_PAUSE_S / 4)
            assert set(supervisor.stuck()) == {"never"}, "what will be started anew is not stuck"
        nursery.cancel_scope.cancel()
    assert supervisor.stuck(inf) == (), "what has stopped is not stuck"


async def test_a_beat_promises_the_next_one(autojump_clock: MockClock) -> None:
    heartbeat = Heartbeat(within_s=5)
    started_s = trio.current_time()
    assert heartbeat.due_s == started_s + 5
    await trio.sleep(2)
    heartbeat.beat()
    assert (heartbeat.turned_s, heartbeat.due_s) == (started_s + 2, started_s + 7)
    heartbeat.beat(within_s=75)
    assert heartbeat.due_s == started_s + 77
    heartbeat.rest()
    assert heartbeat.due_s == inf
    heartbeat.beat()
    assert heartbeat.due_s == started_s + 7
    assert heartbeat.beats == 4


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sender-0", "sender"),
        ("sender-12", "sender"),
        ("gateway", "gateway"),
        ("redis-gateway", "redis-gateway"),
        ("-1", "-1"),
    ],
)
def test_a_kind_is_a_name_without_its_number(name: str, kind: str) -> None:
    def build(heartbeat: Heartbeat) -> Actor:
        return Played(ends, heartbeat, 1)

    assert Child(name=name, build=build).kind == kind
