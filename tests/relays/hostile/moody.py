"""Has a mood that a test changes while mail comes: one answer, or none, to an exchange of every connection."""

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import trio

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.relays.hostile.server import HangUp, Server, Talk

Mood = Mapping[Exchange, bytes | None]  # the reply to an exchange; None: silence
WELL: Final[Mood] = {}


class Moody(Server):
    """Each talk behaves but for `mood`. A 421 ends it, as the code says. `came_s`: when each talk began, in trio's time."""

    def __init__(self, **behaved: object) -> None:
        super().__init__(**behaved)  # type: ignore[arg-type] # Server's own parameters, passed on
        self.mood = WELL
        self.came_s: list[float] = []

    async def handle(self, stream: trio.abc.Stream) -> None:
        self.came_s.append(trio.current_time())
        await super().handle(stream)

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if exchange not in self.mood:
            await self.behave(talk, exchange, said)
            return
        reply = self.mood[exchange]
        while reply is None:
            await talk.more()  # until the client has had enough: HangUp is raised then
        await talk.say(reply)
        if reply.startswith(b"421"):
            raise HangUp


class Place:
    """A loopback port that stays the same while its relay comes and goes. Made by `place_for`."""

    def __init__(self, server: Server, nursery: trio.Nursery, port: int) -> None:
        self.port = port
        self._server = server
        self._nursery = nursery
        self._open = trio.CancelScope()
        self._closed = trio.Event()

    async def open(self) -> None:
        """The relay listens."""
        self._open, self._closed = trio.CancelScope(), trio.Event()
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1", backlog=1024)
        self._nursery.start_soon(self._serve, listeners, self._open, self._closed)

    async def close(self) -> None:
        """The relay is gone with its connections; new ones are refused."""
        self._open.cancel()
        await self._closed.wait()

    async def _serve(
        self, listeners: list[trio.SocketListener], scope: trio.CancelScope, closed: trio.Event
    ) -> None:
        with scope:
            await trio.serve_listeners(self._server.handle, listeners)
        closed.set()


@asynccontextmanager
async def place_for(server: Server) -> AsyncIterator[Place]:
    """The relay, listening on a port that nobody else gets while it is closed."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        async with trio.open_nursery() as nursery:
            place = Place(server, nursery, reserved.getsockname()[1])
            await place.open()
            yield place
            nursery.cancel_scope.cancel()
