"""What operators see of records: every member of the contract, `null` where it does not apply.

Records are stored without the members that have their default; here nothing is left out.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from galaxy_mail.domain.holds import Hold
from galaxy_mail.domain.masking import mask_fields
from galaxy_mail.domain.records import (
    Attempt,
    DeadLetter,
    Delivery,
    Envelope,
    Failure,
    MalformedCommand,
    RenderedContent,
    Suppression,
)
from galaxy_mail.domain.resend_job import ResendJob
from galaxy_mail.rendering.catalog import TemplateInfo

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
        "envelope": _envelope(delivery.envelope),
        "suppressed_recipients": [
            {"address": one.address, "reason": one.reason} for one in delivery.suppressed_recipients
        ],
        # A login code may stand in its subject, and in that of a resend.
        "subject": None if delivery.secret else delivery.subject,
        "idempotency_key": delivery.idempotency_key,
        "parent_delivery_id": delivery.parent_delivery_id,
        "resent_as": list(resent_as),
        "attempt_count": delivery.attempt_count,
        "next_attempt_at_ms": delivery.next_attempt_at_ms,
        "failure": _failure(delivery.failure),
        "message_id": delivery.message_id,
        "request_id": delivery.request_id,
        "trace_id": delivery.trace_id,
        "created_at_ms": delivery.created_at_ms,
        "updated_at_ms": delivery.updated_at_ms,
        "rendered_at_ms": delivery.rendered_at_ms,
        "finished_at_ms": delivery.finished_at_ms,
    }


def attempt_view(attempt: Attempt) -> View:
    return {
        "attempt_no": attempt.attempt_no,
        "status": attempt.status,
        "scheduled_for_ms": attempt.scheduled_for_ms,
        "started_at_ms": attempt.started_at_ms,
        "finished_at_ms": attempt.finished_at_ms,
        "result": attempt.result,
        "failure": _failure(attempt.failure),
        "provider": attempt.provider,
        "provider_code": attempt.provider_code,
        "refused_recipients": [
            {"address": one.address, "provider_code": one.provider_code, "summary": one.summary}
            for one in attempt.refused_recipients
        ],
        "outcome_unknown": attempt.outcome_unknown,
    }


def dead_letter_view(dead_letter: DeadLetter) -> View:
    return {
        "delivery_id": dead_letter.delivery_id,
        "reason": dead_letter.reason,
        "failure": _failure(dead_letter.failure),
        "attempt_count": dead_letter.attempt_count,
        "created_at_ms": dead_letter.created_at_ms,
    }


def malformed_command_view(command: MalformedCommand) -> View:
    return {
        "entry_id": command.entry_id,
        "fields": mask_fields(command.fields),
        "failure_code": command.failure_code,
        "message": command.message,
        "recorded_at_ms": command.recorded_at_ms,
    }


def suppression_view(suppression: Suppression) -> View:
    return {
        "address": suppression.address,
        "reason": suppression.reason,
        "created_by": suppression.created_by,
        "created_at_ms": suppression.created_at_ms,
    }


def hold_view(hold: Hold) -> View:
    return {
        "scope": hold.scope,
        "cause": hold.cause,
        "reason": hold.reason,
        "failure": _failure(hold.failure),
        "since_ms": hold.since_ms,
        "until_ms": hold.until_ms,
        "created_by": hold.created_by,
    }


def template_view(template: TemplateInfo) -> View:
    return {
        "template_id": template.template_id,
        "locales": template.locales,
        "required_variables": template.required_variables,
        "parts": template.parts,
    }


def preview_view(content: RenderedContent) -> View:
    return {
        "locale_used": content.locale_used,
        "locale_fallback_used": content.locale_fallback_used,
        "subject": content.subject,
        "text_body": content.text_body,
        "html_body": content.html_body,
    }


def resend_job_view(job: ResendJob) -> View:
    return {
        "job_id": job.job_id,
        "status": job.status,
        "dry_run": job.dry_run,
        "filter": msgspec.to_builtins(job.filter),
        "reason": job.reason,
        "created_by": job.created_by,
        "per_second": job.per_second,
        "matched": job.matched,
        "resent": job.resent,
        "skipped": job.skipped,
        "failure": _failure(job.failure),
        "created_at_ms": job.created_at_ms,
        "updated_at_ms": job.updated_at_ms,
        "finished_at_ms": job.finished_at_ms,
    }


def _envelope(envelope: Envelope) -> View:
    return {
        "to": envelope.to,
        "cc": envelope.cc,
        "bcc": envelope.bcc,
        "reply_to": envelope.reply_to,
    }


def _failure(failure: Failure | None) -> View | None:
    return None if failure is None else {"code": failure.code, "summary": failure.summary}
