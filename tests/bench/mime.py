"""How long a mail takes to assemble, beside the standard library's way."""

import timeit
from base64 import b64encode
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import SMTP
from random import Random

from galaxy_mail.domain.records import Attachment, Envelope, RenderedContent
from galaxy_mail.providers.mime import MailFrom, build
from galaxy_mail.providers.provider import Message

SENDER = MailFrom(email="no-reply@galaxy.example", name="Galaxy")
TO = "pilot@galaxy.example"
SUBJECT = "Ваш код для входа: 123456"
TEXT = (
    "Ваш код для входа: 123456\n\nIt expires in ten minutes. If you did not ask for it, ignore this mail.\n"
    * 4
)
HTML = '<tr><td style="padding:0 0 16px;font-family:sans-serif">Ваш код <b>123456</b></td></tr>\n' * 28
ATTACHMENT = Random(7).randbytes(1_048_576)


def measure() -> dict[str, float]:
    """Best of several rounds each: what the code costs, not what else the machine does.

    `mime.login.*` are microseconds for text and HTML of 3 kB, `mime.attachment.*` milliseconds for that and 1 MiB.
    `serialise` is `as_bytes` of a message that is already built.
    """
    login = _message()
    large = _message(
        Attachment(
            filename="report.pdf",
            content_type="application/pdf",
            content_base64=b64encode(ATTACHMENT).decode(),
        )
    )
    login_made, large_made = _email_message(), _email_message(ATTACHMENT)
    ours_large_ms = 1e3 * _seconds(lambda: _build(large), rounds=10)
    serialise_large_ms = 1e3 * _seconds(large_made.as_bytes, rounds=3)
    return {
        "mime.login.bytes": float(len(TEXT.encode()) + len(HTML.encode())),
        "mime.login.ours_us": 1e6 * _seconds(lambda: _build(login), rounds=500),
        "mime.login.ours_8bit_us": 1e6 * _seconds(lambda: _build(login, eight_bit=True), rounds=500),
        "mime.login.email_serialise_us": 1e6 * _seconds(login_made.as_bytes, rounds=20),
        "mime.login.email_build_serialise_us": 1e6 * _seconds(lambda: _email_message().as_bytes(), rounds=20),
        "mime.attachment.ours_ms": ours_large_ms,
        "mime.attachment.email_serialise_ms": serialise_large_ms,
        "mime.attachment.email_build_serialise_ms": 1e3
        * _seconds(lambda: _email_message(ATTACHMENT).as_bytes(), rounds=3),
        "mime.attachment.times_faster_than_serialise": serialise_large_ms / ours_large_ms,
    }


def _build(message: Message, *, eight_bit: bool = False) -> bytes:
    return build(message, sender=SENDER, eight_bit=eight_bit, smtputf8=False)


def _message(*attachments: Attachment) -> Message:
    return Message(
        delivery_id="bench.1",
        attempt_no=1,
        envelope=Envelope(to=(TO,)),
        content=RenderedContent(subject=SUBJECT, text_body=TEXT, html_body=HTML),
        attachments=attachments,
        message_id="bench.1@galaxy.example",
        date_ms=1_751_364_000_000,
    )


def _email_message(attached: bytes | None = None) -> EmailMessage:
    """The same mail, as the standard library makes it."""
    made = EmailMessage(policy=SMTP)
    made["From"] = "Galaxy <no-reply@galaxy.example>"
    made["To"] = TO
    made["Subject"] = SUBJECT
    made["Date"] = "Tue, 01 Jul 2025 10:00:00 +0000"
    made["Message-ID"] = "<bench.1@galaxy.example>"
    made.set_content(TEXT)
    made.add_alternative(HTML, subtype="html")
    if attached is not None:
        made.add_attachment(attached, maintype="application", subtype="pdf", filename="report.pdf")
    return made


def _seconds(call: Callable[[], object], *, rounds: int) -> float:
    return min(timeit.repeat(call, number=rounds, repeat=5)) / rounds


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:45} {value:12.2f}")
