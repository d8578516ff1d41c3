"""A provider and a relay of our own, joined in memory."""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio
import trio.testing
import trustme

from galaxy_mail.domain.records import Attachment, Envelope, RenderedContent, SendResult
from galaxy_mail.providers.provider import Message
from galaxy_mail.providers.smtp.opening import Connect
from galaxy_mail.providers.smtp.provider import SmtpProvider
from galaxy_mail.providers.smtp.settings import SmtpSettings, TlsMode

Pair = tuple[trio.abc.Stream, trio.abc.Stream]


class Peer(Protocol):
    async def handle(self, stream: trio.abc.Stream) -> None: ...


def in_memory() -> Pair:
    """Takes whatever is written at once: a window without end."""
    return trio.testing.memory_stream_pair()


def in_lockstep() -> Pair:
    """What is written has to be read before the writer goes on: a window of nothing."""
    return trio.testing.lockstep_stream_pair()


def through_a_window() -> Pair:
    """As a socket: takes what there is room for, and a cancelled write has left exactly that behind."""
    there, back = _Window(), _Window()
    return trio.StapledStream(there, back), trio.StapledStream(back, there)


class _Window(trio.abc.SendStream, trio.abc.ReceiveStream):
    """One direction with room for so many bytes."""

    ROOM = 4_096

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._closed = False
        self._changed = trio.lowlevel.ParkingLot()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        rest = bytes(data)
        while rest:
            if self._closed:
                raise trio.BrokenResourceError
            if room := self.ROOM - len(self._bytes):
                self._bytes += rest[:room]
                rest = rest[room:]
                self._changed.unpark_all()
            else:
                await self._changed.park()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._bytes and not self._closed:
            await self._changed.park()
        data = bytes(self._bytes)
        self._bytes.clear()
        self._changed.unpark_all()
        return data

    async def aclose(self) -> None:
        self._closed = True
        self._changed.unpark_all()
        await trio.lowlevel.checkpoint()


def settings(**changes: object) -> SmtpSettings:
    plain: dict[str, object] = {
        "host": "127.0.0.1",
        "port": 25,
        "from_email": "sender@example.com",
        "tls": TlsMode.NONE,
    }
    return SmtpSettings(**{**plain, **changes})  # type: ignore[arg-type] # the tests' own values


def message(
    *to: str, text: str = "Hello.\n", delivery_id: str = "d-1", attachments: tuple[Attachment, ...] = ()
) -> Message:
    return Message(
        delivery_id=delivery_id,
        attempt_no=1,
        envelope=Envelope(to=to or ("reader@example.org",)),
        content=RenderedContent(subject="Greetings", text_body=text),
        attachments=attachments,
        message_id=f"{delivery_id}@example.com",
        date_ms=1_700_000_000_123,
    )


def may_finish() -> bool:
    return True


@dataclass
class Way:
    """How the provider reaches the peer; counts the connections."""

    peer: Peer
    nursery: trio.Nursery
    pair: Callable[[], Pair] = in_memory
    connections: int = 0
    client_ends: list[trio.abc.Stream] = field(default_factory=list)

    async def connect(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.connections += 1
        client, server = self.pair()
        self.client_ends.append(client)
        self.nursery.start_soon(self.peer.handle, server)
        return client

    async def addresses(self) -> list[Connect]:
        return [self.connect]


@dataclass
class Joined:
    provider: SmtpProvider
    way: Way

    async def send(
        self, sent: Message | None = None, *, finish: Callable[[], bool] = may_finish
    ) -> SendResult:
        return await self.provider.send(sent or message(), may_finish=finish)

    @property
    def connections(self) -> int:
        return self.way.connections


@asynccontextmanager
async def joined(
    peer: Peer,
    *,
    tls: ssl.SSLContext | None = None,
    pair: Callable[[], Pair] = in_memory,
    mode: TlsMode = TlsMode.NONE,
    **changes: object,
) -> AsyncIterator[Joined]:
    """A provider whose relay is `peer`. All ends when the block does."""
    async with trio.open_nursery() as nursery:
        way = Way(peer, nursery, pair)
        async with SmtpProvider(settings(tls=mode, **changes), tls=tls, addresses=way.addresses) as provider:
            yield Joined(provider, way)
        nursery.cancel_scope.cancel()


class Authority:
    """A CA of the test's own, and both sides' view of it."""

    def __init__(self, *names: str) -> None:
        ca = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(*(names or ("127.0.0.1", "localhost"))).configure_cert(self.server)
        self.client = ssl.create_default_context()
        ca.configure_trust(self.client)
