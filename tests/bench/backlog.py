"""Deliveries that wait, loaded by the service's own intake while the relay holds its greeting; then the drain.

The senders are connected and wait, so that nothing but the relay's word starts the drain.
"""

import time

from msgspec import Struct

from tests.bench.commands import publish, template_command
from tests.bench.process import SERVICE_CORE, idle_s
from tests.bench.relay import Relay
from tests.bench.service import Service
from tests.bench.valkey import Valkey


class WorkLost(Exception):
    """What arrived is not what was asked for: a speed of wrong work is no figure."""


class Drain(Struct, frozen=True, kw_only=True):
    """What it took to send and record a backlog."""

    number: int
    took_s: float  # from the relay's greeting to the last delivery's record
    cpu_s: float  # of the service meanwhile
    redis_cpu_s: float
    idle_s: float  # of the service's core: neither the service nor anybody else on this machine wanted it
    peak_rss_bytes: int

    @property
    def per_s(self) -> float:
        return self.number / self.took_s

    @property
    def cpu_ms(self) -> float:
        """CPU of one delivery."""
        return self.cpu_s * 1000 / self.number


def load(valkey: Valkey, service: Service, prefix: str, number: int) -> None:
    """So many mails wait to be rendered and sent. The relay must be holding."""
    before = service.scheduled()
    publish(valkey, (template_command(prefix, n) for n in range(number)))
    service.wait_scheduled(before + number)


def drain(valkey: Valkey, relay: Relay, service: Service, number: int) -> Drain:
    """Lets the relay speak and waits until all `number` are sent and recorded. Raises WorkLost, TimeoutError."""
    relay.reset()
    service.reset_peak()
    redis_before_s, cpu_before_s = valkey.cpu_s(), service.cpu_s()
    idle_before_s, started_ns = idle_s(SERVICE_CORE), time.monotonic_ns()
    relay.release()
    relay.wait_count(number, within_s=900)
    ended_ns = service.wait_drained()
    done = Drain(
        number=number,
        took_s=(ended_ns - started_ns) / 1e9,
        cpu_s=service.cpu_s() - cpu_before_s,
        idle_s=idle_s(SERVICE_CORE) - idle_before_s,
        redis_cpu_s=valkey.cpu_s() - redis_before_s,
        peak_rss_bytes=service.peak_rss_bytes(),
    )
    require_each_once(relay, number)
    return done


def require_each_once(relay: Relay, number: int) -> None:
    """Raises WorkLost unless exactly `number` messages arrived, no two of one delivery."""
    copies, deliveries = relay.count(), len(relay.arrivals_ns())
    if not copies == deliveries == number:
        raise WorkLost(f"{number} deliveries: {copies} messages of {deliveries} arrived")
