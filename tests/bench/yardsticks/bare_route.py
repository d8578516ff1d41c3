"""A route that takes and gives the auth route's JSON and does nothing: the floor that the HTTP stack sets.

`python -m tests.bench.yardsticks.bare_route PORT` serves it with quart-trio on hypercorn.
"""

import sys

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import request
from quart.typing import ResponseReturnValue
from quart_trio import QuartTrio

app = QuartTrio(__name__)


@app.post("/api/v1/internal/login-code-deliveries")
async def create_login_code_delivery() -> ResponseReturnValue:
    login_code = await request.get_json()
    outcome = "sent" if login_code["email"] and request.headers["Idempotency-Key"] else "suppressed"
    return {"outcome": outcome}, {"Delivery-Id": "0199d0c0-7a3e-7000-8000-000000000000"}


@app.get("/readyz")
async def ready() -> ResponseReturnValue:
    return {"ready": True}


if __name__ == "__main__":
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    trio.run(serve, app, config)
