"""From the post of a login code to the relay's answer, at 20 a second: what the person who logs in waits for."""

from msgspec import Struct
from msgspec.json import decode

from tests.bench.figures import NS_PER_MS, Figure, latencies
from tests.bench.http_load import at_rate, require_status
from tests.bench.login_codes import login_code_requests
from tests.bench.relay import Relay
from tests.bench.service import Service
from tests.bench.settings import SENT_PER_S, Settings
from tests.bench.valkey import Valkey


class _Times(Struct):
    """What is read of a delivery's record."""

    created_at_ms: int
    finished_at_ms: int


def measure(settings: Settings) -> list[Figure]:
    requests = login_code_requests("sending")
    number = SENT_PER_S * settings.sizes.rate_s
    with (
        Valkey(settings.workdir) as valkey,
        Relay(settings.workdir) as relay,
        Service(settings.workdir, valkey, relay) as service,
    ):
        warm_up = at_rate(service.address, requests, number=SENT_PER_S, per_s=SENT_PER_S)
        cpu_before_s = service.cpu_s()
        answers = at_rate(service.address, requests, number=number, per_s=SENT_PER_S)
        require_status([*warm_up, *answers], 200)
        relay.wait_count(len(warm_up) + number, within_s=60)
        service.wait_drained()
        cpu_ms = (service.cpu_s() - cpu_before_s) * 1000 / number
        arrived_ns = relay.arrivals_ns()
        ids = [answer.header("Delivery-Id") or "" for answer in answers]
        records = valkey.connection.pipeline(("GET", f"mail:deliveries:{delivery_id}") for delivery_id in ids)
        recorded_ms = [
            record.finished_at_ms - record.created_at_ms
            for record in (decode(data, type=_Times) for data in records)
        ]
    posted_ms = [
        (arrived_ns[delivery_id] - answer.asked_ns) / NS_PER_MS
        for delivery_id, answer in zip(ids, answers, strict=True)
    ]
    return [
        *latencies("sending.post_to_relay", posted_ms),
        *latencies("sending.accept_to_sent", recorded_ms, note="from the records, in whole milliseconds"),
        Figure(key="sending.cpu_ms", value=cpu_ms),
    ]
