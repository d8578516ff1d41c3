"""A relay in one process: whom it blames for each result, whom it lets wait, how many may begin. Virtual time."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Final

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from galaxy_mail.domain.records import AttemptStatus, Blame, Delivery, Failure, Result, SendResult
from galaxy_mail.providers.smtp.outcomes import Exchange
from galaxy_mail.relays.breaker import PROBED_AGAIN_IN_MS, BreakerState
from galaxy_mail.relays.breaker_events import (
    BreakerHold,
    Kind,
    Leased,
    Probe,
    ProbeGivenUp,
    ProbeRefused,
    ProbeWell,
    Replace,
    Seen,
    StartProbe,
    Tick,
)
from galaxy_mail.relays.relay import CHARGED_WITHIN_S, Judged, Relay, kind_of
from galaxy_mail.relays.sameness import ALIKE
from tests.deliveries import ACCEPTED, delivery_of, request_of
from tests.unit.actors.fakes import START_MS, TrioClock

SLOTS: Final = 8
S = BreakerState


def failed(
    exchange: Exchange | None,
    reply: str | None = None,
    *,
    blame: Blame = Blame.RELAY,
    code: str = "refused",
    unknown: bool = False,
) -> SendResult:
    return SendResult(
        result=Result.PERMANENT_FAILURE if reply and reply[0] == "5" else Result.TRANSIENT_FAILURE,
        status=AttemptStatus.PROVIDER_REJECTED if reply else AttemptStatus.TRANSPORT_FAILED,
        failure=Failure(code=code, summary=code),
        blame=blame,
        exchange=exchange,
        provider_code=reply,
        outcome_unknown=unknown,
    )


AWAY: Final = failed(Exchange.CONNECT)
SENDER: Final = failed(Exchange.MAIL, "550 5.7.1")
LOGIN: Final = failed(Exchange.AUTH, "535 5.7.8")
CERTIFICATE: Final = failed(Exchange.TLS, code="tls_unverified")
FULL: Final = failed(Exchange.FINAL, "452 4.3.1")
CONTENT: Final = failed(Exchange.FINAL, "554 5.7.1", blame=Blame.MESSAGE)
UNKNOWN_RECIPIENT: Final = failed(Exchange.RCPT, "550 5.1.1", blame=Blame.MESSAGE)
NO_DESCRIPTOR: Final = failed(Exchange.CONNECT, blame=Blame.SERVICE, code="out_of_resources")


def mail(name: str) -> Delivery:
    return delivery_of(request_of(name))


def hold_of(kind: Kind, *, due_in_ms: int = 0, code: str = "refused") -> BreakerHold:
    now_ms = TrioClock().now_ms()
    return BreakerHold(
        kind=kind,
        failure=Failure(code=code, summary=code),
        since_ms=now_ms,
        until_ms=now_ms + due_in_ms + 60_000,
        pause_ms=1_000,
    )


@pytest.fixture
async def relay() -> Relay:
    return Relay("default", slots=SLOTS, clock=TrioClock(), random=Random(1))


async def blames(relay: Relay, name: str, result: SendResult) -> Blame | None:
    """The blame of a result that needs no probe."""
    with trio.fail_after(0.001):
        return (await relay.judge(mail(name), result)).result.blame


@asynccontextmanager
async def waiting(relay: Relay, *results: SendResult) -> AsyncIterator[list[Judged]]:
    """Slots that wait for a probe, and what they learn."""
    learnt: list[Judged] = []

    async def slot(number: int, result: SendResult) -> None:
        learnt.append(await relay.judge(mail(f"waits-{number}"), result))

    async with trio.open_nursery() as nursery:
        for number, result in enumerate(results):
            nursery.start_soon(slot, number, result)
        await wait_all_tasks_blocked()
        yield learnt
        nursery.cancel_scope.cancel()


# Whom it blames


async def test_what_is_accepted_is_left_as_it_is(relay: Relay) -> None:
    assert await relay.judge(mail("a"), ACCEPTED) == Judged(ACCEPTED)
    assert (relay.breaker.state, list(relay.actions)) == (S.CLOSED, [])


@pytest.mark.parametrize("result", [AWAY, FULL])
async def test_the_third_failure_in_a_row_opens_and_each_is_the_relays(
    relay: Relay, autojump_clock: MockClock, result: SendResult
) -> None:
    for name in "ab":
        assert await blames(relay, name, result) is Blame.RELAY
        assert relay.breaker.goes
    assert await blames(relay, "c", result) is Blame.RELAY
    assert not relay.breaker.goes
    [action] = relay.actions
    assert isinstance(action, Replace)
    assert action.before is None
    assert action.after == relay.breaker.hold


async def test_one_delivery_alone_opens_nothing_by_what_follows_mail(
    relay: Relay, autojump_clock: MockClock
) -> None:
    for _ in range(10):
        assert await blames(relay, "a", FULL) is Blame.RELAY
    assert relay.breaker.state is S.CLOSED


async def test_one_delivery_alone_opens_by_what_comes_before_mail(
    relay: Relay, autojump_clock: MockClock
) -> None:
    for _ in range(3):
        await blames(relay, "a", AWAY)
    assert relay.breaker.state is S.OPEN


@pytest.mark.parametrize("between", [ACCEPTED, UNKNOWN_RECIPIENT], ids=["accepted", "the message's fault"])
async def test_failures_to_connect_are_in_a_row_only_with_no_answer_to_mail_between(
    relay: Relay, autojump_clock: MockClock, between: SendResult
) -> None:
    for name in "ab":
        await blames(relay, name, AWAY)
    await blames(relay, "x", between)
    for name in "cd":
        await blames(relay, name, AWAY)
    assert relay.breaker.state is S.CLOSED


async def test_the_messages_fault_does_not_end_a_row_of_what_follows_mail(
    relay: Relay, autojump_clock: MockClock
) -> None:
    for name in "ab":
        await blames(relay, name, FULL)
    await blames(relay, "x", UNKNOWN_RECIPIENT)
    await blames(relay, "c", FULL)
    assert relay.breaker.state is S.OPEN


async def test_unknown_recipients_hold_nobody_up(relay: Relay, autojump_clock: MockClock) -> None:
    for number in range(100):
        assert await blames(relay, f"d{number}", UNKNOWN_RECIPIENT) is Blame.MESSAGE
    assert (relay.breaker.state, relay.slots_that_may_begin) == (S.CLOSED, SLOTS)


async def test_the_fifth_that_fails_alike_is_the_relays_and_opens(
    relay: Relay, autojump_clock: MockClock
) -> None:
    for number in range(ALIKE - 1):
        assert await blames(relay, f"d{number}", CONTENT) is Blame.MESSAGE
    assert relay.breaker.goes
    assert await blames(relay, "last", CONTENT) is Blame.RELAY
    [action] = relay.actions
    assert isinstance(action, Replace)
    assert action.after is not None
    assert action.after.kind is Kind.EVERYTHING


async def test_an_accepted_mail_ends_the_row_of_those_that_fail_alike(
    relay: Relay, autojump_clock: MockClock
) -> None:
    for number in range(ALIKE - 1):
        await blames(relay, f"d{number}", CONTENT)
    await relay.judge(mail("good"), ACCEPTED)
    assert await blames(relay, "last", CONTENT) is Blame.MESSAGE


@pytest.mark.parametrize("reply", ["554", "554 5.7.1"])
async def test_what_fails_alike_is_told_by_its_code_with_or_without_an_enhanced_one(
    relay: Relay, autojump_clock: MockClock, reply: str
) -> None:
    result = replace(CONTENT, provider_code=reply)
    for number in range(ALIKE - 1):
        await blames(relay, f"d{number}", result)
    assert await blames(relay, "last", result) is Blame.RELAY
    other = replace(result, provider_code="550 5.7.0")
    assert await blames(relay, "other", other) is Blame.MESSAGE


async def test_the_fourth_failure_of_an_odd_mail_is_its_own_if_others_are_accepted(
    relay: Relay, autojump_clock: MockClock
) -> None:
    now_ms = TrioClock().now_ms()
    odd = replace(mail("odd"), relay_failures=3, relay_failed_at_ms=now_ms)
    await trio.sleep(1)
    assert (await relay.judge(odd, FULL)).result.blame is Blame.RELAY, "none was accepted"
    await relay.judge(mail("good"), ACCEPTED)
    assert (await relay.judge(odd, FULL)).result == replace(FULL, blame=Blame.MESSAGE)
    assert (await relay.judge(replace(odd, relay_failures=2), FULL)).result.blame is Blame.RELAY
    later = replace(odd, relay_failed_at_ms=TrioClock().now_ms() + 1)
    assert (await relay.judge(later, FULL)).result.blame is Blame.RELAY, "none since its last one"


async def test_an_odd_mail_does_not_wait_for_a_probe(relay: Relay, autojump_clock: MockClock) -> None:
    odd = replace(mail("odd"), relay_failures=3, relay_failed_at_ms=START_MS - 1)
    await relay.judge(mail("good"), ACCEPTED)
    with trio.fail_after(0.001):
        assert (await relay.judge(odd, SENDER)).result.blame is Blame.MESSAGE
    assert relay.breaker.state is S.CLOSED


@pytest.mark.parametrize("code", ["claim_running_out", "out_of_resources"])
async def test_failures_of_the_service_are_no_matter_of_the_relay(
    relay: Relay, autojump_clock: MockClock, code: str
) -> None:
    for number in range(9):
        result = failed(Exchange.CONNECT, blame=Blame.SERVICE, code=code)
        assert await blames(relay, f"d{number}", result) is Blame.SERVICE
    assert (relay.breaker.state, relay.breaker.row) == (S.CLOSED, ())


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (AWAY, Kind.CONNECTION),
        (failed(None), Kind.CONNECTION),
        (failed(Exchange.GREETING, "554"), Kind.CONNECTION),
        (failed(Exchange.EHLO, "421"), Kind.CONNECTION),
        (failed(Exchange.TLS), Kind.CONNECTION),
        (CERTIFICATE, Kind.CERTIFICATE),
        (LOGIN, Kind.AUTH),
        (failed(Exchange.AUTH, "454 4.7.0"), Kind.AUTH),
        (failed(Exchange.AUTH, "421 4.3.2"), Kind.CONNECTION),
        (failed(Exchange.AUTH), Kind.CONNECTION),
        (SENDER, Kind.SENDER),
        (failed(Exchange.MAIL, "451"), Kind.SENDER),
        (failed(Exchange.MAIL, "421"), Kind.CONNECTION),
        (failed(Exchange.MAIL), Kind.CONNECTION),
        (failed(Exchange.RCPT, "421"), Kind.MAIL),
        (failed(Exchange.DATA, "451 4.3.0"), Kind.MAIL),
        (failed(Exchange.BODY), Kind.MAIL),
        (FULL, Kind.MAIL),
    ],
)
def test_where_it_failed_decides_how_it_is_probed(result: SendResult, kind: Kind) -> None:
    assert kind_of(result) is kind


# Waiting for a probe

CHECKS: Final = [SENDER, LOGIN, CERTIFICATE]


@pytest.mark.parametrize("result", CHECKS, ids=["sender", "login", "certificate"])
@pytest.mark.parametrize("well", [True, False])
async def test_a_refused_sender_login_or_certificate_waits_for_the_probe(
    relay: Relay, autojump_clock: MockClock, result: SendResult, well: bool
) -> None:
    async with waiting(relay, result, result) as learnt:
        assert (relay.breaker.state, learnt) == (S.CHECKING, [])
        with trio.fail_after(1):
            await relay.wait_woken(float("inf"))
        relay.tell(Leased())
        assert list(relay.actions) == [StartProbe(Probe.SESSION)]
        relay.actions.clear()
        kind = kind_of(result)
        assert result.failure is not None
        relay.tell(ProbeWell() if well else ProbeRefused(kind=kind, failure=result.failure))
        await wait_all_tasks_blocked()
        blame = Blame.MESSAGE if well else Blame.RELAY
        assert learnt == [Judged(replace(result, blame=blame))] * 2
        assert relay.breaker.state is (S.CLOSED if well else S.OPEN)


async def test_without_a_probe_the_check_ends_and_blames_the_relay(
    relay: Relay, autojump_clock: MockClock
) -> None:
    async with waiting(relay, SENDER) as learnt:
        await trio.sleep(29.9)
        relay.tell(Tick())
        await wait_all_tasks_blocked()
        assert learnt == []
        await trio.sleep(0.2)
        relay.tell(Tick())
        await wait_all_tasks_blocked()
        assert [one.result.blame for one in learnt] == [Blame.RELAY]


async def test_without_an_actor_a_slot_waits_for_a_bounded_time(
    relay: Relay, autojump_clock: MockClock
) -> None:
    async with waiting(relay, SENDER) as learnt:
        await trio.sleep(CHARGED_WITHIN_S - 0.1)
        assert learnt == []
        await trio.sleep(0.2)
        assert [one.result.blame for one in learnt] == [Blame.RELAY]


async def test_a_hold_that_opens_elsewhere_blames_the_relay_for_what_waits(
    relay: Relay, autojump_clock: MockClock
) -> None:
    async with waiting(relay, SENDER) as learnt:
        relay.tell(Seen(hold_of(Kind.CONNECTION, due_in_ms=1_000)))
        await wait_all_tasks_blocked()
        assert [one.result.blame for one in learnt] == [Blame.RELAY]


async def test_a_new_actor_frees_who_waits_for_the_one_before(
    relay: Relay, autojump_clock: MockClock
) -> None:
    async with waiting(relay, SENDER, LOGIN) as learnt:
        relay.tell(Leased())
        relay.begin_anew()
        await wait_all_tasks_blocked()
        assert [one.result.blame for one in learnt] == [Blame.RELAY] * 2
        assert (relay.breaker.state, list(relay.actions)) == (S.CLOSED, [])


async def test_a_slot_that_is_cancelled_while_it_waits_leaves_nothing_behind(
    relay: Relay, autojump_clock: MockClock
) -> None:
    async with waiting(relay, SENDER) as learnt:
        pass
    assert learnt == []
    relay.tell(Leased())
    relay.tell(ProbeWell())  # its charge has no slot
    async with waiting(relay, SENDER) as learnt:  # the same delivery once more
        relay.tell(Leased())
        relay.tell(ProbeWell())
        await wait_all_tasks_blocked()
        assert [one.result.blame for one in learnt] == [Blame.MESSAGE]


async def test_a_delivery_in_two_slots_is_charged_in_both(relay: Relay, autojump_clock: MockClock) -> None:
    """The first slot lost its claim, and the second took it over in the same process."""
    learnt: list[Judged] = []

    async def slot(within_s: float) -> None:
        with trio.move_on_after(within_s):
            learnt.append(await relay.judge(mail("d"), SENDER))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slot, 1)
        await wait_all_tasks_blocked()
        nursery.start_soon(slot, 10)
        await trio.sleep(2)
        relay.tell(Leased())
        relay.tell(ProbeWell())
    assert [one.result.blame for one in learnt] == [Blame.MESSAGE]
    assert trio.current_time() == pytest.approx(2)


# A delivery that probes


async def probing(relay: Relay, kind: Kind = Kind.MAIL, *, code: str = "refused") -> None:
    await trio.lowlevel.checkpoint()
    relay.tell(Seen(hold_of(kind, code=code)))
    relay.tell(Leased())
    assert relay.breaker.state is S.PROBING
    relay.actions.clear()


async def test_a_probe_that_is_accepted_closes(relay: Relay) -> None:
    await probing(relay)
    hold = relay.breaker.hold
    assert relay.judge_probe(mail("a"), ACCEPTED) == Judged(ACCEPTED)
    assert (relay.breaker.state, list(relay.actions)) == (S.CLOSED, [Replace(hold, None)])
    assert relay.slots_that_may_begin == 1


async def test_a_probe_that_is_refused_is_due_again_in_a_minute_and_the_pause_doubles(relay: Relay) -> None:
    await probing(relay)
    assert relay.judge_probe(mail("a"), FULL) == Judged(FULL, PROBED_AGAIN_IN_MS)
    assert relay.breaker.state is S.OPEN
    assert relay.breaker.hold is not None
    assert relay.breaker.hold.pause_ms == 2_000


async def test_a_probe_that_fails_by_its_own_fault_is_charged_for_it(relay: Relay) -> None:
    await probing(relay)
    assert relay.judge_probe(mail("a"), UNKNOWN_RECIPIENT) == Judged(UNKNOWN_RECIPIENT)
    assert relay.breaker.state is S.OPEN
    assert relay.breaker.hold is not None
    assert relay.breaker.hold.pause_ms == 1_000


async def test_a_probe_that_fails_like_everything_before_is_not_charged(relay: Relay) -> None:
    """Also in a process that has not seen the others fail."""
    await probing(relay, Kind.EVERYTHING)
    judged = relay.judge_probe(mail("a"), CONTENT)
    assert judged == Judged(replace(CONTENT, blame=Blame.RELAY), PROBED_AGAIN_IN_MS)
    assert relay.breaker.hold is not None
    assert (relay.breaker.state, relay.breaker.hold.kind) == (S.OPEN, Kind.EVERYTHING)
    assert relay.breaker.hold.pause_ms == 2_000


@pytest.mark.parametrize(
    "result",
    [UNKNOWN_RECIPIENT, replace(CONTENT, failure=Failure(code="too_large", summary="too large"))],
    ids=["an unknown recipient", "another failure"],
)
async def test_a_probe_that_fails_otherwise_than_everything_before_is_charged(
    relay: Relay, result: SendResult
) -> None:
    await probing(relay, Kind.EVERYTHING)
    assert relay.judge_probe(mail("a"), result) == Judged(result)


async def test_an_accepted_probe_ends_the_row_of_those_that_fail_alike(
    relay: Relay, autojump_clock: MockClock
) -> None:
    for number in range(ALIKE):
        await blames(relay, f"d{number}", CONTENT)
    await trio.sleep(2)
    relay.tell(Leased())
    relay.judge_probe(mail("good"), ACCEPTED)
    assert await blames(relay, "next", CONTENT) is Blame.MESSAGE


async def test_a_probe_without_own_resources_says_nothing_about_the_relay(relay: Relay) -> None:
    await probing(relay)
    assert relay.judge_probe(mail("a"), NO_DESCRIPTOR) == Judged(NO_DESCRIPTOR)
    assert relay.breaker.state is S.OPEN
    assert relay.without_resources_since_s is not None


# How many may begin


async def test_without_own_resources_none_begins_for_a_second_and_then_one(
    relay: Relay, autojump_clock: MockClock
) -> None:
    await blames(relay, "a", NO_DESCRIPTOR)
    since_s = relay.without_resources_since_s
    assert (relay.slots_that_may_begin, since_s) == (0, trio.current_time())
    await trio.sleep(0.9)
    assert relay.slots_that_may_begin == 0
    await trio.sleep(0.2)
    assert relay.slots_that_may_begin == 1
    await blames(relay, "b", NO_DESCRIPTOR)
    assert (relay.slots_that_may_begin, relay.without_resources_since_s) == (0, since_s)


@pytest.mark.parametrize("result", [ACCEPTED, UNKNOWN_RECIPIENT, CONTENT], ids=["accepted", "refused", "554"])
async def test_any_other_result_shows_that_there_are_resources(
    relay: Relay, autojump_clock: MockClock, result: SendResult
) -> None:
    await blames(relay, "a", NO_DESCRIPTOR)
    await blames(relay, "b", result)
    assert (relay.slots_that_may_begin, relay.without_resources_since_s) == (SLOTS, None)


async def test_the_pace_is_halved_by_failures_and_doubled_by_seconds_without(
    relay: Relay, autojump_clock: MockClock
) -> None:
    assert relay.slots_that_may_begin == SLOTS
    seen = []
    for name in "ab":
        await blames(relay, name, FULL)
        seen.append(relay.slots_that_may_begin)
    assert seen == [SLOTS // 2] * 2, "once a second"
    await trio.sleep(0.9)
    relay.second_passed()
    assert relay.slots_that_may_begin == SLOTS // 2
    await trio.sleep(0.2)
    relay.second_passed()
    assert relay.slots_that_may_begin == SLOTS


async def test_what_waits_for_a_probe_halves_the_pace_too(relay: Relay, autojump_clock: MockClock) -> None:
    async with waiting(relay, SENDER):
        assert relay.slots_that_may_begin == SLOTS // 2


@pytest.mark.parametrize("how", ["lifted", "over"])
async def test_after_a_hold_one_may_begin_and_twice_as_many_each_second(
    relay: Relay, autojump_clock: MockClock, how: str
) -> None:
    relay.tell(Seen(hold_of(Kind.CONNECTION, due_in_ms=1_000)))
    if how == "lifted":
        relay.tell(Seen(None))
    else:
        await trio.sleep(62)
        relay.tell(Tick())
    seen = [relay.slots_that_may_begin]
    for _ in range(4):
        await trio.sleep(1)
        relay.second_passed()
        seen.append(relay.slots_that_may_begin)
    assert seen == [1, 2, 4, 8, 8]


# The actor


async def test_actions_and_checks_wake_the_actor_and_nothing_else_does(
    relay: Relay, autojump_clock: MockClock
) -> None:
    async def is_woken(act: Callable[[], Awaitable[object]]) -> bool:
        began_s = trio.current_time()
        await act()
        await relay.wait_woken(began_s + 1)
        return trio.current_time() < began_s + 1

    assert not await is_woken(lambda: relay.judge(mail("a"), ACCEPTED))
    assert not await is_woken(lambda: relay.judge(mail("a"), AWAY))
    assert not await is_woken(lambda: relay.judge(mail("b"), AWAY))
    assert await is_woken(lambda: relay.judge(mail("c"), AWAY))


async def test_what_was_given_up_is_told_to_the_breaker_alone(relay: Relay) -> None:
    await probing(relay)
    assert relay.tell(ProbeGivenUp()) == ()
    assert (relay.breaker.state, list(relay.actions)) == (S.OPEN, [])
