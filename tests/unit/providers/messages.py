"""Messages for tests of providers: complete, each part replaceable."""

from base64 import b64encode

from galaxy_mail.domain.records import Attachment, Envelope, RenderedContent
from galaxy_mail.providers.mime import MailFrom
from galaxy_mail.providers.provider import Message

SENDER = MailFrom(email="no-reply@galaxy.example", name="Galaxy")
DATE_MS = 1_751_364_005_678  # 2025-07-01 10:00:05.678 UTC


def message(
    *,
    to: tuple[str, ...] = ("pilot@a.example",),
    cc: tuple[str, ...] = (),
    bcc: tuple[str, ...] = (),
    reply_to: tuple[str, ...] = (),
    subject: str = "Welcome aboard",
    text: str = "Hello, pilot.\n",
    html: str | None = None,
    attachments: tuple[Attachment, ...] = (),
    delivery_id: str = "d.1",
    attempt_no: int = 1,
    message_id: str = "d.1@galaxy.example",
    date_ms: int = DATE_MS,
) -> Message:
    return Message(
        delivery_id=delivery_id,
        attempt_no=attempt_no,
        envelope=Envelope(to=to, cc=cc, bcc=bcc, reply_to=reply_to),
        content=RenderedContent(subject=subject, text_body=text, html_body=html),
        attachments=attachments,
        message_id=message_id,
        date_ms=date_ms,
    )


def attachment(
    data: bytes = b"%PDF-1.7",
    *,
    filename: str = "invoice.pdf",
    content_type: str = "application/pdf",
    content_id: str | None = None,
) -> Attachment:
    return Attachment(
        filename=filename,
        content_type=content_type,
        content_base64=b64encode(data).decode(),
        content_id=content_id,
    )
