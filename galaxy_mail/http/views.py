"""Records as the API shows them: with every member of the contract, `null` for absent values.

Stored records omit members that have their default. A record with exactly the contract's members needs only `asdict`.
"""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import asdict

from galaxy_mail.domain.holds import Hold
from galaxy_mail.domain.masking import mask_fields
from galaxy_mail.domain.records import Attempt, Delivery, MalformedCommand
from galaxy_mail.domain.resend_job import ResendJob

View = dict[str, Any]


def delivery_view(delivery: Delivery, resent_as: Sequence[str]) -> View:
    return {
        "delivery_id": delivery.delivery_id,
        "source": delivery.source,
        "status": delivery.status,
        "payload_mode": delivery.payload_mode,
        "template_id": delivery.template_id,
        "locale": delivery.locale,
        "locale_used": delivery.locale_used,
        "locale_fallback_used": delivery.locale_fallback_used,
        "envelope": asdict(delivery.envelope),
        "suppressed_recipients": delivery.suppressed_recipients,
        # The subject may hold a login code, also in a resend.
        "subject": None if delivery.secret else delivery.subject,
        "idempotency_key": delivery.idempotency_key,
        "parent_delivery_id": delivery.parent_delivery_id,
        "resent_as": list(resent_as),
        "attempt_count": delivery.attempts_made,
        "next_attempt_at_ms": delivery.next_attempt_at_ms,
        "failure": delivery.failure,
        "message_id": delivery.message_id,
        "request_id": delivery.request_id,
        "trace_id": delivery.trace_id,
        "created_at_ms": delivery.created_at_ms,
        "updated_at_ms": delivery.updated_at_ms,
        "rendered_at_ms": delivery.rendered_at_ms,
        "finished_at_ms": delivery.finished_at_ms,
    }


def attempt_view(attempt: Attempt) -> View:
    view = asdict(attempt)
    del view["delivery_id"]
    return view


def malformed_command_view(command: MalformedCommand) -> View:
    return asdict(command) | {"fields": mask_fields(command.fields)}


def hold_view(hold: Hold) -> View:
    view = asdict(hold)
    del view["pause_ms"]
    return view


def resend_job_view(job: ResendJob) -> View:
    return {
        "job_id": job.job_id,
        "status": job.status,
        "dry_run": job.dry_run,
        "filter": job.filter,
        "reason": job.reason,
        "created_by": job.created_by,
        "per_second": job.per_second,
        "matched": job.matched,
        "resent": job.resent,
        "skipped": job.skipped,
        "failure": job.failure,
        "created_at_ms": job.created_at_ms,
        "updated_at_ms": job.updated_at_ms,
        "finished_at_ms": job.finished_at_ms,
    }
