"""The same job as a Celery worker does it: render, `EmailMessage`, smtplib with a kept connection.

Broker and relay come from BENCH_BROKER_URL and BENCH_SMTP_PORT. The harness sends its tasks by name.
"""

import os
import smtplib
from collections.abc import Mapping
from typing import Final

from celery import Celery

from tests.bench.yardsticks.login_mail import build

TASK: Final = "deliver"

app = Celery("bench", broker=os.environ.get("BENCH_BROKER_URL", "memory://"))
app.conf.task_ignore_result = True  # nothing to keep results in: the fastest that Celery offers
app.conf.task_acks_late = True  # a worker's death loses nothing, as with us; costs it less than 3 %
app.conf.worker_hijack_root_logger = False

_relay: smtplib.SMTP | None = None  # kept between tasks, one a worker process


def _connected() -> smtplib.SMTP:
    global _relay  # noqa: PLW0603  # a prefork worker's one place to keep a connection
    if _relay is None:
        _relay = smtplib.SMTP("127.0.0.1", int(os.environ["BENCH_SMTP_PORT"]), timeout=15)
    return _relay


@app.task(name=TASK)  # type: ignore[untyped-decorator]  # Celery ships no types
def deliver(delivery_id: str, to: str, locale: str, variables: Mapping[str, object]) -> None:
    _connected().send_message(build(delivery_id, to, locale, variables))
