"""A resend job: which deliveries are sent again, how fast, and how far it is. Pure.

A job is worked on by one process at a time. Who that is stands in the record, which is only replaced as it was read; and
should two work on it all the same, they give each delivery the same idempotency key.
"""

from enum import StrEnum
from hashlib import sha256
from typing import Final

from msgspec.structs import replace

from galaxy_mail.domain.fingerprint import fingerprint
from galaxy_mail.domain.ids import new_delivery_id
from galaxy_mail.domain.records import DeliveryStatus, Failure, Json, Record, Source

PER_SECOND_DEFAULT: Final = 20
PER_SECOND_MAX: Final = 1_000


class JobStatus(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class ResendFilter(Record, frozen=True, kw_only=True):
    """Which deliveries: those in this terminal state for which the other conditions hold, too."""

    status: DeliveryStatus
    recipient: str | None = None
    source: Source | None = None
    template_id: str | None = None
    created_from_ms: int | None = None
    created_to_ms: int | None = None


class ResendJobRequest(Record, frozen=True, kw_only=True):
    """What an operator asks for."""

    filter: ResendFilter
    reason: str
    created_by: str | None = None
    dry_run: bool = False
    per_second: int = PER_SECOND_DEFAULT


class ResendJob(Record, frozen=True, kw_only=True):
    """The job as it is stored."""

    job_id: str
    fingerprint: str  # of the request, to tell a repeat from another request with the same key
    status: JobStatus
    dry_run: bool = False
    filter: ResendFilter
    reason: str
    created_by: str | None = None
    per_second: int
    matched: int = 0  # deliveries found so far that nobody had sent again
    resent: int = 0
    skipped: int = 0
    failure: Failure | None = None
    reached_at_ms: int | None = None  # the created_at_ms of the last delivery that needs no more work, ...
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
        """No delivery is younger than the job: its own clones could otherwise be what it resends next."""
        to_ms = self.filter.created_to_ms
        return self.created_at_ms if to_ms is None else min(to_ms, self.created_at_ms)

    def idempotency_key(self, delivery_id: str) -> str:
        """One clone of each delivery, however often the job comes to it."""
        return f"job:{self.job_id}:{delivery_id}"

    def may_be_worked_on_by(self, owner: str, now_ms: int) -> bool:
        return self.running and (self.owner == owner or self.owned_until_ms <= now_ms)

    def is_owned_by(self, owner: str, at_ms: int) -> bool:
        """Whether it still is then, when nothing is saved until then."""
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
    """Made from the key, so that a repeat finds the job without another record that says which it was."""
    digest = sha256(f"resend job {idempotency_key}".encode()).digest()
    return new_delivery_id(int.from_bytes(digest[:6], "big"), digest[6:16])


def new_job(request: ResendJobRequest, asked: Json, *, idempotency_key: str, now_ms: int) -> ResendJob:
    """The job of this request; `asked` is the request as it came, for its fingerprint."""
    return ResendJob(
        job_id=job_id_of(idempotency_key),
        fingerprint=fingerprint(asked),
        status=JobStatus.RUNNING,
        dry_run=request.dry_run,
        filter=request.filter,
        reason=request.reason,
        created_by=request.created_by,
        per_second=request.per_second,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )
