"""A connected socket as a trio stream, for conversations: writes at once, and waits before it reads.

trio.SocketStream tries to read before it waits, and lets others run after each write. Where a question is followed by its
answer, the answer is never there yet, and waiting for it lets others run: both cost a system call or a turn of the
loop for nothing. The two are a third of what a short exchange costs.
"""

import select
import socket
from typing import Self

import trio
from trio.abc import Stream


class ConversationStream(Stream):
    """Owns a connected, non-blocking socket. One task writes and one reads at a time."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected

    @classmethod
    def over(cls, stream: trio.SocketStream) -> Self:
        """Takes the socket over from `stream`, which is not to be used any more."""
        family, kind, proto = stream.socket.family, stream.socket.type, stream.socket.proto
        return cls(socket.socket(family, kind, proto, fileno=stream.socket.detach()))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Returns once the system has taken all of it, and raises only where it did not: a cancel too.

        A checkpoint only where the system can't take it at once.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        rest = memoryview(data)
        while True:
            try:
                sent = self._socket.send(rest)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise self._broken() from error
            if sent == len(rest):
                return
            rest = rest[sent:]
            await trio.lowlevel.wait_writable(self._socket)

    async def send_at_once(self, data: bytes | bytearray | memoryview) -> int:
        """How many bytes the system takes without waiting, perhaps none. Raises as `send_all`, with nothing taken."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._broken() from error

    async def wait_send_all_might_not_block(self) -> None:
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError("this stream was closed")
        await trio.lowlevel.wait_writable(self._socket)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What is there once something is; b"" at the end."""
        while True:
            if self._socket.fileno() < 0:
                raise trio.ClosedResourceError("this stream was closed")
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(max_bytes or 65536)
            except BlockingIOError:
                continue  # somebody else's news: a wake-up need not mean data (select(2), BUGS)
            except OSError as error:
                raise self._broken() from error

    async def aclose(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        await trio.lowlevel.checkpoint()

    def is_readable(self) -> bool:
        """Whether there is a word, or the end."""
        if self._socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    async def wait_readable(self) -> None:
        """Returns when there is a word, or the end."""
        await trio.lowlevel.wait_readable(self._socket)

    def own_address(self) -> str:
        """This end's address."""
        address: str = self._socket.getsockname()[0]
        return address

    def _broken(self) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self._socket.fileno() < 0:
            return trio.ClosedResourceError("this stream was closed")
        return trio.BrokenResourceError("the connection is lost")
