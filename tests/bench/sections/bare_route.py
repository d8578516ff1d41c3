"""Yardstick of the intake: a route that takes and gives the same JSON and does nothing."""

import sys

from tests.bench.figures import MS_PER_S, Figure, latencies
from tests.bench.http_load import Address, at_full_speed, at_rate, free_port, require_status, wait_status
from tests.bench.login_codes import login_code_requests
from tests.bench.process import SERVICE_CORE, PinnedProcess
from tests.bench.settings import ASKED_PER_S, CONNECTIONS, Settings


def measure(settings: Settings) -> list[Figure]:
    sizes = settings.sizes
    address: Address = ("127.0.0.1", free_port())
    requests = login_code_requests("bare")
    with PinnedProcess(
        "bare route",
        [sys.executable, "-m", "tests.bench.yardsticks.bare_route", str(address[1])],
        core=SERVICE_CORE,
        log_path=settings.workdir / "bare_route.log",
    ) as process:
        wait_status(address, "/readyz", 200, unless=process.require_running)
        at_full_speed(address, requests, connections=CONNECTIONS, number=sizes.intake_warm_up)
        cpu_before_s = process.cpu_s()
        answers, took_s = at_full_speed(address, requests, connections=CONNECTIONS, number=sizes.intake)
        cpu_s = process.cpu_s() - cpu_before_s
        steady = at_rate(address, requests, number=ASKED_PER_S * sizes.rate_s, per_s=ASKED_PER_S)
    require_status([*answers, *steady], 200)
    return [
        Figure(key="bare_route.rate", value=sizes.intake / took_s),
        Figure(key="bare_route.cpu_ms", value=cpu_s * MS_PER_S / sizes.intake),
        *latencies("bare_route.latency", [answer.latency_ms for answer in answers]),
        *latencies("bare_route.latency_at_50", [answer.latency_ms for answer in steady]),
    ]
