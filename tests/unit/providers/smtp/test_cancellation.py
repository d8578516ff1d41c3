"""A stop at any moment: the attempt is returned while the relay can't have the message, and ended once it may."""

from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing

from galaxy_mail.domain.records import AttemptStatus, Result, SendResult
from galaxy_mail.providers.provider import Message
from galaxy_mail.providers.smtp.outcomes import Exchange
from galaxy_mail.providers.smtp.settings import TlsMode
from tests.relays.hostile.answers_late import AnswersLate
from tests.relays.hostile.says_nothing import SaysNothing
from tests.relays.hostile.server import OFFERS, Server, Talk
from tests.unit.providers.smtp.wire import (
    Authority,
    Joined,
    Pair,
    in_memory,
    joined,
    message,
    through_a_window,
)

X = Exchange
AUTHORITY = Authority()
LONG = "A line of a long message, long enough to be written in several parts.\n" * 1_000


class Stopped:
    """One `send`, stopped after so many turns of the scheduler. `result` is None where it let trio.Cancelled out."""

    def __init__(self) -> None:
        self.result: SendResult | None = None
        self.cancelled = False

    async def send(self, there: Joined, sent: Message, *, after_turns: int) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop, scope, after_turns)
                try:
                    self.result = await there.send(sent)
                except trio.Cancelled:
                    self.cancelled = True
                    raise
                nursery.cancel_scope.cancel()

    async def _stop(self, scope: trio.CancelScope, turns: int) -> None:
        for _ in range(turns):
            await trio.lowlevel.cancel_shielded_checkpoint()
        scope.cancel()


SCENES = {
    "pipelined": (OFFERS, TlsMode.NONE, "Hi.\n", in_memory),
    "in turns": (["8BITMIME"], TlsMode.NONE, "Hi.\n", in_memory),
    "long, against a full window": (OFFERS, TlsMode.NONE, LONG, through_a_window),
    "under TLS": (OFFERS, TlsMode.STARTTLS, "Hi.\n", in_memory),
    "long, under TLS, against a full window": (OFFERS, TlsMode.STARTTLS, LONG, through_a_window),
}


@pytest.mark.parametrize("scene", SCENES)
async def test_a_message_that_a_stop_returned_is_never_at_the_relay(
    scene: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Swept over every turn of the scheduler, from the first connect to the answer to the final dot."""
    offers, mode, text, pair = SCENES[scene]
    returned = ended = 0
    for turns in range(3_000):
        server = Server(offers=offers, tls=AUTHORITY.server if mode is not TlsMode.NONE else None)
        async with joined(server, mode=mode, tls=AUTHORITY.client, pair=pair) as there:
            stopped = Stopped()
            await stopped.send(there, message(text=text), after_turns=turns)
            await trio.testing.wait_all_tasks_blocked()  # the relay may do with it what it can
            if stopped.cancelled:
                returned += 1
                assert server.messages == []
                # The next message gets a connection that knows nothing of the one before.
                assert (await there.send(message(text="Next.\n"))).result is Result.ACCEPTED
                assert len(server.messages) == 1
                assert b"Next." in server.messages[0]
            else:
                assert stopped.result is not None
                assert stopped.result.result is Result.ACCEPTED
                assert len(server.messages) == 1
                ended += 1
        if ended > 3:
            break
    assert returned > 10
    assert ended > 3


async def stop_after_the_dot(there: Joined, *, late_s: float = 0) -> SendResult:
    results: list[SendResult] = []

    async def send() -> None:
        results.append(await there.send())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.sleep(late_s + 0.001)
        nursery.cancel_scope.cancel()
    return results[0]


@pytest.mark.parametrize(("answer_s", "in_time"), [(1.5, True), (2.5, False)])
async def test_a_stop_after_the_dot_waits_for_the_answer_within_its_grace(
    answer_s: float, in_time: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with joined(AnswersLate({X.FINAL: answer_s}), stop_grace_s=2) as there:
        result = await stop_after_the_dot(there)
        assert trio.current_time() == pytest.approx(answer_s if in_time else 2.001)
    if in_time:
        assert result.result is Result.ACCEPTED
    else:
        assert (result.status, result.outcome_unknown) == (AttemptStatus.TIMED_OUT, True)


async def test_a_stop_grants_no_more_time_than_was_left(autojump_clock: trio.testing.MockClock) -> None:
    async with joined(SaysNothing(X.FINAL), final_timeout_s=10, stop_grace_s=8) as there:
        result = await stop_after_the_dot(there, late_s=5)
        assert trio.current_time() == pytest.approx(10)
    assert result.failure is not None
    assert result.failure.code == "final_timed_out"


async def test_a_provider_can_be_left_while_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    server = Server()
    async with joined(server) as there:
        await there.send()
        with trio.CancelScope() as scope:
            scope.cancel()
            await there.provider.__aexit__(None, None, None)
    assert server.talks[0].lines[-1] == b"QUIT"


class Asked:
    """A deadline that notes what the relay had when it was asked."""

    def __init__(self, server: Server, seen: Callable[[Talk], bytes], answer: bool) -> None:
        self.server = server
        self.seen = seen
        self.answer = answer
        self.had: list[bytes] = []

    def __call__(self) -> bool:
        self.had.append(self.seen(self.server.talks[0]))
        return self.answer


def so_far(talk: Talk) -> bytes:
    return bytes(talk._buffer)


@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize(("text", "pair"), [("Short.\n", in_memory), (LONG, through_a_window)])
async def test_the_claim_is_asked_about_once_with_nothing_left_to_send_but_the_end(
    text: str, pair: Callable[[], Pair], answer: bool, autojump_clock: trio.testing.MockClock
) -> None:
    server = Server()
    asked = Asked(server, so_far, answer)
    async with joined(server, pair=pair) as there:
        result = await there.send(message(text=text), finish=asked)
        await trio.testing.wait_all_tasks_blocked()
    (had,) = asked.had
    assert not had.endswith(b".\r\n")
    assert len(had) >= max(0, len(text) - 33_000)
    if answer:
        assert result.result is Result.ACCEPTED
    else:
        assert (result.status, result.outcome_unknown) == (AttemptStatus.TRANSPORT_FAILED, False)
        assert server.messages == []
        assert server.talks[0].lines[-1] == b"DATA"


@pytest.mark.parametrize("offers", [OFFERS, ["8BITMIME"]])
async def test_a_message_that_was_refused_before_is_not_asked_about(offers: Sequence[str]) -> None:
    def never() -> bool:
        raise AssertionError("asked")

    async with joined(Server(offers=offers)) as there:
        result = await there.send(message("nobody@example.org"), finish=never)
    assert result.result is Result.PERMANENT_FAILURE
