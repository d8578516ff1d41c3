"""A conversation with the relay: the bytes of `protocol.py` on a trio stream.

This module translates the errors of sockets and TLS and the time-outs. Its callers see only endings of exchanges.
"""

from contextlib import suppress
from typing import Final

import trio

from galaxy_mail.network.socket_stream import ConversationStream
from galaxy_mail.providers.smtp.outcomes import Ended, Ending, Exchange, classify
from galaxy_mail.providers.smtp.protocol import OutOfTurn, SmtpClient
from galaxy_mail.providers.smtp.replies import NotSmtp, Reply
from galaxy_mail.providers.smtp.settings import SmtpSettings

READ_BYTES: Final = 8_192


class ExchangeEnded(Exception):
    """The attempt ended in the middle of an exchange. Not an error: it carries the ending to the session's caller."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended)
        self.ended = ended


class Conversation:
    """Sends commands and receives replies. `opening.open_conversation` makes one; `quit` or `drop` ends it."""

    def __init__(self, settings: SmtpSettings, stream: trio.abc.Stream) -> None:
        self.settings = settings
        self.stream = stream
        self.socket = stream if isinstance(stream, ConversationStream) else None  # below TLS
        self.smtp = SmtpClient()
        self.handshaking_tls = False
        self.is_broken = False  # nothing more can be sent

    def encode(self, verb: str, argument: bytes = b"") -> bytes:
        """The bytes of a command. Raises ExchangeEnded if the relay has sent an unexpected reply."""
        try:
            return self.smtp.send(verb, argument)
        except OutOfTurn as unexpected:
            reply = unexpected.reply
            if self.smtp.exchange is Exchange.BODY and reply is not None:
                raise body_ended(reply) from unexpected
            closing = reply is not None and reply.code == 421
            raise self.ended(Ending.CLOSING if closing else Ending.BAD_REPLY, reply=reply) from unexpected
        except NotSmtp as garbage:
            raise self.ended(Ending.BAD_REPLY, detail=str(garbage)) from garbage

    async def write(self, data: bytes) -> None:
        """Writes commands. A lost connection is noticed when the reply is read, after the relay's last words."""
        with suppress(trio.BrokenResourceError):
            await self.stream.send_all(data)

    async def reply(self) -> Reply:
        """The next reply. Raises ExchangeEnded."""
        smtp = self.smtp
        try:
            while (reply := smtp.next_reply()) is None:
                data = await self.stream.receive_some(READ_BYTES)
                if not data:
                    raise self.ended(Ending.HUNG_UP)
                smtp.receive(data)
        except NotSmtp as garbage:
            raise self.ended(Ending.BAD_REPLY, detail=str(garbage)) from garbage
        except trio.BrokenResourceError as broken:
            raise self.ended(Ending.HUNG_UP) from broken
        return reply

    async def command(self, verb: str, argument: bytes = b"") -> None:
        """Sends one command and reads its reply. Raises ExchangeEnded unless the relay accepts the command."""
        await self.write(self.encode(verb, argument))
        exchange = self.smtp.exchange
        require(exchange, await self.reply())

    def has_something_to_read(self) -> bool:
        """Whether the relay has sent something or closed the connection, while no reply is due."""
        return self.socket is not None and self.socket.is_readable()

    def timed_out(self, within_s: float | None = None) -> ExchangeEnded:
        within_s = self.settings.timeout_s if within_s is None else within_s
        return self.ended(Ending.TIMED_OUT, detail=f"no answer within {within_s:g} s")

    def ended(self, ending: Ending, *, reply: Reply | None = None, detail: str = "") -> ExchangeEnded:
        """The end of the present exchange, to be raised."""
        exchange = Exchange.TLS if self.handshaking_tls else self.smtp.exchange
        return ExchangeEnded(Ended(exchange=exchange, ending=ending, reply=reply, detail=detail))

    async def quit(self) -> None:
        """Sends QUIT, waits shortly for the reply and closes. Runs also when cancelled; raises nothing."""
        with trio.move_on_after(self.settings.quit_timeout_s, shield=True), suppress(ExchangeEnded):
            if not self.is_broken and self.smtp.is_quiet and not self.has_something_to_read():
                await self.write(self.encode("QUIT"))
                await self.reply()
        await self.drop()

    async def drop(self) -> None:
        """Closes the connection without QUIT. Runs also when cancelled; raises nothing."""
        self.is_broken = True
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self.stream)


def require(exchange: Exchange, reply: Reply) -> None:
    """Raises ExchangeEnded unless the reply accepts."""
    ending = classify(exchange, reply)
    if ending is not Ending.ACCEPTED:
        raise ExchangeEnded(Ended(exchange=exchange, ending=ending, reply=reply))


def body_ended(reply: Reply) -> ExchangeEnded:
    """The end of an attempt by a reply in the middle of the message."""
    return ExchangeEnded(Ended(exchange=Exchange.BODY, ending=classify(Exchange.BODY, reply), reply=reply))
