"""Opens a conversation with the relay: connect, greeting, EHLO, TLS, AUTH."""

import os
import socket
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable
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

Connect = Callable[[], Awaitable[trio.abc.Stream]]

_COMMAND_LINE_MAX_BYTES: Final = 512  # RFC 5321 §4.5.3.1.4


async def open_conversation(
    settings: SmtpSettings, tls: ssl.SSLContext | None, connect: Connect
) -> Conversation:
    """A conversation after EHLO, under TLS and authenticated as configured. Raises ExchangeEnded."""
    conversation: Conversation | None = None
    try:
        with trio.move_on_after(settings.timeout_s):
            conversation = Conversation(settings, await _connected(connect))
            await _handshake(conversation, tls)
            return conversation
        if conversation is not None:
            raise conversation.timed_out()
        raise _not_connected(Ending.TIMED_OUT, f"no answer within {settings.timeout_s:g} s")
    except BaseException:
        if conversation is not None:
            await conversation.drop()
        raise


async def _connected(connect: Connect) -> trio.abc.Stream:
    try:
        return await connect()
    except (socket.gaierror, UnicodeError) as unresolved:
        raise _not_connected(Ending.UNRESOLVED, _system_reason(unresolved)) from unresolved
    except OSError as unreachable:
        raise _not_connected(Ending.UNREACHABLE, _system_reason(unreachable)) from unreachable


def _not_connected(ending: Ending, detail: str) -> ExchangeEnded:
    return ExchangeEnded(Ended(exchange=Exchange.CONNECT, ending=ending, detail=detail))


async def _handshake(conversation: Conversation, tls: ssl.SSLContext | None) -> None:
    settings = conversation.settings
    if settings.implicit_tls:
        await _start_tls(conversation, tls)
    require(Exchange.GREETING, await conversation.reply())
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


async def _start_tls(conversation: Conversation, tls: ssl.SSLContext | None) -> None:
    assert tls is not None, "TLS without a context"
    conversation.handshaking_tls = True
    # https_compatible: relays close the connection after QUIT without TLS' close_notify, and SMTP needs none.
    host = conversation.settings.host.rstrip(".")
    secure = trio.SSLStream(conversation.stream, tls, server_hostname=host, https_compatible=True)
    conversation.stream = secure
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
