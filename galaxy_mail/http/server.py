"""Serves the API on a socket: hypercorn as an actor."""

import socket
import ssl
import sys
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from socket import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    IPPROTO_TCP,
    SOCK_STREAM,
    create_server,
    getaddrinfo,
    has_dualstack_ipv6,
)
from typing import Any, Final

import h11
import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, Updated
from hypercorn.logging import Logger
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, ResponseSummary, WWWScope
from quart_trio import QuartTrio

from galaxy_mail.domain.errors import GalaxyMailError, leaves
from galaxy_mail.http.tokens import certificate_name

log = structlog.get_logger()

GRACE_S: Final = 3.0
AFTER_GRACE_S: Final = 0.5  # for hypercorn's clean-up after requests in flight are cancelled
BACKLOG: Final = 1024
IDLE_WITHIN_S: Final = (
    75.0  # above the idle time-out of load balancers: they close first, so no request is cut
)
HANDSHAKE_WITHIN_S: Final = 10.0
# The kernel closes the connection of a client that reads nothing for this time. Hypercorn shields its writes from
# cancellation, so such a client would delay every stop.
UNREAD_WITHIN_MS: Final = 20_000


class CantListen(GalaxyMailError):
    """The service can't listen on this address."""


class BadTlsFile(GalaxyMailError):
    """A certificate or key is invalid or can't be read."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. An empty host means every interface, port 0 a free port. Raises CantListen.

    Connections wait in its backlog until a server accepts them.
    """
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if not host and has_dualstack_ipv6():
            listener = create_server(("", port), family=AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
        elif not host:
            listener = create_server(("", port), family=AF_INET, backlog=BACKLOG)
        else:
            family, _, _, _, address = getaddrinfo(host, port, AF_UNSPEC, SOCK_STREAM)[0]
            listener = create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:  # gaierror is one
        raise CantListen(f"can't listen on {place}: {error.strerror or error}") from error
    user_timeout = getattr(socket, "TCP_USER_TIMEOUT", None)
    if user_timeout is not None:  # Linux; connections inherit it
        listener.setsockopt(IPPROTO_TCP, user_timeout, UNREAD_WITHIN_MS)
    return listener


def tls_context(*, cert: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """The server's TLS. With `client_ca`, clients must have a certificate of that CA. Raises BadTlsFile."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(
            cert, key, password=lambda: b""
        )  # without it, OpenSSL would ask at the terminal
    except OSError as error:  # SSLError is one
        raise BadTlsFile(f"{cert} and {key} are no certificate with its key: {_reason(error)}") from error
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            raise BadTlsFile(f"{client_ca} is no certificate: {_reason(error)}") from error
        context.verify_mode = ssl.CERT_REQUIRED
        context.sslobject_class = _NamedPeer
    return context


class HttpServer:
    """Serves the app until cancelled. Then it accepts no connection, and requests in flight have `grace_s` to end.

    `listener` stays open, so that the next server can use it after a crash.
    """

    def __init__(
        self,
        app: QuartTrio,
        listener: socket.socket,
        *,
        tls: ssl.SSLContext | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self._app = app
        self._listener = listener
        self._tls = tls
        self._grace_s = grace_s

    @property
    def address(self) -> tuple[str, int]:
        """The host and port of the listener."""
        host, port, *_ = self._listener.getsockname()
        return host, port

    @property
    def url(self) -> str:
        """The URL for clients on this host."""
        host, port = self.address
        host = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(host, host)  # noqa: S104  # compared, not bound
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    async def run(self) -> None:
        stop = trio.Event()
        shield = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            await nursery.start(self._serve, stop, shield)
            shield.shield = True  # not before: a cancellation during the start must end it
            try:
                await trio.sleep_forever()
            finally:
                stop.set()
                shield.deadline = trio.current_time() + self._grace_s + AFTER_GRACE_S

    async def _serve(
        self,
        stop: trio.Event,
        shield: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Like `hypercorn.trio.serve`, but an error on one connection does not end the others."""
        context = WorkerContext(max_requests=None)
        connections = partial(
            _TcpConnection, ASGIWrapper(self._app), _hypercorn(), context, ConnectionState({})
        )
        with self._listener.dup() as duplicate, shield:  # trio closes the duplicate with its listener
            listener = self._trio_listener(duplicate)
            async with trio.open_nursery() as handlers:
                try:
                    async with trio.open_nursery() as accepting:
                        accepting.start_soon(
                            partial(trio.serve_listeners, connections, [listener], handler_nursery=handlers)
                        )
                        task_status.started()
                        await stop.wait()
                        accepting.cancel_scope.cancel()
                finally:
                    await context.terminated.set()  # idle connections close
                    handlers.cancel_scope.deadline = trio.current_time() + self._grace_s

    def _trio_listener(
        self, listener: socket.socket
    ) -> trio.SocketListener | trio.SSLListener[trio.SocketStream]:
        plain = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        return plain if self._tls is None else trio.SSLListener(plain, self._tls, https_compatible=True)


class _TcpConnection(TCPServer):
    """One connection, served by hypercorn over HTTP/1.1 alone."""

    _left = False  # the client has closed its end

    async def run(self) -> None:
        """Logs an unexpected error instead of raising it, which would end the server with all its connections."""
        try:
            await super().run()
        except* Exception as group:  # noqa: BLE001  # whatever it is, only this connection is affected
            # The messages may quote what the client sent, secrets included: log only types and places.
            log.warning("connection_failed", errors=sorted({_origin(error) for error in leaves(group)}))

    async def _read_data(self) -> None:
        """Reads until the client closes its end. From then on only unfinished requests keep the connection open.

        Hypercorn would keep it until the idle timer fires, IDLE_WITHIN_S later: health checks that only connect
        would exhaust the file descriptors.
        """
        made = self.protocol  # hypercorn's wrapper, which starts with a protocol that follows upgrades
        made.protocol = _Http1(
            made.app,
            made.config,
            made.context,
            made.task_group,
            made.state,
            made.ssl,
            made.client,
            made.server,
            made.send,
        )
        await super()._read_data()
        self._left = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if self._left and isinstance(event, Updated):
            return  # it would restart the idle timer
        with suppress(trio.BusyResourceError):  # the other task is closing the connection
            await super().protocol_send(event)


class _Http1(H11Protocol):
    """HTTP/1.1 without upgrades. Hypercorn's own protocol changes to HTTP/2 or a websocket when a client asks."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Hypercorn would change to HTTP/2 here."""

    async def _create_stream(self, request: h11.Request) -> None:
        if not request.http_version.startswith(b"1."):
            # HTTP/2 with prior knowledge starts with `PRI * HTTP/2.0`.
            await self._send_error_response(505)
            await self.send(Closed())
            return
        headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
        if len(headers) < len(request.headers):
            # An upgrade may be ignored (RFC 9110 §7.8). Some clients, Java's among them, ask for one by default: they
            # get their answer, and then the connection closes.
            self.keep_alive_requests = self.config.keep_alive_max_requests
            request = h11.Request(
                method=request.method,
                target=request.target,
                headers=headers,
                http_version=request.http_version,
            )
        await super()._create_stream(request)


def _origin(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def _hypercorn() -> Config:
    """The settings that hypercorn's connections read."""
    config = Config()
    config.keep_alive_timeout = IDLE_WITHIN_S
    config.keep_alive_max_requests = 1_000_000
    config.ssl_handshake_timeout = HANDSHAKE_WITHIN_S
    config.include_server_header = False
    config.logger_class = _HypercornLog
    return config


class _HypercornLog(Logger):
    """Writes hypercorn's messages to our log. The app logs the requests."""

    def __init__(self, config: Config) -> None:
        pass

    async def access(self, request: WWWScope, response: ResponseSummary, request_time: float) -> None:
        pass

    async def critical(self, message: str, *args: Any, **_: Any) -> None:
        log.critical("http_server", message=_filled(message, args))

    async def error(self, message: str, *args: Any, **_: Any) -> None:
        log.error("http_server", message=_filled(message, args))

    async def warning(self, message: str, *args: Any, **_: Any) -> None:
        log.warning("http_server", message=_filled(message, args))

    async def info(self, message: str, *args: Any, **_: Any) -> None:
        log.debug("http_server", message=_filled(message, args))

    async def debug(self, message: str, *args: Any, **_: Any) -> None:
        pass

    async def exception(self, message: str, *args: Any, **_: Any) -> None:
        log.error("http_server", message=_filled(message, args), exc_info=sys.exc_info()[1])

    async def log(self, level: int, message: str, *args: Any, **_: Any) -> None:
        log.info("http_server", level_no=level, message=_filled(message, args))


def _filled(message: str, args: tuple[Any, ...]) -> str:
    return message % args if args else message


class _NamedPeer(ssl.SSLObject):
    """Stores the client's name in the connection's task: hypercorn does not pass the certificate on."""

    def do_handshake(self) -> None:
        super().do_handshake()
        certificate: Any = self.getpeercert() or {}
        names = [
            value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"
        ]
        certificate_name.set(names[0] if names else "unnamed")


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
