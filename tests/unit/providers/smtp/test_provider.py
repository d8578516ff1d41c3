"""The spelling of a message depends on what its relay offers."""

from collections.abc import Sequence
from email import message_from_bytes

import msgspec
import pytest

from galaxy_mail.domain.records import Envelope, Result
from galaxy_mail.providers.provider import Message
from galaxy_mail.providers.smtp.provider import SmtpProvider
from galaxy_mail.providers.smtp.settings import TlsMode
from tests.relays.hostile.server import OFFERS, Server
from tests.unit.providers.smtp.wire import joined, message, settings

GREEK = "Καλημέρα κόσμε.\n"


def commands(server: Server, verb: bytes) -> list[bytes]:
    return [line for line in server.talks[0].lines if line.startswith(verb)]


def offering(*names: str) -> list[str]:
    return [offer for offer in OFFERS if offer.split()[0] in names]


def to_all(**envelope: tuple[str, ...]) -> Message:
    return msgspec.structs.replace(message(), envelope=Envelope(**envelope))


@pytest.mark.parametrize("offers", [OFFERS, offering("8BITMIME", "SMTPUTF8"), offering("PIPELINING"), []])
@pytest.mark.parametrize("text", ["Plain.\n", GREEK])
async def test_eight_bits_are_used_and_announced_only_where_offered_and_needed(
    offers: Sequence[str], text: str
) -> None:
    server = Server(offers=offers)
    async with joined(server) as there:
        assert (await there.send(message(text=text))).result is Result.ACCEPTED
    (content,) = server.messages
    (mail,) = commands(server, b"MAIL")
    eight_bit = "8BITMIME" in offers and text == GREEK
    assert content.isascii() is not eight_bit
    assert (b" BODY=8BITMIME" in mail) is eight_bit
    read = message_from_bytes(content.replace(b"\r\n..", b"\r\n.")).get_payload(decode=True)
    assert isinstance(read, bytes)
    assert read.decode().replace("\r\n", "\n") == text


async def test_the_size_is_told_without_stuffed_dots_and_only_where_it_is_asked_for() -> None:
    dotted = message(text=".\n" * 100)
    server = Server()
    async with joined(server) as there:
        await there.send(dotted)
    (content,) = server.messages
    assert commands(server, b"MAIL") == [b"MAIL FROM:<sender@example.com> SIZE=%d" % (len(content) - 100)]
    server = Server(offers=["PIPELINING"])
    async with joined(server) as there:
        await there.send(dotted)
    assert commands(server, b"MAIL") == [b"MAIL FROM:<sender@example.com>"]


@pytest.mark.parametrize("limit", ["SIZE", "SIZE 0", "SIZE lots", "SIZE 1000000"])
async def test_a_size_without_a_limit_limits_nothing(limit: str) -> None:
    async with joined(Server(offers=[limit])) as there:
        assert (await there.send()).result is Result.ACCEPTED


async def test_a_message_larger_than_the_relay_takes_is_not_begun() -> None:
    server = Server(offers=["SIZE 500"])
    async with joined(server) as there:
        result = await there.send(message(text="x" * 500))
    assert result.result is Result.PERMANENT_FAILURE
    assert result.failure is not None
    assert result.failure.code == "message_too_large"
    assert "500" in result.failure.summary
    assert commands(server, b"MAIL") == []


@pytest.mark.parametrize("offered", [True, False])
@pytest.mark.parametrize(
    ("sent", "needed"),
    [
        (message(), False),
        (to_all(to=("reader@xn--bcher-kva.example",)), False),
        (to_all(to=("jürgen@example.org",)), True),
        (to_all(to=("a@example.org",), bcc=("jürgen@example.org",)), True),
        (to_all(to=("a@example.org",), reply_to=("jürgen@example.org",)), True),
    ],
)
async def test_smtputf8_is_used_only_where_an_address_has_no_other_spelling(
    sent: Message, needed: bool, offered: bool
) -> None:
    server = Server(offers=OFFERS if offered else offering("PIPELINING", "8BITMIME"))
    async with joined(server) as there:
        result = await there.send(sent)
    if needed and not offered:
        assert result.result is Result.PERMANENT_FAILURE
        assert result.failure is not None
        assert result.failure.code == "smtputf8_unsupported"
        assert commands(server, b"MAIL") == []
    else:
        assert result.result is Result.ACCEPTED
        assert commands(server, b"MAIL")[0].endswith(b" SMTPUTF8") is needed


async def test_a_domain_goes_out_in_ascii_and_a_local_part_as_it_is() -> None:
    server = Server()
    async with joined(server) as there:
        await there.send(to_all(to=("jürgen@bücher.example", "reader@bücher.example", '"a b"@example.org')))
    assert commands(server, b"RCPT") == [
        "RCPT TO:<jürgen@bücher.example>".encode(),
        b"RCPT TO:<reader@xn--bcher-kva.example>",
        b'RCPT TO:<"a b"@example.org>',
    ]


async def test_retries_send_the_same_bytes() -> None:
    server = Server()
    async with joined(server) as there:
        for number in (1, 2):
            await there.send(msgspec.structs.replace(message(text=GREEK), attempt_no=number))
    assert server.messages[0] == server.messages[1]


async def test_a_provider_that_sent_nothing_connects_nowhere() -> None:
    server = Server()
    async with joined(server) as there:
        pass
    assert there.connections == 0


def test_a_password_is_not_shown_with_the_settings() -> None:
    secret = settings(username="user", password="hunter2", host="relay.test", port=587, tls=TlsMode.AUTO)
    for text in (repr(secret), str(secret), f"{SmtpProvider(secret).__dict__}"):
        assert "hunter2" not in text
