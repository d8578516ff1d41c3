"""What a process shows of itself: the gauges of `/metrics`, and what `/readyz` checks."""

from collections.abc import Callable
from typing import Final

import trio

from galaxy_mail.actors.lanes import Lanes
from galaxy_mail.actors.supervisor import Supervisor
from galaxy_mail.domain.records import Lane
from galaxy_mail.relays.holds import CurrentHolds
from galaxy_mail.relays.relay import Relay
from galaxy_mail.service.dependencies import RedisGateway
from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.operations.identity import StoreIdentity
from galaxy_mail.storage.operations.upkeep import Depths
from galaxy_mail.telemetry.metrics import Gauge, Metrics, Reading

WITHOUT_RESOURCES_S: Final = 10.0  # so long this host may be out of resources before the process is not ready


class Gauges:
    """Reads the parts when somebody asks. What is in Redis is as old as the janitor's last sample."""

    def __init__(
        self,
        *,
        gateway: RedisGateway,
        clock: Clock,
        store_identity: StoreIdentity,
        lanes: Lanes,
        holds: CurrentHolds,
        relay: Relay,
        supervisor: Supervisor,
        is_reading: Callable[[], bool],  # whether this process is the one that reads the stream
    ) -> None:
        self.stopping = False
        self._gateway = gateway
        self._clock = clock
        self._store_identity = store_identity
        self._lanes = lanes
        self._holds = holds
        self._relay = relay
        self._supervisor = supervisor
        self._is_reading = is_reading
        self._depths: Depths | None = None
        self._lag: int | None = None

    def sampled(self, depths: Depths, lag: int) -> None:
        """What the janitor has just read from Redis."""
        self._depths, self._lag = depths, lag

    def checks(self) -> dict[str, str | None]:
        """What `/readyz` looks at: None where it is well, else what is wrong."""
        redis = self._gateway.statistics()
        not_running = [
            f"{actor.name} is {actor.status}"
            for actor in self._supervisor.statistics()
            if actor.status not in {"running", "starting"}
        ]
        replaced = self._store_identity.replaced
        return {
            "redis": None if redis.connected else redis.last_error or "not connected",
            "store": "it was wiped or exchanged since this process started" if replaced else None,
            "actors": ", ".join(not_running) or None,
            "resources": self._without_resources(),
            "stopping": "a stop was asked for" if self.stopping else None,
        }

    def _without_resources(self) -> str | None:
        since_s = self._relay.without_resources_since_s
        if since_s is None or trio.current_time() - since_s < WITHOUT_RESOURCES_S:
            return None
        return "no file descriptor, port, memory or thread for a connection to the relay"

    def show_in(self, metrics: Metrics) -> None:
        """From now on `/metrics` has every gauge."""
        lanes = self._lanes
        show = metrics.show
        show(Gauge.SCHEDULED_ATTEMPTS, self._scheduled)
        show(Gauge.OLDEST_SCHEDULED_AGE, self._oldest_age_s)
        show(Gauge.CLAIMS, lambda: None if self._depths is None else self._depths.claims)
        show(Gauge.SENDER_SLOTS, lambda: lanes.slots)
        show(Gauge.BUSY_SENDER_SLOTS, lanes.busy_slots)
        show(Gauge.HOLDS, lambda: [(hold.cause, hold.scope) for hold in self._holds.in_force])
        show(Gauge.HELD_LANES, self._held_lanes)
        show(Gauge.STREAM_LAG, lambda: self._lag)
        show(Gauge.STREAM_READER, lambda: float(self._is_reading()))
        show(Gauge.REDIS_CONNECTED, lambda: {"data": float(self._gateway.connected)})
        show(Gauge.REDIS_PENDING, self._pending_calls)
        show(Gauge.ACTORS, self._actors)
        show(Gauge.STUCK_ACTORS, lambda: len(self._supervisor.stuck()))

    def _scheduled(self) -> Reading:
        depths = self._depths
        return None if depths is None else {lane: depths.scheduled[lane] for lane in Lane}

    def _oldest_age_s(self) -> Reading:
        depths, now_ms = self._depths, self._clock.now_ms()
        if depths is None:
            return None
        due_ms = {lane: depths.oldest_due_ms[lane] for lane in Lane}
        return {lane: 0 if due is None else max(0, now_ms - due) / 1000 for lane, due in due_ms.items()}

    def _held_lanes(self) -> Reading:
        holds = self._holds
        return None if holds.snapshot is None else {lane: float(lane in holds.lanes) for lane in Lane}

    def _pending_calls(self) -> Reading:
        redis = self._gateway.statistics()
        return redis.queued + redis.in_flight

    def _actors(self) -> Reading:
        statuses = [actor.status for actor in self._supervisor.statistics()]
        return {status: statuses.count(status) for status in dict.fromkeys(statuses)}
