"""The stored records and their encoding as JSON.

Times are epoch milliseconds on Redis' clock. The encoding omits members that have their default value, which saves
memory in large stores. The API shows every member (`http/views.py`).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

Json = Any  # a decoded JSON value; only template variables keep this type


class Source(StrEnum):
    """The origin of a request."""

    AUTHSESSION = "authsession"
    NOTIFICATION = "notification"
    OPERATOR_RESEND = "operator_resend"


class PayloadMode(StrEnum):
    RENDERED = "rendered"
    TEMPLATE = "template"


class Lane(StrEnum):
    """Login codes and their resends use the priority lane, so that they don't wait behind other mail."""

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
    """The classification of a provider's answer."""

    ACCEPTED = "accepted"
    SUPPRESSED = "suppressed"
    TRANSIENT_FAILURE = "transient_failure"
    PERMANENT_FAILURE = "permanent_failure"


class Blame(StrEnum):
    """Whose fault a failed attempt is. Only a failure of the message uses up a retry or ends the delivery."""

    MESSAGE = "message"
    RELAY = "relay"
    SERVICE = "service"  # this service or its host


class DomainRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the stored records. Decoding ignores unknown members, so that an older release can read newer records."""


class Failure(DomainRecord, frozen=True, kw_only=True):
    code: str  # for programs, from a closed set
    summary: str  # one line for people, without secrets


class SuppressedRecipient(DomainRecord, frozen=True, kw_only=True):
    address: str
    reason: str


class RefusedRecipient(DomainRecord, frozen=True, kw_only=True):
    address: str
    provider_code: str  # "550 5.1.1"
    summary: str


class Envelope(DomainRecord, frozen=True, kw_only=True):
    """The addresses of one mail, in normal form (`addresses.parse_address`)."""

    to: tuple[str, ...]
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    reply_to: tuple[str, ...] = ()

    def recipients(self) -> tuple[str, ...]:
        """The recipients for RCPT, without duplicates, in order."""
        return tuple(dict.fromkeys(self.to + self.cc + self.bcc))

    def without(self, addresses: frozenset[str]) -> "Envelope":
        """The envelope without these recipients. `reply_to` stays: it is not a recipient."""
        return msgspec.structs.replace(
            self,
            to=tuple(a for a in self.to if a not in addresses),
            cc=tuple(a for a in self.cc if a not in addresses),
            bcc=tuple(a for a in self.bcc if a not in addresses),
        )


class Attachment(DomainRecord, frozen=True, kw_only=True):
    filename: str
    content_type: str
    content_base64: str
    content_id: str | None = None  # set for an inline attachment (RFC 2392)

    @property
    def inline(self) -> bool:
        return self.content_id is not None


class RenderedContent(DomainRecord, frozen=True, kw_only=True):
    """The rendered content. A delivery is rendered once; retries send the same content."""

    subject: str
    text_body: str
    html_body: str | None = None
    locale_used: str | None = None
    locale_fallback_used: bool | None = None


class Content(DomainRecord, frozen=True, kw_only=True):
    """The requested content, written once at acceptance. It may be large, so it is a record of its own.

    The delivery's `payload_mode` says whether the rendered or the template members are set.
    """

    envelope: Envelope  # as requested, with suppressed recipients, for resends
    subject: str | None = None
    text_body: str | None = None
    html_body: str | None = None
    template_id: str | None = None
    locale: str | None = None
    variables: Mapping[str, Json] | None = None
    attachments: tuple[Attachment, ...] = ()

    def rendered(self) -> RenderedContent | None:
        """The content of a command that needs no rendering, else None."""
        if self.subject is None or self.text_body is None:
            return None
        return RenderedContent(subject=self.subject, text_body=self.text_body, html_body=self.html_body)


class Delivery(DomainRecord, frozen=True, kw_only=True):
    """One mail with one SMTP envelope."""

    delivery_id: str
    source: Source
    lane: Lane = Lane.NORMAL
    status: DeliveryStatus
    payload_mode: PayloadMode
    template_id: str | None = None
    locale: str | None = None
    locale_used: str | None = None
    locale_fallback_used: bool | None = None
    envelope: Envelope  # without suppressed recipients
    suppressed_recipients: tuple[SuppressedRecipient, ...] = ()
    subject: str | None = None  # None in the priority lane, where it could hold a login code
    idempotency_key: str
    parent_delivery_id: str | None = None
    attempt_count: int = 0  # attempt records so far; the newest has this number
    retries_used: int = 0  # not attempt_count - 1: only failures of the message count
    begun_losses: int = 0  # begun attempts whose owner was lost
    relay_failures: int = 0  # failed attempts with the blame `relay`
    relay_failed_at_ms: int | None = None  # the latest of them
    next_attempt_at_ms: int | None = None
    failure: Failure | None = None
    message_id: str
    request_id: str | None = None
    trace_id: str | None = None
    traceparent: str | None = None  # W3C Trace Context, of the `accept` span
    requested_at_ms: int | None = None  # from the stream command
    resent_by: str | None = None
    created_at_ms: int
    updated_at_ms: int
    rendered_at_ms: int | None = None
    finished_at_ms: int | None = None

    @property
    def attempts_made(self) -> int:
        """The attempts without one that is still scheduled."""
        waits = self.status in (DeliveryStatus.QUEUED, DeliveryStatus.RENDERED)
        return self.attempt_count - 1 if waits else self.attempt_count

    @property
    def secret(self) -> bool:
        """Whether the content may hold a login code and is hidden from operators, also in resends."""
        return self.lane is Lane.PRIORITY


class Attempt(DomainRecord, frozen=True, kw_only=True):
    """One try to hand a delivery to the provider."""

    delivery_id: str
    attempt_no: int
    status: AttemptStatus
    scheduled_for_ms: int
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    result: Result | None = None
    failure: Failure | None = None
    blame: Blame | None = None
    provider: str | None = None
    provider_code: str | None = None
    refused_recipients: tuple[RefusedRecipient, ...] = ()
    outcome_unknown: bool = False


class DeadLetter(DomainRecord, frozen=True, kw_only=True):
    """A delivery that failed after all retries and waits for an operator."""

    delivery_id: str
    reason: str  # "retries_exhausted" | "crash_loop"
    failure: Failure | None = None
    attempt_count: int
    created_at_ms: int


class IdempotencyRecord(DomainRecord, frozen=True, kw_only=True, array_like=True):
    """The request that used this source and idempotency key. Stored as an array to save memory: every delivery has one."""

    fingerprint: str  # of the request (`fingerprint.fingerprint`)
    delivery_id: str
    outcome: str  # "sent" | "suppressed": the answer to the first request
    expires_at_ms: int  # from then on the record does not count, even if its key still exists


class MalformedCommand(DomainRecord, frozen=True, kw_only=True):
    """A malformed stream entry, stored for operators."""

    entry_id: str
    fields: Mapping[str, str]
    failure_code: str
    message: str
    recorded_at_ms: int


class Suppression(DomainRecord, frozen=True, kw_only=True):
    """An address, or a whole domain (`@example.org`), that receives no mail."""

    address: str
    reason: str
    created_by: str | None = None
    created_at_ms: int


class SendResult(DomainRecord, frozen=True, kw_only=True):
    """A provider's classified answer to one attempt, without secrets and bodies."""

    result: Result
    status: AttemptStatus  # the attempt's final status
    failure: Failure | None = None
    blame: Blame | None = None  # None: accepted or suppressed
    exchange: str | None = None  # with an SMTP relay: the one that decided (`smtp.outcomes.Exchange`)
    provider_code: str | None = None  # "250 2.0.0"
    refused_recipients: tuple[RefusedRecipient, ...] = ()
    outcome_unknown: bool = False  # the provider may have the message


R = TypeVar("R", bound=Struct)

_ENCODER: Final = msgspec.json.Encoder(order="sorted")
_DECODERS: Final[dict[type[Struct], msgspec.json.Decoder[Any]]] = {}


def encode(record: Struct) -> bytes:
    """Canonical JSON: sorted members, no white space, no defaults. Equal records have equal encodings."""
    return _ENCODER.encode(record)


def decode(data: bytes, kind: type[R]) -> R:
    """Decodes a record. Raises msgspec.ValidationError (a ValueError) for invalid data."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.json.Decoder(kind)
    record: R = decoder.decode(data)
    return record
