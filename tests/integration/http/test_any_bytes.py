"""Bytes that are nearly requests: whatever comes on a connection, the server and its other connections go on."""

from random import Random
from typing import Final

import pytest
import trio
from structlog.testing import capture_logs

from galaxy_mail.http.app import App
from galaxy_mail.http.connection import HttpRequest
from galaxy_mail.http.responses import Response, json_response
from galaxy_mail.http.routes import Route
from galaxy_mail.http.tokens import Role, Tokens
from galaxy_mail.telemetry.metrics import Metrics
from tests.integration.http.served import LIMIT_S, Served, served

REQUESTS: Final = (
    b"GET /hello HTTP/1.1\r\nHost: mail.test\r\n\r\n",
    b"POST /reads?x=%ff HTTP/1.1\r\nHost: mail.test\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    b'POST /reads HTTP/1.1\r\nHost: mail.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n2\r\n:1\r\n0\r\n\r\n',
    (
        b"GET /hello HTTP/1.1\r\nHost: mail.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    ),
    (
        b"GET /hello HTTP/1.1\r\nHost: mail.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
)
METHODS: Final = (b"GET", b"POST", b"CONNECT", b"OPTIONS", b"G\xff", b"")
PATHS: Final = (b"/hello", b"/reads", b"", b"?", b"*", b"/\xff", b"/hello?\xff", b"/%ff", b"/hello?%ff")
VERSIONS: Final = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"")
FIELDS: Final = (b"content-length", b"content-type", b"expect", b"transfer-encoding", b"upgrade", b"x")


def any_request(random: Random) -> bytes:
    """A request whose head may be missing something, or hold any bytes."""
    line = [random.choice(METHODS), random.choice(PATHS), random.choice(VERSIONS)]
    if random.random() < 0.2:
        del line[random.randrange(len(line))]
    head = [b" ".join(line), b"host: mail.test"]
    if random.random() < 0.5:
        head.append(random.choice(FIELDS) + b": " + random.randbytes(random.randrange(9)))
    return b"\r\n".join([*head, b"", b"{}"])


def nearly_a_request(random: Random) -> bytes:
    data = bytearray(any_request(random) if random.random() < 0.5 else random.choice(REQUESTS))
    for _ in range(random.choice((0, 1, 2, 5))):
        at = random.randrange(len(data) + 1)
        match random.randrange(4):
            case 0 | 1:
                data[at : at + 1] = random.randbytes(1)
            case 2:
                del data[at : at + random.randrange(1, 20)]
            case _:
                data[at:at] = random.randbytes(random.randrange(1, 8))
    return bytes(data)


def app() -> App:
    async def hello(_request: HttpRequest) -> Response:
        return json_response({"hello": "you"})

    async def reads(request: HttpRequest) -> Response:
        await request.read_body(1000)
        return json_response({})

    routes = (Route("GET", "/hello", Role.OPEN, hello), Route("POST", "/reads", Role.OPEN, reads))
    return App(routes, tokens=Tokens(), metrics=Metrics(), timeout_s=LIMIT_S)


async def send_all(running: Served, data: bytes) -> None:
    """Sends all of it, says that no more will come, and waits until the server is done with the connection."""
    client = await running.connect()
    try:
        await client.send(data)
        await client.leave()
        await client.closed()
    except trio.BrokenResourceError:
        pass  # the server closed it before it had read everything
    finally:
        await client.stream.aclose()


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_comes_the_server_goes_on(seed: int) -> None:
    random = Random(seed)  # the same bytes at each run
    with capture_logs() as lines:
        async with served(app()) as running:
            other = await running.connect()
            for _ in range(100):
                await send_all(running, nearly_a_request(random))
                await other.ask("GET", "/hello")
                assert (await other.answer())[2] == b'{"hello":"you"}'
    worse = [line for line in lines if line["log_level"] in ("error", "critical")]
    assert worse == []
    assert {line["event"] for line in lines if line["log_level"] == "warning"} <= {"connection_failed"}
