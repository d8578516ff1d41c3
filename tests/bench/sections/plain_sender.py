"""Yardstick of SMTP: ready messages over one connection and over sixteen; and what the sink could take."""

from msgspec import Struct
from msgspec.json import decode

from tests.bench.figures import Figure
from tests.bench.process import run_json
from tests.bench.relay import Relay
from tests.bench.settings import Settings


class _Done(Struct):
    per_s: float
    cpu_ms: float


def measure(settings: Settings) -> list[Figure]:
    figures: list[Figure] = []
    with Relay(settings.workdir) as relay:
        sink_before_s = relay.cpu_s()
        for connections in (1, 16):
            done = _send(relay.port, connections, settings.sizes.plain)
            figures += [
                Figure(key=f"plain_sender_{connections}.rate", value=done.per_s),
                Figure(key=f"plain_sender_{connections}.cpu_ms", value=done.cpu_ms),
            ]
        figures.append(
            Figure(key="sink.capacity", value=relay.count() / (relay.cpu_s() - sink_before_s)),
        )
    return figures


def _send(port: int, connections: int, number: int) -> _Done:
    printed = run_json("tests.bench.yardsticks.plain_sender", str(port), str(connections), str(number))
    return decode(printed, type=_Done)
