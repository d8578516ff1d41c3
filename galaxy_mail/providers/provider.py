"""What every provider is: one method that takes a ready message and returns a classified result."""

from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct

from galaxy_mail.domain.records import Attachment, Envelope, RenderedContent, SendResult


class Message(Struct, frozen=True, kw_only=True):
    """All that one attempt sends; two attempts of a delivery give the same bytes on the wire."""

    delivery_id: str
    attempt_no: int
    envelope: Envelope
    content: RenderedContent
    attachments: tuple[Attachment, ...]
    message_id: str  # without angle brackets
    date_ms: int  # of the Date header: when the delivery was accepted


class SendDeadline(Protocol):
    """Asked right before the final dot; False when the claim is too close to its end to start what can't be undone."""

    def __call__(self) -> bool: ...


class Provider(Protocol):
    """One sender slot's way out. Used as a context manager by one task; sends one message at a time.

    `send` never raises for what a relay or a network does: that is a `SendResult`. It lets `trio.Cancelled` out only
    while the provider cannot have the message. Cancelled after the final dot, it waits for the answer within a bounded,
    shielded deadline and returns what it learnt (`outcome_unknown` where that is nothing).
    """

    name: str  # "smtp", "stub": recorded in the attempt

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def close_idle(self) -> None:
        """Ends a connection that has been idle for too long. Called every second, also while `send` runs."""
        ...

    async def send(self, message: Message, *, may_finish: SendDeadline) -> SendResult: ...
