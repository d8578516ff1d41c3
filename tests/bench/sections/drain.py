"""A backlog of mail to be rendered and sent, drained at 4, 16 and 64 slots; what it costs in CPU and in Redis."""

from tests.bench.backlog import drain, load
from tests.bench.figures import Figure
from tests.bench.memory import PAYLOADS, bytes_by_kind, content_bytes
from tests.bench.relay import Relay
from tests.bench.service import STREAM, Service
from tests.bench.settings import Settings
from tests.bench.valkey import Valkey

OF_CONTENT = PAYLOADS + "*"


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
        memory_before = valkey.used_memory_bytes()
        load(valkey, service, "drain", number)
        drained = drain(valkey, relay, service, number)
        figures = [
            Figure(key=f"drain_{slots}.rate", value=drained.per_s),
            Figure(key=f"drain_{slots}.cpu_ms", value=drained.cpu_ms),
            Figure(key=f"drain_{slots}.busy", value=drained.cpu_s / drained.took_s * 100),
            Figure(key=f"drain_{slots}.idle", value=drained.idle_s / drained.took_s * 100),
            Figure(key=f"drain_{slots}.redis_cpu_ms", value=drained.redis_cpu_s * 1000 / number),
            Figure(key=f"drain_{slots}.peak_rss", value=drained.peak_rss_bytes),
        ]
        if slots == 4:
            memory = valkey.used_memory_bytes() - memory_before
            entries = int(valkey.connection.call("MEMORY", "USAGE", STREAM, "SAMPLES", 0) or 0)
            stored = content_bytes(valkey, [f"drain.{n}" for n in range(number)])
            of_keys = {
                kind: (held - (stored * number if kind == OF_CONTENT else 0)) / number
                for kind, held in bytes_by_kind(valkey).items()
                if held >= number  # what every delivery has a part in
            }
            rest = (memory - entries) / number - stored - sum(of_keys.values())
            figures += [
                # The stream's entries are trimmed by their age and belong to no delivery.
                Figure(key="memory.delivery", value=(memory - entries) / number - stored),
                Figure(key="memory.delivery_content", value=stored),
                Figure(key="memory.stream_entry", value=entries / number),
            ]
            figures += [Figure(key=f"memory/{kind}", value=held) for kind, held in of_keys.items()]
            figures.append(Figure(key="memory/tables of keys, buffers", value=rest))
    return figures
