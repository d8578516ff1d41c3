"""What is shown has the contract's shape, whether a record is as empty or as full as can be, and holds no secret."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import asdict

from galaxy_mail.domain import records as rec
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    DeadLetter,
    Delivery,
    DeliveryStatus,
    Envelope,
    Failure,
    Lane,
    MalformedCommand,
    PayloadMode,
    Source,
    Suppression,
)
from galaxy_mail.domain.resend_job import JobStatus, ResendFilter, ResendJob
from galaxy_mail.http import views
from tests.contracts.documents import openapi, validator

FAILURE = Failure(code="permanent_reply", summary="the relay answered 550 5.1.1")
EMPTY_DELIVERY = Delivery(
    delivery_id="d1",
    source=Source.NOTIFICATION,
    status=DeliveryStatus.QUEUED,
    payload_mode=PayloadMode.RENDERED,
    envelope=Envelope(to=("ann@example.org",)),
    idempotency_key="k1",
    message_id="d1@mail.test",
    created_at_ms=1,
    updated_at_ms=2,
)
FULL_DELIVERY = Delivery(
    delivery_id="d2",
    source=Source.OPERATOR_RESEND,
    status=DeliveryStatus.DEAD_LETTER,
    payload_mode=PayloadMode.TEMPLATE,
    template_id="order.shipped",
    locale="fr-CA",
    locale_used="fr",
    locale_fallback_used=True,
    envelope=Envelope(
        to=("ann@example.org",),
        cc=("bob@example.org",),
        bcc=("eve@example.org",),
        reply_to=("help@example.org",),
    ),
    suppressed_recipients=(rec.SuppressedRecipient(address="dan@example.org", reason="complained"),),
    subject="Your order",
    idempotency_key="k2",
    parent_delivery_id="d1",
    attempt_count=4,
    retries_used=3,
    begun_losses=1,
    next_attempt_at_ms=9,
    failure=FAILURE,
    message_id="d2@mail.test",
    request_id="r",
    trace_id="t",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    requested_at_ms=1,
    resent_by="ann",
    created_at_ms=1,
    updated_at_ms=2,
    rendered_at_ms=3,
    finished_at_ms=4,
)
ATTEMPT = Attempt(delivery_id="d1", attempt_no=1, status=AttemptStatus.SCHEDULED, scheduled_for_ms=1)
DEAD_LETTER = DeadLetter(delivery_id="d1", reason="crash_loop", attempt_count=1, created_at_ms=1)
SUPPRESSION = Suppression(address="@example.org", reason="x", created_at_ms=1)
JOB = ResendJob(
    job_id="01je50a7gkq3v9d2xw8m4r6tzn",
    fingerprint="f",
    status=JobStatus.RUNNING,
    filter=ResendFilter(status=DeliveryStatus.FAILED),
    reason="x",
    per_second=5,
    created_at_ms=1,
    updated_at_ms=2,
)

SHOWN: list[tuple[str, views.View]] = [
    ("Delivery", views.delivery_view(EMPTY_DELIVERY, [])),
    ("Delivery", views.delivery_view(FULL_DELIVERY, ["d3", "d4"])),
    ("Attempt", views.attempt_view(ATTEMPT)),
    (
        "Attempt",
        views.attempt_view(
            msgspec.structs.replace(
                ATTEMPT,
                status=AttemptStatus.PROVIDER_REJECTED,
                started_at_ms=2,
                finished_at_ms=3,
                result=rec.Result.PERMANENT_FAILURE,
                failure=FAILURE,
                provider="smtp",
                provider_code="550 5.1.1",
                refused_recipients=(
                    rec.RefusedRecipient(address="ann@example.org", provider_code="550", summary="no such user"),
                ),
                outcome_unknown=True,
            )
        ),
    ),
    ("DeadLetter", asdict(DEAD_LETTER)),
    ("DeadLetter", asdict(msgspec.structs.replace(DEAD_LETTER, failure=FAILURE))),
    ("Suppression", asdict(SUPPRESSION)),
    ("Suppression", asdict(msgspec.structs.replace(SUPPRESSION, created_by="ann"))),
    ("ResendJob", views.resend_job_view(JOB)),
    (
        "ResendJob",
        views.resend_job_view(
            msgspec.structs.replace(
                JOB.finished(JobStatus.FAILED, at_ms=3, failure=FAILURE),
                created_by="ann",
                dry_run=True,
                filter=ResendFilter(
                    status=DeliveryStatus.DEAD_LETTER,
                    recipient="ann@example.org",
                    source=Source.AUTHSESSION,
                    template_id="auth.login_code",
                    created_from_ms=1,
                    created_to_ms=2,
                ),
            )
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "view"), SHOWN, ids=lambda value: value if isinstance(value, str) else "")
def test_a_view_has_the_contracts_shape(schema: str, view: views.View) -> None:
    shown = msgspec.json.decode(msgspec.json.encode(view))
    validator(openapi(), {"$ref": f"#/components/schemas/{schema}"}).validate(shown)


def test_every_member_of_a_full_delivery_is_filled() -> None:
    view = views.delivery_view(FULL_DELIVERY, ["d3"])
    assert [name for name, value in view.items() if value in (None, [], ())] == []


def test_the_subject_of_a_login_code_is_shown_to_nobody() -> None:
    secret = msgspec.structs.replace(FULL_DELIVERY, lane=Lane.PRIORITY, subject="493027 is your code")
    assert views.delivery_view(secret, [])["subject"] is None
    assert views.delivery_view(FULL_DELIVERY, [])["subject"] == "Your order"


def test_secrets_of_a_malformed_command_are_masked() -> None:
    command = MalformedCommand(
        entry_id="1-0",
        fields={"payload_json": '{"variables":{"code":"493027","name":"Ann"}}'},
        failure_code="invalid_payload",
        message="x",
        recorded_at_ms=1,
    )
    view = views.malformed_command_view(command)
    assert view["fields"] == {"payload_json": '{"variables":{"code":"***","name":"Ann"}}'}
    validator(openapi(), {"$ref": "#/components/schemas/MalformedCommand"}).validate(view)


@pytest.mark.parametrize(
    ("record", "view"),
    [
        (Attempt, views.attempt_view),
        (DeadLetter, asdict),
        (MalformedCommand, views.malformed_command_view),
        (Suppression, asdict),
    ],
)
def test_no_view_lacks_a_member(record: type[msgspec.Struct], view: Callable[[Any], views.View]) -> None:
    """A member that is added to a record is shown, or left out on purpose in the contract's check."""
    schema = openapi()["components"]["schemas"][record.__name__]
    samples: dict[type, Any] = {
        Attempt: ATTEMPT,
        DeadLetter: DeadLetter(delivery_id="d", reason="crash_loop", attempt_count=1, created_at_ms=1),
        MalformedCommand: MalformedCommand(
            entry_id="1-0", fields={}, failure_code="x", message="x", recorded_at_ms=1
        ),
        Suppression: Suppression(address="@a.org", reason="x", created_at_ms=1),
    }
    assert set(view(samples[record])) == set(schema["properties"])
