"""The server on a real socket: connections that end, stops that are graceful, bodies that nobody wants."""

import errno
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Final

import h11
import pytest
import trio
import trustme
from hypercorn.config import Config
from hypercorn.protocol.h11 import H11Protocol
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from galaxy_mail.http.app import App
from galaxy_mail.http.connection import LEFTOVER_MAX_BYTES, HttpRequest
from galaxy_mail.http.responses import Response, json_response
from galaxy_mail.http.routes import Route
from galaxy_mail.http.server import BadTlsFile, CantListen, HttpServer, bind, tls_context
from galaxy_mail.http.tokens import Role, Tokens, certificate_name
from galaxy_mail.telemetry.metrics import Metrics
from tests.integration.http.served import LIMIT_S, Client, served

GREETING: Final = b'{"hello":"you"}'


class Routes:
    """Routes that wait, read and talk as a test wants it."""

    def __init__(self) -> None:
        self.called = trio.Event()
        self.go_on = trio.Event()
        self.cut = False
        self.read: list[bytes] = []

    def app(self, timeout_s: float = 5.0) -> App:
        handlers: dict[tuple[str, str], Callable[..., Awaitable[Response]]] = {
            ("GET", "/hello"): self.hello,
            ("GET", "/waits"): self.waits,
            ("GET", "/who"): self.who,
            ("GET", "/parts"): self.parts,
            ("GET", "/breaks"): self.breaks,
            ("GET", "/endless"): self.endless,
            ("POST", "/reads"): self.reads,
        }
        routes = [Route(method, rule, Role.OPEN, handler) for (method, rule), handler in handlers.items()]
        return App(tuple(routes), tokens=Tokens(), metrics=Metrics(), timeout_s=timeout_s)

    async def hello(self, _request: HttpRequest) -> Response:
        return json_response({"hello": "you"})

    async def waits(self, _request: HttpRequest) -> Response:
        self.called.set()
        try:
            await self.go_on.wait()
        except trio.Cancelled:
            self.cut = True
            raise
        return json_response({"hello": "you"})

    async def who(self, _request: HttpRequest) -> Response:
        return json_response({"name": certificate_name.get()})

    async def parts(self, _request: HttpRequest) -> Response:
        async def numbers() -> AsyncGenerator[bytes, None]:
            for number in range(3):
                yield b"%d\n" % number

        return Response(status=200, parts=numbers())

    async def endless(self, _request: HttpRequest) -> Response:
        async def parts() -> AsyncGenerator[bytes, None]:
            self.called.set()
            while True:
                yield b"x" * 1_000_000

        return Response(status=200, parts=parts())

    async def breaks(self, _request: HttpRequest) -> Response:
        async def one() -> AsyncGenerator[bytes, None]:
            yield b"half"
            raise RuntimeError("the other half is lost")

        return Response(status=200, parts=one())

    async def reads(self, request: HttpRequest) -> Response:
        self.read.append(await request.read_body(1000))
        return json_response({"hello": "you"})


@pytest.fixture
def routes() -> Routes:
    return Routes()


# Three symptoms of quart-trio on hypercorn, each with a test of its own: see `http/connection.py`.


@pytest.mark.parametrize(
    ("version", "line"), [("HTTP/1.1", "Connection: close"), ("HTTP/1.0", "Accept: */*")]
)
async def test_a_client_that_asks_for_it_sees_the_connection_close(
    routes: Routes, version: str, line: str
) -> None:
    async with served(routes.app()) as running:
        client = await running.connect()
        await client.ask("GET", "/hello", line, version=version)
        assert (await client.closed()).endswith(GREETING)


async def test_an_idle_connection_is_closed_after_a_while(
    routes: Routes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("galaxy_mail.http.server.IDLE_WITHIN_S", 0.05)
    async with served(routes.app()) as running:
        client = await running.connect()
        await client.ask("GET", "/hello")
        assert (await client.answer())[2] == GREETING
        assert await client.closed() == b""


async def test_a_stop_waits_for_requests_in_hand_and_not_for_idle_connections(
    routes: Routes,
) -> None:
    async with served(routes.app(), grace_s=60.0) as running:
        idle, busy = await running.connect(), await running.connect()
        await idle.ask("GET", "/hello")
        await idle.answer()
        await busy.ask("GET", "/waits")
        await routes.called.wait()
        running.stop()
        assert await idle.closed() == b""
        assert not running.ended.is_set()
        routes.go_on.set()
        assert (await busy.answer())[2] == GREETING
        await running.wait_ended()  # within LIMIT_S, which is far less than the grace
    assert not routes.cut


# Stopping and starting


async def test_a_stop_cuts_what_does_not_end_within_the_grace(routes: Routes) -> None:
    async with served(routes.app(), grace_s=0.05) as running:
        client = await running.connect()
        await client.ask("GET", "/waits")
        await routes.called.wait()
        running.stop()
        await running.wait_ended()
        assert routes.cut
        assert await client.closed() == b""


async def test_a_request_in_hand_is_cut_when_the_grace_is_over_and_not_before(
    routes: Routes, mock_clock: MockClock
) -> None:
    async with served(routes.app(), grace_s=5.0) as running:
        idle, busy = await running.connect(), await running.connect()
        await idle.ask("GET", "/hello")
        await idle.answer()
        await busy.ask("GET", "/waits")
        await routes.called.wait()
        running.stop()
        await idle.closed()  # the stop has begun
        await wait_all_tasks_blocked()
        mock_clock.jump(4.9)
        await wait_all_tasks_blocked()
        assert not routes.cut
        mock_clock.jump(0.2)
        assert await busy.closed() == b""
        assert routes.cut


async def test_a_stopping_server_accepts_no_connection(routes: Routes) -> None:
    async with served(routes.app(), grace_s=60.0) as running:
        busy = await running.connect()
        await busy.ask("GET", "/waits")
        await routes.called.wait()
        running.stop()
        idle = await running.connect()  # the listener is still bound: a server built anew would take it
        await idle.ask("GET", "/hello")
        with trio.move_on_after(0.05) as waited:
            await idle.answer()
        assert waited.cancelled_caught
        routes.go_on.set()
        await busy.answer()


async def test_a_server_built_anew_takes_over_the_listener(routes: Routes) -> None:
    listener = bind("127.0.0.1", 0)
    with listener:
        for _ in range(2):
            server = HttpServer(routes.app(), listener)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.run)
                await wait_all_tasks_blocked()
                client = Client(await trio.open_tcp_stream(*server.address))
                await client.ask("GET", "/hello", "Connection: close")
                assert (await client.closed()).endswith(GREETING)
                await client.stream.aclose()
                nursery.cancel_scope.cancel()


async def test_a_request_that_comes_before_the_server_waits_for_it(routes: Routes) -> None:
    listener = bind("127.0.0.1", 0)
    with listener:
        client = Client(await trio.open_tcp_stream(*listener.getsockname()))
        await client.ask("GET", "/hello")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(HttpServer(routes.app(), listener).run)
            assert (await client.answer())[2] == GREETING
            await client.stream.aclose()
            nursery.cancel_scope.cancel()


def test_a_port_that_is_taken_is_told_plainly() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CantListen, match=rf"can't listen on 127.0.0.1:{port}: ") as raised:
            bind("127.0.0.1", port)
        assert isinstance(raised.value.__cause__, OSError)
        assert raised.value.__cause__.errno == errno.EADDRINUSE


def test_a_host_that_is_none_is_told_plainly() -> None:
    with pytest.raises(CantListen, match=r"can't listen on no\.such\.host\.invalid:80: "):
        bind("no.such.host.invalid", 80)


@pytest.mark.parametrize("host", ["", "127.0.0.1", "localhost"])
def test_the_url_of_a_listener_is_one_that_can_be_asked(host: str) -> None:
    with bind(host, 0) as listener:
        server = HttpServer(App((), tokens=Tokens(), metrics=Metrics(), timeout_s=1), listener)
        assert server.url.startswith("http://")
        address = server.url.removeprefix("http://").rpartition(":")
        socket.create_connection((address[0].strip("[]"), int(address[2])), timeout=LIMIT_S).close()


# Bodies


@pytest.mark.parametrize("path", ["/reads", "/nowhere", "/hello"])
async def test_a_body_that_is_refused_is_read_and_the_connection_goes_on(routes: Routes, path: str) -> None:
    async with served(routes.app()) as running:
        client = await running.connect()
        await client.ask("POST", path, body=b"x" * 300_000)
        status, _, _ = await client.answer()
        assert status == {"/reads": 413, "/nowhere": 404, "/hello": 405}[path]
        await client.ask("GET", "/hello")
        assert (await client.answer())[2] == GREETING
    assert routes.read == []


async def test_a_body_without_end_is_answered_and_the_connection_closed(routes: Routes) -> None:
    async with served(routes.app()) as running:
        client = await running.connect()
        await client.ask("POST", "/reads", "Transfer-Encoding: chunked")
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"

        async def talk() -> None:
            try:
                while True:
                    await client.stream.send_all(chunk)
            except trio.BrokenResourceError:
                pass  # the server has closed it

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            status, _, _ = await client.answer()
            assert status == 413
            nursery.cancel_scope.cancel()
    assert 2 * len(chunk) < LEFTOVER_MAX_BYTES  # so that more than one was read


async def test_a_body_in_pieces_is_read_whole(routes: Routes) -> None:
    async with served(routes.app()) as running:
        client = await running.connect()
        await client.ask("POST", "/reads", "Transfer-Encoding: chunked")
        for piece in (b"3\r\nabc\r\n", b"2\r\nde", b"\r\n0\r\n\r\n"):
            await client.send(piece)
        assert (await client.answer())[0] == 200
    assert routes.read == [b"abcde"]


async def test_a_body_that_does_not_come_is_503_and_the_connection_closes(
    routes: Routes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("galaxy_mail.http.connection.LEFTOVER_WITHIN_S", 0.05)
    async with served(routes.app(timeout_s=0.05)) as running:
        client = await running.connect()
        await client.ask("POST", "/reads", "Content-Length: 10")
        await client.send(b"half ")
        status, headers, _ = await client.answer()
        assert (status, headers["retry-after"]) == (503, "1")
        assert await client.closed() == b""


async def test_a_client_that_leaves_in_the_middle_of_its_body_disturbs_nobody(routes: Routes) -> None:
    with capture_logs() as lines:
        async with served(routes.app()) as running:
            client = await running.connect()
            await client.ask("POST", "/reads", "Content-Length: 10")
            await client.send(b"half ")
            await client.stream.aclose()
            other = await running.connect()
            await other.ask("GET", "/hello")
            assert (await other.answer())[0] == 200
    assert [line for line in lines if line["log_level"] in ("warning", "error", "critical")] == []


async def test_a_client_that_leaves_cancels_nothing(routes: Routes) -> None:
    async with served(routes.app()) as running:
        client = await running.connect()
        await client.ask("GET", "/waits")
        await routes.called.wait()
        await client.stream.aclose()
        other = await running.connect()
        await other.ask("GET", "/hello")
        await other.answer()
        assert not routes.cut
        routes.go_on.set()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux cuts such connections")
async def test_a_client_that_reads_nothing_holds_up_no_stop(
    routes: Routes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("galaxy_mail.http.server.UNREAD_WITHIN_MS", 100)
    async with served(routes.app(), grace_s=0.05) as running:
        client = await running.connect()
        await client.ask("GET", "/endless")
        await routes.called.wait()
        running.stop()
        await running.wait_ended()


# Answers


async def test_parts_come_one_by_one_and_end(routes: Routes) -> None:
    async with served(routes.app()) as running:
        client = await running.connect()
        await client.ask("GET", "/parts")
        status, headers, body = await client.answer()
        assert (status, headers["transfer-encoding"], body) == (200, "chunked", b"0\n1\n2\n")
        await client.ask("GET", "/hello")
        assert (await client.answer())[0] == 200


async def test_parts_that_break_off_are_not_mistaken_for_all(routes: Routes) -> None:
    with capture_logs() as lines:
        async with served(routes.app()) as running:
            client = await running.connect()
            await client.ask("GET", "/breaks")
            rest = await client.closed()
    assert b"half" in rest
    assert not rest.endswith(b"0\r\n\r\n")
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["http_server"]


async def test_head_gets_what_get_would_without_the_body(routes: Routes) -> None:
    async with served(routes.app()) as running:
        client = await running.connect()
        await client.ask("HEAD", "/hello", "Connection: close")
        head = await client.closed()
    assert b"content-length: 15" in head
    assert head.endswith(b"\r\n\r\n")


async def test_nothing_is_made_for_a_head(routes: Routes) -> None:
    async with served(routes.app()) as running:
        client = await running.connect()
        await client.ask("HEAD", "/endless", "Connection: close")
        assert (await client.closed()).startswith(b"HTTP/1.1 200 ")
    assert not routes.called.is_set()


async def test_requests_in_one_packet_are_answered_in_order(routes: Routes) -> None:
    async with served(routes.app()) as running:
        client = await running.connect()
        await client.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
        assert [(await client.answer())[0], (await client.answer())[0]] == [200, 404]


async def test_what_is_not_http_is_told_so(routes: Routes) -> None:
    async with served(routes.app()) as running:
        client = await running.connect()
        await client.send(b"EHLO mail.test\r\n\r\n")
        assert (await client.closed()).startswith(b"HTTP/1.1 400 ")


async def test_a_path_may_be_left_out(routes: Routes) -> None:
    async with served(routes.app()) as running:
        client = await running.connect()
        await client.ask("GET", "?x=1")
        assert (await client.answer())[0] == 404


UPGRADES: Final = {
    "h2c": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
    "h2c with settings that are invalid": ("Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: A"),
    "websocket": (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
}


@pytest.mark.parametrize("lines", UPGRADES.values(), ids=UPGRADES)
async def test_an_upgrade_is_ignored_and_the_connection_closes(
    routes: Routes, lines: tuple[str, ...]
) -> None:
    async with served(routes.app()) as running:
        for method, path, body in (("GET", "/hello", b""), ("POST", "/reads", b"abc")):
            client = await running.connect()
            await client.ask(method, path, *lines, body=body)
            response = await client.closed()
            assert response.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in response.lower()
            assert response.endswith(GREETING)
    assert routes.read == [b"abc"]


HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 §3.4
SETTINGS_FRAME: Final = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@pytest.mark.parametrize("after", [b"", SETTINGS_FRAME], ids=["the preface alone", "and a frame"])
async def test_http2_with_prior_knowledge_is_refused(routes: Routes, after: bytes) -> None:
    async with served(routes.app()) as running:
        client = await running.connect()
        await client.send(HTTP2_PREFACE + after)
        assert (await client.closed()).startswith(b"HTTP/1.1 505 ")


async def test_tls_offers_http_1_1_alone(routes: Routes, authority: trustme.CA, tmp_path: Path) -> None:
    cert, key, _ = _files(authority, tmp_path)
    chosen = {}
    async with served(routes.app(), tls=tls_context(cert=cert, key=key)) as running:
        for offered in (("h2", "http/1.1"), ("h2",)):
            context = _client_context(authority)
            context.set_alpn_protocols(list(offered))
            client = await running.connect(context)
            await client.send(HTTP2_PREFACE)
            assert (await client.closed()).startswith(b"HTTP/1.1 505 ")
            assert isinstance(client.stream, trio.SSLStream)
            chosen[offered] = client.stream.selected_alpn_protocol()
    assert chosen == {("h2", "http/1.1"): "http/1.1", ("h2",): None}


async def test_nothing_says_which_server_it_is(routes: Routes) -> None:
    async with served(routes.app()) as running:
        client = await running.connect()
        await client.ask("GET", "/hello")
        _, headers, _ = await client.answer()
    assert "server" not in headers
    assert "date" in headers  # RFC 9110 §6.6.1


# Connections on which something breaks, and those whose client leaves


async def test_a_connection_that_breaks_takes_no_other_with_it(
    routes: Routes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the server, which would be a restart of an actor for each such request, and the process' end after ten."""
    create_stream = H11Protocol._create_stream

    async def fails(protocol: H11Protocol, request: h11.Request) -> None:
        if request.target == b"/fails":
            raise RuntimeError(f"can't handle {request}")
        await create_stream(protocol, request)

    monkeypatch.setattr(H11Protocol, "_create_stream", fails)
    with capture_logs() as lines:
        async with served(routes.app()) as running:
            busy = await running.connect()
            await busy.ask("GET", "/waits")
            await routes.called.wait()
            broken = await running.connect()
            await broken.ask("GET", "/fails", "Authorization: Bearer S3cretMark")
            assert await broken.closed() == b""
            routes.go_on.set()
            assert (await busy.answer())[2] == GREETING
            await busy.ask("GET", "/hello")
            assert (await busy.answer())[2] == GREETING
    [told] = [line for line in lines if line["log_level"] != "debug"]
    assert (told["event"], told["log_level"]) == ("connection_failed", "warning")
    assert [error.partition(":")[0] for error in told["errors"]] == ["RuntimeError at test_server.py"]
    assert "S3cretMark" not in str(told)
    assert not routes.cut


async def test_a_connection_ends_with_its_last_request_once_the_client_has_left(routes: Routes) -> None:
    """It kept its place among the open files for another 75 s."""
    async with served(routes.app()) as running:
        client = await running.connect()
        await client.ask("GET", "/waits")
        await routes.called.wait()
        await client.leave()
        routes.go_on.set()
        await client.closed()
        assert not routes.cut


async def test_a_connection_ends_when_its_client_leaves_between_requests(routes: Routes) -> None:
    async with served(routes.app()) as running:
        silent, used = await running.connect(), await running.connect()
        await used.ask("GET", "/hello")
        await used.answer()
        for client in (silent, used):
            await client.leave()
            await client.closed()


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def _files(authority: trustme.CA, folder: Path) -> tuple[Path, Path, Path]:
    issued = authority.issue_cert("localhost")
    cert, key, ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(ca))
    return cert, key, ca


def _client_context(authority: trustme.CA, name: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if name is not None:
        authority.issue_cert(f"{name}@example.org", common_name=name).configure_cert(context)
    return context


async def test_tls_from_files(routes: Routes, authority: trustme.CA, tmp_path: Path) -> None:
    cert, key, _ = _files(authority, tmp_path)
    async with served(routes.app(), tls=tls_context(cert=cert, key=key)) as running:
        assert running.server.url.startswith("https://")
        client = await running.connect(_client_context(authority))
        await client.ask("GET", "/who", "Connection: close")
        assert (await client.closed()).endswith(b'{"name":null}')


async def test_a_client_is_known_by_its_certificate(
    routes: Routes, authority: trustme.CA, tmp_path: Path
) -> None:
    cert, key, ca = _files(authority, tmp_path)
    async with served(routes.app(), tls=tls_context(cert=cert, key=key, client_ca=ca)) as running:
        ann = await running.connect(_client_context(authority, "ann"))
        bob = await running.connect(_client_context(authority, "bob"))
        for _ in range(2):
            for client, name in ((ann, b"ann"), (bob, b"bob")):
                await client.ask("GET", "/who")
                assert (await client.answer())[2] == b'{"name":"%s"}' % name


async def test_only_certificates_of_the_right_authority_are_let_in(
    routes: Routes, authority: trustme.CA, tmp_path: Path
) -> None:
    cert, key, ca = _files(authority, tmp_path)
    stranger = ssl.create_default_context()
    authority.configure_trust(stranger)
    trustme.CA().issue_cert("eve@example.org", common_name="eve").configure_cert(stranger)
    contexts = {
        "nobody": _client_context(authority),
        "a stranger": stranger,
        "ann": _client_context(authority, "ann"),
    }
    async with served(routes.app(), tls=tls_context(cert=cert, key=key, client_ca=ca)) as running:
        let_in = [
            name for name, context in contexts.items() if await _answers(await running.connect(context))
        ]
    assert let_in == ["ann"]


async def _answers(client: Client) -> bool:
    try:
        await client.ask("GET", "/who")
        return (await client.answer())[0] == 200
    except (trio.BrokenResourceError, ConnectionResetError):
        return False


def test_files_that_are_no_certificate_are_told_plainly(authority: trustme.CA, tmp_path: Path) -> None:
    cert, key, _ = _files(authority, tmp_path)
    other = tmp_path / "other.pem"
    other.write_text("nothing")
    with pytest.raises(BadTlsFile, match=r"other\.pem and .*key\.pem are no certificate with its key: "):
        tls_context(cert=other, key=key)
    with pytest.raises(BadTlsFile, match=r"other\.pem is no certificate: "):
        tls_context(cert=cert, key=key, client_ca=other)


def test_hypercorn_still_reads_what_is_set() -> None:
    """Its configuration takes any attribute; a name that it no longer reads would silently change nothing."""
    known = vars(Config)
    for name in ("keep_alive_timeout", "keep_alive_max_requests", "ssl_handshake_timeout"):
        assert name in known
    for name in ("include_server_header", "logger_class"):
        assert name in known
