"""The next hop behind a real relay: takes everything and keeps it."""

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import trio

_OFFERS = b"250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 104857600\r\n"


@dataclass
class Arrived:
    """One message as it came over the wire: dots unstuffed, CRLF line ends."""

    sender: bytes  # between MAIL's angle brackets
    recipients: list[bytes]
    parameters: bytes  # of MAIL
    content: bytes

    def without_trace(self) -> bytes:
        """The content less what relays put on top: whole Received fields (and their like), from the first line on."""
        lines = self.content.split(b"\r\n")
        while lines[0].lower().startswith((b"received:", b"return-path:", b"delivered-to:", b"x-peer:")):
            lines.pop(0)
            while lines[0][:1] in (b" ", b"\t"):
                lines.pop(0)
        return b"\r\n".join(lines)


class Sink:
    """Keeps what arrives. Made by `sink_running`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._mail: queue.SimpleQueue[Arrived] = queue.SimpleQueue()

    async def next_mail(self, within_s: float = 20.0) -> Arrived:
        """The next message that nobody took yet. Raises queue.Empty."""
        return await trio.to_thread.run_sync(self._mail.get, True, within_s)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):  # the peer is gone: so is the conversation
                await _Conversation(stream, self._mail).run()


@contextmanager
def sink_running() -> Iterator[Sink]:
    """A sink on loopback, in a thread of its own: it outlives a test's loop, and relays dislike hops that vanish."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as bound:
        sink = Sink(bound.getsockname()[1])
        started: queue.SimpleQueue[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = queue.SimpleQueue()

        async def serve() -> None:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
            with trio.CancelScope() as scope:
                started.put((trio.lowlevel.current_trio_token(), scope))
                await trio.serve_listeners(sink._serve, [listener])

        thread = threading.Thread(target=trio.run, args=(serve,), name="sink")
        thread.start()
        token, scope = started.get()
        try:
            yield sink
        finally:
            token.run_sync_soon(scope.cancel)
            thread.join()


@dataclass
class _Conversation:
    stream: trio.abc.Stream
    arriving: queue.SimpleQueue[Arrived]
    buffer: bytearray = field(default_factory=bytearray)
    sender: bytes = b""
    parameters: bytes = b""
    recipients: list[bytes] = field(default_factory=list)

    async def run(self) -> None:
        answers = bytearray(b"220 sink.test ESMTP\r\n")
        while True:
            while (line := self._line()) is None:
                if answers:
                    await self.stream.send_all(answers)
                    answers.clear()
                data = await self.stream.receive_some()
                if not data:
                    return
                self.buffer += data
            verb, _, argument = line.partition(b" ")
            match verb.upper():
                case b"EHLO":
                    answers += _OFFERS
                case b"MAIL":
                    path, _, self.parameters = argument.partition(b">")
                    self.sender, self.recipients = path.partition(b"<")[2], []
                    answers += b"250 2.1.0 ok\r\n"
                case b"RCPT":
                    self.recipients.append(argument.partition(b"<")[2].rpartition(b">")[0])
                    answers += b"250 2.1.5 ok\r\n"
                case b"DATA":
                    await self.stream.send_all(answers + b"354 go ahead\r\n")
                    answers[:] = b"250 2.0.0 kept\r\n"
                    content = await self._content()
                    if content is None:
                        return
                    self.arriving.put(Arrived(self.sender, self.recipients, self.parameters.strip(), content))
                case b"QUIT":
                    await self.stream.send_all(answers + b"221 2.0.0 bye\r\n")
                    return
                case _:
                    answers += b"250 2.0.0 ok\r\n"

    def _line(self) -> bytes | None:
        end = self.buffer.find(b"\r\n")
        if end < 0:
            return None
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 2]
        return line

    async def _content(self) -> bytes | None:
        """The message, or None when the peer hung up before its end."""
        looked = 0
        while True:
            if self.buffer.startswith(b".\r\n"):
                del self.buffer[:3]
                return b""
            end = self.buffer.find(b"\r\n.\r\n", max(0, looked - 5))
            if end >= 0:
                content = bytes(self.buffer[: end + 2])
                del self.buffer[: end + 5]
                return content[content.startswith(b".") :].replace(b"\r\n..", b"\r\n.")
            looked = len(self.buffer)
            data = await self.stream.receive_some()
            if not data:
                return None
            self.buffer += data
