"""Login codes while tens of thousands of notifications are due, with a fast relay and with a slow one; memory meanwhile."""

from tests.bench.backlog import load, require_each_once
from tests.bench.figures import NS_PER_MS, Figure, latencies
from tests.bench.http_load import Answer, at_rate, require_status
from tests.bench.login_codes import login_code_requests
from tests.bench.relay import Relay
from tests.bench.service import Service
from tests.bench.settings import SENT_PER_S, Settings
from tests.bench.valkey import Valkey

SLOW_RELAY_MS = 50.0


def measure(settings: Settings) -> list[Figure]:
    number = SENT_PER_S * settings.sizes.lane_s
    requests = login_code_requests("lanes")
    with (
        Valkey(settings.workdir) as valkey,
        Relay(settings.workdir) as relay,
        Service(settings.workdir, valkey, relay) as service,
    ):
        relay.hold()
        load(valkey, service, "due", settings.sizes.due)
        service.reset_peak()
        relay.delay(SLOW_RELAY_MS)
        relay.release()
        relay.wait_count(50, within_s=30)
        slow = at_rate(service.address, requests, number=number, per_s=SENT_PER_S)

        relay.delay(0)
        fast = at_rate(service.address, requests, number=number, per_s=SENT_PER_S)
        left = service.scheduled()
        require_status([*slow, *fast], 200)
        relay.wait_count(settings.sizes.due + 2 * number, within_s=600)
        service.wait_drained()
        require_each_once(relay, settings.sizes.due + 2 * number)
        arrived_ns = relay.arrivals_ns()
        peak_rss_bytes = service.peak_rss_bytes()

    last_due_ns = max(at_ns for delivery_id, at_ns in arrived_ns.items() if delivery_id.startswith("due."))
    # A fast relay may see the backlog end before the window does: what came later waited for nobody.
    while_due = [answer for answer in fast if answer.asked_ns < last_due_ns]

    def waited_ms(answers: list[Answer]) -> list[float]:
        return [
            (arrived_ns[answer.header("Delivery-Id") or ""] - answer.asked_ns) / NS_PER_MS
            for answer in answers
        ]

    return [
        *latencies(
            "lanes.fast", waited_ms(while_due), note=f"{len(while_due)} codes, {left} notifications left"
        ),
        *latencies("lanes.slow", waited_ms(slow), note=f"{len(slow)} codes"),
        Figure(key="lanes.peak_rss", value=peak_rss_bytes),
    ]
