"""How long the service takes to be ready, and what it holds while it has nothing to do."""

import time

from tests.bench.figures import Figure
from tests.bench.relay import Relay
from tests.bench.service import Service
from tests.bench.settings import Settings
from tests.bench.valkey import Valkey

_SETTLE_S = 3.0  # start-up's garbage is collected, every periodic actor has had a turn


def measure(settings: Settings) -> list[Figure]:
    with (
        Valkey(settings.workdir) as valkey,
        Relay(settings.workdir) as relay,
        Service(settings.workdir, valkey, relay) as service,
    ):
        start_cpu_s = service.cpu_s()
        time.sleep(_SETTLE_S)
        cpu_before_s = service.cpu_s()
        time.sleep(_SETTLE_S)
        idle = (service.cpu_s() - cpu_before_s) / _SETTLE_S
        return [
            Figure(key="start.ready", value=service.start_ms),
            Figure(key="start.cpu", value=start_cpu_s * 1000),
            Figure(key="rest.rss", value=service.rss_bytes()),
            Figure(key="rest.cpu", value=idle * 100),
        ]
