"""The API on a real socket, and a client that sees every byte and the end of the connection."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio
from quart_trio import QuartTrio
from trio.testing import wait_all_tasks_blocked

from galaxy_mail.http.server import HttpServer, bind

LIMIT_S: Final = 10.0  # for what takes milliseconds: a hanging test ends here


class Client:
    """One connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        with trio.fail_after(LIMIT_S):
            await self.stream.send_all(data)

    async def ask(
        self, method: str, path: str, *lines: str, body: bytes = b"", version: str = "HTTP/1.1"
    ) -> None:
        head = [f"{method} {path} {version}", "Host: mail.test", *lines]
        if body:
            head.append(f"Content-Length: {len(body)}")
        await self.send("\r\n".join([*head, "", ""]).encode() + body)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next response."""
        head = (await self._until(b"\r\n\r\n")).decode()
        status_line, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while (size := int(await self._until(b"\r\n"), 16)) > 0:
                body += await self._exactly(size)
                await self._exactly(2)
            await self._exactly(2)
        else:
            body = await self._exactly(int(headers.get("content-length", "0")))
        return int(status_line.split(" ")[1]), headers, body

    async def leave(self) -> None:
        """Closes this end; what the server still sends can be read."""
        assert isinstance(self.stream, trio.SocketStream)
        await self.stream.send_eof()

    async def closed(self) -> bytes:
        """What still comes until the server closes the connection."""
        rest, self._buffer = self._buffer, b""
        with trio.fail_after(LIMIT_S):
            while data := await self.stream.receive_some():
                rest += data
        return rest

    async def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            await self._more()
        found, _, self._buffer = self._buffer.partition(end)
        return found

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._more()
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    async def _more(self) -> None:
        with trio.fail_after(LIMIT_S):
            data = await self.stream.receive_some()
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._buffer += data


class Served:
    """A running server."""

    def __init__(self, server: HttpServer, scope: trio.CancelScope) -> None:
        self.server = server
        self._scope = scope
        self.ended = trio.Event()
        self.clients: list[Client] = []

    def stop(self) -> None:
        self._scope.cancel()

    async def wait_ended(self) -> None:
        with trio.fail_after(LIMIT_S):
            await self.ended.wait()

    async def connect(self, tls: ssl.SSLContext | None = None) -> Client:
        host, port = self.server.address
        stream: trio.abc.Stream = await trio.open_tcp_stream(host, port)
        if tls is not None:
            stream = trio.SSLStream(stream, tls, server_hostname="localhost", https_compatible=True)
        self.clients.append(Client(stream))
        return self.clients[-1]


@asynccontextmanager
async def served(
    app: QuartTrio, *, tls: ssl.SSLContext | None = None, grace_s: float = 5.0
) -> AsyncIterator[Served]:
    """The app on a free loopback port, until the block ends."""
    listener = bind("127.0.0.1", 0)
    server = HttpServer(app, listener, tls=tls, grace_s=grace_s)
    with listener:
        async with trio.open_nursery() as nursery:
            running = Served(server, trio.CancelScope())

            async def run() -> None:
                with running._scope:
                    await server.run()
                running.ended.set()

            nursery.start_soon(run)
            with trio.fail_after(LIMIT_S):
                await wait_all_tasks_blocked()
            try:
                yield running
            finally:
                running.stop()
                for client in running.clients:
                    await trio.aclose_forcefully(client.stream)
