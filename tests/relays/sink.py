"""The next hop behind a real relay, and a relay that takes everything: keeps what arrives. Never: misbehaves.

Runs inside the test's own trio loop, so a test waits for mail by awaiting it.
"""

from contextlib import suppress
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
    """Serves SMTP on any listener; `mail` receives what arrives."""

    def __init__(self, *, offers: bytes = _OFFERS) -> None:
        self._offers = offers
        self._arriving, self.mail = trio.open_memory_channel[Arrived](1_000)
        self.connections = 0

    async def next_mail(self, within_s: float = 20.0) -> Arrived:
        with trio.fail_after(within_s):
            return await self.mail.receive()

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        async with stream:
            with suppress(trio.BrokenResourceError):  # the peer is gone: so is the conversation
                await _Conversation(stream, self._offers, self._arriving).run()


@dataclass
class _Conversation:
    stream: trio.abc.Stream
    offers: bytes
    arriving: trio.MemorySendChannel[Arrived]
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
                    answers += self.offers
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
                    arrived = Arrived(self.sender, self.recipients, self.parameters.strip(), content)
                    await self.arriving.send(arrived)
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
