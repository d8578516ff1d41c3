"""From a command's publication to the moment at which its delivery is durable, at 100 a second.

Redis itself tells when: it announces the write of each delivery's record (keyspace notifications).
"""

import select
import time

from tests.bench.commands import template_command
from tests.bench.figures import NS_PER_MS, Figure, latencies
from tests.bench.relay import Relay
from tests.bench.service import Service
from tests.bench.settings import PUBLISHED_PER_S, Settings
from tests.bench.valkey import Connection, Valkey

_CHANNEL = b"__keyspace@0__:mail:deliveries:"


def measure(settings: Settings) -> list[Figure]:
    with (
        Valkey(settings.workdir) as valkey,
        Relay(settings.workdir) as relay,
        Service(settings.workdir, valkey, relay) as service,
    ):
        valkey.connection.call("CONFIG", "SET", "notify-keyspace-events", "K$")
        announced = Connection(valkey.path)
        announced.call("PSUBSCRIBE", _CHANNEL + b"*")
        _publish_steadily(valkey, announced, "warm-up", PUBLISHED_PER_S)
        number = PUBLISHED_PER_S * settings.sizes.rate_s
        cpu_before_s = service.cpu_s()
        waited_ms = _publish_steadily(valkey, announced, "steady", number)
        service.wait_drained()
        cpu_ms = (service.cpu_s() - cpu_before_s) * 1000 / number
        announced.close()
    return [*latencies("stream.latency", waited_ms), Figure(key="stream.cpu_ms", value=cpu_ms)]


def _publish_steadily(valkey: Valkey, announced: Connection, prefix: str, number: int) -> list[float]:
    """Milliseconds from when each command was due to be published until its delivery was announced."""
    due_ns: dict[bytes, int] = {}
    durable_ns: dict[bytes, int] = {}
    first_ns = time.monotonic_ns() + 10 * NS_PER_MS
    give_up_ns = first_ns + round((number / PUBLISHED_PER_S + 30) * 1e9)
    while len(durable_ns) < number:
        now_ns = time.monotonic_ns()
        if now_ns > give_up_ns:
            raise TimeoutError(f"{number - len(durable_ns)} of {number} commands did not become deliveries")
        published = len(due_ns)
        next_ns = first_ns + round(published * 1e9 / PUBLISHED_PER_S)
        if published < number and now_ns >= next_ns:
            due_ns[f"{prefix}.{published}".encode()] = next_ns
            valkey.connection.call(*template_command(prefix, published))
            continue
        wait_s = 0.5 if published == number else (next_ns - now_ns) / 1e9
        if select.select([announced], [], [], wait_s)[0]:
            announced.receive_some()
        at_ns = time.monotonic_ns()
        while (message := announced.next_received()) is not False:
            delivery_id = message[2].removeprefix(_CHANNEL)
            if delivery_id in due_ns:  # not one of the warm-up, recorded as sent by now
                durable_ns.setdefault(delivery_id, at_ns)  # later writes say other things
    return [(durable_ns[delivery_id] - ns) / NS_PER_MS for delivery_id, ns in due_ns.items()]
