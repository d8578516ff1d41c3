"""What a clone is made of, and when none is made."""

import pytest
from msgspec.structs import replace

from galaxy_mail.domain.ids import Tracing
from galaxy_mail.domain.records import (
    Content,
    Delivery,
    DeliveryStatus,
    Envelope,
    Lane,
    PayloadMode,
    RenderedContent,
    Source,
)
from galaxy_mail.domain.resend import ResendNotAllowed, resend_fingerprint, resend_request
from galaxy_mail.domain.states import TERMINAL

ORIGINAL = Envelope(to=("ann@example.org", "bob@example.org"))
CONTENT = Content(envelope=ORIGINAL, template_id="auth.login_code", locale="en", variables={"code": "1"})
RENDERED = RenderedContent(subject="s", text_body="t", locale_used="en", locale_fallback_used=False)
PARENT = Delivery(
    delivery_id="d1",
    source=Source.AUTHSESSION,
    lane=Lane.PRIORITY,
    status=DeliveryStatus.FAILED,
    payload_mode=PayloadMode.TEMPLATE,
    envelope=Envelope(to=("ann@example.org",)),  # bob was suppressed
    idempotency_key="k1",
    message_id="d1@mail.test",
    request_id="of the parent",
    created_at_ms=1,
    updated_at_ms=2,
)


@pytest.mark.parametrize("status", list(DeliveryStatus))
def test_only_what_has_ended_is_resent(status: DeliveryStatus) -> None:
    parent = replace(PARENT, status=status)
    if status in TERMINAL:
        clone = resend_request(parent, CONTENT, None, delivery_id="d2", idempotency_key="k")
        assert clone.parent_delivery_id == "d1"
    else:
        with pytest.raises(ResendNotAllowed, match=f"this one is {status}"):
            resend_request(parent, CONTENT, None, delivery_id="d2", idempotency_key="k")


def test_without_content_there_is_nothing_to_resend() -> None:
    with pytest.raises(ResendNotAllowed, match="expired"):
        resend_request(PARENT, None, RENDERED, delivery_id="d2", idempotency_key="k")


def test_a_clone_starts_from_what_the_parent_was_asked_for() -> None:
    clone = resend_request(
        PARENT,
        CONTENT,
        RENDERED,
        delivery_id="d2",
        idempotency_key="k",
        resent_by="ann",
        tracing=Tracing(request_id="r"),
    )
    assert (clone.source, clone.parent_delivery_id, clone.resent_by) == (Source.OPERATOR_RESEND, "d1", "ann")
    assert (clone.lane, clone.payload_mode) == (Lane.PRIORITY, PayloadMode.TEMPLATE)
    assert clone.content.envelope == ORIGINAL
    assert clone.rendered == RENDERED
    assert clone.request_id == "r"


def test_a_key_stands_for_a_parent() -> None:
    assert resend_fingerprint("d1") == resend_fingerprint("d1")
    assert resend_fingerprint("d1") != resend_fingerprint("d2")
