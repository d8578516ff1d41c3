"""Scheduler and slots on a real store, in virtual time: to the end, through stops, crashes and lost replies."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, cast

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from galaxy_mail.actors.lanes import Lanes
from galaxy_mail.actors.scheduler import Scheduler
from galaxy_mail.actors.sender import Sender
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.acceptance import MailRequest
from galaxy_mail.domain.conclusion import RetryPolicy
from galaxy_mail.domain.records import AttemptStatus, DeliveryStatus
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.relays.relay import Relay
from galaxy_mail.rendering.bundled import bundled_templates
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.rendering.limits import RenderLimits
from galaxy_mail.telemetry.metrics import Metrics
from galaxy_mail.telemetry.traces import Traces
from tests.deliveries import ACCEPTED, DEFERRED, login_code_of, request_of
from tests.keys import k
from tests.servers import ValkeyServer
from tests.storehouse import TTL_MS, Fault, Storehouse
from tests.unit.actors.fakes import FakeProvider

CATALOG: Final = Catalog.load(bundled_templates(), limits=RenderLimits())
S = DeliveryStatus


class Process:
    """The sending half of one process: a scheduler, its lanes, its slots."""

    def __init__(self, house: Storehouse, *, slots: int = 1, policy: RetryPolicy | None = None) -> None:
        self.house = house
        self.lanes = Lanes(slots)
        self.metrics = Metrics()
        self.providers = [FakeProvider() for _ in range(slots)]
        policy = policy or RetryPolicy()
        self.scheduler = Scheduler(
            lanes=self.lanes,
            store=house.store,
            clock=house.clock,
            policy=policy,
            metrics=self.metrics,
            heartbeat=Heartbeat(),
        )
        self.senders = [
            Sender(
                lanes=self.lanes,
                store=house.store,
                clock=house.clock,
                provider=provider,
                relay=Relay("default", slots=slots, clock=house.clock),
                catalog=CATALOG,
                policy=policy,
                metrics=self.metrics,
                traces=Traces(),
                heartbeat=Heartbeat(),
                priority_only=number == 0 and slots > 1,
            )
            for number, provider in enumerate(self.providers)
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.CancelScope]:
        """Ends as the service does: the scheduler first, then the slots, whose work is cut off."""
        senders, intake = trio.CancelScope(), trio.CancelScope()

        async def run_senders() -> None:
            with senders:
                async with trio.open_nursery() as nursery:
                    for sender in self.senders:
                        nursery.start_soon(sender.run)

        async def run_scheduler() -> None:
            with intake:
                await self.scheduler.run()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_senders)
            async with trio.open_nursery() as first:
                first.start_soon(run_scheduler)
                yield senders
                intake.cancel()
            senders.cancel()

    async def accept(self, *requests: MailRequest) -> None:
        for request in requests:
            await self.house.accept(request)
        self.lanes.wake()

    def taken(self) -> list[str]:
        return [message.delivery_id for provider in self.providers for message in provider.taken]

    def left(self) -> int:
        """Deliveries that have not ended."""
        count = cast("int", self.house.run("ZCARD", k.created_at_index))
        return count - sum(cast("int", self.house.run("ZCARD", k.status_index(end))) for end in TERMINAL)

    async def until_ended(self, within_s: float = 10_000) -> float:
        """How long it takes until all deliveries have ended, by their own times."""
        began_ms, began_s = self.house.clock.now_ms(), trio.current_time()
        with trio.fail_after(within_s):
            while self.left():  # noqa: ASYNC110  # what is waited for has no event of its own
                await trio.sleep(max(0.01, (trio.current_time() - began_s) / 20))
        ids = cast("list[bytes]", self.house.run("ZRANGE", k.created_at_index, 0, -1))
        ends_ms = [self.house.delivery(delivery_id.decode()).finished_at_ms or 0 for delivery_id in ids]
        return (max(ends_ms) - began_ms) / 1000


@pytest.fixture
async def process(house: Storehouse) -> Process:
    house.clock.follow_trio()
    return Process(house)


def sleeping(seconds: float) -> Callable[[], Awaitable[None]]:
    async def sleep() -> None:
        await trio.sleep(seconds)

    return sleep


async def test_mail_is_sent_as_soon_as_it_is_accepted(process: Process, autojump_clock: MockClock) -> None:
    async with process.running():
        await trio.sleep(0.3)
        await process.accept(request_of(), login_code_of())
        assert await process.until_ended() < 0.1
    assert sorted(process.taken()) == ["c1", "d1"]
    assert process.house.delivery("c1").status is S.SENT


async def test_what_another_process_accepted_is_sent_within_a_second(
    process: Process, autojump_clock: MockClock
) -> None:
    async with process.running():
        await trio.sleep(0.3)
        await process.house.accept(request_of())
        assert await process.until_ended() <= 1.1


async def test_retries_come_in_their_time_and_never_early(
    process: Process, autojump_clock: MockClock
) -> None:
    process.providers[0].answer = DEFERRED
    async with process.running():
        await process.accept(request_of())
        took_s = await process.until_ended()
    assert took_s == pytest.approx(60 + 300 + 1800, abs=1)
    attempts = [process.house.attempt("d1", number) for number in range(1, 5)]
    for attempt in attempts:
        assert attempt.started_at_ms is not None
        assert 0 <= attempt.started_at_ms - attempt.scheduled_for_ms < 50
    assert process.house.delivery("d1").status is S.DEAD_LETTER


async def test_a_backlog_of_both_lanes_ends_and_codes_come_first(
    house: Storehouse, autojump_clock: MockClock
) -> None:
    house.clock.follow_trio()
    process = Process(house, slots=4)
    for provider in process.providers:
        provider.before_dot = sleeping(0.01)
    order: list[str] = []
    for number in range(60):
        await process.house.accept(request_of(f"bulk-{number}"))
    async with process.running():
        await trio.sleep(0.05)
        await process.accept(*(login_code_of(f"code-{number}") for number in range(10)))
        await process.until_ended()
    for provider in process.providers:
        order += [message.delivery_id for message in provider.taken]
    assert len(order) == len(set(order)) == 70
    assert {name for name in order if name.startswith("code")} >= {"code-0"}
    assert all(not m.delivery_id.startswith("bulk") for m in process.providers[0].taken), "its slot is theirs"


class Killed(Exception):
    """A process that dies of its work."""


# Lost owners


async def test_what_a_dead_process_had_begun_is_sent_within_two_seconds_of_its_expiry(
    empty_valkey: ValkeyServer, process: Process, autojump_clock: MockClock
) -> None:
    dead = Storehouse(empty_valkey.socket)
    dead.clock.follow(process.house.clock.now_ms)
    await dead.epoch.check(dead.link.pipeline)
    held = await dead.begun(request_of("begun"))
    await dead.accept(request_of("claimed"))
    await dead.claim()
    async with process.running():
        took_s = await process.until_ended()
    assert TTL_MS / 1000 <= took_s <= TTL_MS / 1000 + 2
    assert sorted(process.taken()) == ["begun", "claimed"]
    assert process.house.delivery("claimed").attempt_count == 1, "it goes on with the same attempt"
    first, second = process.house.attempt("begun", 1), process.house.attempt("begun", 2)
    assert (first.status, first.outcome_unknown) == (AttemptStatus.TIMED_OUT, True)
    assert second.status is AttemptStatus.PROVIDER_ACCEPTED
    assert held.claim.delivery.retries_used == process.house.delivery("begun").retries_used == 0
    dead.close()


async def test_what_kills_every_owner_is_given_up_after_the_third(
    process: Process, autojump_clock: MockClock
) -> None:
    async def killed() -> None:
        raise Killed

    await process.accept(request_of())
    taken: list[str] = []
    for _ in range(3):
        victim = Process(process.house)
        victim.providers[0].after_dot = killed
        with pytest.RaisesGroup(Killed, flatten_subgroups=True):
            async with victim.running():
                await trio.sleep(2 * TTL_MS / 1000)
        taken += victim.taken()
    async with process.running():
        await process.until_ended()
    assert (taken, process.taken()) == (["d1"] * 3, [])
    assert process.house.delivery("d1").status is S.DEAD_LETTER
    assert process.house.delivery("d1").attempt_count == 3


async def test_a_paused_owner_is_lost_and_what_it_says_afterwards_is_stale(
    empty_valkey: ValkeyServer, process: Process, autojump_clock: MockClock
) -> None:
    """It stood still after its dot, longer than its claim: a second copy left, and the records tell."""
    other = Storehouse(empty_valkey.socket)
    other.clock.follow(process.house.clock.now_ms)
    await other.epoch.check(other.link.pipeline)
    paused = Process(other)
    paused.providers[0].after_dot = sleeping(70)
    async with paused.running():
        await paused.accept(request_of())
        await trio.sleep(1)
        for _ in range(1000):
            other.link.fail("renew", "lost_call")
            other.link.fail("claim", "refused")
        async with process.running():
            await process.until_ended()
            await trio.sleep(60)
    assert (paused.taken(), process.taken()) == (["d1"], ["d1"])
    assert process.house.delivery("d1").status is S.SENT
    assert process.house.attempt("d1", 1).outcome_unknown
    assert process.house.attempt("d1", 2).status is AttemptStatus.PROVIDER_ACCEPTED
    assert paused.metrics.stale_claims_total.value() == 1
    other.close()


# Redis away


@pytest.mark.parametrize("fault", ["refused", "lost_call", "lost_reply"])
@pytest.mark.parametrize(
    "name", ["claim", "read_claimed", "begin", "finish", "renew", "release", "HMGET", "GET"]
)
async def test_no_failure_of_redis_is_a_loss_or_a_second_copy(
    name: str, fault: Fault, process: Process, autojump_clock: MockClock
) -> None:
    process.providers[0].before_dot = sleeping(11)
    process.house.link.fail(name, fault, fault, fault)
    async with process.running():
        await process.accept(request_of(), login_code_of())
        await process.until_ended()
    assert sorted(process.taken()) == ["c1", "d1"]
    assert process.house.delivery("d1").status is process.house.delivery("c1").status is S.SENT
    process.house.link.faults.clear()


async def test_an_outage_while_mail_is_under_way_costs_no_retry(
    process: Process, autojump_clock: MockClock
) -> None:
    process.providers[0].after_dot = sleeping(2)
    async with process.running():
        await process.accept(request_of())
        await trio.sleep(1)
        for name in ("finish", "claim", "renew"):
            for _ in range(18):
                process.house.link.fail(name, "refused")
        await process.until_ended()
    delivery = process.house.delivery("d1")
    assert (delivery.status, delivery.attempt_count, delivery.retries_used) == (S.SENT, 1, 0)
    assert process.taken() == ["d1"]


# A stop at any await, with and without lost replies


LOST: Final[tuple[tuple[str, ...], ...]] = ((), ("begin",), ("release",), ("finish",), ("begin", "release"))


@pytest.mark.parametrize("lost", LOST, ids=lambda names: "+".join(names) or "nothing lost")
@pytest.mark.parametrize("kind", ["ready", "template", "suppressed since"])
async def test_stopped_after_any_number_of_steps_work_is_due_again_at_once_or_recorded(
    kind: str, lost: tuple[str, ...], house: Storehouse, autojump_clock: MockClock
) -> None:
    """And another process takes it in the same moment. What the relay has is never sent again."""
    house.clock.follow_trio()
    house.link.steps = 1
    seen: set[str] = set()
    for steps in range(44):
        name = f"d{steps}"
        process = Process(house)

        async def slow() -> None:
            for _ in range(4):
                await trio.lowlevel.checkpoint()

        process.providers[0].before_dot = process.providers[0].after_dot = slow
        if kind == "template":
            await house.accept(login_code_of(name))
        else:
            await house.accept(request_of(name, to=(f"{name}@x.example", "other@x.example")))
        if kind == "suppressed since":
            await house.suppress("other@x.example")
        for script in lost:
            house.link.fail(script, "lost_reply")
        async with process.running() as senders:
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            senders.cancel()
        house.link.faults.clear()
        assert await house.verify() == []
        assert house.run("HLEN", k.claims) == 0, "nothing is left to expire"
        delivery = house.delivery(name)
        if delivery.status in TERMINAL:
            assert process.taken() == [name]
            seen.add("recorded")
        else:
            assert process.taken() == []
            assert delivery.attempt_count == 1
            seen.add(delivery.status)
            again = Process(house)
            async with again.running():
                again.lanes.wake()
                await again.until_ended()
            assert again.taken() == [name]
        assert house.delivery(name).status is S.SENT
        assert house.delivery(name).attempt_count == 1
        house.run("FLUSHALL")
        house.run("HSET", k.meta, "id", house.epoch.store_id or "")  # the same store, emptied
    # After a lost begin the pause before its repetition is longer than all these steps.
    assert seen == {"queued", "rendered"} | (set() if "begin" in lost else {"recorded"})


async def test_a_full_redis_lets_what_was_accepted_go_on(process: Process, autojump_clock: MockClock) -> None:
    process.providers[0].answer = replace(ACCEPTED, provider_code="250 2.6.0")
    await process.house.accept(request_of())
    process.house.run("CONFIG", "SET", "maxmemory", "1")
    async with process.running():
        await process.until_ended()
    assert process.house.delivery("d1").status is S.SENT
