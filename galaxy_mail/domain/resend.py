"""Resends a finished delivery as a new delivery, its clone. Pure.

The clone has the parent's requested envelope, content, rendered content and lane. Acceptance drops the recipients that
are suppressed now.
"""

from galaxy_mail.domain.acceptance import MailRequest
from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.fingerprint import fingerprint
from galaxy_mail.domain.ids import NO_TRACING, Tracing
from galaxy_mail.domain.records import Content, Delivery, RenderedContent, Source
from galaxy_mail.domain.states import TERMINAL


class ResendNotAllowed(GalaxyMailError):
    """The delivery can't be resent. Nothing was written."""


def resend_fingerprint(parent_delivery_id: str) -> str:
    """The fingerprint of a resend: only the parent counts, not the reason or the operator."""
    return fingerprint({"source": Source.OPERATOR_RESEND.value, "parent_delivery_id": parent_delivery_id})


def resend_request(
    parent: Delivery,
    content: Content | None,
    rendered: RenderedContent | None,
    *,
    delivery_id: str,
    idempotency_key: str,
    resent_by: str | None = None,
    tracing: Tracing = NO_TRACING,
) -> MailRequest:
    """The clone's request. Raises ResendNotAllowed unless the parent is terminal and its content exists."""
    if parent.status not in TERMINAL:
        raise ResendNotAllowed(
            f"Only a delivery in a terminal state can be resent; this one is {parent.status}."
        )
    if content is None:
        raise ResendNotAllowed("The content of this delivery has expired.")
    return MailRequest(
        delivery_id=delivery_id,
        source=Source.OPERATOR_RESEND,
        lane=parent.lane,
        payload_mode=parent.payload_mode,
        idempotency_key=idempotency_key,
        fingerprint=resend_fingerprint(parent.delivery_id),
        content=content,
        rendered=rendered,
        parent_delivery_id=parent.delivery_id,
        resent_by=resent_by,
        request_id=tracing.request_id,
        trace_id=tracing.trace_id,
        traceparent=tracing.traceparent,
    )
