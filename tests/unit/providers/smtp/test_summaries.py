"""What an attempt keeps of a relay's words."""

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain.records import RenderedContent, SendResult
from galaxy_mail.providers import mime
from galaxy_mail.providers.mime import MailFrom
from galaxy_mail.providers.smtp.outcomes import OUTCOMES, Ended, Ending, Exchange
from galaxy_mail.providers.smtp.replies import TEXT_MAX, Reply
from galaxy_mail.providers.smtp.summaries import VOCABULARY, describe, mask
from tests.relays.hostile.answers import Answers
from tests.relays.hostile.server import Talk
from tests.unit.providers.smtp.wire import joined, message

CODE = "483 920"
LOGIN = msgspec.structs.replace(
    message("bob@example.org"),
    content=RenderedContent(
        subject=f"{CODE} is your code",
        text_body=f"Hello,\r\n\r\nyour code is {CODE}. Ünïcode stays.\r\n",
        html_body=f"<p>Your code is <b>{CODE}</b></p>",
    ),
)
WIRE = mime.build(LOGIN, sender=MailFrom(email="a@example.com"), eight_bit=False, smtputf8=False)


def summary_of(exchange: Exchange, *lines: str, code: int = 550) -> str:
    reply = Reply(code, tuple(line.encode() for line in lines))
    ended = Ended(exchange=exchange, ending=Ending.PERMANENT, reply=reply)
    return describe(ended, message=LOGIN, wire=WIRE)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("5.7.1 message rejected as spam", "message rejected as spam"),
        ("5.7.1 rejected: Subject: 483 920 is your code", "rejected: … is your …"),
        ("5.7.1 body has <483920>?", "body has <…>?"),
        ("5.7.1 body has <483-920>?", "body has <…>?"),
        ("5.7.1 rejected 'code is 483'", "rejected '… is …'"),
        ("5.7.1 HELLO is no word for a mail", "… is no word for a mail"),
        ("5.7.1 quarantined by filter 71", "quarantined by filter 71"),
        ("5.7.1 <bob@example.org> over quota", "<bob@example.org> over quota"),
    ],
)
def test_what_a_relay_quotes_is_masked_once_it_saw_the_message(text: str, kept: str) -> None:
    assert summary_of(Exchange.FINAL, text) == f"final dot: 550 5.7.1 {kept}"
    assert summary_of(Exchange.BODY, text) == f"message: 550 5.7.1 {kept}"
    assert summary_of(Exchange.RCPT, text) == f"RCPT: 550 {text}"


def test_quotations_of_what_was_on_the_wire_are_masked_too() -> None:
    encoded = [line for line in WIRE.decode().split("\r\n") if "=C3" in line or "=?" in line or "483" in line]
    assert encoded
    for line in encoded:
        shown = summary_of(Exchange.FINAL, "5.7.1 " + line)
        assert "483" not in shown
        assert "920" not in shown


def test_a_quotation_of_base64_is_masked() -> None:
    body = base64.b64encode(b"your code is 483920 and no other, whatever they say to you")
    wire = b"Content-Transfer-Encoding: base64\r\n\r\n" + body[:40] + b"\r\n" + body[40:] + b"\r\n"
    assert mask(f"bad content {body.decode()} found", message=LOGIN, wire=wire) == "bad content …== found"


@given(st.integers(0, 999_999), st.sampled_from(["{}", "x{}", "<{}>", "code={}", "{},{}", "“{}”"]))
def test_no_code_survives_in_any_quotation_marks(number: int, quotation: str) -> None:
    code = f"{number:06}"
    login = msgspec.structs.replace(
        LOGIN, content=RenderedContent(subject="Your code", text_body=f"Your x{code} code={code} is {code}.")
    )
    shown = mask("rejected: " + quotation.format(code, code), message=login, wire=b"")
    assert code not in shown


@given(st.text(), st.sampled_from([Exchange.MAIL, Exchange.RCPT, Exchange.FINAL]))
def test_every_summary_is_one_bounded_printable_line(text: str, exchange: Exchange) -> None:
    shown = summary_of(exchange, text.replace("\n", " "))
    assert shown.isprintable()
    assert len(shown) <= TEXT_MAX


WITHOUT_REPLY = [
    key for key in OUTCOMES if key[1] not in (Ending.ACCEPTED, Ending.PERMANENT, Ending.TRANSIENT)
]


@pytest.mark.parametrize(("exchange", "ending"), WITHOUT_REPLY)
def test_every_ending_is_told_in_words_without_a_reply(exchange: Exchange, ending: Ending) -> None:
    assert describe(Ended(exchange=exchange, ending=ending), message=LOGIN, wire=b"").startswith(
        f"{exchange}: "
    )


def test_the_vocabulary_holds_words_only() -> None:
    assert all(word.isalpha() and word.islower() for word in VOCABULARY)


class Quotes(Answers):
    """Refuses a message with all of it."""

    def __init__(self) -> None:
        super().__init__(Exchange.FINAL)

    async def misbehave(self, talk: Talk, said: bytes) -> None:
        lines = [line[:500] for line in said.split(b"\r\n") if b"483" in line]
        await talk.say(*(b"550-5.7.1 " + line for line in lines), b"550 5.7.1 that was it")


async def test_no_result_holds_a_code_that_the_relay_quoted() -> None:
    async with joined(Quotes()) as there:
        result: SendResult = await there.send(LOGIN)
    assert result.failure is not None
    assert result.failure.code == "message_refused"
    assert "483" not in repr(result)
    assert "920" not in repr(result)
