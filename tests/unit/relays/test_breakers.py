"""Several breakers over one hold and one lease, as the actors `relays` of several processes are."""

from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from galaxy_mail.domain.records import Blame, Failure
from galaxy_mail.relays.breaker import Breaker, probe_due_ms, step
from galaxy_mail.relays.breaker_events import (
    HOLD_AFTER_PROBE_MS,
    BreakerHold,
    Charge,
    Event,
    Failed,
    Kind,
    Leased,
    MailAccepted,
    Probe,
    ProbeGivenUp,
    ProbeRefused,
    ProbeWell,
    Replace,
    Seen,
    StartProbe,
    Tick,
)

LEASE_MS: Final = 5_000
BETWEEN_PROBES_MS: Final = 1_000
WHY: Final = Failure(code="service_closing", summary="421 4.3.2 go away")
ODD: Final = "odd"
EVERYBODY: Final = {  # how the relay treats all; None: well
    "well": None,
    "away": Kind.CONNECTION,
    "certificate": Kind.CERTIFICATE,
    "login": Kind.AUTH,
    "sender": Kind.SENDER,
    "content": Kind.MAIL,
}


class World:
    """Redis, a relay, deliveries that fall due, and the processes between them."""

    def __init__(self, processes: int = 3) -> None:
        self.now_ms = 4_100_000_000_000
        self.luck = 0.5
        self.relay: Kind | None = None
        self.odd: Kind | None = None  # how the relay treats one delivery
        self.hold: BreakerHold | None = None
        self.lease: tuple[int, int] | None = None  # its owner and its end
        self.due_ms = {f"d{n}": 0 for n in range(12)} | {ODD: 0}
        self.sent: set[str] = set()
        self.messages: list[str] = []  # deliveries that were charged as message
        self.probes_ms: list[int] = []
        self.processes = [Process(self, n) for n in range(processes)]

    def blame(self, delivery_id: str) -> Kind | None:
        return self.relay or (self.odd if delivery_id == ODD else None)

    def next_due(self) -> str | None:
        due = [d for d, due_ms in self.due_ms.items() if due_ms <= self.now_ms and d not in self.sent]
        busy = {d for process in self.processes for d in process.begun | process.waiting | {process.probed}}
        return min((d for d in due if d not in busy), key=lambda d: (self.due_ms[d], d), default=None)

    def pass_time(self, for_ms: int) -> None:
        until_ms = self.now_ms + for_ms
        while self.now_ms < until_ms:
            self.now_ms = min(until_ms, self.now_ms + 250)
            if self.hold is not None and self.hold.until_ms <= self.now_ms:
                self.hold = None
            for process in self.processes:
                process.turn()


class Process:
    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.begun: set[str] = set()
        self.start()

    def start(self) -> None:
        """A new process in the place of one that was killed; its claims have expired."""
        self.breaker = Breaker()
        self.begun, self.waiting = set(), set[str]()
        self.probed = ""

    def tell(self, event: Event) -> None:
        world = self.world
        self.breaker, actions = step(self.breaker, event, now_ms=world.now_ms, luck=world.luck)
        for action in actions:
            match action:
                case Replace(before=before, after=after):
                    if world.hold == before:
                        world.hold = after
                    self.tell(Seen(world.hold))
                case StartProbe(probe=probe):
                    self.start_probe(probe)
                case Charge(delivery_id=delivery_id, blame=blame, due_in_ms=due_in_ms):
                    self.waiting.remove(delivery_id)  # once
                    world.due_ms[delivery_id] = world.now_ms + (due_in_ms or 1_000)
                    if blame is Blame.MESSAGE:
                        world.messages.append(delivery_id)

    def start_probe(self, probe: Probe) -> None:
        world = self.world
        assert all(process is self or not process.breaker.probe for process in world.processes)
        if probe is Probe.DELIVERY:
            self.probed = world.next_due() or ""
            if not self.probed:
                self.tell(ProbeGivenUp())
                return
        if world.probes_ms:
            assert world.now_ms - world.probes_ms[-1] >= BETWEEN_PROBES_MS
        world.probes_ms.append(world.now_ms)

    def turn(self) -> None:
        """What the shell does in a second: look, renew or take the lease."""
        world = self.world
        self.tell(Seen(world.hold))
        self.tell(Tick())
        owner, until_ms = world.lease or (None, 0)
        if until_ms <= world.now_ms:
            owner = world.lease = None
        if self.breaker.probe:
            assert owner == self.number
            world.lease = (self.number, world.now_ms + LEASE_MS)
            return
        due_ms = probe_due_ms(self.breaker)
        if owner is None and due_ms is not None and due_ms <= world.now_ms:
            world.lease = (self.number, world.now_ms + LEASE_MS)
            self.tell(Leased())
            if not self.breaker.probe:
                world.lease = None

    def begin(self) -> str | None:
        delivery_id = self.world.next_due()
        if delivery_id is None or not self.breaker.goes:
            return None
        self.begun.add(delivery_id)
        return delivery_id

    def end(self, delivery_id: str) -> None:
        self.begun.remove(delivery_id)
        kind = self.world.blame(delivery_id)
        if kind is None:
            self.world.sent.add(delivery_id)
            self.tell(MailAccepted())
        else:
            self.waiting.add(delivery_id)
            self.tell(Failed(delivery_id=delivery_id, kind=kind, failure=WHY))

    def end_probe(self) -> None:
        world = self.world
        delivery_id, self.probed = self.probed, ""
        if self.breaker.probe is Probe.DELIVERY:
            kind = world.blame(delivery_id)
            if kind is None:
                world.sent.add(delivery_id)
            else:
                self.waiting.add(delivery_id)
        else:
            kind = None if world.relay is Kind.MAIL else world.relay
        refused = kind and ProbeRefused(kind=kind, failure=WHY, delivery_id=delivery_id or None)
        self.tell(refused or ProbeWell())
        world.lease = (self.number, world.now_ms + BETWEEN_PROBES_MS)

    def work(self) -> None:
        """Ends whatever is under way, and begins and ends one attempt."""
        if self.breaker.probe:
            self.end_probe()
        for delivery_id in list(self.begun):
            self.end(delivery_id)
        if begun := self.begin():
            self.end(begun)


def run(world: World, for_ms: int) -> None:
    for _ in range(0, for_ms, 250):
        world.pass_time(250)
        for process in world.processes:
            process.work()


class Breakers(RuleBasedStateMachine):
    """Anything may happen at any time; in the end the relay is well, but for one delivery perhaps."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(mood=st.sampled_from(sorted(EVERYBODY)), odd=st.sampled_from([None, Kind.SENDER, Kind.MAIL]))
    def change_the_relay(self, mood: str, odd: Kind | None) -> None:
        self.world.relay, self.world.odd = EVERYBODY[mood], odd

    @rule(for_ms=st.sampled_from([250, 1_000, 5_000, 70_000]), luck=st.floats(0, 1))
    def pass_time(self, for_ms: int, luck: float) -> None:
        self.world.luck = luck
        self.world.pass_time(for_ms)

    @rule(number=st.integers(0, 2))
    def begin(self, number: int) -> None:
        self.world.processes[number].begin()

    @rule(number=st.integers(0, 2))
    def end(self, number: int) -> None:
        process = self.world.processes[number]
        if process.begun:
            process.end(min(process.begun))

    @rule(number=st.integers(0, 2))
    def end_probe(self, number: int) -> None:
        if self.world.processes[number].breaker.probe:
            self.world.processes[number].end_probe()

    @rule(number=st.integers(0, 2))
    def work(self, number: int) -> None:
        self.world.processes[number].work()

    @rule(number=st.integers(0, 2))
    def kill(self, number: int) -> None:
        self.world.processes[number].start()

    @precondition(lambda self: self.world.hold is not None)
    @rule()
    def lift(self) -> None:
        """An operator has the relay probed at once."""
        hold = self.world.hold
        assert hold is not None
        self.world.hold = replace(hold, until_ms=self.world.now_ms + HOLD_AFTER_PROBE_MS)

    @precondition(lambda self: self.world.hold is not None)
    @rule()
    def lose_the_hold(self) -> None:
        self.world.hold = None

    @invariant()
    def one_process_probes(self) -> None:
        assert sum(process.breaker.probe is not None for process in self.world.processes) <= 1

    @invariant()
    def what_waits_is_checked(self) -> None:
        for process in self.world.processes:
            assert process.waiting == set(process.breaker.checks)

    def teardown(self) -> None:
        world = self.world
        world.relay = None
        if world.odd is None:
            world.due_ms["last"] = world.now_ms  # there is mail
        run(world, 5_000)
        if world.hold is not None and world.hold.kind is Kind.AUTH:
            run(world, max(0, world.hold.probe_due_ms - world.now_ms))
        run(world, 10_000)
        # Others may wait for as long as a delivery that a probe has used.
        run(world, 60_000)
        assert set(world.due_ms) - world.sent <= {ODD}
        assert world.odd is not None or ODD in world.sent
        assert all(process.breaker.goes for process in world.processes)
        assert world.hold is None


TestBreakers = Breakers.TestCase
TestBreakers.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("mood", sorted(EVERYBODY))
def test_a_relay_that_fails_all_costs_no_retry_and_gets_mail_within_10_s_of_its_return(mood: str) -> None:
    world = World()
    world.relay = EVERYBODY[mood]
    run(world, 600_000 if world.relay is not Kind.AUTH else 30_000)
    assert world.messages == []
    if world.relay is None:
        assert world.sent == set(world.due_ms)
        return
    assert world.sent == set()
    assert world.hold is not None
    world.relay = None
    run(world, 10_000)
    assert world.sent or mood == "login"  # whose probes are rare
    run(world, 60_000)
    assert world.sent == set(world.due_ms)
    assert world.messages == []


@pytest.mark.parametrize("kind", [Kind.SENDER, Kind.MAIL])
def test_an_odd_delivery_opens_nothing(kind: Kind) -> None:
    world = World()
    world.odd = kind
    for _ in range(600):
        run(world, 1_000)
        assert world.hold is None
    assert world.sent == set(world.due_ms) - {ODD}
    assert set(world.messages) == ({ODD} if kind is Kind.SENDER else set())
