"""Makes the records of a valid request. Pure: the store writes these records in one script."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from galaxy_mail.domain.addresses import domain_of
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Content,
    Delivery,
    DeliveryStatus,
    Envelope,
    Failure,
    IdempotencyRecord,
    Lane,
    PayloadMode,
    RenderedContent,
    Source,
    SuppressedRecipient,
)

OUTCOME_SENT: Final = "sent"  # durably accepted; the mail is not sent yet
OUTCOME_SUPPRESSED: Final = "suppressed"
RECIPIENTS_SUPPRESSED: Final = "recipients_suppressed"
ALL_SUPPRESSED: Final = Failure(code=RECIPIENTS_SUPPRESSED, summary="every recipient is suppressed")
NOT_ALLOWED: Final = "not on the recipient allowlist"


class MailRequest(Struct, frozen=True, kw_only=True):
    """A validated request to send one mail, from any intake."""

    delivery_id: str
    source: Source
    lane: Lane
    payload_mode: PayloadMode
    idempotency_key: str
    fingerprint: str  # of the request without its tracing fields
    content: Content
    rendered: RenderedContent | None = None  # a resend sends its parent's rendered content
    parent_delivery_id: str | None = None
    resent_by: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    traceparent: str | None = None
    requested_at_ms: int | None = None


class Acceptance(Struct, frozen=True, kw_only=True):
    """The records that one `accept` writes, all or none."""

    delivery: Delivery
    content: Content
    rendered: RenderedContent | None
    attempt: Attempt | None  # None if every recipient is suppressed
    idempotency: IdempotencyRecord

    @property
    def outcome(self) -> str:
        return self.idempotency.outcome


Suppressed = Mapping[str, str]  # suppression entry (an address in lower case, or "@domain") -> reason


def suppression_entries(envelope: Envelope) -> tuple[str, ...]:
    """The possible entries of the suppression list for this envelope's recipients, without duplicates, in order."""
    entries: dict[str, None] = {}
    for address in envelope.recipients():
        entries[address.lower()] = None
        entries["@" + domain_of(address)] = None
    return tuple(entries)


def not_allowed(envelope: Envelope, allowlist: frozenset[str]) -> dict[str, str]:
    """Suppressions for the recipients that are not on the allowlist. An empty allowlist allows every recipient."""
    if not allowlist:
        return {}
    return {
        address.lower(): NOT_ALLOWED
        for address in envelope.recipients()
        if address.lower() not in allowlist and "@" + domain_of(address) not in allowlist
    }


def drop_suppressed(
    envelope: Envelope, suppressed: Suppressed
) -> tuple[Envelope, tuple[SuppressedRecipient, ...]]:
    """The envelope without suppressed recipients, and the suppressed recipients with reasons, in the envelope's order."""
    if not suppressed:
        return envelope, ()
    dropped: list[SuppressedRecipient] = []
    for address in envelope.recipients():
        reason = suppressed.get(address.lower(), suppressed.get("@" + domain_of(address)))
        if reason is not None:
            dropped.append(SuppressedRecipient(address=address, reason=reason))
    return envelope.without(frozenset(s.address for s in dropped)), tuple(dropped)


def accept(
    request: MailRequest, *, suppressed: Suppressed, message_domain: str, idempotency_ttl_ms: int, now_ms: int
) -> Acceptance:
    """The records of this request: queued and due at once, or suppressed if every recipient is suppressed.

    `suppressed` holds those of `suppression_entries` that exist. `message_domain` is the right side of Message-ID.
    """
    envelope, dropped = drop_suppressed(request.content.envelope, suppressed)
    anyone = bool(envelope.recipients())
    content = request.content
    delivery = Delivery(
        delivery_id=request.delivery_id,
        source=request.source,
        lane=request.lane,
        # The status `accepted` is never stored: acceptance and the next move are one write.
        status=DeliveryStatus.QUEUED if anyone else DeliveryStatus.SUPPRESSED,
        payload_mode=request.payload_mode,
        template_id=content.template_id,
        locale=content.locale,
        locale_used=request.rendered.locale_used if request.rendered else None,
        locale_fallback_used=request.rendered.locale_fallback_used if request.rendered else None,
        envelope=envelope,
        suppressed_recipients=dropped,
        subject=None if request.lane is Lane.PRIORITY else _subject(request),
        idempotency_key=request.idempotency_key,
        parent_delivery_id=request.parent_delivery_id,
        attempt_count=1 if anyone else 0,
        next_attempt_at_ms=now_ms if anyone else None,
        failure=None if anyone else ALL_SUPPRESSED,
        message_id=f"{request.delivery_id}@{message_domain}",
        request_id=request.request_id,
        trace_id=request.trace_id,
        traceparent=request.traceparent,
        requested_at_ms=request.requested_at_ms,
        resent_by=request.resent_by,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        finished_at_ms=None if anyone else now_ms,
    )
    attempt = Attempt(
        delivery_id=request.delivery_id, attempt_no=1, status=AttemptStatus.SCHEDULED, scheduled_for_ms=now_ms
    )
    return Acceptance(
        delivery=delivery,
        content=content,
        rendered=request.rendered,
        attempt=attempt if anyone else None,
        idempotency=IdempotencyRecord(
            fingerprint=request.fingerprint,
            delivery_id=request.delivery_id,
            outcome=OUTCOME_SENT if anyone else OUTCOME_SUPPRESSED,
            expires_at_ms=now_ms + idempotency_ttl_ms,
        ),
    )


def _subject(request: MailRequest) -> str | None:
    return request.rendered.subject if request.rendered else request.content.subject
