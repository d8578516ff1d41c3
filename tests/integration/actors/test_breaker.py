"""Two processes at one relay on a real store, in virtual time: how a hold opens, who probes, what becomes of the mail."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random
from typing import Final, cast

import pytest
import trio
from trio.testing import MockClock

from galaxy_mail.actors.lanes import Lanes
from galaxy_mail.actors.probe import DeliveryProbe
from galaxy_mail.actors.relays import Relays
from galaxy_mail.actors.scheduler import Scheduler
from galaxy_mail.actors.sender import Claims, Judge, Sender
from galaxy_mail.actors.supervisor import Child, Heartbeat, Supervisor
from galaxy_mail.domain.conclusion import RetryPolicy
from galaxy_mail.domain.holds import Cause, Hold, hold_field, relay_scope
from galaxy_mail.domain.records import Blame, Delivery, DeliveryStatus, SendResult
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.providers.provider import Message, SendDeadline
from galaxy_mail.relays.breaker import PROBED_AGAIN_IN_MS, BreakerState
from galaxy_mail.relays.holds import CurrentHolds
from galaxy_mail.relays.relay import Relay
from galaxy_mail.storage.operations.hold_store import stored_hold
from galaxy_mail.telemetry.metrics import Metrics
from galaxy_mail.telemetry.traces import Traces
from tests.deliveries import ACCEPTED, login_code_of, request_of
from tests.integration.actors.test_sending import CATALOG
from tests.keys import k
from tests.servers import ValkeyServer
from tests.storehouse import Fault, Storehouse
from tests.unit.actors.fakes import FakeProvider
from tests.unit.relays.test_relay import AWAY, CONTENT, FULL, SENDER

S = DeliveryStatus
SLOTS: Final = 2


class FarEnd:
    """The relay of both processes: one answer to everything, and what it was asked."""

    def __init__(self) -> None:
        self.answer = ACCEPTED
        self.sessions_s: list[float] = []
        self.mails: list[tuple[float, str]] = []

    @property
    def names(self) -> list[str]:
        return [name for _, name in self.mails]

    @property
    def probes_s(self) -> list[float]:
        return sorted([*self.sessions_s, *(at_s for at_s, _ in self.mails)])


class FarProvider(FakeProvider):
    def __init__(self, far: FarEnd) -> None:
        super().__init__()
        self.far = far

    async def probe(self) -> SendResult | None:
        self.far.sessions_s.append(trio.current_time())
        await trio.sleep(0.05)
        return None if self.far.answer in (ACCEPTED, FULL, CONTENT) else self.far.answer

    async def send(self, message: Message, *, may_finish: SendDeadline) -> SendResult:
        self.far.mails.append((trio.current_time(), message.delivery_id))
        answer = self.far.answer
        await trio.sleep(0.05)
        return answer


class Process:
    """The sending half of a process, with its breaker and its supervisor."""

    def __init__(self, house: Storehouse, far: FarEnd, seed: int) -> None:
        self.house = house
        self.far = far
        self.holds = CurrentHolds()
        self.relay = Relay("default", slots=SLOTS, clock=house.clock, random=Random(seed))
        self.lanes = Lanes(SLOTS, self.holds, may_begin=lambda: self.relay.slots_that_may_begin)
        self.metrics = Metrics()
        self.supervisor = Supervisor(random=Random(seed))

    def sender(
        self, lanes: Claims, relay: Judge, heartbeat: Heartbeat, *, priority_only: bool = False
    ) -> Sender:
        return Sender(
            lanes=lanes,
            store=self.house.store,
            clock=self.house.clock,
            provider=FarProvider(self.far),
            relay=relay,
            catalog=CATALOG,
            policy=RetryPolicy(),
            metrics=self.metrics,
            traces=Traces(),
            heartbeat=heartbeat,
            priority_only=priority_only,
        )

    def children(self) -> list[Child]:
        def relays(heartbeat: Heartbeat) -> Relays:
            def probe(one: DeliveryProbe) -> Sender:
                return self.sender(one, one, Heartbeat())

            return Relays(
                relay=self.relay,
                store=self.house.holds,
                holds=self.holds,
                lanes=self.lanes,
                provider=lambda: FarProvider(self.far),
                sender=probe,
                clock=self.house.clock,
                heartbeat=heartbeat,
            )

        def scheduler(heartbeat: Heartbeat) -> Scheduler:
            return Scheduler(
                lanes=self.lanes,
                store=self.house.store,
                clock=self.house.clock,
                policy=RetryPolicy(),
                metrics=self.metrics,
                heartbeat=heartbeat,
            )

        def slot(number: int) -> Child:
            return Child(
                name=f"sender-{number}",
                build=lambda heartbeat: self.sender(
                    self.lanes, self.relay, heartbeat, priority_only=number == 0
                ),
            )

        return [
            Child(name="relays", build=relays),
            Child(name="scheduler", build=scheduler),
            *map(slot, range(SLOTS)),
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            for child in self.children():
                nursery.start_soon(self.supervisor.keep_alive, child)
            yield
            nursery.cancel_scope.cancel()


class Pair:
    """Two processes on one store, and what is stored."""

    def __init__(self, house: Storehouse, other: Storehouse) -> None:
        self.house = house
        self.far = FarEnd()
        self.processes = [Process(house, self.far, 1), Process(other, self.far, 2)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        one, other = self.processes
        async with one.running(), other.running():
            await trio.sleep(0.5)
            yield

    async def accept(self, *names: str) -> None:
        for name in names:
            self.house.clock.ms = self.house.clock.now_ms()
            await self.house.accept(login_code_of(name) if name.startswith("code") else request_of(name))

    def deliveries(self) -> list[Delivery]:
        ids = cast("list[bytes]", self.house.run("ZRANGE", k.created_at_index, 0, -1))
        return [self.house.delivery(one.decode()) for one in ids]

    def hold(self) -> Hold | None:
        """The breaker's hold, if it is in force."""
        field = hold_field(Cause.BREAKER, relay_scope("default"))
        data = cast("bytes | None", self.house.run("HGET", k.holds, field))
        stored = None if data is None else stored_hold(field, data)
        return stored.hold if stored is not None and stored.in_force(self.house.clock.now_ms()) else None

    async def until_held(self, *, within_s: float) -> None:
        """Until the hold stands and both processes know it."""
        with trio.fail_after(within_s):
            while self.hold() is None or any(process.relay.breaker.goes for process in self.processes):  # noqa: ASYNC110  # it has no event of its own
                await trio.sleep(0.05)

    async def until_over(self, *, within_s: float) -> None:
        """Until every delivery has ended and nothing is held."""
        with trio.fail_after(within_s):
            while self.hold() is not None or any(  # noqa: ASYNC110  # likewise
                one.status not in TERMINAL for one in self.deliveries()
            ):
                await trio.sleep(0.2)

    def assert_nothing_was_charged(self) -> None:
        assert {(one.status, one.retries_used) for one in self.deliveries()} == {(S.SENT, 0)}


@pytest.fixture
async def pair(house: Storehouse, empty_valkey: ValkeyServer) -> AsyncIterator[Pair]:
    house.clock.follow_trio()
    other = Storehouse(empty_valkey.socket, owner="other")
    other.clock.follow(house.clock.now_ms)
    await other.epoch.check(other.link.pipeline)
    yield Pair(house, other)
    other.close()


BULK: Final = tuple(f"bulk-{number}" for number in range(12))
CODES: Final = tuple(f"code-{number}" for number in range(4))


@pytest.mark.parametrize("answer", [AWAY, SENDER, FULL], ids=["away", "refuses the sender", "full"])
async def test_a_relay_that_fails_for_a_while_costs_no_mail_anything(
    pair: Pair, answer: SendResult, autojump_clock: MockClock
) -> None:
    pair.far.answer = answer
    async with pair.running():
        await pair.accept(*BULK, *CODES)
        await pair.until_held(within_s=10)
        for process in pair.processes:
            assert not process.relay.breaker.goes
            assert process.holds.lanes
        await trio.sleep(45)
        assert pair.hold() is not None
        back_s, before = trio.current_time(), len(pair.far.mails)
        pair.far.answer = ACCEPTED
        await pair.until_over(within_s=90)
    assert pair.far.mails[before][0] - back_s <= 10
    pair.assert_nothing_was_charged()


@pytest.mark.parametrize("answer", [AWAY, FULL], ids=["by session", "by delivery"])
async def test_while_it_is_held_nothing_reaches_the_relay_but_one_probe_a_second(
    pair: Pair, answer: SendResult, autojump_clock: MockClock
) -> None:
    pair.far.answer = answer
    async with pair.running():
        await pair.accept(*BULK, *CODES)
        await pair.until_held(within_s=10)
        pair.far.mails.clear()
        pair.far.sessions_s.clear()
        await trio.sleep(60)
        assert bool(pair.far.mails) is (answer is FULL)
        assert len(pair.far.probes_s) >= 60 / (6 * 1.2 + 1.5) - 1
        assert all(after - before >= 0.99 for before, after in pairwise(pair.far.probes_s))


async def test_each_probe_is_another_delivery_the_priority_lane_first_and_due_again_in_a_minute(
    pair: Pair, autojump_clock: MockClock
) -> None:
    pair.far.answer = FULL
    async with pair.running():
        await pair.accept("bulk-0", "bulk-1", "bulk-2")
        await pair.until_held(within_s=10)
        pair.far.mails.clear()
        await pair.accept("bulk-9", "code-1", "code-2")
        await trio.sleep(10)
        assert pair.far.names[:2] == ["code-1", "code-2"]
        assert len(pair.far.names) == len(set(pair.far.names))
        for name in ("code-1", "code-2"):
            attempt, following = pair.house.attempt(name, 1), pair.house.attempt(name, 2)
            assert attempt.finished_at_ms is not None
            assert following.scheduled_for_ms - attempt.finished_at_ms == PROBED_AGAIN_IN_MS
            assert (attempt.blame, pair.house.delivery(name).retries_used) == (Blame.RELAY, 0)


async def test_a_probe_does_not_break_the_hold_of_an_operator(pair: Pair, autojump_clock: MockClock) -> None:
    pair.far.answer = FULL
    async with pair.running():
        await pair.accept("bulk-0", "bulk-1", "bulk-2")
        await pair.until_held(within_s=10)
        await pair.house.holds.put(
            Hold(scope="lane:priority", cause=Cause.OPERATOR, reason="move", since_ms=0)
        )
        await trio.sleep(1.2)
        pair.far.answer = ACCEPTED
        await pair.accept("code-1", "bulk-9")
        await trio.sleep(80)
        assert pair.hold() is None
        assert (pair.house.delivery("bulk-9").status, pair.house.delivery("code-1").attempt_count) == (
            S.SENT,
            1,
        )
        assert pair.house.delivery("code-1").status is S.QUEUED


async def test_a_hold_that_nobody_can_probe_ends_by_itself(pair: Pair, autojump_clock: MockClock) -> None:
    """A delivery has to probe, and none is due."""
    async with pair.running():
        now_ms = pair.house.clock.now_ms()
        await pair.house.holds.put(
            Hold(
                scope=relay_scope("default"),
                cause=Cause.BREAKER,
                reason="mail",
                failure=FULL.failure,
                since_ms=now_ms,
                until_ms=now_ms + 61_000,
                pause_ms=1_000,
            )
        )
        await trio.sleep(60)
        assert pair.hold() is not None
        await trio.sleep(3)
        assert pair.hold() is None
        for process in pair.processes:
            assert process.relay.breaker.state is BreakerState.RECOVERING
    assert pair.far.probes_s == []


@pytest.mark.parametrize("other_process", [False, True])
async def test_of_a_relay_that_fails_everything_each_process_charges_four_at_most(
    pair: Pair, other_process: bool, autojump_clock: MockClock
) -> None:
    pair.far.answer = CONTENT
    async with pair.running():
        await pair.accept(*BULK)
        await pair.until_held(within_s=10)
        failed = [one for one in pair.deliveries() if one.status is S.FAILED]
        if other_process:  # the one that saw nothing has to probe
            for process in pair.processes:
                if process.relay._sameness.deliveries:
                    process.supervisor.kill("relays")
        await trio.sleep(30)
        assert [one for one in pair.deliveries() if one.status is S.FAILED] == failed
    assert len(failed) <= 4 * len(pair.processes)


@pytest.mark.parametrize("fault", ["refused", "lost_call", "lost_reply"])
@pytest.mark.parametrize("name", ["HGETALL", "HGET", "save_hold", "lease"])
@pytest.mark.parametrize("answer", [AWAY, SENDER, FULL], ids=["away", "refuses the sender", "full"])
async def test_no_failure_of_redis_leaves_a_hold(
    pair: Pair, answer: SendResult, name: str, fault: Fault, autojump_clock: MockClock
) -> None:
    pair.far.answer = answer
    async with pair.running():
        await trio.sleep(1)
        for process in pair.processes:
            process.house.link.fail(name, *[fault] * 4)
        await pair.accept(*BULK, *CODES)
        await pair.until_held(within_s=20)
        for process in pair.processes:
            process.house.link.fail(name, *[fault] * 4)
        pair.far.answer = ACCEPTED
        await pair.until_over(within_s=150)
        for process in pair.processes:
            process.house.link.faults.clear()
    pair.assert_nothing_was_charged()


@pytest.mark.parametrize("answer", [AWAY, SENDER, FULL], ids=["away", "refuses the sender", "full"])
async def test_an_actor_that_is_killed_at_any_moment_leaves_no_hold(
    pair: Pair, answer: SendResult, autojump_clock: MockClock
) -> None:
    """In every state: while a hold opens, while it is probed, while it is lifted."""
    random, states = Random(3), set()
    async with pair.running():
        for turn in range(25):
            pair.far.answer = answer
            await pair.accept(*(f"bulk-{turn}-{number}" for number in range(4)))
            await trio.sleep(random.uniform(0, 2.5))
            pair.far.answer = random.choice([answer, ACCEPTED])
            for process in pair.processes:
                for _ in range(random.randrange(12)):
                    await trio.lowlevel.checkpoint()
                states.add(process.relay.breaker.state)
                process.supervisor.kill("relays")
        pair.far.answer = ACCEPTED
        await pair.until_over(within_s=200)
    assert {BreakerState.OPEN, BreakerState.CLOSED} <= states
    assert all(one.status in TERMINAL for one in pair.deliveries())
    if answer is not SENDER:  # a check that finds the relay well again charges the message
        pair.assert_nothing_was_charged()


async def test_an_odd_mail_holds_nobody_for_long_and_is_charged_in_the_end(
    pair: Pair, autojump_clock: MockClock
) -> None:
    """It alone is refused by an answer that blames the relay."""

    real = FarProvider.send

    async def send(self: FarProvider, message: Message, *, may_finish: SendDeadline) -> SendResult:
        result = await real(self, message, may_finish=may_finish)
        return FULL if message.delivery_id == "odd" else result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FarProvider, "send", send)
        async with pair.running():
            await pair.accept("odd")
            for number in range(200):
                await pair.accept(f"bulk-{number}")
                await trio.sleep(1)
    odd = pair.house.delivery("odd")
    assert odd.retries_used > 0
    others = [one for one in pair.deliveries() if one.delivery_id != "odd"]
    assert {one.status for one in others[:-2]} == {S.SENT}
