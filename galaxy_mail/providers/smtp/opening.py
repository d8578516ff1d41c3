"""Opens a conversation with the relay: connect, greeting, EHLO, TLS, AUTH."""

import errno
import os
import socket
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import trio

from galaxy_mail.domain.errors import root_cause
from galaxy_mail.network.loopback import is_loopback
from galaxy_mail.network.socket_stream import ConversationStream
from galaxy_mail.providers.smtp.conversation import Conversation, ExchangeEnded, require
from galaxy_mail.providers.smtp.outcomes import Ended, Ending, Exchange, classify
from galaxy_mail.providers.smtp.protocol import State
from galaxy_mail.providers.smtp.replies import one_line
from galaxy_mail.providers.smtp.settings import SmtpSettings, TlsMode

Connect = Callable[[], Awaitable[trio.abc.Stream]]  # to one address
Addresses = Callable[[], Awaitable[Sequence[Connect]]]  # of the relay, in the order in which to try them

_COMMAND_LINE_MAX_BYTES: Final = 512  # RFC 5321 §4.5.3.1.4


# The relay at another address may do better if these exchanges fail.
_OF_ONE_ADDRESS: Final = frozenset({Exchange.CONNECT, Exchange.TLS, Exchange.GREETING, Exchange.EHLO})
_OWN_LIMITS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EADDRNOTAVAIL}
)
_OWN_LIMITS_OF_NAMES: Final = frozenset({socket.EAI_MEMORY, socket.EAI_SYSTEM})


class TlsClient:
    """Opens TLS on a slot's connections, and resumes the session of the last one (RFC 8446 §2.2)."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self._session: ssl.SSLSession | None = None

    def client(self, stream: trio.abc.Stream, host: str) -> trio.SSLStream[trio.abc.Stream]:
        # https_compatible: relays close the connection after QUIT without TLS' close_notify, and SMTP needs none.
        secure = trio.SSLStream(stream, self.context, server_hostname=host, https_compatible=True)
        if self._session is not None:
            secure.session = self._session  # trio passes it on to the ssl.SSLObject
        return secure

    def ended(self, stream: trio.abc.Stream) -> None:
        """Keeps the session of a connection that ends: its tickets came after the handshake."""
        if isinstance(stream, trio.SSLStream):
            self._session = stream.session


async def open_conversation(
    settings: SmtpSettings, tls: TlsClient | None, addresses: Addresses
) -> Conversation:
    """A conversation after EHLO, under TLS and authenticated as configured. Raises ExchangeEnded.

    If connecting, TLS, the greeting or EHLO fails at one address, the next one is tried. Until the greeting, each address
    has a third of the time that is left while another one remains.
    """
    until_s = trio.current_time() + settings.timeout_s
    connects: Sequence[Connect] = ()
    with trio.move_on_at(until_s):
        connects = await _resolved(addresses)
    for following, connect in enumerate(connects, 1):
        last = following == len(connects)
        try:
            return await _open_at(connect, settings, tls, until_s, last=last)
        except ExchangeEnded as failed:
            if last or failed.ended.exchange not in _OF_ONE_ADDRESS:
                raise
    raise _not_connected(Ending.TIMED_OUT, f"no address within {settings.timeout_s:g} s")


async def _open_at(
    connect: Connect, settings: SmtpSettings, tls: TlsClient | None, until_s: float, *, last: bool
) -> Conversation:
    conversation: Conversation | None = None
    now_s = trio.current_time()
    greeting_s = until_s if last else now_s + (until_s - now_s) / 3
    try:
        with trio.move_on_at(greeting_s) as patience:
            conversation = Conversation(settings, await _connected(connect))
            await _greeted(conversation, tls)
            patience.deadline = until_s
            await _handshake(conversation, tls)
            return conversation
        within_s = patience.deadline - now_s
        if conversation is not None:
            raise conversation.timed_out(within_s)
        raise _not_connected(Ending.TIMED_OUT, f"no answer within {within_s:g} s")
    except BaseException:
        if conversation is not None:
            await conversation.drop()
        raise


async def _resolved(addresses: Addresses) -> Sequence[Connect]:
    try:
        return await addresses()
    except socket.gaierror as unresolved:
        own = unresolved.errno in _OWN_LIMITS_OF_NAMES
        raise _not_connected(
            Ending.NO_RESOURCES if own else Ending.UNRESOLVED, _system_reason(unresolved)
        ) from unresolved
    except UnicodeError as unresolved:
        raise _not_connected(Ending.UNRESOLVED, _system_reason(unresolved)) from unresolved
    except RuntimeError as no_thread:  # "can't start new thread", by threading
        raise _not_connected(Ending.NO_RESOURCES, one_line(str(no_thread))) from no_thread


async def _connected(connect: Connect) -> trio.abc.Stream:
    try:
        return await connect()
    except OSError as failed:
        cause = root_cause(failed)
        own = isinstance(cause, OSError) and cause.errno in _OWN_LIMITS
        raise _not_connected(
            Ending.NO_RESOURCES if own else Ending.UNREACHABLE, _system_reason(failed)
        ) from failed


def _not_connected(ending: Ending, detail: str) -> ExchangeEnded:
    return ExchangeEnded(Ended(exchange=Exchange.CONNECT, ending=ending, detail=detail))


async def _greeted(conversation: Conversation, tls: TlsClient | None) -> None:
    if conversation.settings.implicit_tls:
        await _start_tls(conversation, tls)
    require(Exchange.GREETING, await conversation.reply())


async def _handshake(conversation: Conversation, tls: TlsClient | None) -> None:
    settings = conversation.settings
    await _hello(conversation)
    if not settings.implicit_tls and settings.tls is not TlsMode.NONE:
        if "STARTTLS" in conversation.smtp.extensions:
            await conversation.command("STARTTLS")
            if not conversation.smtp.is_quiet:
                raise conversation.ended(Ending.INJECTED)  # RFC 3207 §6; the attack of CVE-2011-0411
            await _start_tls(conversation, tls)
            conversation.smtp.tls_started()
            await _hello(conversation)
        elif settings.requires_starttls:
            raise ExchangeEnded(Ended(exchange=Exchange.STARTTLS, ending=Ending.NOT_OFFERED))
    if settings.username:
        await _authenticate(conversation)


async def _start_tls(conversation: Conversation, tls: TlsClient | None) -> None:
    assert tls is not None, "TLS without a context"
    conversation.handshaking_tls = True
    conversation.stream = secure = tls.client(conversation.stream, conversation.settings.host.rstrip("."))
    try:
        await secure.do_handshake()
    except trio.BrokenResourceError as broken:
        match broken.__cause__:
            case ssl.SSLCertVerificationError(verify_message=reason):
                detail = f"certificate not trusted: {reason}"
                raise conversation.ended(Ending.UNVERIFIED, detail=detail) from broken
            case ssl.SSLEOFError():
                raise conversation.ended(Ending.HUNG_UP) from broken
            case ssl.SSLError(reason=reason):
                raise conversation.ended(Ending.BROKEN, detail=f"handshake failed: {reason}") from broken
            case _:
                raise conversation.ended(Ending.HUNG_UP) from broken
    conversation.handshaking_tls = False


async def _hello(conversation: Conversation) -> None:
    name = _own_name(conversation.socket)
    await conversation.write(conversation.encode("EHLO", name))
    reply = await conversation.reply()
    if classify(Exchange.EHLO, reply) is Ending.PERMANENT:  # RFC 5321 §3.2: an old relay that knows only HELO
        # Or the relay refuses us and may hang up on HELO; then its reply to EHLO gives the reason.
        with suppress(ExchangeEnded):
            await conversation.write(conversation.encode("HELO", name))
            reply = await conversation.reply()
    require(Exchange.EHLO, reply)


async def _authenticate(conversation: Conversation) -> None:
    settings = conversation.settings
    if not (isinstance(conversation.stream, trio.SSLStream) or is_loopback(settings.host)):
        raise ExchangeEnded(Ended(exchange=Exchange.AUTH, ending=Ending.IN_CLEAR))
    username, password = settings.username.encode(), settings.password.encode()
    match _mechanism(conversation.smtp.extensions.get("AUTH", "")):
        case "PLAIN":  # RFC 4616
            secret = b64encode(b"\0" + username + b"\0" + password)
            if len(b"AUTH PLAIN \r\n") + len(secret) <= _COMMAND_LINE_MAX_BYTES:
                await conversation.command("AUTH", b"PLAIN " + secret)
            else:  # RFC 4954 §4: too long for the AUTH command, so it follows the relay's challenge
                await _challenge(conversation, "AUTH", b"PLAIN")
                await conversation.command("RESPONSE", secret)
        case "LOGIN":
            await _challenge(conversation, "AUTH", b"LOGIN")
            await _challenge(conversation, "RESPONSE", b64encode(username))
            await conversation.command("RESPONSE", b64encode(password))
        case _:
            raise ExchangeEnded(Ended(exchange=Exchange.AUTH, ending=Ending.NOT_OFFERED))


async def _challenge(conversation: Conversation, verb: str, argument: bytes) -> None:
    """Sends a command that the relay must answer with a challenge."""
    await conversation.write(conversation.encode(verb, argument))
    reply = await conversation.reply()
    if conversation.smtp.state is not State.CHALLENGED:
        ending = classify(Exchange.AUTH, reply)
        ending = Ending.BAD_REPLY if ending is Ending.ACCEPTED else ending
        raise ExchangeEnded(Ended(exchange=Exchange.AUTH, ending=ending, reply=reply))


def _mechanism(offered: str) -> str | None:
    """PLAIN before LOGIN: PLAIN takes one round trip and has a standard."""
    mechanisms = offered.upper().split()
    return next((m for m in ("PLAIN", "LOGIN") if m in mechanisms), None)


def _own_name(stream: ConversationStream | None) -> bytes:
    """The argument of EHLO: the host's full name, or an address literal without one (RFC 5321 §4.1.4)."""
    name = socket.gethostname()
    if "." in name.strip(".") and name.isascii() and not name.startswith("localhost"):
        return name.encode()
    address = stream.own_address() if stream is not None else "127.0.0.1"
    return f"[IPv6:{address.partition('%')[0]}]".encode() if ":" in address else f"[{address}]".encode()


def _system_reason(error: BaseException) -> str:
    """The operating system's reason of the innermost error."""
    cause = root_cause(error)
    if isinstance(cause, socket.gaierror):
        return one_line(cause.strerror or str(cause))
    if isinstance(cause, OSError) and cause.errno:
        return one_line(os.strerror(cause.errno))
    return one_line(str(cause))
