"""What callers see of a queue: deadlines, refusals, leaving, and scripts that the server lacks."""

from collections.abc import AsyncIterator, Sequence

import pytest
import trio
import trio.testing

from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisRefused, RedisUnavailable
from galaxy_mail.storage.links.protocol import Call, Command, Reply
from galaxy_mail.storage.links.request_queue import Request, RequestQueue, pack
from galaxy_mail.storage.links.script import Script

ONE = Script.of("one", "return 1")
TWO = Script.of("two", "return 2")
PONG: list[Reply] = [b"PONG"]
NOSCRIPT = "NOSCRIPT No matching script."


@pytest.fixture(params=["on its own", "deadlines kept"])
async def queue(request: pytest.FixtureRequest, nursery: trio.Nursery) -> AsyncIterator[RequestQueue]:
    """Callers see no difference between a queue whose deadlines are kept for all and one that leaves it to them."""
    queue = RequestQueue(timeout_s=5, size=2)
    if request.param == "deadlines kept":
        nursery.start_soon(queue.keep_deadlines)
        await trio.testing.wait_all_tasks_blocked()
    yield queue
    queue.close()
    queue.outlet.close()


async def answer(queue: RequestQueue, replies: list[Reply]) -> Request:
    """Takes the next request as a link would, and gives these replies to it."""
    request = await queue.outlet.receive()
    request.written = True
    request.replies.extend(replies)
    request.refused = any(isinstance(reply, RedisRefused) for reply in replies)
    request.settle()
    return request


def test_a_call_is_packed_as_evalsha_with_its_keys_counted() -> None:
    packed = pack(Call(ONE, ("k", b"\xff"), (7, "ü")))
    sha = ONE.sha.encode()
    assert packed == (
        b"*7\r\n$7\r\nEVALSHA\r\n$40\r\n"
        + sha
        + b"\r\n$1\r\n2\r\n$1\r\nk\r\n$1\r\n\xff\r\n$1\r\n7\r\n$2\r\n\xc3\xbc\r\n"
    )


async def test_a_request_that_nobody_writes_is_certainly_not_executed(
    queue: RequestQueue, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(RedisUnavailable, match="within 5 s"):
        await queue.pipeline([("PING",)])
    assert trio.current_time() == 5
    assert queue.outlet.receive_nowait().abandoned, "the link has to see that nobody waits for it"


async def test_a_request_that_was_written_is_unknown_at_its_deadline(
    queue: RequestQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:

        async def link() -> None:
            (await queue.outlet.receive()).written = True

        nursery.start_soon(link)
        with pytest.raises(OutcomeUnknown, match=r"within 0\.5 s"):
            await queue.pipeline([("PING",)], timeout_s=0.5)
    assert trio.current_time() == 0.5


@pytest.mark.parametrize("timeout_s", [0.5, 5, 7.25])
async def test_every_request_has_its_own_deadline(
    queue: RequestQueue, autojump_clock: trio.testing.MockClock, timeout_s: float
) -> None:
    ended: dict[float, float] = {}

    async def caller(starts_at: float) -> None:
        await trio.sleep_until(starts_at)
        with pytest.raises(RedisUnavailable):
            await queue.pipeline([("PING",)], timeout_s=timeout_s)
        ended[starts_at] = trio.current_time()

    async with trio.open_nursery() as nursery:
        for starts_at in (0.0, 0.25, 3.0, 6.5, 40.0):
            nursery.start_soon(caller, starts_at)
    assert ended == {starts_at: starts_at + timeout_s for starts_at in ended}
    assert len(ended) == 5


async def test_an_answer_that_comes_before_its_late_caller_runs_counts() -> None:
    request = Request([("PING",)], 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(request.wait_settled)
        await trio.testing.wait_all_tasks_blocked()
        request.expire()
        request.settle()
    assert request.settled
    assert request.error is None


async def test_who_waits_while_the_keeping_ends_is_answered_or_refused(queue: RequestQueue) -> None:
    outcomes: list[str] = []

    async def caller() -> None:
        try:
            await queue.pipeline([("PING",)])
            outcomes.append("answered")
        except RedisUnavailable as unavailable:
            outcomes.append(str(unavailable))

    async with trio.open_nursery() as callers:
        async with trio.open_nursery() as link:
            link.start_soon(queue.keep_deadlines)
            await trio.testing.wait_all_tasks_blocked()
            callers.start_soon(caller)
            callers.start_soon(caller)
            await trio.testing.wait_all_tasks_blocked()
            link.cancel_scope.cancel()
        await answer(queue, PONG)
        queue.refuse("stopped")
    assert sorted(outcomes) == ["answered", "stopped"]


async def test_a_full_queue_keeps_callers_outside_within_their_deadline(
    queue: RequestQueue, autojump_clock: trio.testing.MockClock
) -> None:
    outcomes: list[str] = []

    async def caller(name: str) -> None:
        try:
            await queue.pipeline([("ECHO", name)])
            outcomes.append(f"{name} answered")
        except RedisUnavailable:
            outcomes.append(f"{name} unavailable")

    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c", "d"):
            nursery.start_soon(caller, name)
            await trio.testing.wait_all_tasks_blocked()
        assert len(queue) == 2
        for _ in range(3):  # the third comes in from outside
            await answer(queue, [b"ok"])
            await trio.testing.wait_all_tasks_blocked()
    assert outcomes == ["a answered", "b answered", "c answered", "d unavailable"]


async def test_refusing_gives_back_what_waits_inside_and_outside_and_what_comes_later(
    queue: RequestQueue,
) -> None:
    outcomes: list[str] = []

    async def caller() -> None:
        with pytest.raises(RedisUnavailable) as unavailable:
            await queue.pipeline([("PING",)])
        outcomes.append(str(unavailable.value))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(caller)
        await trio.testing.wait_all_tasks_blocked()
        queue.refuse("away")
        nursery.start_soon(caller)
    assert outcomes == ["away"] * 6
    queue.take_again()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, queue, PONG)
        assert await queue.pipeline([("PING",)]) == [b"PONG"]


async def test_a_caller_who_left_gets_nothing_and_settling_its_request_disturbs_nobody(
    queue: RequestQueue,
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.pipeline, [("PING",)])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    request = await answer(queue, [b"PONG"])
    assert request.abandoned


async def test_only_the_first_settlement_counts() -> None:
    request = Request([("PING",)], 1)
    request.settle()
    request.settle(OutcomeUnknown("late"))
    await request.wait_settled()
    assert request.error is None


async def test_a_link_reads_to_the_end_of_a_closed_queue(queue: RequestQueue) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.pipeline, [("PING",)])
        await trio.testing.wait_all_tasks_blocked()
        queue.close()
        await answer(queue, [b"PONG"])
        with pytest.raises(trio.EndOfChannel):
            await queue.outlet.receive()


async def ask(queue: RequestQueue, commands: Sequence[Call | Command], *answers: list[Reply]) -> list[Reply]:
    """The replies to `commands` from a link that answers its requests with `answers`, one after the other."""
    async with trio.open_nursery() as nursery:

        async def link() -> None:
            for replies in answers:
                await answer(queue, replies)

        nursery.start_soon(link)
        return await queue.pipeline(commands)


async def test_each_unknown_script_is_loaded_once_and_its_calls_repeated_in_place(
    queue: RequestQueue,
) -> None:
    unknown = RedisRefused(NOSCRIPT)
    replies = await ask(
        queue,
        [Call(ONE), ("PING",), Call(TWO), Call(ONE), ("GET", "list")],
        [unknown, b"PONG", unknown, unknown, RedisRefused("WRONGTYPE it is")],
        [ONE.sha.encode(), TWO.sha.encode(), 1, 2, 1],
    )
    assert replies[:4] == [1, b"PONG", 2, 1]
    assert isinstance(replies[4], RedisRefused)
    assert replies[4].code == "WRONGTYPE"


async def test_a_script_that_may_not_be_loaded_says_so_in_its_calls_slot(queue: RequestQueue) -> None:
    (reply,) = await ask(
        queue,
        [Call(ONE)],
        [RedisRefused(NOSCRIPT)],
        [RedisRefused("NOPERM script|load"), RedisRefused(NOSCRIPT)],
    )
    assert isinstance(reply, RedisRefused)
    assert reply.code == "NOPERM"


async def test_a_repeat_has_what_is_left_of_the_deadline(
    queue: RequestQueue, autojump_clock: trio.testing.MockClock
) -> None:
    """Whatever the keeper of deadlines reckons with that comes in later."""
    await trio.sleep(0.5)
    async with trio.open_nursery() as nursery:

        async def link() -> None:
            await trio.sleep(4)
            await answer(queue, [RedisRefused(NOSCRIPT)])

        nursery.start_soon(link)
        with pytest.raises(RedisUnavailable):
            await queue.pipeline([Call(ONE)])
    assert trio.current_time() == 5.5


async def test_a_repeat_that_is_never_written_is_unknown_when_other_commands_were_executed(
    queue: RequestQueue, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.RaisesGroup(OutcomeUnknown):
        await ask(queue, [Call(ONE), ("INCR", "counter")], [RedisRefused(NOSCRIPT), 1])
    queue.refuse("")
    queue.take_again()
    with pytest.RaisesGroup(RedisUnavailable):
        await ask(queue, [Call(ONE), Call(TWO)], [RedisRefused(NOSCRIPT), RedisRefused(NOSCRIPT)])
