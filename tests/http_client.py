"""A client for tests that kill servers: HTTP/1.1 on kept connections.

(httpx leaves the generator of a request's body behind then, which pytest reports in whatever test comes next.)
"""

import json
import socket
from datetime import timedelta
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self

import h11
import httpx
import trio

READ_BYTES: Final = 65_536


class HttpClient:
    """Asks one server, on as many connections as there are requests at a time, and keeps them for the next ones."""

    def __init__(self, url: str, *, within_s: float, connections: int = 64) -> None:
        self._url = httpx.URL(url)
        self._within_s = within_s
        self._places = trio.CapacityLimiter(connections)
        self._idle: list[_Connection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def get(self, path: str) -> httpx.Response:
        return await self.request("GET", path)

    async def request(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, json_body: Any = None
    ) -> httpx.Response:
        """The whole answer. Raises httpx.TransportError where there is none."""
        body = b"" if json_body is None else json.dumps(json_body).encode()
        fields = {"Host": self._url.netloc.decode(), **(headers or {})}
        if method not in {"GET", "DELETE"}:
            fields["Content-Length"] = str(len(body))
        if json_body is not None:
            fields["Content-Type"] = "application/json"
        asked_s = monotonic()
        async with self._places:
            try:
                with trio.fail_after(self._within_s):
                    answer = await self._ask(
                        h11.Request(method=method, target=path, headers=list(fields.items())), body
                    )
            except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.RemoteProtocolError) as error:
                raise httpx.TransportError(f"{method} {path}: {type(error).__name__} {error}") from error
        answer.elapsed = timedelta(seconds=monotonic() - asked_s)
        return answer

    async def aclose(self) -> None:
        while self._idle:
            await trio.aclose_forcefully(self._idle.pop().stream)

    async def _ask(self, request: h11.Request, body: bytes) -> httpx.Response:
        connection = await self._connection()
        try:
            answer = await connection.ask(request, body)
        except BaseException:
            await trio.aclose_forcefully(connection.stream)
            raise
        if connection.is_reusable():
            self._idle.append(connection)
        else:
            await trio.aclose_forcefully(connection.stream)
        return answer

    async def _connection(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if not connection.was_left():
                return connection
            await trio.aclose_forcefully(connection.stream)
        assert self._url.port is not None
        return _Connection(await trio.open_tcp_stream(self._url.host, self._url.port))


class _Connection:
    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.CLIENT)

    def was_left(self) -> bool:
        """Whether the server has hung up meanwhile."""
        try:
            self.stream.socket._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)  # type: ignore[attr-defined]  # trio's own can't look ahead without waiting
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def is_reusable(self) -> bool:
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def ask(self, request: h11.Request, body: bytes) -> httpx.Response:
        http = self._http
        out = http.send(request) or b""
        out += (http.send(h11.Data(data=body)) or b"") if body else b""
        await self.stream.send_all(out + (http.send(h11.EndOfMessage()) or b""))
        status, headers, content = 0, httpx.Headers(), b""
        while True:
            event = http.next_event()
            match event:
                case h11.NEED_DATA:
                    http.receive_data(await self.stream.receive_some(READ_BYTES))
                case h11.Response():
                    status, headers = event.status_code, httpx.Headers(list(event.headers))
                case h11.Data():
                    content += event.data
                case h11.EndOfMessage():
                    return httpx.Response(status, headers=headers, content=content)
                case h11.InformationalResponse():
                    pass
                case _:
                    raise h11.RemoteProtocolError(f"the server ended the connection: {event}")
