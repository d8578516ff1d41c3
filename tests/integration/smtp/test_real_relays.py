"""Mail through relays that we did not write: Postfix, OpenSMTPD, Exim, aiosmtpd."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from galaxy_mail.domain.addresses import to_ascii
from galaxy_mail.domain.records import Attachment, Blame, Envelope, RenderedContent, Result, SendResult
from galaxy_mail.providers import mime
from galaxy_mail.providers.mime import MailFrom
from galaxy_mail.providers.provider import Message
from galaxy_mail.providers.smtp.provider import SmtpProvider
from galaxy_mail.providers.smtp.settings import SmtpSettings, TlsMode
from tests.integration.smtp.conftest import Onward
from tests.relays.real import PASSWORD, USERNAME
from tests.relays.sink import Arrived, Sink

SENDER = MailFrom(email="sender@example.com", name="Galaxy Ünited")


def message(delivery_id: str, text: str = "Hello.\n", **changes: object) -> Message:
    plain = Message(
        delivery_id=delivery_id,
        attempt_no=1,
        envelope=Envelope(to=("reader@example.net",)),
        content=RenderedContent(subject="Greetings", text_body=text),
        attachments=(),
        message_id=f"{delivery_id}@example.com",
        date_ms=1_700_000_000_123,
    )
    return msgspec.structs.replace(plain, **changes)


def attachment(name: str, data: bytes, content_id: str | None = None) -> Attachment:
    return Attachment(
        filename=name,
        content_type="application/octet-stream",
        content_base64=base64.b64encode(data).decode(),
        content_id=content_id,
    )


MAILS = {
    "a plain one": message("plain"),
    "dots, also alone and at the start": message("dots", ".\n..\n.a\n\n.\n.\r\nQUIT\n"),
    "no line end": message("no-end", "x"),
    "letters of many scripts": message(
        "scripts",
        "Grüße, Καλημέρα, Привет, 你好 🎉\n" * 20,
        content=RenderedContent(
            subject="Grüße 🎉 " * 20, text_body="Grüße 🎉\n", html_body="<p>Καλημέρα</p>\n"
        ),
    ),
    "long lines": message("long", "x" * 5_000 + "\n" + "ü" * 3_000 + "\n" + "word " * 1_000),
    "lines that look like headers, and From": message(
        "from", "From here\nReceived: no\n\nFrom there\n>From\n"
    ),
    "attachments": message(
        "attached",
        attachments=(
            attachment("bytes.bin", bytes(range(256)) * 50),
            attachment("Ünï.txt", b"\r\n.\r\n", "cid1"),
        ),
    ),
    "four megabytes": message("large", attachments=(attachment("large.bin", b"0123456789abcdef" * 262_144),)),
    "several readers": message(
        "several",
        envelope=Envelope(
            to=("a@example.net", "b.c@example.net"), cc=("d@example.net",), bcc=("e@bücher.example",)
        ),
    ),
}


@asynccontextmanager
async def provider(onward: Onward, **changes: object) -> AsyncIterator[SmtpProvider]:
    settings = {
        "host": "127.0.0.1",
        "port": onward.relay.ports.plain,
        "from_email": SENDER.email,
        "from_name": SENDER.name,
        "ca_file": onward.ca_file,
        "tls": TlsMode.NONE,
        **changes,
    }
    async with SmtpProvider(SmtpSettings(**settings)) as provider:  # type: ignore[arg-type] # the test's own values
        yield provider


async def send(provider: SmtpProvider, sent: Message) -> SendResult:
    return await provider.send(sent, may_finish=lambda: True)


async def arrived(sink: Sink, sent: Message) -> list[Arrived]:
    """Everything that came of this message: a relay may send it to each domain by itself."""
    missing, found = len(sent.envelope.recipients()), list[Arrived]()
    while missing > 0:
        mail = await sink.next_mail()
        if f"<{sent.message_id}>".encode() in mail.content:
            found.append(mail)
            missing -= len(mail.recipients)
    return found


@pytest.mark.parametrize("name", MAILS)
async def test_what_arrives_is_what_was_meant(name: str, onward: Onward) -> None:
    sent = MAILS[name]
    async with provider(onward) as sender:
        result = await send(sender, sent)
        assert (result.result, result.failure) == (Result.ACCEPTED, None)
        meant = mime.build(sent, sender=SENDER, eight_bit=True, smtputf8=False)
        mails = await arrived(onward.sink, sent)
    assert {mail.without_trace() for mail in mails} == {meant}
    assert {mail.sender.decode() for mail in mails} == {SENDER.email}
    recipients = [recipient.decode() for mail in mails for recipient in mail.recipients]
    assert sorted(recipients) == sorted(map(to_ascii, sent.envelope.recipients()))


async def test_a_quoted_local_part_arrives_as_it_was_written(onward: Onward) -> None:
    sent = message(f"quoted-{onward.relay.name}", envelope=Envelope(to=('"b c"@example.net',)))
    async with provider(onward) as sender:
        result = await send(sender, sent)
        if onward.relay.name == "opensmtpd":  # knows no quotes
            assert result.failure is not None
            assert result.failure.code == "recipient_refused"
            return
        assert result.result is Result.ACCEPTED
        (mail,) = await arrived(onward.sink, sent)
    assert mail.recipients == [b'"b c"@example.net']
    assert mail.without_trace() == mime.build(sent, sender=SENDER, eight_bit=True, smtputf8=False)


@pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.AUTO, TlsMode.IMPLICIT])
async def test_mail_goes_out_under_tls(mode: TlsMode, onward: Onward) -> None:
    ports = onward.relay.ports
    implicit = ports.implicit if mode is TlsMode.IMPLICIT else None
    async with provider(onward, tls=mode, port=implicit or ports.plain) as sender:
        if onward.relay.name == "opensmtpd" or (mode is TlsMode.IMPLICIT and implicit is None):
            # Its TLS is broken, or it knows STARTTLS alone: then it greets in clear where a handshake should begin.
            broken = await send(sender, message(f"tls-{mode}"))
            assert broken.failure is not None
            assert (broken.failure.code, broken.outcome_unknown) == ("tls_failed", False)
            return
        for number in range(3):
            sent = message(f"tls-{mode}-{number}", "Grüße.\n")
            assert (await send(sender, sent)).result is Result.ACCEPTED
            (mail,) = await arrived(onward.sink, sent)
            assert mail.without_trace() == mime.build(sent, sender=SENDER, eight_bit=True, smtputf8=False)


async def test_a_relay_whose_certificate_is_not_trusted_gets_nothing(onward: Onward) -> None:
    async with provider(onward, tls=TlsMode.STARTTLS, ca_file=None) as sender:
        result = await send(sender, message("untrusted"))
    assert result.failure is not None
    assert result.failure.code == "tls_unverified"


async def test_a_refused_reader_keeps_the_mail_from_all_and_ends_the_connection(onward: Onward) -> None:
    name = onward.relay.name
    async with provider(onward) as sender:
        for envelope in (
            Envelope(to=("refused@example.org",)),
            Envelope(to=("reader@example.net", "refused@example.org")),
        ):
            result = await send(sender, message(f"refused-{name}", envelope=envelope))
            assert result.result is Result.PERMANENT_FAILURE
            assert [r.address for r in result.refused_recipients] == ["refused@example.org"]
            assert result.provider_code is not None
            assert result.provider_code.startswith("550")
            assert sender._session is None
        sent = message(f"after-{name}")
        assert (await send(sender, sent)).result is Result.ACCEPTED
        (mail,) = await arrived(onward.sink, sent)
        assert b"refused" not in mail.content.split(b"\r\n\r\n")[0].split(b"Received:")[0]


async def test_more_mails_than_one_connection_may_carry_cost_no_attempt(onward: Onward) -> None:
    """OpenSMTPD puts off the 101st mail of a session (451 to MAIL)."""
    async with provider(onward, messages_max=1000) as sender:
        for number in range(105):
            result = await send(sender, message(f"many-{number}"))
            assert (result.result, result.failure) == (Result.ACCEPTED, None)


async def test_every_mail_of_many_arrives_at_once(onward: Onward) -> None:
    """Exim accepts what comes after ten mails of a connection, and passes it on half an hour later."""
    names = {f"prompt-{onward.relay.name}-{number}" for number in range(30)}
    async with provider(onward) as sender:
        for name in names:
            assert (await send(sender, message(name))).result is Result.ACCEPTED
    missing = {f"<{name}@example.com>".encode() for name in names}
    while missing:
        mail = await onward.sink.next_mail()
        missing -= {message_id for message_id in missing if message_id in mail.content}


async def test_a_relay_that_demands_tls_or_a_login_is_to_blame_for_what_it_refuses(onward: Onward) -> None:
    """A probe without mail learns the same."""
    async with provider(onward, port=onward.relay.ports.demanding) as sender:
        refused = await send(sender, message("without-login"))
        assert refused.failure is not None
        assert (refused.failure.code, refused.blame) == ("sender_refused", Blame.RELAY)
        probed = await sender.probe()
        assert probed is not None
        assert probed.failure is not None
        assert (probed.failure.code, probed.provider_code) == ("sender_refused", refused.provider_code)
    async with provider(onward) as sender:
        assert await sender.probe() is None


async def test_an_address_beyond_ascii_is_sent_or_refused_for_good(onward: Onward) -> None:
    sent = message(f"utf8-{onward.relay.name}", envelope=Envelope(to=("jürgen@example.net",)))
    async with provider(onward) as sender:
        result = await send(sender, sent)
        if onward.relay.name == "opensmtpd":
            assert result.failure is not None
            assert result.failure.code == "smtputf8_unsupported"
            return
        assert result.result is Result.ACCEPTED
        (mail,) = await arrived(onward.sink, sent)
    assert mail.without_trace() == mime.build(sent, sender=SENDER, eight_bit=True, smtputf8=True)
    assert mail.recipients == ["jürgen@example.net".encode()]


@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
async def test_a_password_opens_the_relay_or_does_not(password: str, onward: Onward) -> None:
    # No SASL service runs behind Postfix, and OpenSMTPD's TLS is broken: no password is said to either.
    without = {"postfix": "auth_unavailable", "opensmtpd": "tls_failed"}.get(onward.relay.name)
    sent = message(f"auth-{onward.relay.name}")
    login = {"username": USERNAME, "password": password, "tls": TlsMode.AUTO}
    async with provider(onward, **login) as sender:
        result = await send(sender, sent)
        if without is not None:
            assert result.failure is not None
            assert (result.failure.code, result.provider_code) == (without, None)
        elif password == PASSWORD:
            assert result.result is Result.ACCEPTED
            await arrived(onward.sink, sent)
        else:
            assert result.failure is not None
            assert result.failure.code == "auth_refused"
            assert result.provider_code is not None
            assert result.provider_code.startswith("535")
