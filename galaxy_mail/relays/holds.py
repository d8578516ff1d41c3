"""What the holds in force mean for lanes and relays."""

from msgspec import Struct

from galaxy_mail.domain.holds import ALL, Cause, Hold, lane_scope, relay_scope
from galaxy_mail.domain.records import Lane
from galaxy_mail.relays.breaker_events import BreakerHold, Kind


def as_hold(relay: str, hold: BreakerHold) -> Hold:
    """The hold of a relay's breaker as it is stored."""
    return Hold(
        scope=relay_scope(relay),
        cause=Cause.BREAKER,
        reason=hold.kind,
        failure=hold.failure,
        since_ms=hold.since_ms,
        until_ms=hold.until_ms,
        pause_ms=hold.pause_ms,
    )


def breaker_hold(hold: Hold | None) -> BreakerHold | None:
    """What a breaker reads from its stored hold. None: there is no hold, or this release can't use it."""
    if hold is None or hold.failure is None or hold.until_ms is None or hold.pause_ms is None:
        return None
    if hold.reason not in set(Kind):
        return None
    return BreakerHold(
        kind=Kind(hold.reason),
        failure=hold.failure,
        since_ms=hold.since_ms,
        until_ms=hold.until_ms,
        pause_ms=hold.pause_ms,
    )


class Snapshot(Struct, frozen=True):
    """The holds as they were read at one moment. A hold whose time is over does not count."""

    holds: tuple[Hold, ...] = ()
    relays: tuple[str, ...] = ()  # every relay that is configured

    def in_force(self, now_ms: int) -> tuple[Hold, ...]:
        return tuple(hold for hold in self.holds if hold.in_force(now_ms))

    def holds_relay(self, name: str, now_ms: int) -> bool:
        """Whether everything or this relay is held."""
        return self._has({ALL, relay_scope(name)}, now_ms)

    def holds_lane(self, lane: Lane, now_ms: int) -> bool:
        """Whether everything, this lane, or every relay is held."""
        if self._has({ALL, lane_scope(lane)}, now_ms):
            return True
        return bool(self.relays) and all(self.holds_relay(name, now_ms) for name in self.relays)

    def held_lanes(self, now_ms: int) -> frozenset[Lane]:
        return frozenset(lane for lane in Lane if self.holds_lane(lane, now_ms))

    def of_operators(self) -> "Snapshot":
        """The holds that are not a breaker's."""
        return Snapshot(tuple(hold for hold in self.holds if hold.cause is not Cause.BREAKER), self.relays)

    def next_end_ms(self, now_ms: int) -> int | None:
        """When the next hold ends by itself."""
        ends_ms = [hold.until_ms for hold in self.in_force(now_ms) if hold.until_ms is not None]
        return min(ends_ms, default=None)

    def _has(self, scopes: set[str], now_ms: int) -> bool:
        return any(hold.scope in scopes and hold.in_force(now_ms) for hold in self.holds)


class CurrentHolds:
    """The holds as this process knows them. The actor `relays` updates them; lanes, health and gauges read them.

    Until the first read both lanes count as held: a process that starts must not send past a hold that it has not seen.
    When Redis fails, the last snapshot stays.
    """

    def __init__(self, *, lanes: frozenset[Lane] = frozenset(Lane)) -> None:
        self.lanes = lanes  # held now
        self.operators_lanes = lanes  # held now by operators: not even a probe begins there
        self.in_force: tuple[Hold, ...] = ()
        self.snapshot: Snapshot | None = None  # None: not read yet

    def update(self, snapshot: Snapshot, now_ms: int) -> bool:
        """Replaces the snapshot. Returns whether the set of held lanes has changed."""
        before = self.lanes
        self.snapshot = snapshot
        self.in_force = snapshot.in_force(now_ms)
        self.lanes = snapshot.held_lanes(now_ms)
        self.operators_lanes = snapshot.of_operators().held_lanes(now_ms)
        return self.lanes != before
