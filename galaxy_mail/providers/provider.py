"""The interface of all providers: `send` hands a complete message over, `probe` tests the relay without a mail."""

from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct

from galaxy_mail.domain.records import Attachment, Envelope, RenderedContent, SendResult


class Message(Struct, frozen=True, kw_only=True):
    """What one attempt sends. Two attempts of a delivery give the same bytes on the wire."""

    delivery_id: str
    attempt_no: int
    envelope: Envelope
    content: RenderedContent
    attachments: tuple[Attachment, ...]
    message_id: str  # without angle brackets
    date_ms: int  # of the Date header: when the delivery was accepted


class SendDeadline(Protocol):
    """Called right before the final dot. False: the claim ends too soon for a step that can't be undone."""

    def __call__(self) -> bool: ...


class Provider(Protocol):
    """Sends the messages of one sender slot, one at a time. One task uses it as a context manager.

    `send` returns relay and network errors as a `SendResult` and doesn't raise them. It lets `trio.Cancelled` out only
    while the provider can't have the message. If cancelled after the final dot, it waits for the reply under a shield
    with a deadline. Without a reply by then, it returns `outcome_unknown`.
    """

    name: str  # "smtp", "stub": recorded in the attempt

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def close_idle(self, *, at_once: bool = False) -> None:
        """Ends a connection that has been idle for too long, or `at_once`. Called every second, also while `send` runs."""
        ...

    async def probe(self) -> SendResult | None:
        """Tests the relay up to its answer to MAIL, without a mail. None: the relay is well; otherwise, how it failed."""
        ...

    async def send(self, message: Message, *, may_finish: SendDeadline) -> SendResult: ...
