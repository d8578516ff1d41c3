"""Requests, deliveries and attempts as tests need them: valid, and different only where a test says so."""

from typing import Any, Final

from msgspec.structs import replace

from galaxy_mail.domain.acceptance import Acceptance, MailRequest, Suppressed, accept
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Content,
    Delivery,
    Envelope,
    Failure,
    Lane,
    PayloadMode,
    Result,
    SendResult,
    Source,
)

NOW_MS: Final = 1_732_500_000_123
DAY_MS: Final = 86_400_000
FAILURE: Final = Failure(code="relay_busy", summary="come back later")

ACCEPTED: Final = SendResult(
    result=Result.ACCEPTED, status=AttemptStatus.PROVIDER_ACCEPTED, provider_code="250 2.0.0"
)
SUPPRESSED: Final = SendResult(
    result=Result.SUPPRESSED, status=AttemptStatus.PROVIDER_REJECTED, failure=FAILURE
)
REFUSED: Final = SendResult(
    result=Result.PERMANENT_FAILURE,
    status=AttemptStatus.PROVIDER_REJECTED,
    failure=FAILURE,
    provider_code="550 5.1.1",
)
DEFERRED: Final = SendResult(
    result=Result.TRANSIENT_FAILURE,
    status=AttemptStatus.PROVIDER_REJECTED,
    failure=FAILURE,
    provider_code="451 4.3.0",
)
HUNG_UP: Final = SendResult(
    result=Result.TRANSIENT_FAILURE, status=AttemptStatus.TRANSPORT_FAILED, failure=FAILURE
)
SILENT: Final = SendResult(result=Result.TRANSIENT_FAILURE, status=AttemptStatus.TIMED_OUT, failure=FAILURE)
UNKNOWN: Final = replace(SILENT, outcome_unknown=True)


def request_of(name: str = "d1", /, **changes: Any) -> MailRequest:
    """A command with ready content to one recipient."""
    to = changes.pop("to", (f"{name}@example.org",))
    content = changes.pop(
        "content",
        Content(envelope=Envelope(to=to), subject=f"Subject of {name}", text_body=f"Text of {name}"),
    )
    request = MailRequest(
        delivery_id=name,
        source=Source.NOTIFICATION,
        lane=Lane.NORMAL,
        payload_mode=PayloadMode.RENDERED,
        idempotency_key=f"key of {name}",
        fingerprint=f"fingerprint of {name}",
        content=content,
    )
    return replace(request, **changes)


def login_code_of(name: str = "c1", /, **changes: Any) -> MailRequest:
    """A login code: the priority lane, rendered from a template."""
    request = MailRequest(
        delivery_id=name,
        source=Source.AUTHSESSION,
        lane=Lane.PRIORITY,
        payload_mode=PayloadMode.TEMPLATE,
        idempotency_key=f"key of {name}",
        fingerprint=f"fingerprint of {name}",
        content=Content(
            envelope=Envelope(to=(f"{name}@example.org",)),
            template_id="auth.login_code",
            locale="en",
            variables={"code": "042137"},
        ),
    )
    return replace(request, **changes)


def acceptance_of(
    request: MailRequest | None = None, *, suppressed: Suppressed | None = None, now_ms: int = NOW_MS
) -> Acceptance:
    return accept(
        request_of() if request is None else request,
        suppressed={} if suppressed is None else suppressed,
        message_domain="mail.example",
        idempotency_ttl_ms=7 * DAY_MS,
        now_ms=now_ms,
    )


def delivery_of(request: MailRequest | None = None) -> Delivery:
    """Queued, and due at once."""
    return acceptance_of(request).delivery


def attempt_of(request: MailRequest | None = None) -> Attempt:
    """Its first attempt, scheduled."""
    attempt = acceptance_of(request).attempt
    assert attempt is not None
    return attempt
