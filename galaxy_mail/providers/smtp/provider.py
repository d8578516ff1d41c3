"""The SMTP provider: keeps one connection per sender slot and encodes each message for its relay."""

import socket
import ssl
from functools import partial
from math import inf
from types import TracebackType
from typing import Final, Self

import trio

from galaxy_mail.domain.addresses import needs_smtputf8, to_ascii
from galaxy_mail.domain.records import SendResult
from galaxy_mail.network.socket_stream import ConversationStream
from galaxy_mail.providers import mime
from galaxy_mail.providers.mime import MailFrom
from galaxy_mail.providers.provider import Message, SendDeadline
from galaxy_mail.providers.smtp.conversation import ExchangeEnded
from galaxy_mail.providers.smtp.opening import Addresses, Connect, TlsClient, open_conversation
from galaxy_mail.providers.smtp.outcomes import Ended, Ending, Exchange
from galaxy_mail.providers.smtp.protocol import Extensions, dot_stuffed
from galaxy_mail.providers.smtp.session import Mail, Session, StaleConnection
from galaxy_mail.providers.smtp.settings import SmtpSettings, TlsMode, tls_context
from galaxy_mail.providers.smtp.summaries import describe

_LARGE_BYTES: Final = 262_144  # of attachments: building such a mail would block the other slots

# Keepalive notices a lost relay while the connection is idle, before the next message is sent.
_KEEPALIVE_S: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


# (address, port), and with IPv6 flow and scope
SocketAddress = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


class SmtpProvider:
    """One sender slot's connection to the relay. Opens it for the first message and keeps it.

    All slots may share `tls` (`tls_context`). Tests replace TCP by `addresses`.
    """

    name = "smtp"

    def __init__(
        self,
        settings: SmtpSettings,
        *,
        tls: ssl.SSLContext | None = None,
        addresses: Addresses | None = None,
    ) -> None:
        self._settings = settings
        if tls is None and settings.tls is not TlsMode.NONE:
            tls = tls_context(settings.ca_file)
        self._tls = None if tls is None else TlsClient(tls)
        self._addresses = addresses or self._tcp_addresses
        self._worked: SocketAddress | None = None  # the address of the latest connection, to be tried first
        self._sender = MailFrom(email=settings.from_email, name=settings.from_name or None)
        self._session: Session | None = None
        self._sending = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def close_idle(self, *, at_once: bool = False) -> None:
        """Ends a connection that has been idle for too long, or `at_once` one that is idle."""
        if self._session is not None and not self._sending and (at_once or self._session.is_idle):
            await self._leave()

    async def _leave(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        if self._tls is not None:
            self._tls.ended(session.conversation.stream)
        await session.conversation.quit()

    async def probe(self) -> SendResult | None:
        """Sends MAIL and RSET on a new connection, with the same time-outs as a mail."""
        sender = b"FROM:<%s>" % _encoded(self._sender.email)
        try:
            session = await self._new_session()
            await session.probe(sender)
        except ExchangeEnded as refused:
            return refused.ended.result(describe(refused.ended, message=None, wire=b""))
        finally:
            await self._leave()
        return None

    async def send(self, message: Message, *, may_finish: SendDeadline) -> SendResult:
        """One attempt, as `Provider` describes it."""
        self._sending = True
        try:
            session = await self._reusable_session() or await self._new_session()
            try:
                return await self._send_on(session, message, may_finish)
            except StaleConnection:
                return await self._send_on(await self._new_session(), message, may_finish)
        except ExchangeEnded as raised:  # while opening: nothing of the message was sent
            return raised.ended.result(describe(raised.ended, message=message, wire=b""))
        finally:
            self._sending = False

    async def _send_on(self, session: Session, message: Message, may_finish: SendDeadline) -> SendResult:
        try:
            mail = await self._mail(message, session.conversation.smtp.extensions)
            if isinstance(mail, Ended):
                return mail.result(describe(mail, message=message, wire=b""))
            ended = await session.transact(mail, may_finish=may_finish)
            return ended.result(
                "" if ended.ending is Ending.ACCEPTED else describe(ended, message=message, wire=mail.wire)
            )
        finally:
            if session.is_used_up:
                await self._leave()

    async def _mail(self, message: Message, extensions: Extensions) -> Mail | Ended:
        """The message, encoded for this relay, or why the relay can't take it."""
        smtputf8 = mime.needs_smtputf8(message, self._sender)
        if smtputf8 and "SMTPUTF8" not in extensions:
            return Ended(exchange=Exchange.MAIL, ending=Ending.NOT_OFFERED, detail=_NO_SMTPUTF8)
        eight_bit = "8BITMIME" in extensions
        try:
            if sum(len(a.content_base64) for a in message.attachments) > _LARGE_BYTES:
                content, wire = await trio.to_thread.run_sync(
                    self._build, message, eight_bit, smtputf8, abandon_on_cancel=True
                )
            else:
                content, wire = self._build(message, eight_bit, smtputf8)
        except mime.BadMessage as bad:
            return Ended(exchange=Exchange.MAIL, ending=Ending.MALFORMED, detail=str(bad))
        recipients = message.envelope.recipients()
        if len(recipients) > (most := _recipients_max(extensions)):
            detail = f"{len(recipients)} recipients, but the relay takes {most} in one message"
            return Ended(exchange=Exchange.MAIL, ending=Ending.TOO_MANY, detail=detail)
        limit = extensions.get("SIZE", "")  # RFC 1870 §4; 0 or empty: no fixed limit
        if limit.isdecimal() and 0 < int(limit) < len(content):
            detail = f"the message has {len(content)} bytes; the relay accepts {int(limit)}"
            return Ended(exchange=Exchange.MAIL, ending=Ending.TOO_LARGE, detail=detail)
        parameters = b""
        if "SIZE" in extensions:
            parameters += b" SIZE=%d" % len(content)
        if eight_bit and not content.isascii():
            parameters += b" BODY=8BITMIME"  # RFC 6152 §3
        if smtputf8:
            parameters += b" SMTPUTF8"  # RFC 6531 §3.4
        return Mail(
            mail_argument=b"FROM:<%s>%s" % (_encoded(self._sender.email), parameters),
            recipients=tuple((to, b"TO:<%s>" % _encoded(to)) for to in recipients),
            wire=wire,
        )

    def _build(self, message: Message, eight_bit: bool, smtputf8: bool) -> tuple[bytes, bytes]:
        content = mime.build(message, sender=self._sender, eight_bit=eight_bit, smtputf8=smtputf8)
        return content, dot_stuffed(content)

    async def _reusable_session(self) -> Session | None:
        if self._session is not None and not self._session.is_reusable():
            await self._leave()
        return self._session

    async def _new_session(self) -> Session:
        self._session = Session(await open_conversation(self._settings, self._tls, self._addresses))
        return self._session

    async def _tcp_addresses(self) -> list[Connect]:
        """The relay's addresses, the one that worked last first. Raises socket.gaierror."""
        found = await trio.socket.getaddrinfo(
            self._settings.host, self._settings.port, type=socket.SOCK_STREAM
        )
        addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
        in_order = sorted(addresses, key=lambda place: place[1] != self._worked)
        return [partial(self._connect_tcp, family, address) for family, address in in_order]

    async def _connect_tcp(self, family: int, address: SocketAddress) -> ConversationStream:
        connected = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            await connected.connect(address)
        except BaseException:
            connected.close()
            raise
        stream = trio.SocketStream(connected)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE_S.items():
            if (option := getattr(socket, name, None)) is not None:  # not every system has all of them
                stream.setsockopt(socket.IPPROTO_TCP, option, value)
        self._worked = address
        return ConversationStream.over(stream)


_NO_SMTPUTF8: Final = "an address needs SMTPUTF8, which the relay does not offer"


def _recipients_max(extensions: Extensions) -> float:
    """How many recipients the relay takes in one message (RFC 9422 §3.4); infinite if it does not say."""
    for limit in extensions.get("LIMITS", "").upper().split():
        name, _, value = limit.partition("=")
        if name == "RCPTMAX" and value.isdecimal():
            return int(value)
    return inf


def _encoded(address: str) -> bytes:
    """The address, in ASCII unless it needs SMTPUTF8."""
    return (address if needs_smtputf8(address) else to_ascii(address)).encode()
