"""The records that outlive a process, and their one spelling as JSON.

Times are epoch milliseconds on Redis' clock. Encoded, a record lacks the members that have their default, so that
a store of millions does not repeat `null`; what the API shows has every member (`http/views.py`).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

Json = Any  # a JSON value as the decoder gave it; only template variables stay this loose


class Source(StrEnum):
    """Who asked for the mail."""

    AUTHSESSION = "authsession"
    NOTIFICATION = "notification"
    OPERATOR_RESEND = "operator_resend"


class PayloadMode(StrEnum):
    RENDERED = "rendered"
    TEMPLATE = "template"


class Lane(StrEnum):
    """Login codes (and their resends) never wait behind other mail."""

    PRIORITY = "priority"
    NORMAL = "normal"


class DeliveryStatus(StrEnum):
    ACCEPTED = "accepted"
    QUEUED = "queued"
    RENDERED = "rendered"
    SENDING = "sending"
    SENT = "sent"
    SUPPRESSED = "suppressed"
    FAILED = "failed"
    DEAD_LETTER = "dead_letter"


class AttemptStatus(StrEnum):
    SCHEDULED = "scheduled"
    IN_PROGRESS = "in_progress"
    PROVIDER_ACCEPTED = "provider_accepted"
    PROVIDER_REJECTED = "provider_rejected"
    TRANSPORT_FAILED = "transport_failed"
    TIMED_OUT = "timed_out"


class Result(StrEnum):
    """How a provider's answer is classified."""

    ACCEPTED = "accepted"
    SUPPRESSED = "suppressed"
    TRANSIENT_FAILURE = "transient_failure"
    PERMANENT_FAILURE = "permanent_failure"


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what is stored: immutable, compared by value, unknown members ignored (an older release may read)."""


class Failure(Record, frozen=True, kw_only=True):
    code: str  # machine-readable, from a closed set
    summary: str  # one line for people, free of secrets


class SuppressedRecipient(Record, frozen=True, kw_only=True):
    address: str
    reason: str


class RefusedRecipient(Record, frozen=True, kw_only=True):
    address: str
    provider_code: str  # "550 5.1.1"
    summary: str


class Envelope(Record, frozen=True, kw_only=True):
    """Whom one mail goes to. Addresses are normalised (`addresses.parse_address`)."""

    to: tuple[str, ...]
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    reply_to: tuple[str, ...] = ()

    def recipients(self) -> tuple[str, ...]:
        """Everyone whom RCPT must name, once each, in order."""
        return tuple(dict.fromkeys(self.to + self.cc + self.bcc))

    def without(self, addresses: frozenset[str]) -> "Envelope":
        """This envelope less those recipients; `reply_to` receives nothing and stays."""
        return msgspec.structs.replace(
            self,
            to=tuple(a for a in self.to if a not in addresses),
            cc=tuple(a for a in self.cc if a not in addresses),
            bcc=tuple(a for a in self.bcc if a not in addresses),
        )


class Attachment(Record, frozen=True, kw_only=True):
    filename: str
    content_type: str
    content_base64: str
    content_id: str | None = None  # present: shown inline (RFC 2392)

    @property
    def inline(self) -> bool:
        return self.content_id is not None


class RenderedContent(Record, frozen=True, kw_only=True):
    """What a reader sees. The same delivery is rendered once; retries send the same."""

    subject: str
    text_body: str
    html_body: str | None = None
    locale_used: str | None = None
    locale_fallback_used: bool | None = None


class Content(Record, frozen=True, kw_only=True):
    """What was asked for, kept beside the delivery because it may be large. Written once, at acceptance.

    Either the rendered members or the template members are set, by the delivery's `payload_mode`.
    """

    envelope: Envelope  # as requested, before suppression: a resend starts from it
    subject: str | None = None
    text_body: str | None = None
    html_body: str | None = None
    template_id: str | None = None
    locale: str | None = None
    variables: Mapping[str, Json] | None = None
    attachments: tuple[Attachment, ...] = ()

    def rendered(self) -> RenderedContent | None:
        """What there is to send when nothing has to be rendered, else None."""
        if self.subject is None or self.text_body is None:
            return None
        return RenderedContent(subject=self.subject, text_body=self.text_body, html_body=self.html_body)


class Delivery(Record, frozen=True, kw_only=True):
    """One logical mail: one SMTP envelope."""

    delivery_id: str
    source: Source
    lane: Lane = Lane.NORMAL
    status: DeliveryStatus
    payload_mode: PayloadMode
    template_id: str | None = None
    locale: str | None = None
    locale_used: str | None = None
    locale_fallback_used: bool | None = None
    envelope: Envelope  # who is mailed: without the suppressed
    suppressed_recipients: tuple[SuppressedRecipient, ...] = ()
    subject: str | None = None  # never set where it could hold a login code
    idempotency_key: str
    parent_delivery_id: str | None = None
    attempt_count: int = 0  # attempt records so far; the newest has this number
    retries_used: int = 0  # lost owners use up none, so this is not attempt_count - 1
    begun_losses: int = 0  # begun attempts whose owner was lost
    next_attempt_at_ms: int | None = None
    failure: Failure | None = None
    message_id: str
    request_id: str | None = None
    trace_id: str | None = None
    traceparent: str | None = None  # W3C Trace Context: of the span that accepted
    requested_at_ms: int | None = None  # as the caller of the stream said
    resent_by: str | None = None
    created_at_ms: int
    updated_at_ms: int
    rendered_at_ms: int | None = None
    finished_at_ms: int | None = None

    @property
    def secret(self) -> bool:
        """Its content holds a login code and is shown to nobody, in its resends neither."""
        return self.lane is Lane.PRIORITY


class Attempt(Record, frozen=True, kw_only=True):
    """One try to hand a delivery to the provider."""

    delivery_id: str
    attempt_no: int
    status: AttemptStatus
    scheduled_for_ms: int
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    result: Result | None = None
    failure: Failure | None = None
    provider: str | None = None
    provider_code: str | None = None
    refused_recipients: tuple[RefusedRecipient, ...] = ()
    outcome_unknown: bool = False


class DeadLetter(Record, frozen=True, kw_only=True):
    """A delivery that was given up and waits for an operator."""

    delivery_id: str
    reason: str  # "retries_exhausted" | "crash_loop"
    failure: Failure | None = None
    attempt_count: int
    created_at_ms: int


class IdempotencyRecord(Record, frozen=True, kw_only=True, array_like=True):
    """What (source, idempotency key) stands for. Stored as an array: there is one for each delivery, and only we read it."""

    fingerprint: str  # of the request (`fingerprint.fingerprint`)
    delivery_id: str
    outcome: str  # "sent" | "suppressed": what the first request was answered
    expires_at_ms: int  # from then on it counts as absent, whether or not its key is gone


class MalformedCommand(Record, frozen=True, kw_only=True):
    """A stream entry that could not be accepted, kept for operators."""

    entry_id: str
    fields: Mapping[str, str]
    failure_code: str
    message: str
    recorded_at_ms: int


class Suppression(Record, frozen=True, kw_only=True):
    """Nobody is mailed at this address, or in this domain (`@example.org`)."""

    address: str
    reason: str
    created_by: str | None = None
    created_at_ms: int


class SendResult(Record, frozen=True, kw_only=True):
    """A provider's classified answer to one attempt. Secrets and bodies are never in it."""

    result: Result
    status: AttemptStatus  # how the attempt ends
    failure: Failure | None = None
    provider_code: str | None = None  # "250 2.0.0"
    refused_recipients: tuple[RefusedRecipient, ...] = ()
    outcome_unknown: bool = False  # the provider may have the message all the same


R = TypeVar("R", bound=Struct)

_ENCODER: Final = msgspec.json.Encoder(order="sorted")
_DECODERS: Final[dict[type[Struct], msgspec.json.Decoder[Any]]] = {}


def encode(record: Struct) -> bytes:
    """Canonical JSON: members sorted, no white space, defaults left out. Equal records give equal bytes."""
    return _ENCODER.encode(record)


def decode(data: bytes, kind: type[R]) -> R:
    """The record that `encode` spelt. Raises msgspec.ValidationError (a ValueError) where it is none."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.json.Decoder(kind)
    record: R = decoder.decode(data)
    return record
