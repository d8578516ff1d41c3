"""The actor `relays`, in virtual time: when it reads, what it makes of the holds, what it logs."""

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from random import Random
from typing import Final, TypeVar, cast

import pytest
import structlog.testing
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from galaxy_mail.actors.lanes import EndOfLanes, Lanes
from galaxy_mail.actors.probe import DeliveryProbe
from galaxy_mail.actors.relays import KEPT_MS, PAUSE_AFTER_FAILURE_S, Relays
from galaxy_mail.actors.sender import Sender
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.holds import Cause, Hold, hold_field
from galaxy_mail.domain.records import AttemptStatus, Blame, Failure, Lane, Result, SendResult, encode
from galaxy_mail.providers.smtp.outcomes import Exchange
from galaxy_mail.relays.breaker import PROBED_AGAIN_IN_MS, BreakerState
from galaxy_mail.relays.holds import CurrentHolds
from galaxy_mail.relays.relay import Judged, Relay
from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisUnavailable
from galaxy_mail.storage.operations.claims import Claim
from galaxy_mail.storage.operations.hold_store import HoldStore, StoredHold, stored_hold
from tests.deliveries import ACCEPTED, delivery_of, request_of
from tests.unit.actors.claims import claim_of
from tests.unit.actors.fakes import START_MS, FakeProvider, TrioClock

T = TypeVar("T")
BOTH = frozenset(Lane)
NONE: frozenset[Lane] = frozenset()
PRIORITY = frozenset({Lane.PRIORITY})
BREAKERS: Final = "breaker:relay:default"
HOLD = Hold(scope="lane:priority", cause=Cause.OPERATOR, reason="move", since_ms=START_MS)


def failed(
    exchange: Exchange, reply: str | None = None, *, code: str = "refused", blame: Blame = Blame.RELAY
) -> SendResult:
    return SendResult(
        result=Result.PERMANENT_FAILURE if reply and reply[0] == "5" else Result.TRANSIENT_FAILURE,
        status=AttemptStatus.TRANSPORT_FAILED,
        failure=Failure(code=code, summary=code),
        blame=blame,
        exchange=exchange,
        provider_code=reply,
    )


AWAY: Final = failed(Exchange.CONNECT)
SENDER: Final = failed(Exchange.MAIL, "550 5.7.1")
FULL: Final = failed(Exchange.FINAL, "452 4.3.1")


class Store:
    """The holds and the leases in Redis, while it can be reached."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.lease: tuple[str, float] | None = None  # whose, and until when
        self.away = False
        self.faults: defaultdict[str, deque[str]] = defaultdict(
            deque
        )  # "refused" or "lost_reply" by the call's name
        self.slow_s: dict[str, float] = {}  # how long a call of this name takes
        self.read_at_s: list[float] = []
        self.asked: list[str] = []

    async def _ask(self, name: str, run: Callable[[], T]) -> T:
        """Runs a call, and fails as it is told to."""
        self.asked.append(name)
        await trio.sleep(self.slow_s.get(name, 0))
        fault = self.faults[name].popleft() if self.faults[name] else ""
        if self.away or fault == "refused":
            raise RedisUnavailable("away")
        answer = run()
        await trio.lowlevel.checkpoint()  # who is cancelled here undoes nothing
        if fault == "lost_reply":
            raise OutcomeUnknown("lost")
        return answer

    async def read(self) -> list[StoredHold]:
        self.read_at_s.append(trio.current_time())
        return await self._ask("read", self._read)

    def _read(self) -> list[StoredHold]:
        return [stored_hold(field, data) for field, data in sorted(self.stored.items())]

    async def get(self, cause: Cause, scope: str) -> StoredHold | None:
        field = hold_field(cause, scope)
        return await self._ask(
            "get", lambda: stored_hold(field, self.stored[field]) if field in self.stored else None
        )

    async def save(self, hold: Hold, *, instead_of: StoredHold | None) -> bool:
        expected = None if instead_of is None else instead_of.raw
        return await self._ask("save", lambda: self._replace(hold.field, expected, encode(hold)))

    async def remove(self, stored: StoredHold) -> bool:
        return await self._ask("remove", lambda: self._replace(stored.field, stored.raw, None))

    def _replace(self, field: str, expected: bytes | None, record: bytes | None) -> bool:
        if self.stored.get(field) != expected:
            return self.stored.get(field) == record
        if record is None:
            self.stored.pop(field, None)
        else:
            self.stored[field] = record
        return True

    async def lease_probe(self, relay: str, *, owner: str, ttl_ms: int) -> bool:
        return await self._ask("lease", lambda: self._lease(owner, ttl_ms))

    def _lease(self, owner: str, ttl_ms: int) -> bool:
        now_s = trio.current_time()
        if self.lease is not None and self.lease[0] != owner and self.lease[1] > now_s:
            return False
        self.lease = (owner, now_s + ttl_ms / 1000) if ttl_ms else None
        return True

    def put(self, *holds: Hold) -> None:
        self.stored |= {hold.field: encode(hold) for hold in holds}

    @property
    def breakers(self) -> Hold | None:
        """The hold of the breaker, if it is in force."""
        data = self.stored.get(BREAKERS)
        hold = None if data is None else stored_hold(BREAKERS, data).hold
        return hold if hold is not None and hold.in_force(TrioClock().now_ms()) else None


class FakeRelay:
    """What the relay says to every probe, and when it was probed."""

    def __init__(self) -> None:
        self.answer: SendResult | None = None  # None: it is well
        self.takes_s = 0.1
        self.probed: list[tuple[str, float, float]] = []  # "session" or a delivery, from, to
        self.under_way = 0

    async def probe(self, name: str) -> SendResult | None:
        answer, began_s = self.answer, trio.current_time()
        self.under_way += 1
        try:
            await trio.sleep(self.takes_s)
        finally:
            self.under_way -= 1
            self.probed.append((name, began_s, trio.current_time()))
        return answer

    def names(self) -> list[str]:
        return [name for name, _, _ in self.probed]

    def began_s(self) -> list[float]:
        return [began_s for _, began_s, _ in self.probed]


class ProbingProvider(FakeProvider):
    def __init__(self, relay: FakeRelay) -> None:
        super().__init__()
        self.relay = relay

    async def probe(self) -> SendResult | None:
        return await self.relay.probe("session")


class ProbingSender:
    """Sends the one claim that it gets."""

    def __init__(self, probe: DeliveryProbe, desk: "Desk") -> None:
        self.probe = probe
        self.desk = desk

    async def run(self) -> None:
        try:
            claim = await self.probe.take(priority_only=False)
        except EndOfLanes:
            return
        try:
            if self.probe.is_held(claim.lane):
                self.desk.due.append(claim)
                return
            refused = await self.desk.far.probe(claim.delivery_id)
        except trio.Cancelled:
            self.desk.due.append(claim)
            raise
        self.desk.judged.append(
            await self.probe.judge(claim.delivery, ACCEPTED if refused is None else refused)
        )


class Desk:
    """The actor with all that it touches, in one process."""

    def __init__(self, store: Store | None = None, far: FakeRelay | None = None, *, slots: int = 1) -> None:
        self.store = store or Store()
        self.far = far or FakeRelay()
        self.holds = CurrentHolds()
        self.relay = Relay("default", slots=slots, clock=TrioClock(), random=Random(1))
        self.lanes = Lanes(slots, self.holds, may_begin=lambda: self.relay.slots_that_may_begin)
        self.due: list[Claim] = []
        self.judged: list[Judged] = []
        self.scope = trio.CancelScope()

    def sender(self, probe: DeliveryProbe) -> Sender:
        return cast("Sender", ProbingSender(probe, self))

    async def act(self) -> None:
        """One life of the actor."""
        with trio.CancelScope() as self.scope:
            await Relays(
                store=cast("HoldStore", self.store),
                holds=self.holds,
                relay=self.relay,
                lanes=self.lanes,
                provider=lambda: ProbingProvider(self.far),
                sender=self.sender,
                clock=TrioClock(),
                heartbeat=Heartbeat(),
            ).run()

    async def schedule(self) -> None:
        """What a scheduler does for a probe: claims are put where there are places, the priority lane's first."""
        while True:
            await self.lanes.wait_woken(1)
            if self.lanes._probe is None:
                continue
            places = {Lane.PRIORITY: self.lanes.places().priority, Lane.NORMAL: self.lanes.places().normal}
            for claim in sorted(self.due, key=lambda one: one.lane is Lane.NORMAL):
                if places[claim.lane] > 0 and self.lanes.takes(claim.lane):
                    places[claim.lane] -= 1
                    self.due.remove(claim)
                    self.lanes.put(claim, since_s=trio.current_time())

    @asynccontextmanager
    async def running(self, *, scheduler: bool = False) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.act)
            if scheduler:
                nursery.start_soon(self.schedule)
            yield
            nursery.cancel_scope.cancel()

    async def fails(self, result: SendResult, *names: str) -> None:
        """Mails that fail at the relay."""
        for name in names:
            with trio.move_on_after(0.001):
                await self.relay.judge(delivery_of(request_of(name)), result)


def desk_is_free(desk: Desk) -> bool:
    return not desk.store.stored and desk.relay.breaker.goes


async def until(condition: Callable[[], bool], *, within_s: float) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await trio.sleep(0.01)


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


# The breaker


async def test_three_failures_hold_the_relay_and_a_probe_that_is_well_lifts_it(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.far.answer = AWAY
    with structlog.testing.capture_logs() as logs:
        async with desk.running():
            await trio.sleep(0.5)
            await desk.fails(AWAY, "a", "b", "c")
            await trio.sleep(0.01)
            hold = desk.store.breakers
            assert hold is not None
            assert (hold.reason, hold.failure) == ("connection", AWAY.failure)
            assert desk.holds.lanes == BOTH
            await trio.sleep(20)
            assert desk.store.breakers is not None
            assert desk.holds.lanes == BOTH
            desk.far.answer = None
            await trio.sleep(6 * 1.2 + 1)
            assert (desk.store.stored, desk.holds.lanes) == ({}, NONE)
            assert desk.lanes._may_begin() <= 4
    assert [line["event"] for line in logs] == ["hold_opened", "hold_ended"]
    assert set(desk.far.names()) == {"session"}
    pauses = [after - before for before, after in pairwise(desk.far.began_s())]
    assert all(0.8 * 2 <= pause <= 1.2 * 6 + 1.1 for pause in pauses), pauses


async def test_a_hold_stops_every_process_and_one_at_a_time_probes(autojump_clock: MockClock) -> None:
    desk = Desk()
    other = Desk(desk.store, desk.far)
    desk.far.answer, desk.far.takes_s = AWAY, 0.0
    async with desk.running(), other.running():
        await trio.sleep(0.5)
        await desk.fails(AWAY, "a", "b", "c")
        await trio.sleep(1.1)
        assert (desk.holds.lanes, other.holds.lanes) == (BOTH, BOTH)
        await trio.sleep(60)
        desk.far.answer = None
        await trio.sleep(9)
        assert (desk.holds.lanes, other.holds.lanes) == (NONE, NONE)
    began_s = desk.far.began_s()
    assert len(began_s) >= 60 / (6 * 1.2 + 1)
    assert all(after - before >= 0.99 for before, after in pairwise(began_s))


async def test_a_slow_probe_keeps_its_lease_and_then_has_it_for_a_second(autojump_clock: MockClock) -> None:
    desk = Desk()
    other = Desk(desk.store, desk.far)
    desk.far.answer, desk.far.takes_s = AWAY, 12
    async with desk.running(), other.running():
        await trio.sleep(0.5)
        await desk.fails(AWAY, "a", "b", "c")
        for _ in range(1000):
            await trio.sleep(0.1)
            assert desk.far.under_way <= 1
            if desk.far.probed:
                break
        await trio.sleep(0.01)
        assert desk.store.lease is not None
        assert desk.store.lease[1] == pytest.approx(desk.far.probed[0][2] + 1, abs=0.05)


async def test_who_opens_later_takes_the_hold_that_stands(autojump_clock: MockClock) -> None:
    desk = Desk()
    other = Desk(desk.store, desk.far)
    desk.far.answer = AWAY
    async with desk.running(), other.running():
        await trio.sleep(0.5)
        await desk.fails(AWAY, "a", "b", "c")
        await trio.sleep(0.05)
        hold = desk.store.breakers
        await other.fails(AWAY, "d", "e", "f")
        await trio.sleep(0.05)
        assert desk.store.breakers == hold
        assert other.relay.breaker.hold == desk.relay.breaker.hold


async def test_a_probe_that_is_well_lifts_no_other_hold_than_the_one_it_knew(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.far.takes_s = 0.5
    async with desk.running():
        await trio.sleep(0.5)
        await desk.fails(AWAY, "a", "b", "c")
        await until(lambda: bool(desk.far.under_way), within_s=3)
        hold = desk.store.breakers
        assert hold is not None
        another = replace(hold, reason="auth", pause_ms=60_000, until_ms=TrioClock().now_ms() + 120_000)
        desk.store.slow_s["read"] = 1  # it has not read it when its probe ends
        desk.store.put(another)
        await trio.sleep(5)
        assert desk.store.breakers == another
        assert not desk.relay.breaker.goes


@pytest.mark.parametrize("well", [True, False])
async def test_a_refused_sender_is_probed_at_once(desk: Desk, well: bool, autojump_clock: MockClock) -> None:
    desk.far.answer = None if well else SENDER
    learnt: list[Judged] = []

    async def slot() -> None:
        learnt.append(await desk.relay.judge(delivery_of(), SENDER))

    async with desk.running():
        await trio.sleep(0.5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slot)
            await until(lambda: bool(learnt), within_s=0.3)
        assert [one.result.blame for one in learnt] == [Blame.MESSAGE if well else Blame.RELAY]
        await trio.sleep(0.1)
        assert (desk.store.breakers is None) is well


async def test_a_session_that_fails_by_our_own_fault_opens_nothing(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.far.answer = failed(Exchange.CONNECT, code="out_of_resources", blame=Blame.SERVICE)
    async with desk.running():
        await trio.sleep(0.5)
        await desk.fails(SENDER, "a")
        await trio.sleep(40)
        assert (desk.store.stored, desk.relay.breaker.state) == ({}, BreakerState.CLOSED)


@pytest.mark.parametrize("kept", ["redis", "lease"])
async def test_a_session_ends_with_its_lease(desk: Desk, kept: str, autojump_clock: MockClock) -> None:
    """Another process may probe from then on."""
    desk.far.answer, desk.far.takes_s = AWAY, 20
    async with desk.running():
        await trio.sleep(0.5)
        await desk.fails(AWAY, "a", "b", "c")
        await until(lambda: bool(desk.far.under_way), within_s=3)
        if kept == "redis":
            desk.store.lease = ("another", trio.current_time() + 30)
        else:
            desk.store.away = True
        await trio.sleep(5.1)
        assert not desk.far.under_way


async def test_a_probe_may_end_while_its_lease_is_renewed_and_refused(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.far.answer, desk.far.takes_s = AWAY, 2
    async with desk.running():
        await trio.sleep(0.5)
        await desk.fails(AWAY, "a", "b", "c")
        await until(lambda: bool(desk.far.under_way), within_s=3)
        desk.store.slow_s["lease"] = 3
        desk.store.lease = ("another", trio.current_time() + 5)
        await until(lambda: not desk.far.under_way, within_s=3)
        desk.store.slow_s.clear()
        desk.far.answer = None
        await until(partial(desk_is_free, desk), within_s=30)


# A probe by delivery


async def opened_by_answers(desk: Desk) -> None:
    desk.far.answer = FULL
    await trio.sleep(0.5)
    await desk.fails(FULL, "a", "b", "c")
    await trio.sleep(0.1)
    assert desk.store.breakers is not None
    assert desk.store.breakers.reason == "mail"


async def test_each_probe_is_another_delivery_and_the_priority_lane_comes_first(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.due = [claim_of("bulk-1"), claim_of("bulk-2"), claim_of("code", Lane.PRIORITY)]
    async with desk.running(scheduler=True):
        await opened_by_answers(desk)
        await trio.sleep(12)
    assert desk.far.names() == ["code", "bulk-1", "bulk-2"]
    assert desk.judged == [Judged(FULL, PROBED_AGAIN_IN_MS)] * 3


async def test_an_accepted_delivery_lifts_the_hold(desk: Desk, autojump_clock: MockClock) -> None:
    async with desk.running(scheduler=True):
        await opened_by_answers(desk)
        desk.due = [claim_of("bulk"), claim_of("code", Lane.PRIORITY)]
        desk.far.answer = None
        await trio.sleep(2.5)
        assert (desk.far.names(), desk.store.stored) == (["code"], {})
        assert (desk.holds.lanes, desk.relay.breaker.state) == (NONE, BreakerState.CLOSED)


async def test_a_delivery_that_probes_goes_on_when_its_lease_is_lost(
    desk: Desk, autojump_clock: MockClock
) -> None:
    """Cut off past its final dot, it could be sent twice."""
    async with desk.running(scheduler=True):
        await opened_by_answers(desk)
        desk.due = [claim_of("bulk")]
        desk.far.answer, desk.far.takes_s = None, 20
        await until(lambda: bool(desk.far.under_way), within_s=10)
        desk.store.lease = ("another", trio.current_time() + 30)
        await trio.sleep(15)
        assert desk.far.under_way
        await until(lambda: bool(desk.judged), within_s=10)
    assert desk.judged == [Judged(ACCEPTED)]


async def test_a_delivery_does_not_probe_in_a_lane_that_an_operator_holds(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.store.put(HOLD)
    async with desk.running(scheduler=True):
        await opened_by_answers(desk)
        desk.due = [claim_of("bulk"), claim_of("code", Lane.PRIORITY)]
        desk.far.answer = None
        await trio.sleep(3)
        assert desk.far.names() == ["bulk"]
        assert desk.holds.lanes == PRIORITY
        assert [claim.delivery_id for claim in desk.due] == ["code"]


async def test_without_a_delivery_the_probe_is_given_up_and_the_hold_ends_by_itself(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with desk.running(scheduler=True):
        await opened_by_answers(desk)
        opened_s = trio.current_time()
        await until(lambda: desk.holds.lanes == NONE, within_s=70)
        assert trio.current_time() - opened_s == pytest.approx(61, abs=0.5)
        assert (desk.far.probed, desk.relay.breaker.state) == ([], BreakerState.RECOVERING)
        await trio.sleep(KEPT_MS / 1000 + 2)
        assert desk.store.stored == {}


# Whatever fails


@pytest.mark.parametrize("fault", ["refused", "lost_reply"])
@pytest.mark.parametrize("name", ["read", "get", "save", "remove", "lease"])
@pytest.mark.parametrize("result", [AWAY, FULL], ids=["by session", "by delivery"])
async def test_whichever_call_fails_the_hold_opens_and_is_lifted(
    desk: Desk, result: SendResult, name: str, fault: str, autojump_clock: MockClock
) -> None:
    desk.far.answer = result
    desk.due = [claim_of(f"d{number}") for number in range(20)]
    async with desk.running(scheduler=True):
        await trio.sleep(1.5)
        desk.store.faults[name].extend([fault] * 3)
        await desk.fails(result, "a", "b", "c")
        await trio.sleep(5)
        assert desk.store.breakers is not None
        desk.store.faults[name].extend([fault] * 3)
        desk.far.answer = None
        await trio.sleep(20)
        assert (desk.store.stored, desk.holds.lanes) == ({}, NONE)
        assert desk.relay.breaker.goes


async def test_while_redis_is_away_what_is_to_be_done_is_tried_a_few_times_a_second(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with desk.running():
        await trio.sleep(1.5)
        desk.store.away = True
        await desk.fails(AWAY, "a", "b", "c")
        desk.store.asked.clear()
        await trio.sleep(30)
        assert 30 <= len(desk.store.asked) <= 30 / PAUSE_AFTER_FAILURE_S * 2


@pytest.mark.parametrize("result", [AWAY, SENDER, FULL], ids=["by session", "at once", "by delivery"])
async def test_killed_after_any_number_of_steps_no_hold_stays(
    result: SendResult, autojump_clock: MockClock
) -> None:
    """The next actor goes on: a relay that is well is lifted, and nobody keeps the lease."""
    seen: set[str] = set()
    for steps in range(70):
        desk = Desk()
        desk.far.answer, desk.far.takes_s = result, 0
        desk.due = [claim_of(f"d{number}") for number in range(9)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.schedule)
            nursery.start_soon(desk.act)
            await trio.sleep(0.5)
            for name in "abc":
                nursery.start_soon(desk.relay.judge, delivery_of(request_of(name)), result)
            if steps >= 20:
                await trio.sleep(1 + (steps - 20) / 500)
            for _ in range(steps % 35):
                await trio.lowlevel.checkpoint()
            seen.add(desk.relay.breaker.state)
            desk.scope.cancel()
            await trio.sleep(0.2)
            nursery.start_soon(desk.act)
            desk.far.answer = None
            await trio.sleep(2)
            await until(partial(desk_is_free, desk), within_s=90)
            assert desk.holds.lanes == NONE
            assert desk.relay._waiting == {}
            assert desk.store.lease is None or desk.store.lease[1] <= trio.current_time() + 5
            nursery.cancel_scope.cancel()
    assert BreakerState.OPEN in seen
