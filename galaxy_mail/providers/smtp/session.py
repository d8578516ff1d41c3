"""One connection to the relay, from the host name to QUIT: the bytes of `protocol.py` on a trio stream, with deadlines.

Sockets, TLS and time-outs are translated here: above there are only endings of exchanges.

A message takes two round trips where the relay pipelines: MAIL, RCPT and, for a single recipient, DATA in one write;
then body and final dot in another. RSET is not sent between messages, because the answer to a final dot clears all
buffers (RFC 5321 §4.1.1.4); only a transaction that ended before its dot is still open, and then RSET goes out in
front of the next MAIL, in the same write.

Who has the message is exact. The final dot goes out with the last bytes of the body, and trio's streams return from
`send_all` only when the kernel has taken every byte: a `send_all` that was cancelled, timed out or failed left the
final line without its end, and the relay has to discard the message. Only once it has returned is the outcome open.
`send_at_once`, by which most messages go, is cancelled before it has sent anything or not at all.
"""

import os
import socket
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Final, Self

import trio
from msgspec import Struct

from galaxy_mail.domain.errors import root_cause
from galaxy_mail.network.loopback import is_loopback
from galaxy_mail.network.socket_stream import ConversationStream
from galaxy_mail.providers.provider import SendDeadline
from galaxy_mail.providers.smtp.outcomes import (
    Answered,
    Ended,
    Ending,
    Exchange,
    costs_no_attempt,
    envelope_verdict,
    read,
)
from galaxy_mail.providers.smtp.protocol import Extensions, OutOfTurn, SmtpClient, State
from galaxy_mail.providers.smtp.replies import NotSmtp, Reply, one_line
from galaxy_mail.providers.smtp.settings import SmtpSettings, TlsMode

Connect = Callable[[], Awaitable[trio.abc.Stream]]

_CHUNK_BYTES: Final = 32_768  # progress is seen chunk by chunk: 2 kB/s are enough to stay within 15 s
_READ_BYTES: Final = 8_192
_EARLY_WORDS_S: Final = 0.5  # for the rest of what a relay began to say in the middle of a message
_COMMAND_LINE_MAX_BYTES: Final = 512  # RFC 5321 §4.5.3.1.4


class Mail(Struct, frozen=True, kw_only=True):
    """One transaction's worth, in the spelling that this relay takes."""

    mail_argument: bytes
    recipients: tuple[tuple[str, bytes], ...]  # address, RCPT argument
    wire: bytes  # the message with stuffed dots, up to but without the final one


class ExchangeEnded(Exception):
    """The attempt ended in the middle of an exchange. Not an error: it carries an ending to the session's surface."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended)
        self.ended = ended


class SmtpConnectionLost(Exception):
    """The relay had left this reused connection before the message was begun. Nothing of the message was said."""


class Session:
    """Made by `open`; to be left by `quit` or `drop`. One task, one message at a time."""

    def __init__(self, settings: SmtpSettings) -> None:
        self._settings = settings
        self._stream: trio.abc.Stream | None = None
        self._socket: ConversationStream | None = None  # below TLS; None: not over a socket
        self._secure = False
        self._smtp = SmtpClient()
        # What goes on before or beneath SMTP's own exchanges.
        self._below_smtp: Exchange | None = Exchange.CONNECT
        self._messages = 0
        self._idle_since_s = 0.0
        self.is_broken = False  # nothing more can be said on it

    @property
    def extensions(self) -> Extensions:
        """What the relay offers now."""
        return self._smtp.extensions

    def is_reusable(self) -> bool:
        """Whether another message may be tried on it. Says no to all that the relay said or did meanwhile."""
        settings = self._settings
        return (
            not self.is_broken
            and self._smtp.is_quiet
            and self._messages < settings.messages_max
            and trio.current_time() - self._idle_since_s < settings.idle_max_s
            and not self._has_something_to_read()
        )

    # Opening

    @classmethod
    async def open(cls, settings: SmtpSettings, tls: ssl.SSLContext | None, connect: Connect) -> Self:
        """Connected, introduced, under TLS and authenticated as configured. Raises ExchangeEnded."""
        session = cls(settings)
        try:
            with trio.move_on_after(settings.timeout_s) as scope:
                await session._connect(connect)
                await session._handshake(tls)
            if scope.cancelled_caught:
                raise session._no_answer()
        except BaseException:
            await session.drop()
            raise
        session._idle_since_s = trio.current_time()
        return session

    async def _connect(self, connect: Connect) -> None:
        try:
            stream = await connect()
        except (socket.gaierror, UnicodeError) as unresolved:
            raise self._ended(Ending.UNRESOLVED, detail=_system_words(unresolved)) from unresolved
        except OSError as unreachable:
            raise self._ended(Ending.UNREACHABLE, detail=_system_words(unreachable)) from unreachable
        self._stream = stream
        if isinstance(stream, ConversationStream):
            self._socket = stream

    async def _handshake(self, tls: ssl.SSLContext | None) -> None:
        settings = self._settings
        if settings.implicit_tls:
            await self._start_tls(tls)
        self._below_smtp = None
        _require(Exchange.GREETING, await self._reply())
        await self._say_hello()
        if not settings.implicit_tls and settings.tls is not TlsMode.NONE:
            if "STARTTLS" in self.extensions:
                await self._command("STARTTLS")
                if not self._smtp.is_quiet:
                    raise self._ended(Ending.INJECTED)  # RFC 3207 §6; the attack is CVE-2011-0411's
                await self._start_tls(tls)
                self._below_smtp = None
                self._smtp.tls_started()
                await self._say_hello()
            elif settings.requires_starttls:
                raise ExchangeEnded(Ended(exchange=Exchange.STARTTLS, ending=Ending.NOT_OFFERED))
        if settings.username:
            await self._authenticate()

    async def _start_tls(self, tls: ssl.SSLContext | None) -> None:
        assert tls is not None, "TLS without a context"
        assert self._stream is not None
        self._below_smtp = Exchange.TLS
        # https_compatible: relays drop the connection after QUIT without TLS' good-bye, and SMTP needs none.
        secure = trio.SSLStream(
            self._stream, tls, server_hostname=self._settings.host.rstrip("."), https_compatible=True
        )
        self._stream = secure
        try:
            await secure.do_handshake()
        except trio.BrokenResourceError as broken:
            match broken.__cause__:
                case ssl.SSLCertVerificationError(verify_message=reason):
                    why = f"certificate not trusted: {reason}"
                    raise self._ended(Ending.UNVERIFIED, detail=why) from broken
                case ssl.SSLEOFError():
                    raise self._ended(Ending.HUNG_UP) from broken
                case ssl.SSLError(reason=reason):
                    raise self._ended(Ending.BROKEN, detail=f"handshake failed: {reason}") from broken
                case _:
                    raise self._ended(Ending.HUNG_UP) from broken
        self._secure = True

    async def _say_hello(self) -> None:
        name = _own_name(self._socket)
        await self._write(self._say("EHLO", name))
        reply = await self._reply()
        if read(Exchange.EHLO, reply) is Ending.PERMANENT:  # RFC 5321 §3.2: a relay of before 1995
            # Or a refusal that is meant: then the relay may leave over HELO, and its first answer is the reason.
            with suppress(ExchangeEnded):
                await self._write(self._say("HELO", name))
                reply = await self._reply()
        _require(Exchange.EHLO, reply)

    async def _authenticate(self) -> None:
        settings = self._settings
        if not (self._secure or is_loopback(settings.host)):
            raise ExchangeEnded(Ended(exchange=Exchange.AUTH, ending=Ending.IN_CLEAR))
        username, password = settings.username.encode(), settings.password.encode()
        match _mechanism(self.extensions.get("AUTH", "")):
            case "PLAIN":  # RFC 4616
                secret = b64encode(b"\0" + username + b"\0" + password)
                if len(b"AUTH PLAIN \r\n") + len(secret) <= _COMMAND_LINE_MAX_BYTES:
                    await self._command("AUTH", b"PLAIN " + secret)
                else:  # RFC 4954 §4: a long one waits until it is asked for
                    await self._challenge("AUTH", b"PLAIN")
                    await self._command("RESPONSE", secret)
            case "LOGIN":
                await self._challenge("AUTH", b"LOGIN")
                await self._challenge("RESPONSE", b64encode(username))
                await self._command("RESPONSE", b64encode(password))
            case _:
                raise ExchangeEnded(Ended(exchange=Exchange.AUTH, ending=Ending.NOT_OFFERED))

    async def _challenge(self, verb: str, argument: bytes) -> None:
        """Says it and wants to be asked for more."""
        await self._write(self._say(verb, argument))
        reply = await self._reply()
        if self._smtp.state is not State.CHALLENGED:
            ending = read(Exchange.AUTH, reply)
            raise ExchangeEnded(
                Ended(
                    exchange=Exchange.AUTH,
                    ending=Ending.BAD_REPLY if ending is Ending.ACCEPTED else ending,
                    reply=reply,
                )
            )

    async def _command(self, verb: str, argument: bytes = b"") -> None:
        await self._write(self._say(verb, argument))
        exchange = self._smtp.exchange
        _require(exchange, await self._reply())

    # One message

    async def transact(self, mail: Mail, *, may_finish: SendDeadline) -> Ended:
        """Hands over one message and tells how that ended. `is_broken` is right from then on.

        Raises SmtpConnectionLost where the message may go out on another connection as if nothing had been. Lets
        trio.Cancelled out only while the relay can't have the message.
        """
        reused = self._messages > 0
        self._messages += 1
        answers: list[Answered] = []
        kept = True
        self.is_broken = True  # until it is known to be whole
        try:
            # One scope for both waits of a message, as a scope costs about as much as a wait.
            with trio.move_on_after(self._settings.timeout_s) as patience:
                ended = await self._envelope(mail, answers) or await self._content(
                    mail.wire, may_finish, patience
                )
            if patience.cancelled_caught:
                raise self._no_answer()
        except ExchangeEnded as raised:
            ended = raised.ended
            if refusal := envelope_verdict(answers):
                # The relay had decided already; what became of the connection changes nothing.
                ended, kept = refusal, False
            elif reused and costs_no_attempt(ended.exchange, ended.ending, first=not answers):
                raise SmtpConnectionLost from raised
        self.is_broken = not (kept and ended.outcome.keeps_connection) or self._smtp.state not in _REUSABLE
        self._idle_since_s = trio.current_time()
        return ended

    async def _envelope(self, mail: Mail, answers: list[Answered]) -> Ended | None:
        """Everything before the message, its answers into `answers`. None: the relay waits for the message."""
        smtp = self._smtp
        commands = [("MAIL", mail.mail_argument, "")]
        commands += [("RCPT", argument, address) for address, argument in mail.recipients]
        # RFC 2920 §3.1: DATA may be pipelined too, but after its 354 only a lone dot takes the message back, and only
        # if no recipient was accepted. With several recipients that is known before DATA or not at all.
        if smtp.pipelining and len(mail.recipients) == 1:
            commands.append(("DATA", b"", ""))
        if smtp.pipelining:
            await self._converse_at_once(commands, answers)
        else:
            await self._converse(commands, answers)
        refusal = envelope_verdict(answers)
        if refusal is None and smtp.state is State.ENVELOPE:
            await self._converse([("DATA", b"", "")], answers)
            refusal = envelope_verdict(answers)
        if refusal is not None and smtp.state is State.GO_AHEAD:
            await self._take_back(answers)
        return refusal

    async def _converse_at_once(
        self, commands: list[tuple[str, bytes, str]], answers: list[Answered]
    ) -> None:
        smtp = self._smtp
        resets = smtp.state is State.ENVELOPE
        group = [self._say("RSET")] if resets else []
        group += [self._say(verb, argument) for verb, argument, _ in commands]
        await self._write(b"".join(group))
        if resets:
            _require(Exchange.RSET, await self._reply())
        for _, _, address in commands:
            answers.append(await self._answer(address))

    async def _converse(self, commands: list[tuple[str, bytes, str]], answers: list[Answered]) -> None:
        """One command a round trip; ends early once the relay refused the sender."""
        if self._smtp.state is State.ENVELOPE and commands[0][0] == "MAIL":
            await self._command("RSET")
        for verb, argument, address in commands:
            await self._write(self._say(verb, argument))
            answers.append(await self._answer(address))
            if verb == "MAIL" and answers[-1].ending is not Ending.ACCEPTED:
                break

    async def _answer(self, address: str) -> Answered:
        """The answer to the envelope's next command. Raises ExchangeEnded for one after which no other can follow."""
        exchange = self._smtp.exchange
        reply = await self._reply()
        ending = read(exchange, reply)
        if ending in (Ending.CLOSING, Ending.BAD_REPLY):
            raise ExchangeEnded(Ended(exchange=exchange, ending=ending, reply=reply))
        return Answered(exchange, address, reply, ending)

    async def _take_back(self, answers: list[Answered]) -> None:
        """The relay waits for a message whose recipient it refused: it gets the lone dot (RFC 2920 §3.1)."""
        accepted = {a.exchange for a in answers if a.ending is Ending.ACCEPTED}
        if Exchange.RCPT in accepted:
            raise self._ended(Ending.BAD_REPLY)  # contradicts itself, and a dot would send an empty message
        await self._write(self._say("LONE DOT"))
        reply = await self._reply()
        if read(Exchange.FINAL, reply) not in (Ending.PERMANENT, Ending.TRANSIENT):
            raise self._ended(Ending.BAD_REPLY, reply=reply)

    async def _content(self, wire: bytes, may_finish: SendDeadline, patience: trio.CancelScope) -> Ended:
        view, at = memoryview(wire), 0
        while len(wire) - at > _CHUNK_BYTES:
            await self._push(view[at : at + _CHUNK_BYTES], patience)
            at += _CHUNK_BYTES
            if self._has_something_to_read():
                await self._hear_out(patience, None)
        if not may_finish():
            raise ExchangeEnded(Ended(exchange=Exchange.BODY, ending=Ending.CLAIM_SHORT))
        await self._push(self._say("DOT", wire[at:] if at else wire), patience)
        exchange, reply = Exchange.FINAL, await self._final_reply(patience)
        return Ended(exchange=exchange, ending=read(exchange, reply), reply=reply)

    async def _push(self, data: bytes | memoryview, patience: trio.CancelScope) -> None:
        """Writes a part of the message. Raises ExchangeEnded where it could not be written whole."""
        stream = self._stream
        assert stream is not None
        timed_out = False
        try:
            if isinstance(stream, ConversationStream):
                data = data[await stream.send_at_once(data) :]
                if not data:
                    return
            patience.deadline = inf  # every part has a deadline of its own
            with trio.move_on_after(self._settings.timeout_s) as scope:
                await stream.send_all(data)
                return
            timed_out = scope.cancelled_caught
        except trio.BrokenResourceError:
            pass
        if timed_out:
            await self._hear_out(
                patience, Ending.TIMED_OUT, f"no progress within {self._settings.timeout_s:g} s"
            )
        await self._hear_out(patience, Ending.HUNG_UP)

    async def _hear_out(self, patience: trio.CancelScope, otherwise: Ending | None, detail: str = "") -> None:
        """Ends the attempt by what the relay says in the middle of the message; if it says nothing, by `otherwise`."""
        assert self._stream is not None
        patience.deadline = inf
        smtp = self._smtp
        with trio.move_on_after(_EARLY_WORDS_S):
            try:
                while (reply := smtp.early_words()) is None:
                    data = await self._stream.receive_some(_READ_BYTES)
                    if not data:
                        otherwise = otherwise or Ending.HUNG_UP
                        break
                    smtp.receive(data)
                else:
                    raise _early(reply)
            except NotSmtp:
                otherwise = Ending.BAD_REPLY
            except trio.BrokenResourceError:
                otherwise = otherwise or Ending.HUNG_UP
        if otherwise is not None:
            raise ExchangeEnded(Ended(exchange=Exchange.BODY, ending=otherwise, detail=detail))

    async def _final_reply(self, patience: trio.CancelScope) -> Reply:
        """The answer to the final dot. A cancelled wait goes on, shielded, for as long as a stop allows."""
        settings = self._settings
        patience.deadline = give_up_s = trio.current_time() + settings.final_timeout_s
        try:
            return await self._reply()
        except trio.Cancelled:
            # Swallowed: the outcome has to be recorded. The next checkpoint raises it again.
            if patience.cancel_called:
                raise self._no_answer(settings.final_timeout_s) from None
        stop_s = trio.current_time() + settings.stop_grace_s
        with trio.CancelScope(deadline=min(stop_s, give_up_s), shield=True):
            return await self._reply()
        if stop_s < give_up_s:
            raise self._ended(Ending.CUT_OFF)
        raise self._no_answer(settings.final_timeout_s)

    # Leaving

    async def quit(self) -> None:
        """Takes leave, waits shortly for the answer, closes. Also when cancelled, and it never raises that."""
        with trio.move_on_after(self._settings.quit_timeout_s, shield=True), suppress(ExchangeEnded):
            if not self.is_broken and self._smtp.is_quiet and not self._has_something_to_read():
                await self._write(self._say("QUIT"))
                await self._reply()
        await self.drop()

    async def drop(self) -> None:
        """Closes without a word. Also when cancelled, and it never raises that."""
        self.is_broken = True
        if self._stream is not None:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)

    # Bytes

    def _say(self, verb: str, argument: bytes = b"") -> bytes:
        try:
            return self._smtp.send(verb, argument)
        except OutOfTurn as spoke:
            if self._smtp.exchange is Exchange.BODY and spoke.reply is not None:
                raise _early(spoke.reply) from spoke
            closing = spoke.reply is not None and spoke.reply.code == 421
            raise self._ended(Ending.CLOSING if closing else Ending.BAD_REPLY, reply=spoke.reply) from spoke
        except NotSmtp as garbage:
            raise self._ended(Ending.BAD_REPLY, detail=str(garbage)) from garbage

    async def _write(self, data: bytes) -> None:
        """Writes commands. A relay that is gone is noticed when its answer is read, after what it said at last."""
        assert self._stream is not None
        with suppress(trio.BrokenResourceError):
            await self._stream.send_all(data)

    async def _reply(self) -> Reply:
        assert self._stream is not None
        smtp = self._smtp
        try:
            while (reply := smtp.next_reply()) is None:
                data = await self._stream.receive_some(_READ_BYTES)
                if not data:
                    raise self._ended(Ending.HUNG_UP)
                smtp.receive(data)
        except NotSmtp as garbage:
            raise self._ended(Ending.BAD_REPLY, detail=str(garbage)) from garbage
        except trio.BrokenResourceError as broken:
            raise self._ended(Ending.HUNG_UP) from broken
        return reply

    def _no_answer(self, within_s: float | None = None) -> ExchangeEnded:
        within_s = self._settings.timeout_s if within_s is None else within_s
        return self._ended(Ending.TIMED_OUT, detail=f"no answer within {within_s:g} s")

    def _ended(self, ending: Ending, *, reply: Reply | None = None, detail: str = "") -> ExchangeEnded:
        exchange = self._below_smtp or self._smtp.exchange
        return ExchangeEnded(Ended(exchange=exchange, ending=ending, reply=reply, detail=detail))

    def _has_something_to_read(self) -> bool:
        """A word, or the end: both are news on a connection where nothing is awaited."""
        return self._socket is not None and self._socket.is_readable()


_REUSABLE: Final = (State.READY, State.ENVELOPE)


def _require(exchange: Exchange, reply: Reply) -> None:
    ending = read(exchange, reply)
    if ending is not Ending.ACCEPTED:
        raise ExchangeEnded(Ended(exchange=exchange, ending=ending, reply=reply))


def _early(reply: Reply) -> ExchangeEnded:
    return ExchangeEnded(Ended(exchange=Exchange.BODY, ending=read(Exchange.BODY, reply), reply=reply))


def _mechanism(offered: str) -> str | None:
    """PLAIN first: one round trip, and the only one of the two that a standard describes."""
    mechanisms = offered.upper().split()
    return next((m for m in ("PLAIN", "LOGIN") if m in mechanisms), None)


def _own_name(stream: ConversationStream | None) -> bytes:
    """What EHLO says: the host's full name, or an address literal where it has none (RFC 5321 §4.1.4)."""
    name = socket.gethostname()
    if "." in name.strip(".") and name.isascii() and not name.startswith("localhost"):
        return name.encode()
    address = stream.own_address() if stream is not None else "127.0.0.1"
    return f"[IPv6:{address.partition('%')[0]}]".encode() if ":" in address else f"[{address}]".encode()


def _system_words(error: BaseException) -> str:
    """The innermost reason that an operating system gave, in its words."""
    cause = root_cause(error)
    if isinstance(cause, socket.gaierror):
        return one_line(cause.strerror or str(cause))
    if isinstance(cause, OSError) and cause.errno:
        return one_line(os.strerror(cause.errno))
    return one_line(str(cause))
