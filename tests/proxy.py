"""A proxy between us and a server that can lose what passes through it. Never: a delay of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio


class Proxy:
    """Forwards a unix socket's connections to another one."""

    def __init__(self, path: Path, upstream: str) -> None:
        self.path = path
        self.url = f"unix://{path}"
        self.lose_replies = (
            False  # what the server answers is gone; its caller sees the connection closed instead
        )
        self.hold_replies = False  # what the server answers is gone, and the connection stays
        self._upstream = upstream
        self._scopes: set[trio.CancelScope] = set()

    def cut(self) -> None:
        """Ends all connections."""
        for scope in list(self._scopes):
            scope.cancel()

    async def _forward(self, client: trio.SocketStream) -> None:
        try:
            server = await trio.open_unix_socket(self._upstream)
        except OSError:  # the upstream is away: its client sees the connection end at once
            return
        async with server, trio.open_nursery() as nursery:
            self._scopes.add(nursery.cancel_scope)
            nursery.start_soon(self._pump, client, server, nursery.cancel_scope)
            nursery.start_soon(self._pump_replies, server, client, nursery.cancel_scope)
        self._scopes.discard(nursery.cancel_scope)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
        except trio.BrokenResourceError:
            pass
        scope.cancel()

    async def _pump_replies(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            async for data in source:
                if self.lose_replies:
                    break
                if not self.hold_replies:
                    await sink.send_all(data)
        except trio.BrokenResourceError:
            pass
        scope.cancel()


@asynccontextmanager
async def proxy_before(upstream: str) -> AsyncIterator[Proxy]:
    """A proxy whose socket lies beside the upstream's."""
    path = Path(f"{upstream}.proxy")
    proxy = Proxy(path, upstream)
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(str(path))
    listening.listen(64)
    async with trio.open_nursery() as nursery:

        async def serve(client: trio.SocketStream) -> None:
            async with client:
                await proxy._forward(client)

        nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listening)])
        yield proxy
        nursery.cancel_scope.cancel()
