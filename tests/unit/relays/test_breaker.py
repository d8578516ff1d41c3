"""The breaker of one process, sentence by sentence of the specification. Several processes: test_breakers.py."""

from collections.abc import Sequence
from random import Random

import pytest
from msgspec.structs import replace

from galaxy_mail.domain.records import Blame, Failure
from galaxy_mail.relays.breaker import MOVES, Breaker, BreakerState, IllegalStep, probe_due_ms, step
from galaxy_mail.relays.breaker_events import (
    CHECKED,
    HOLD_AFTER_PROBE_MS,
    Action,
    BreakerHold,
    Charge,
    Event,
    Failed,
    Kind,
    Leased,
    MailAccepted,
    MessageFailed,
    Probe,
    ProbeGivenUp,
    ProbeRefused,
    ProbeUndecided,
    ProbeWell,
    Replace,
    Seen,
    StartProbe,
    Tick,
)

NOW_MS = 4_100_000_000_000
WHY = Failure(code="service_closing", summary="421 4.3.2 go away")
S = BreakerState
SESSION, DELIVERY = StartProbe(Probe.SESSION), StartProbe(Probe.DELIVERY)


class Process:
    """One breaker and its clock; `luck` is in the middle, so pauses are not spread."""

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.now_ms = NOW_MS
        self.luck = 0.5

    def __call__(self, event: Event, *, after_ms: int = 0) -> Sequence[Action]:
        self.now_ms += after_ms
        self.breaker, actions = step(self.breaker, event, now_ms=self.now_ms, luck=self.luck)
        return actions

    def failed(self, delivery_id: str, kind: Kind = Kind.CONNECTION) -> Sequence[Action]:
        return self(Failed(delivery_id=delivery_id, kind=kind, failure=WHY))

    def refused(self, kind: Kind, delivery_id: str | None = None) -> Sequence[Action]:
        return self(ProbeRefused(kind=kind, failure=WHY, delivery_id=delivery_id))

    def state(self) -> BreakerState:
        return self.breaker.state

    @property
    def hold(self) -> BreakerHold:
        assert self.breaker.hold is not None
        return self.breaker.hold

    def wait_for_probe(self) -> int:
        """Goes to the time of the next probe; returns the pause."""
        due_ms = probe_due_ms(self.breaker)
        assert due_ms is not None
        pause_ms = due_ms - self.now_ms
        self.now_ms = due_ms
        return pause_ms


@pytest.fixture
def process() -> Process:
    return Process()


def opened(kind: Kind = Kind.CONNECTION) -> Process:
    process = Process()
    for delivery_id in ("a", "b", "c"):
        process.failed(delivery_id, kind)
    assert process.state() is S.OPEN
    return process


# What opens it


def test_three_failures_in_a_row_open_it(process: Process) -> None:
    assert process.failed("a") == (Charge("a", Blame.RELAY),)
    assert process.failed("a") == (Charge("a", Blame.RELAY),)
    assert process.state() is S.CLOSED
    charge, write = process.failed("a")
    assert charge == Charge("a", Blame.RELAY)
    hold = BreakerHold(
        kind=Kind.CONNECTION, failure=WHY, since_ms=NOW_MS, until_ms=NOW_MS + 61_000, pause_ms=1_000
    )
    assert write == Replace(None, hold)
    assert process.state() is S.OPEN
    assert not process.breaker.goes


def test_from_mail_on_they_are_of_three_different_deliveries(process: Process) -> None:
    for _ in range(9):
        assert process.failed("odd", Kind.MAIL) == (Charge("odd", Blame.RELAY),)
    process.failed("b", Kind.MAIL)
    assert process.state() is S.CLOSED
    process.failed("c", Kind.MAIL)
    assert process.state() is S.OPEN


def test_an_accepted_mail_ends_the_row(process: Process) -> None:
    process.failed("a")
    process.failed("b")
    process(MailAccepted())
    process.failed("c")
    process.failed("d")
    assert process.state() is S.CLOSED


def test_an_answer_after_mail_shows_that_connections_can_be_had(process: Process) -> None:
    process.failed("a")
    process.failed("b", Kind.MAIL)
    process(MessageFailed())
    process.failed("c")
    assert process.state() is S.CLOSED
    process.failed("d", Kind.MAIL)
    assert process.state() is S.OPEN


def test_what_fails_everything_opens_at_once(process: Process) -> None:
    process.failed("a", Kind.EVERYTHING)
    assert process.state() is S.OPEN


def test_failures_while_held_are_the_relays_and_change_nothing() -> None:
    process = opened()
    before = process.breaker
    for kind in Kind:
        assert process.failed("x", kind) == (Charge("x", Blame.RELAY),)
    process(MailAccepted())  # it began before the hold
    process(MessageFailed())
    assert process.state() is S.OPEN
    assert process.hold == before.hold


# The probe at once


@pytest.mark.parametrize("kind", sorted(CHECKED))
@pytest.mark.parametrize("recovering", [False, True])
def test_a_good_probe_at_once_charges_the_message(kind: Kind, recovering: bool) -> None:
    process = opened() if recovering else Process()
    process(Seen(None))
    before = process.state()
    assert process.failed("a", kind) == ()
    assert process.breaker.goes
    assert process.state() is S.CHECKING
    assert probe_due_ms(process.breaker) == 0
    assert process(Leased()) == (SESSION,)
    assert process.failed("b", kind) == ()
    assert process(Leased()) == ()
    assert process(ProbeWell()) == (Charge("a", Blame.MESSAGE), Charge("b", Blame.MESSAGE))
    assert process.state() is before


@pytest.mark.parametrize("kind", sorted(CHECKED))
def test_a_refused_probe_at_once_opens_it(process: Process, kind: Kind) -> None:
    process.failed("a", kind)
    process(Leased())
    write, charge = process.refused(kind)
    assert isinstance(write, Replace)
    assert write.before is None
    assert charge == Charge("a", Blame.RELAY)
    assert process.state() is S.OPEN
    assert process.hold.kind is kind


def test_a_hold_that_is_found_ends_the_wait_for_a_probe(process: Process) -> None:
    hold = opened().hold
    process.failed("a", Kind.SENDER)
    assert process(Seen(hold)) == (Charge("a", Blame.RELAY),)
    assert process.state() is S.OPEN
    assert process(Leased()) == ()  # not due


def test_three_failures_open_it_while_a_probe_at_once_is_under_way(process: Process) -> None:
    process.failed("a", Kind.SENDER)
    process(Leased())
    process.failed("b", Kind.MAIL)
    process.failed("c", Kind.MAIL)
    charge, write, checked = process.failed("d", Kind.MAIL)
    assert (charge, checked) == (Charge("d", Blame.RELAY), Charge("a", Blame.RELAY))
    assert isinstance(write, Replace)
    assert process.state() is S.PROBING
    assert process(ProbeWell()) == ()  # a session does not show that mail is taken
    assert process.state() is S.OPEN


def test_a_check_that_gets_no_lease_blames_the_relay_in_the_end(process: Process) -> None:
    process.failed("a", Kind.SENDER)
    process(Leased())
    process(ProbeGivenUp())
    assert probe_due_ms(process.breaker) == 0
    assert process(Tick(), after_ms=29_999) == ()
    process.failed("b", Kind.SENDER)
    assert process(Tick(), after_ms=1) == (Charge("a", Blame.RELAY), Charge("b", Blame.RELAY))
    assert process.state() is S.CLOSED


def test_accepted_mail_does_not_decide_a_check(process: Process) -> None:
    process.failed("a", Kind.SENDER)
    assert process(MailAccepted()) == ()
    assert process.state() is S.CHECKING


# Probes and pauses


def test_a_good_session_lifts_the_hold() -> None:
    process = opened()
    hold = process.hold
    assert process(Leased()) == ()  # not due
    process.wait_for_probe()
    assert process(Leased()) == (SESSION,)
    assert process.state() is S.PROBING
    assert process(ProbeWell()) == (Replace(hold, None),)
    assert process.state() is S.RECOVERING
    process(MailAccepted())
    assert process.state() is S.CLOSED
    assert process.breaker.hold is None


@pytest.mark.parametrize("kind", [Kind.MAIL, Kind.EVERYTHING])
def test_what_an_answer_after_mail_opened_only_an_accepted_delivery_closes(kind: Kind) -> None:
    process = opened(kind)
    process.wait_for_probe()
    assert process(Leased()) == (DELIVERY,)
    charge, write = process.refused(kind, "d")
    assert charge == Charge("d", Blame.RELAY, 60_000)
    assert isinstance(write, Replace)
    assert write.after == process.hold
    assert process.wait_for_probe() == 2_000
    assert process(Leased()) == (DELIVERY,)
    hold = process.hold
    assert process(ProbeWell()) == (Replace(hold, None),)
    assert process.breaker == Breaker(accepted_ms=process.now_ms)


def pauses(process: Process, kind: Kind, count: int) -> list[int]:
    waited = []
    for _ in range(count):
        waited.append(process.wait_for_probe())
        process(Leased())
        process.refused(kind)
    return waited


def test_pauses_double_to_6_s() -> None:
    assert pauses(opened(), Kind.CONNECTION, 5) == [1_000, 2_000, 4_000, 6_000, 6_000]


def test_pauses_after_a_refused_login_double_from_a_minute_to_15() -> None:
    process = Process()
    process.failed("a", Kind.AUTH)
    process(Leased())
    process.refused(Kind.AUTH)
    assert pauses(process, Kind.AUTH, 6) == [60_000, 120_000, 240_000, 480_000, 900_000, 900_000]


def test_what_the_last_probe_met_decides_the_next_pause_and_the_hold_keeps_its_beginning() -> None:
    process = opened()
    pauses(process, Kind.CONNECTION, 2)
    process.wait_for_probe()
    process(Leased())
    process.refused(Kind.AUTH)
    assert process.hold.since_ms == NOW_MS
    assert process.wait_for_probe() == 60_000


@pytest.mark.parametrize(("luck", "pause_ms"), [(0.0, 800), (1.0, 1_200)])
def test_pauses_are_spread_by_a_fifth(process: Process, luck: float, pause_ms: int) -> None:
    process.luck = luck
    for delivery_id in ("a", "b", "c"):
        process.failed(delivery_id)
    assert process.wait_for_probe() == pause_ms


def test_a_hold_lasts_60_s_longer_than_the_pause() -> None:
    process = opened()
    assert process.hold.until_ms == process.hold.probe_due_ms + 60_000


def test_only_an_accepted_mail_resets_the_pause() -> None:
    process = opened()
    process.wait_for_probe()
    process(Leased())
    process(ProbeWell())
    for delivery_id in ("a", "b", "c"):
        process.failed(delivery_id, Kind.MAIL)
    assert process.wait_for_probe() == 2_000
    process(Leased())
    process(ProbeWell())
    for delivery_id in ("a", "b", "c"):
        process.failed(delivery_id)
    assert process.wait_for_probe() == 1_000


def test_a_process_without_mail_forgets_the_pause_after_15_min() -> None:
    process = opened()
    process(Seen(None))
    process(Tick(), after_ms=899_999)
    assert process.state() is S.RECOVERING
    process(Tick(), after_ms=1)
    assert process.breaker == Breaker(remembered_until_ms=process.now_ms)


def test_a_probe_whose_delivery_failed_by_its_own_fault_is_followed_by_another_soon() -> None:
    process = opened(Kind.MAIL)
    pauses(process, Kind.MAIL, 3)
    process.wait_for_probe()
    process(Leased())
    assert [type(action) for action in process(ProbeUndecided())] == [Replace]
    assert process.state() is S.OPEN
    assert process.wait_for_probe() == 1_000
    process(Leased())
    process.refused(Kind.MAIL)
    assert process.wait_for_probe() == 6_000


def test_a_probe_that_was_not_made_leaves_the_end_of_the_hold() -> None:
    process = opened(Kind.MAIL)
    hold = process.hold
    process.wait_for_probe()
    process(Leased())
    assert process(ProbeGivenUp()) == ()
    assert (process.state(), process.hold) == (S.OPEN, hold)
    assert process(Tick(), after_ms=59_999) == ()
    assert process.state() is S.OPEN
    process(Tick(), after_ms=1)
    assert process.state() is S.RECOVERING


def test_a_long_probe_keeps_the_hold() -> None:
    process = opened(Kind.MAIL)
    process.wait_for_probe()
    process(Leased())
    before = process.hold
    assert process(Tick(), after_ms=29_999) == ()
    assert process(Tick(), after_ms=1) == (Replace(before, process.hold),)
    assert process.hold.until_ms == process.now_ms + 60_000
    assert process.state() is S.PROBING


def test_an_operator_lifts_by_a_probe_at_once() -> None:
    process = opened()
    pauses(process, Kind.AUTH, 3)
    due_now = replace(
        process.hold, until_ms=process.now_ms + HOLD_AFTER_PROBE_MS
    )  # what a DELETE leaves in Redis
    assert process(Seen(due_now)) == ()
    assert probe_due_ms(process.breaker) == process.now_ms
    assert process(Leased()) == (SESSION,)


# What others do


def test_another_process_hold_is_taken_over_and_left(process: Process) -> None:
    hold = opened().hold
    process(Seen(hold))
    assert (process.state(), process.hold) == (S.OPEN, hold)
    process(Seen(None))
    assert process.state() is S.RECOVERING
    assert process.breaker.goes


def test_a_hold_that_has_ended_is_not_seen(process: Process) -> None:
    process(Seen(opened().hold), after_ms=61_000)
    assert process.state() is S.CLOSED


def test_a_hold_that_vanishes_under_a_probe_frees_and_a_refusal_opens_anew() -> None:
    process = opened(Kind.MAIL)
    process.wait_for_probe()
    process(Leased())
    process(Seen(None))
    assert process.state() is S.RECOVERING
    _, write = process.refused(Kind.MAIL, "d")
    assert isinstance(write, Replace)
    assert write.before is None
    assert process.state() is S.OPEN


def test_an_accepted_probe_of_a_hold_that_has_ended_is_an_accepted_mail() -> None:
    process = opened(Kind.MAIL)
    process.wait_for_probe()
    process(Leased())
    process(Seen(None))
    assert process(ProbeWell()) == ()
    assert process.breaker == Breaker(
        accepted_ms=process.now_ms, remembered_until_ms=process.breaker.remembered_until_ms
    )


def test_the_table_names_the_steps_that_happen_and_no_other() -> None:
    happened = set()
    for seed in range(120):
        chance, process = Random(seed), Process()
        for _ in range(400):
            before, event = process.state(), an_event(chance, process)
            process(event, after_ms=chance.choice((0, 10, 1_000, 61_000, 900_000)))
            happened.add((type(event), before, process.state()))
    steps = {
        (event, before, after) for event, row in MOVES.items() for before, to in row.items() for after in to
    }
    assert {moved for moved in happened if moved[1] is not moved[2]} == {
        listed for listed in steps if listed[1] is not listed[2]
    }
    assert steps <= happened


def an_event(chance: Random, process: Process) -> Event:
    failed = Failed(delivery_id=chance.choice("abcdef"), kind=chance.choice(list(Kind)), failure=WHY)
    kind = chance.choice(list(Kind))
    found = BreakerHold(
        kind=kind, failure=WHY, since_ms=0, until_ms=process.now_ms + 1_200_000, pause_ms=1_000
    )
    events: list[Event] = [
        MailAccepted(),
        MessageFailed(),
        failed,
        failed,
        Seen(None),
        Seen(found),
        Leased(),
        Tick(),
    ]
    if process.breaker.probe is not None:
        events += [
            ProbeWell(),
            ProbeRefused(kind=kind, failure=WHY, delivery_id=chance.choice((None, "p"))),
            ProbeUndecided(),
            ProbeGivenUp(),
        ]
    return chance.choice(events)


def test_a_step_that_the_table_lacks_is_a_bug(monkeypatch: pytest.MonkeyPatch, process: Process) -> None:
    monkeypatch.delitem(MOVES, Seen)
    with pytest.raises(IllegalStep, match="Seen may not lead from closed to open"):
        process(Seen(opened().hold))
