"""A resend job: the deliveries to resend, the pace and the progress. Pure.

One process at a time works on a job. The record names this owner, and it is replaced only if it has not changed since it
was read. If two processes work on a job nevertheless, both use the same idempotency key for each delivery.
"""

from enum import StrEnum
from hashlib import sha256
from typing import Final

from msgspec.structs import replace

from galaxy_mail.domain.fingerprint import fingerprint
from galaxy_mail.domain.ids import new_delivery_id
from galaxy_mail.domain.records import DeliveryStatus, DomainRecord, Failure, Json, Source

PER_SECOND_DEFAULT: Final = 20
PER_SECOND_MAX: Final = 1_000


class JobStatus(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class ResendFilter(DomainRecord, frozen=True, kw_only=True):
    """Selects the deliveries in this terminal state that meet the other conditions."""

    status: DeliveryStatus
    recipient: str | None = None
    source: Source | None = None
    template_id: str | None = None
    created_from_ms: int | None = None
    created_to_ms: int | None = None


class ResendJobRequest(DomainRecord, frozen=True, kw_only=True):
    """An operator's request for a resend job."""

    filter: ResendFilter
    reason: str
    created_by: str | None = None
    dry_run: bool = False
    per_second: int = PER_SECOND_DEFAULT


class ResendJob(DomainRecord, frozen=True, kw_only=True):
    """The stored job."""

    job_id: str
    fingerprint: str  # of the request, to distinguish a repeat from another request with the same key
    status: JobStatus
    dry_run: bool = False
    filter: ResendFilter
    reason: str
    created_by: str | None = None
    per_second: int
    matched: int = 0  # deliveries found so far that were not resent before
    resent: int = 0
    skipped: int = 0
    failure: Failure | None = None
    reached_at_ms: int | None = None  # the created_at_ms of the last processed delivery, ...
    reached_id: str | None = None  # ... and its id
    owner: str | None = None
    owned_until_ms: int = 0
    created_at_ms: int
    updated_at_ms: int
    finished_at_ms: int | None = None

    @property
    def running(self) -> bool:
        return self.status is JobStatus.RUNNING

    @property
    def created_to_ms(self) -> int:
        """The upper limit of creation times. It excludes deliveries younger than the job: they may be its own clones."""
        to_ms = self.filter.created_to_ms
        return self.created_at_ms if to_ms is None else min(to_ms, self.created_at_ms)

    def idempotency_key(self, delivery_id: str) -> str:
        """The idempotency key of this delivery's clone: a repeated resend makes no second clone."""
        return f"job:{self.job_id}:{delivery_id}"

    def may_be_worked_on_by(self, owner: str, now_ms: int) -> bool:
        return self.running and (self.owner == owner or self.owned_until_ms <= now_ms)

    def is_owned_by(self, owner: str, at_ms: int) -> bool:
        """Whether the ownership lasts until `at_ms` without a renewal."""
        return self.owner == owner and self.owned_until_ms > at_ms

    def finished(self, status: JobStatus, *, at_ms: int, failure: Failure | None = None) -> "ResendJob":
        return replace(
            self,
            status=status,
            failure=failure,
            owner=None,
            owned_until_ms=0,
            updated_at_ms=at_ms,
            finished_at_ms=at_ms,
        )


def job_id_of(idempotency_key: str) -> str:
    """The job id, derived from the key, so that a repeat finds the job without another record."""
    digest = sha256(f"resend job {idempotency_key}".encode()).digest()
    return new_delivery_id(int.from_bytes(digest[:6], "big"), digest[6:16])


def new_job(request: ResendJobRequest, body: Json, *, idempotency_key: str, now_ms: int) -> ResendJob:
    """The job of this request. `body` is the decoded request, for the fingerprint."""
    return ResendJob(
        job_id=job_id_of(idempotency_key),
        fingerprint=fingerprint(body),
        status=JobStatus.RUNNING,
        dry_run=request.dry_run,
        filter=request.filter,
        reason=request.reason,
        created_by=request.created_by,
        per_second=request.per_second,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )
