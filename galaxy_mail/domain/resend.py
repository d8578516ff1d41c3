"""Sending a finished delivery again, as a new one. Pure.

The clone starts from what the parent was asked for: its original envelope (who is suppressed now is dropped by
acceptance), its content, what was rendered of it, and its lane.
"""

from galaxy_mail.domain.acceptance import MailRequest
from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.fingerprint import fingerprint
from galaxy_mail.domain.records import Content, Delivery, RenderedContent, Source
from galaxy_mail.domain.states import TERMINAL


class ResendNotAllowed(GalaxyMailError):
    """This delivery can't be sent again as it is. Nothing was written."""


def resend_fingerprint(parent_delivery_id: str) -> str:
    """What an idempotency key of a resend stands for: the parent, and not why or by whom it is sent again."""
    return fingerprint({"source": Source.OPERATOR_RESEND.value, "parent_delivery_id": parent_delivery_id})


def resend_request(
    parent: Delivery,
    content: Content | None,
    rendered: RenderedContent | None,
    *,
    delivery_id: str,
    idempotency_key: str,
    resent_by: str | None = None,
    request_id: str | None = None,
    trace_id: str | None = None,
    traceparent: str | None = None,
) -> MailRequest:
    """The clone as a request. Raises ResendNotAllowed unless the parent has ended and its content is still there."""
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
        request_id=request_id,
        trace_id=trace_id,
        traceparent=traceparent,
    )
