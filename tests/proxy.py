"""A proxy between us and a server that can lose what passes through it."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio


class Proxy:
    """Forwards connections to a unix socket."""

    def __init__(self, url: str, upstream: str) -> None:
        self.url = url
        self.lose_replies = (
            False  # what the server answers is gone; its caller sees the connection closed instead
        )
        self.in_bytes = False  # what the server answers comes in pieces of one byte
        self.hold_replies = False  # what the server answers is gone, and the connection stays
        self._upstream = upstream
        self._scopes: set[trio.CancelScope] = set()

    def cut(self) -> None:
        """Ends all connections."""
        for scope in list(self._scopes):
            scope.cancel()

    async def serve(self, client: trio.abc.Stream) -> None:
        try:
            server = await trio.open_unix_socket(self._upstream)
        except OSError:  # the upstream is away: its client sees the connection end at once
            await trio.aclose_forcefully(client)
            return
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            self._scopes.add(scope)
            nursery.start_soon(self._pump, client, server, scope)
            nursery.start_soon(self._pump_replies, server, client, scope)
        self._scopes.discard(scope)
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(client)
            await trio.aclose_forcefully(server)

    async def _pump(self, source: trio.abc.Stream, sink: trio.abc.Stream, scope: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in source:
                await sink.send_all(data)
        scope.cancel()

    async def _pump_replies(
        self, source: trio.abc.Stream, sink: trio.abc.Stream, scope: trio.CancelScope
    ) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in source:
                if self.lose_replies:
                    break
                if not self.hold_replies:
                    for piece in [bytes([byte]) for byte in data] if self.in_bytes else [data]:
                        await sink.send_all(piece)
        scope.cancel()


@asynccontextmanager
async def proxy_before(upstream: str) -> AsyncIterator[Proxy]:
    """A proxy whose socket lies beside the upstream's."""
    path = f"{upstream}.proxy"
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(path)
    listening.listen(64)
    async with _serving(Proxy(f"unix://{path}", upstream), trio.SocketListener(listening)) as proxy:
        yield proxy


@asynccontextmanager
async def tls_before(upstream: str, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Gives the upstream, which speaks no TLS, a port on 127.0.0.1 that does."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    async with _serving(Proxy(f"rediss://127.0.0.1:{port}", upstream), trio.SSLListener(listener, context)):
        yield port


@asynccontextmanager
async def _serving(proxy: Proxy, listener: trio.abc.Listener[trio.abc.Stream]) -> AsyncIterator[Proxy]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy.serve, [listener])
        yield proxy
        nursery.cancel_scope.cancel()
