"""A backlog drained by one, two and three processes on one Redis, at the default four slots each.

Twice: by a relay that takes its time, so that slots are the limit and not this machine, and by one that answers at once,
so that the cores are. Processes, sink and Redis run on all cores alike: pinned to one, several processes would be no
more than one.
"""

import time
from contextlib import ExitStack

from tests.bench.backlog import load, require_each_once
from tests.bench.figures import Figure
from tests.bench.process import ALL_CORES, idle_s
from tests.bench.relay import Relay
from tests.bench.service import Service
from tests.bench.settings import Settings
from tests.bench.valkey import Valkey

SLOW_RELAY_MS = 50.0
PROCESSES = (1, 2, 3)
NORMAL_SLOTS = 3  # of four: one is kept for login codes


def measure(settings: Settings) -> list[Figure]:
    figures: list[Figure] = []
    copies = 0
    for series, delay_ms, number in (
        ("slow", SLOW_RELAY_MS, settings.sizes.scaling),
        ("fast", 0.0, settings.sizes.drain),
    ):
        for processes in PROCESSES:
            with ExitStack() as running:
                valkey = running.enter_context(
                    Valkey(settings.workdir, core=None, name=f"valkey-{series}-{processes}")
                )
                relay = running.enter_context(Relay(settings.workdir, core=None))
                services = [
                    running.enter_context(Service(settings.workdir, valkey, relay, core=None))
                    for _ in range(processes)
                ]
                relay.hold()
                load(valkey, services[0], "scaling", number)
                for service in services:  # each looks once a second for what another one accepted
                    service.wait_busy(NORMAL_SLOTS)
                relay.delay(delay_ms)
                idle_before_s, started_ns = idle_s(), time.monotonic_ns()
                relay.release()
                relay.wait_count(number, within_s=300)
                took_s = (services[0].wait_drained() - started_ns) / 1e9
                idle = (idle_s() - idle_before_s) / took_s / len(ALL_CORES)
                copies += relay.count() - len(relay.arrivals_ns())
                require_each_once(relay, number)
            figures += [
                Figure(
                    key=f"scaling.{series}_{processes}.rate",
                    value=number / took_s,
                    note=f"processes, sink and Redis together have {len(ALL_CORES)} cores",
                ),
                Figure(key=f"scaling.{series}_{processes}.idle", value=idle * 100),
            ]
            if (series, processes) == ("slow", PROCESSES[-1]):
                sent = [_attempts(service) for service in services]
                figures.append(Figure(key="scaling.least_share", value=min(sent) / sum(sent) * 100))
    return [*figures, Figure(key="scaling.copies", value=copies)]


def _attempts(service: Service) -> int:
    """How many attempts ended in this process, by its log."""
    return service.log_path.read_bytes().count(b'"event":"attempt_finished"')
