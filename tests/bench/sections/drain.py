"""A backlog of mail to be rendered and sent, drained at 4, 16 and 64 slots."""

from tests.bench.backlog import drain, load
from tests.bench.figures import Figure
from tests.bench.relay import Relay
from tests.bench.service import Service
from tests.bench.settings import Settings
from tests.bench.valkey import Valkey


def measure(settings: Settings) -> list[Figure]:
    figures: list[Figure] = []
    for slots in (4, 16, 64):
        figures += _measure(settings, slots)
    return figures


def _measure(settings: Settings, slots: int) -> list[Figure]:
    number = settings.sizes.drain
    with (
        Valkey(settings.workdir, name=f"valkey-{slots}") as valkey,
        Relay(settings.workdir) as relay,
        Service(settings.workdir, valkey, relay, slots=slots) as service,
    ):
        relay.hold()
        load(valkey, service, "drain", number)
        drained = drain(valkey, relay, service, number)
        return [
            Figure(key=f"drain_{slots}.rate", value=drained.per_s),
            Figure(key=f"drain_{slots}.cpu_ms", value=drained.cpu_ms),
            Figure(key=f"drain_{slots}.busy", value=drained.cpu_s / drained.took_s * 100),
            Figure(key=f"drain_{slots}.idle", value=drained.idle_s / drained.took_s * 100),
            Figure(key=f"drain_{slots}.redis_cpu_ms", value=drained.redis_cpu_s * 1000 / number),
            Figure(key=f"drain_{slots}.peak_rss", value=drained.peak_rss_bytes),
        ]
