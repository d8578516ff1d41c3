"""A relay that behaves, and remembers what it was told. What misbehaves overrides `react`.

It refuses recipients called `nobody`, and for now those called `later`.

Speaks on any trio stream: in memory under a mock clock, or over TCP.
"""

import ssl
from collections.abc import Sequence

import trio

from galaxy_mail.providers.smtp.outcomes import Exchange

OFFERS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 1000000", "ENHANCEDSTATUSCODES")

_EXCHANGES = {
    b"EHLO": Exchange.EHLO,
    b"HELO": Exchange.EHLO,
    b"STARTTLS": Exchange.STARTTLS,
    b"AUTH": Exchange.AUTH,
    b"RSET": Exchange.RSET,
    b"MAIL": Exchange.MAIL,
    b"RCPT": Exchange.RCPT,
    b"DATA": Exchange.DATA,
    b"QUIT": Exchange.QUIT,
}


class HangUp(Exception):
    """Raised in `react`: the relay closes the connection without a word."""


class Talk:
    """One connection, as the relay sees it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.lines: list[bytes] = []  # commands, and what came after AUTH's challenges
        self.waits_for_message = False
        self.sender_accepted = False
        self.recipients_accepted = 0
        self._buffer = bytearray()

    async def say(self, *replies: bytes) -> None:
        await self.stream.send_all(b"".join(reply + b"\r\n" for reply in replies))

    async def say_raw(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            await self.more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        self.lines.append(line)
        return line

    async def more(self) -> None:
        """Takes what comes next. Raises HangUp where nothing will."""
        data = await self.stream.receive_some()
        if not data:
            raise HangUp
        self._buffer += data

    async def body_begins(self) -> None:
        if not self._buffer:
            await self.more()

    async def message(self) -> bytes:
        """As it came, dots still stuffed, without the final one."""
        looked = 0
        while not self._buffer.startswith(b".\r\n"):
            end = self._buffer.find(b"\r\n.\r\n", max(0, looked - 5))
            if end >= 0:
                message = bytes(self._buffer[: end + 2])
                del self._buffer[: end + 5]
                return message
            looked = len(self._buffer)
            await self.more()
        del self._buffer[:3]
        return b""

    async def start_tls(self, context: ssl.SSLContext) -> None:
        secure = trio.SSLStream(self.stream, context, server_side=True, https_compatible=True)
        self.stream = secure
        await secure.do_handshake()


class Server:
    """Behaves. `talks` has all connections so far, `messages` what was accepted."""

    def __init__(
        self,
        *,
        offers: Sequence[str] = OFFERS,
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        secrets: Sequence[bytes] = (),
    ) -> None:
        self.offers = list(offers)
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.secrets = set(secrets)  # AUTH responses, base64, that are right
        self.talks: list[Talk] = []
        self.messages: list[bytes] = []
        self.is_secure = False

    async def handle(self, stream: trio.abc.Stream) -> None:
        """One connection, from greeting to its end."""
        talk = Talk(stream)
        self.talks.append(talk)
        self.is_secure = False
        try:
            await self.converse(talk)
        except (HangUp, trio.BrokenResourceError):
            pass
        finally:
            await trio.aclose_forcefully(talk.stream)

    async def converse(self, talk: Talk) -> None:
        if self.implicit_tls:
            assert self.tls is not None
            await talk.start_tls(self.tls)
            self.is_secure = True
        await self.react(talk, Exchange.GREETING, b"")
        while True:
            line = await talk.line()
            verb = line.split(b" ", 1)[0].upper()
            exchange = _EXCHANGES.get(verb)
            if exchange is None:
                await talk.say(b"500 5.5.2 what?")
                continue
            await self.react(talk, exchange, line)
            if talk.waits_for_message:
                await talk.body_begins()
                await self.react(talk, Exchange.BODY, b"")
                message = await talk.message()
                talk.waits_for_message = False
                talk.sender_accepted, talk.recipients_accepted = False, 0
                await self.react(talk, Exchange.FINAL, message)
            if exchange is Exchange.QUIT:
                return

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        """The one thing that misbehaviours override."""
        await self.behave(talk, exchange, said)

    async def behave(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        match exchange:
            case Exchange.GREETING:
                await talk.say(b"220 hostile.test ESMTP")
            case Exchange.EHLO if said.upper().startswith(b"HELO"):
                await talk.say(b"250 hostile.test")
            case Exchange.EHLO:
                talk.sender_accepted = False
                await talk.say(*self.ehlo_lines())
            case Exchange.STARTTLS:
                assert self.tls is not None
                await talk.say(b"220 2.0.0 go ahead")
                await talk.start_tls(self.tls)
                self.is_secure = True
            case Exchange.AUTH:
                await self.authenticate(talk, said)
            case Exchange.MAIL if talk.sender_accepted:
                await talk.say(b"503 5.5.1 one at a time")
            case Exchange.MAIL:
                talk.sender_accepted, talk.recipients_accepted = True, 0
                await talk.say(b"250 2.1.0 ok")
            case Exchange.RCPT if not talk.sender_accepted:
                await talk.say(b"503 5.5.1 from whom?")
            case Exchange.RCPT if b"<nobody@" in said:
                await talk.say(b"550 5.1.1 no such reader")
            case Exchange.RCPT if b"<later@" in said:
                await talk.say(b"450 4.2.1 not now")
            case Exchange.RCPT:
                talk.recipients_accepted += 1
                await talk.say(b"250 2.1.5 ok")
            case Exchange.DATA if not talk.recipients_accepted:
                await talk.say(b"503 5.5.1 nobody to send it to")
            case Exchange.DATA:
                await talk.say(b"354 go ahead")
                talk.waits_for_message = True
            case Exchange.BODY:
                pass
            case Exchange.FINAL:
                self.messages.append(said)
                await talk.say(b"250 2.0.0 taken")
            case Exchange.QUIT:
                await talk.say(b"221 2.0.0 bye")
            case _:  # RSET
                talk.sender_accepted = False
                await talk.say(b"250 2.0.0 ok")

    def ehlo_lines(self) -> list[bytes]:
        offers = list(self.offers)
        if self.tls is not None and not self.is_secure:
            offers.append("STARTTLS")
        lines = ["hostile.test", *offers]
        return [f"250{'-' if line is not lines[-1] else ' '}{line}".encode() for line in lines]

    async def authenticate(self, talk: Talk, said: bytes) -> None:
        parts = said.split()
        given = parts[2:] if len(parts) > 2 else []
        wanted = 2 if parts[1].upper() == b"LOGIN" else 1
        while len(given) < wanted:
            await talk.say(b"334 VXNlcm5hbWU6" if not given else b"334 UGFzc3dvcmQ6")
            given.append(await talk.line())
        right = all(response in self.secrets for response in given)
        await talk.say(b"235 2.7.0 welcome" if right else b"535 5.7.8 wrong")


class MisbehavesOnce(Server):
    """Does something wrong at one exchange, the first time that it comes to it; behaves from then on."""

    def __init__(self, at: Exchange, **behaved: object) -> None:
        super().__init__(**behaved)  # type: ignore[arg-type] # Server's own parameters, passed on
        self.at = at
        self.misbehaved = False

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if exchange is self.at and not self.misbehaved:
            self.misbehaved = True
            await self.misbehave(talk, said)
        else:
            await self.behave(talk, exchange, said)

    async def misbehave(self, talk: Talk, said: bytes) -> None:
        raise NotImplementedError
