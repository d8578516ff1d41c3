"""Yardstick of the whole: a Celery worker with a Redis of its own renders and sends the same mail, one core."""

import os
import sys

from celery import Celery

from tests.bench.figures import MS_PER_S, NS_PER_MS, Figure, latencies
from tests.bench.pace import at_set_rate
from tests.bench.process import SERVICE_CORE, PinnedProcess
from tests.bench.relay import Relay
from tests.bench.settings import SENT_PER_S, Settings
from tests.bench.valkey import Valkey
from tests.bench.yardsticks.celery_worker import TASK


def measure(settings: Settings) -> list[Figure]:
    number = settings.sizes.celery
    with Valkey(settings.workdir) as valkey, Relay(settings.workdir) as relay:
        broker_url = f"redis+socket://{valkey.path}"
        app = Celery("producer", broker=broker_url, set_as_current=False)

        def publish(delivery_id: str, n: int) -> None:
            app.send_task(TASK, (delivery_id, f"reader{n}@example.test", "en", {"code": f"{n:06}"}))

        for n in range(number):
            publish(f"backlog.{n}", n)
        with PinnedProcess(
            "celery worker",
            [
                sys.executable,
                *("-m", "celery", "--app", "tests.bench.yardsticks.celery_worker", "worker"),
                # One worker process: on one core, four were slower than one.
                *("--pool", "prefork", "--concurrency", "1", "--loglevel", "WARNING"),
            ],
            core=SERVICE_CORE,
            log_path=settings.workdir / "celery.log",
            env={**os.environ, "BENCH_BROKER_URL": broker_url, "BENCH_SMTP_PORT": str(relay.port)},
        ) as worker:
            relay.wait_count(1, within_s=60)
            cpu_before_s, sent_before = worker.cpu_s(), relay.count()
            relay.wait_count(number, within_s=900)
            cpu_ms = (worker.cpu_s() - cpu_before_s) * MS_PER_S / (number - sent_before)
            at_ns = sorted(relay.arrivals_ns().values())
            rss_bytes = worker.rss_bytes()

            relay.reset()
            published_ns: dict[str, int] = {}
            for n, due_ns in at_set_rate(SENT_PER_S * settings.sizes.rate_s, per_s=SENT_PER_S):
                published_ns[f"steady.{n}"] = due_ns
                publish(f"steady.{n}", n)
            relay.wait_count(len(published_ns), within_s=60)
            arrived_ns = relay.arrivals_ns()
        app.close()
    waited_ms = [(arrived_ns[delivery_id] - ns) / NS_PER_MS for delivery_id, ns in published_ns.items()]
    return [
        Figure(key="celery.rate", value=(len(at_ns) - 1) / (at_ns[-1] - at_ns[0]) * 1e9),
        Figure(key="celery.cpu_ms", value=cpu_ms),
        Figure(key="celery.rss", value=rss_bytes),
        *latencies("celery.latency", waited_ms),
    ]
