"""Stream commands, as the notification service publishes them.

Template commands ask for the bundled login mail, which is what every yardstick sends too.
"""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Final

from tests.bench.service import STREAM
from tests.bench.valkey import Command, Valkey

_TEXT: Final = "Your order has left our warehouse and will be with you in two days.\n" * 6
_HTML: Final = (
    "<!doctype html><html><body><h1>On its way</h1>"
    + "<p>Your order has left our warehouse and will be with you in two days.</p>" * 12
    + "</body></html>"
)


def template_command(prefix: str, n: int) -> Command:
    """XADD of the login mail to reader `n`, to be rendered; its delivery id is `<prefix>.<n>`."""
    payload = {
        "envelope": _envelope(n),
        "template_id": "auth.login_code",
        "locale": "en",
        "variables": {"code": f"{n:06}"},
    }
    return _command(prefix, n, "template", payload)


def rendered_command(prefix: str, n: int) -> Command:
    """XADD of a mail that is rendered already; its delivery id is `<prefix>.<n>`."""
    payload = {
        "envelope": _envelope(n),
        "subject": f"Order {n} is on its way",
        "text_body": _TEXT,
        "html_body": _HTML,
    }
    return _command(prefix, n, "rendered", payload)


def _envelope(n: int) -> Mapping[str, object]:
    return {"to": [f"reader{n}@example.test"]}


def _command(prefix: str, n: int, payload_mode: str, payload: Mapping[str, object]) -> Command:
    fields = {
        "delivery_id": f"{prefix}.{n}",
        "source": "notification",
        "payload_mode": payload_mode,
        "idempotency_key": f"{prefix}-{n}",
        "requested_at_ms": str(time.time_ns() // 1_000_000),
        "payload_json": json.dumps(payload, separators=(",", ":")),
    }
    return ("XADD", STREAM, "*", *(word for pair in fields.items() for word in pair))


def publish(valkey: Valkey, commands: Iterable[Command]) -> bytes:
    """The last entry's id, once all are in the stream."""
    *_, entry_id = valkey.connection.pipeline(commands)
    last: bytes = entry_id
    return last
