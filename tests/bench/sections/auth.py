"""The auth route: at full speed while sending is held back, its backlog's drain, and at 50 a second with mail flowing.

The drain is the priority lane's: every slot takes part.
"""

from tests.bench.backlog import drain
from tests.bench.figures import MS_PER_S, Figure, latencies
from tests.bench.http_load import at_full_speed, at_rate, require_status
from tests.bench.login_codes import login_code_requests
from tests.bench.relay import Relay
from tests.bench.service import Service
from tests.bench.settings import ASKED_PER_S, CONNECTIONS, Settings
from tests.bench.valkey import Valkey


def measure(settings: Settings) -> list[Figure]:
    sizes = settings.sizes
    requests = login_code_requests("auth")
    with (
        Valkey(settings.workdir) as valkey,
        Relay(settings.workdir) as relay,
        Service(settings.workdir, valkey, relay) as service,
    ):
        relay.hold()
        warm_up, _ = at_full_speed(
            service.address, requests, connections=CONNECTIONS, number=sizes.intake_warm_up
        )
        cpu_before_s = service.cpu_s()
        answers, took_s = at_full_speed(
            service.address, requests, connections=CONNECTIONS, number=sizes.intake
        )
        cpu_s = service.cpu_s() - cpu_before_s
        require_status([*warm_up, *answers], 200)

        drained = drain(valkey, relay, service, sizes.intake_warm_up + sizes.intake)

        steady = at_rate(service.address, requests, number=ASKED_PER_S * sizes.rate_s, per_s=ASKED_PER_S)
        require_status(steady, 200)
        service.wait_drained()
    return [
        Figure(key="auth.rate", value=sizes.intake / took_s),
        Figure(key="auth.cpu_ms", value=cpu_s * MS_PER_S / sizes.intake),
        *latencies("auth.latency", [answer.latency_ms for answer in answers]),
        *latencies("auth.latency_at_50", [answer.latency_ms for answer in steady]),
        Figure(key="auth.drain_rate", value=drained.per_s),
        Figure(key="auth.drain_cpu_ms", value=drained.cpu_ms),
    ]
