"""The breaker of one relay in one process: when its mail is held, who probes it, when mail goes on. Pure.

`step(breaker, event, ...)` returns the breaker after the event and what to do about it. `tests/models/breaker.pml`
models several processes that do this over one hold and one lease in Redis.

The actor `relays` is the shell:

* It gives every event to `step` and carries out the actions in their order. `Replace` is a compare-and-set of the
  breaker's hold alone, never of an operator's. Its answer is the hold that stands then, which goes back as `Seen`.
  Scheduler and slots look at `CurrentHolds`, which is read from Redis after the action.
* Each second it reads the hold and gives `Seen`, then `Tick`.
* From `probe_due_ms(breaker)` on (it wakes for it) it tries to take the lease `mail:probe:<relay>` (5 s), once a second.
  When it has the lease, it reads the hold: `Seen`, then `Leased`. If no `StartProbe` comes out, it gives the lease
  back.
* It renews the lease while it probes, and cancels the probe when another process has the lease (`ProbeGivenUp`).
  After the answer and its actions it cuts the lease to 1 s instead of deleting it: then there is at most one probe a
  second over all processes.
* `StartProbe(DELIVERY)`: the next due delivery is claimed, the priority lane first, and begun although the relay is
  held. Its outcome is a `Probe...` event, not `MailAccepted` or `Failed`. No delivery is due: `ProbeGivenUp`.
* The slot whose attempt failed by the relay's fault waits for the `Charge` of its delivery before it concludes. It does
  not report failures of this service, and asks `sameness` before it reports one of the message (`MessageFailed`).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.records import Blame, Failure
from galaxy_mail.relays.breaker_events import (
    BY_DELIVERY,
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

FAILURES_IN_A_ROW: Final = 3
PROBED_AGAIN_IN_MS: Final = 60_000  # until a delivery that was refused as a probe is due again
CHECK_WITHIN_MS: Final = 30_000  # a check without a result after so long blames the relay
REMEMBERED_MS: Final = 900_000  # after so long without an accepted mail, pauses start anew
SPREAD: Final = 0.2


class BreakerState(StrEnum):
    CLOSED = "closed"
    CHECKING = "checking"  # not held: a check decides whose fault a refused sender, login or certificate is
    OPEN = "open"  # held, by this process or another
    PROBING = "probing"  # held, and this process probes
    RECOVERING = "recovering"  # not held, and no mail accepted since the last hold


S = BreakerState
_FREE: Final = frozenset({S.CLOSED, S.RECOVERING})
_HELD: Final = frozenset({S.OPEN, S.PROBING})

# The states that may follow. What is not listed leaves the state as it is.
MOVES: Final[Mapping[type[Event], Mapping[BreakerState, frozenset[BreakerState]]]] = {
    MailAccepted: {S.RECOVERING: frozenset({S.CLOSED})},
    Failed: {
        # PROBING: a check, or the probe of a hold that has ended, is under way.
        S.CLOSED: frozenset({S.CLOSED, S.CHECKING, *_HELD}),
        S.RECOVERING: frozenset({S.RECOVERING, S.CHECKING, *_HELD}),
        S.CHECKING: frozenset({S.CHECKING, *_HELD}),
    },
    Seen: {
        S.CLOSED: frozenset({S.CLOSED, *_HELD}),
        S.RECOVERING: frozenset({S.RECOVERING, *_HELD}),
        S.CHECKING: frozenset({S.CHECKING, *_HELD}),
        S.OPEN: frozenset({S.OPEN, S.RECOVERING}),
        S.PROBING: frozenset({S.PROBING, S.RECOVERING}),
    },
    Leased: {S.OPEN: frozenset({S.OPEN, S.PROBING})},
    ProbeWell: {
        S.CHECKING: _FREE,
        S.PROBING: frozenset({S.OPEN, *_FREE}),  # OPEN: a session does not show that mail is taken
        S.RECOVERING: _FREE,
    },
    ProbeRefused: dict.fromkeys(set(S) - {S.OPEN}, frozenset({S.OPEN})),
    ProbeUndecided: {S.PROBING: frozenset({S.OPEN})},
    ProbeGivenUp: {S.PROBING: frozenset({S.OPEN})},
    Tick: {
        S.CHECKING: frozenset({S.CHECKING, *_FREE}),
        S.OPEN: frozenset({S.OPEN, S.RECOVERING}),
        S.PROBING: frozenset({S.PROBING, S.RECOVERING}),
        S.RECOVERING: _FREE,
    },
}


class IllegalStep(GalaxyMailError):
    """The table does not allow this change of a state. A bug."""


class Breaker(Struct, frozen=True, kw_only=True):
    state: BreakerState = BreakerState.CLOSED
    hold: BreakerHold | None = None  # while not held: the last one, until a mail is accepted
    remembered_until_ms: int = 0
    probe: Probe | None = None  # under way in this process
    # The relay's failures since the last accepted mail: from MAIL on the delivery, before it None.
    row: tuple[str | None, ...] = ()
    checks: tuple[str, ...] = ()  # deliveries that wait for a check
    check_until_ms: int = 0
    accepted_ms: int | None = None  # the last accepted mail

    @property
    def goes(self) -> bool:
        """Whether mail may begin."""
        return self.state not in _HELD


def probe_due_ms(breaker: Breaker) -> int | None:
    """When this process should try to take the lease. None: no probe is due in this state."""
    if breaker.state is S.CHECKING and breaker.probe is None:
        return 0
    return breaker.hold.probe_due_ms if breaker.state is S.OPEN and breaker.hold else None


def step(breaker: Breaker, event: Event, *, now_ms: int, luck: float) -> tuple[Breaker, tuple[Action, ...]]:
    """The breaker after `event`, and what to do. `luck`, random from 0 to 1, changes the pause by up to 20 %."""
    after, actions = _step(breaker, event, now_ms, 1 + SPREAD * (2 * luck - 1))
    if after.state not in MOVES.get(type(event), {}).get(breaker.state, {breaker.state}):
        raise IllegalStep(f"{type(event).__name__} may not lead from {breaker.state} to {after.state}")
    return after, actions


def _step(b: Breaker, event: Event, now_ms: int, spread: float) -> tuple[Breaker, tuple[Action, ...]]:
    match event:
        case MailAccepted():
            if not b.goes:  # it began before the hold
                return replace(b, accepted_ms=now_ms), ()
            state = S.CHECKING if b.state is S.CHECKING else S.CLOSED
            return replace(b, state=state, hold=None, row=(), accepted_ms=now_ms), ()
        case MessageFailed():  # so connections can be had
            return replace(b, row=tuple(delivery_id for delivery_id in b.row if delivery_id is not None)), ()
        case Failed():
            return _failed(b, event, now_ms, spread)
        case Seen(hold):
            if hold is not None and hold.until_ms > now_ms:
                return _held(b, hold)
            return (b if b.goes else _freed(b, now_ms)), ()
        case Leased():
            if b.state is S.CHECKING and b.probe is None:
                return replace(b, probe=Probe.SESSION), (StartProbe(Probe.SESSION),)
            if b.state is S.OPEN and b.hold is not None and b.hold.probe_due_ms <= now_ms:
                probe = Probe.DELIVERY if b.hold.kind in BY_DELIVERY else Probe.SESSION
                return replace(b, state=S.PROBING, probe=probe), (StartProbe(probe),)
            return b, ()
        case ProbeWell():
            return _well(b, now_ms)
        case ProbeRefused(kind=kind, failure=failure, delivery_id=delivery_id):
            charge = () if delivery_id is None else (Charge(delivery_id, Blame.RELAY, PROBED_AGAIN_IN_MS),)
            if b.state is S.OPEN:
                return b, charge
            opened, actions = _open(replace(b, probe=None), kind, failure, now_ms, spread)
            return opened, charge + actions
        case ProbeUndecided():
            if b.state is not S.PROBING or b.hold is None:
                return replace(b, probe=None), ()
            pause_ms, _ = _pauses(b.hold.kind)
            again = replace(b.hold, until_ms=now_ms + round(pause_ms * spread) + HOLD_AFTER_PROBE_MS)
            return replace(b, state=S.OPEN, probe=None, hold=again), (Replace(b.hold, again),)
        case ProbeGivenUp():
            return replace(b, state=S.OPEN if b.state is S.PROBING else b.state, probe=None), ()
        case Tick():
            return _tick(b, now_ms)


def _failed(b: Breaker, event: Failed, now_ms: int, spread: float) -> tuple[Breaker, tuple[Action, ...]]:
    charge = (Charge(event.delivery_id, Blame.RELAY),)
    if not b.goes:
        return b, charge
    if event.kind in CHECKED:
        until_ms = b.check_until_ms if b.state is S.CHECKING else now_ms + CHECK_WITHIN_MS
        checks = (*b.checks, event.delivery_id)
        return replace(b, state=S.CHECKING, checks=checks, check_until_ms=until_ms), ()
    counted = None if event.kind is Kind.CONNECTION else event.delivery_id
    row = b.row if counted is not None and counted in b.row else (*b.row, counted)
    if event.kind is not Kind.EVERYTHING and len(row) < FAILURES_IN_A_ROW:
        return replace(b, row=row), charge
    opened, actions = _open(b, event.kind, event.failure, now_ms, spread)
    return opened, charge + actions


def _well(b: Breaker, now_ms: int) -> tuple[Breaker, tuple[Action, ...]]:
    done = replace(b, probe=None)
    if b.probe is Probe.DELIVERY:  # an accepted mail
        done = replace(done, row=(), accepted_ms=now_ms)
    match b.state:
        case S.CHECKING:
            return _settle(done, Blame.MESSAGE)
        case S.PROBING if b.probe is Probe.DELIVERY:
            return replace(done, state=S.CLOSED, hold=None), (Replace(b.hold, None),)
        case S.PROBING if b.hold is not None and b.hold.kind not in BY_DELIVERY:
            return _freed(done, now_ms), (Replace(b.hold, None),)
        case S.PROBING:  # a check, and meanwhile another process opened a hold that a session can't lift
            return replace(done, state=S.OPEN), ()
        case S.RECOVERING if b.probe is Probe.DELIVERY:
            return replace(done, state=S.CLOSED, hold=None), ()
        case _:
            return done, ()


def _tick(b: Breaker, now_ms: int) -> tuple[Breaker, tuple[Action, ...]]:
    if b.hold is not None and not b.goes:
        if b.hold.until_ms <= now_ms:
            return _freed(b, now_ms), ()
        if b.state is S.PROBING and b.hold.until_ms - now_ms <= HOLD_AFTER_PROBE_MS // 2:
            return _extend(b, now_ms)  # a delivery can take long
        return b, ()
    if b.hold is not None and b.remembered_until_ms <= now_ms:
        b = replace(b, hold=None, state=S.CLOSED if b.state is S.RECOVERING else b.state)
    if b.state is S.CHECKING and b.check_until_ms <= now_ms:
        return _settle(b, Blame.RELAY)
    return b, ()


def _pauses(kind: Kind) -> tuple[int, int]:
    """The first pause and the longest."""
    return (60_000, 900_000) if kind is Kind.AUTH else (1_000, 6_000)


def _open(
    b: Breaker, kind: Kind, failure: Failure, now_ms: int, spread: float
) -> tuple[Breaker, tuple[Action, ...]]:
    """Opens a hold, or changes the one that stands, with the pause after the last one."""
    pause_ms, longest_ms = _pauses(kind)
    if b.hold is not None and _pauses(b.hold.kind) == (pause_ms, longest_ms):
        pause_ms = min(2 * b.hold.pause_ms, longest_ms)
    stands = None if b.goes else b.hold
    hold = BreakerHold(
        kind=kind,
        failure=failure,
        since_ms=stands.since_ms if stands else now_ms,
        until_ms=now_ms + round(pause_ms * spread) + HOLD_AFTER_PROBE_MS,
        pause_ms=pause_ms,
    )
    held, charges = _held(b, hold)
    return held, (Replace(stands, hold), *charges)


def _held(b: Breaker, hold: BreakerHold) -> tuple[Breaker, tuple[Action, ...]]:
    settled, charges = _settle(b, Blame.RELAY)
    return replace(settled, state=S.PROBING if b.probe else S.OPEN, hold=hold, row=()), charges


def _freed(b: Breaker, now_ms: int) -> Breaker:
    return replace(b, state=S.RECOVERING, remembered_until_ms=now_ms + REMEMBERED_MS)


def _settle(b: Breaker, blame: Blame) -> tuple[Breaker, tuple[Action, ...]]:
    """Charges the deliveries that waited for a check."""
    state = b.state if b.state is not S.CHECKING else S.CLOSED if b.hold is None else S.RECOVERING
    return replace(b, state=state, checks=()), tuple(Charge(delivery_id, blame) for delivery_id in b.checks)


def _extend(b: Breaker, now_ms: int) -> tuple[Breaker, tuple[Action, ...]]:
    """A probe is due now."""
    assert b.hold is not None
    hold = replace(b.hold, until_ms=now_ms + HOLD_AFTER_PROBE_MS)
    return replace(b, hold=hold), (Replace(b.hold, hold),)
