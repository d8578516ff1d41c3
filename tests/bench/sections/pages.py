"""The first page of 50 for every kind of filter, and a delivery by its id, in a small and in a large store."""

import os
import subprocess
import sys
from typing import Final

from tests.bench.backlog import WorkLost
from tests.bench.commands import publish, rendered_command, template_command
from tests.bench.copied_store import multiply
from tests.bench.figures import Figure, percentile
from tests.bench.http_load import at_full_speed, pack_request, require_status
from tests.bench.login_codes import login_code_requests
from tests.bench.relay import Relay
from tests.bench.service import Service
from tests.bench.settings import CONNECTIONS, Settings
from tests.bench.valkey import Command, Valkey

ROUTE: Final = "/api/v1/internal/deliveries"
ROUNDS: Final = 4
FILTERS: Final = {
    "none": "",
    "status": "status=sent",
    "rare status": "status=failed",
    "source": "source=notification",
    "template": "template_id=auth.login_code",
    "recipient": "recipient=reader7@example.test",
    "key": "idempotency_key=rendered-7",
    "two that agree": "source=authsession&status=sent",
    "two that seldom agree": "source=authsession&status=failed",
    "status and recipient": "status=sent&recipient=reader7@example.test",
    "none at all": "template_id=no.such.template&status=sent",
}
PATHS: Final = {
    **{kind: f"{ROUTE}?limit=50&{query}".rstrip("&") for kind, query in FILTERS.items()},
    "by id": f"{ROUTE}/rendered.7",
}


def measure(settings: Settings) -> list[Figure]:
    sizes = settings.sizes
    for number in (sizes.small_store, sizes.large_store):
        if not (settings.shared / _name(number)).exists():
            _make(settings, number)
    small: dict[str, float] = {}  # milliseconds at p95 for each kind of page
    large: dict[str, float] = {}
    with (
        Relay(settings.workdir) as relay,
        Valkey(settings.shared, name=_name(sizes.small_store)) as small_store,
        Valkey(settings.shared, name=_name(sizes.large_store)) as large_store,
        Service(settings.workdir, small_store, relay) as of_small,
        Service(settings.workdir, large_store, relay) as of_large,
    ):
        for kind, path in PATHS.items():
            latencies_ms: dict[Service, list[float]] = {of_small: [], of_large: []}
            for _ in range(ROUNDS):  # in turn: a machine that slows down slows both
                for service, taken in latencies_ms.items():
                    taken += _latencies_ms(settings, service, path)
            small[kind] = percentile(latencies_ms[of_small], 95)
            large[kind] = percentile(latencies_ms[of_large], 95)
    slowest = max(FILTERS, key=lambda name: large[name])
    steepest = max(FILTERS, key=lambda name: large[name] / small[name])
    return [
        Figure(key="pages.small", value=max(small[name] for name in FILTERS)),
        Figure(
            key="pages.large",
            value=max(large[name] for name in FILTERS),
            note=f"{sizes.large_store} deliveries; slowest: {slowest}",
        ),
        Figure(key="pages.growth", value=large[steepest] / small[steepest], note=f"steepest: {steepest}"),
        *(Figure(key=f"pages/{name}", value=large[name]) for name in FILTERS),
        Figure(key="by_id.small", value=small["by id"]),
        Figure(key="by_id.large", value=large["by id"]),
    ]


def _name(number: int) -> str:
    return f"store-{number}"


def _latencies_ms(settings: Settings, service: Service, path: str) -> list[float]:
    request = pack_request("GET", path)
    answers, _ = at_full_speed(
        service.address, iter(lambda: request, b""), connections=1, number=settings.sizes.pages
    )
    require_status(answers, 200)
    return [answer.latency_ms for answer in answers]


def _make(settings: Settings, number: int) -> None:
    """Fills a store with what the service really did for `small_store` deliveries, then multiplies it."""
    name, seed = _name(number), settings.sizes.small_store
    by_rest, rendered, by_template, refused = seed // 5, seed // 5, seed // 2, seed // 10
    assert by_rest + rendered + by_template + refused == seed
    with Valkey(settings.shared, name=f"{name}-unfinished") as valkey:
        with Relay(settings.workdir) as relay, Service(settings.workdir, valkey, relay) as service:
            answers, _ = at_full_speed(
                service.address, login_code_requests("pages"), connections=CONNECTIONS, number=by_rest
            )
            require_status(answers, 200)
            publish(valkey, (rendered_command("rendered", n) for n in range(rendered)))
            publish(valkey, (template_command("template", n) for n in range(by_template)))
            last = publish(valkey, (_refused(n) for n in range(refused)))
            service.wait_consumed(last)
            service.wait_drained()
        multiply(valkey.connection, number // seed)
        found = valkey.connection.call("ZCARD", "mail:idx:created_at")
        if found != number:
            raise WorkLost(f"the store has {found} deliveries instead of {number}")
        _require_sound(valkey)
    (settings.shared / f"{name}-unfinished").rename(settings.shared / name)


def _require_sound(valkey: Valkey) -> None:
    """Raises WorkLost when the service itself finds the copies wrong."""
    looked = subprocess.run(
        [sys.executable, "-m", "galaxy_mail", "verify-store"],
        env={**os.environ, "MAIL_REDIS_ADDR": valkey.url},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if looked.returncode != 0:
        raise WorkLost(f"the copied store is not sound: {looked.stdout[-2000:]}{looked.stderr[-2000:]}")


def _refused(n: int) -> Command:
    """A mail that the sink refuses."""
    command = list(rendered_command("refused", n))
    command[-1] = str(command[-1]).replace("reader", "refused")
    return tuple(command)
