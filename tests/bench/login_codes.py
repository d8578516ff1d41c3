"""Requests for login codes, as the auth service posts them."""

import json
from collections.abc import Iterator
from itertools import count
from typing import Final

from tests.bench.http_load import pack_request

ROUTE: Final = "/api/v1/internal/login-code-deliveries"


def login_code_requests(prefix: str) -> Iterator[bytes]:
    """Packed requests, one after another without end, each for another reader with another key."""
    for n in count():
        body = {"email": f"reader{n}@example.test", "code": f"{n:06}", "locale": "en"}
        yield pack_request(
            "POST", ROUTE, headers={"Idempotency-Key": f"{prefix}-{n}"}, body=json.dumps(body).encode()
        )
