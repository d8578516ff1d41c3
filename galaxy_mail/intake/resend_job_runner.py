"""Works on resend jobs: sends all deliveries that match a filter again, some at each step."""

import secrets
from typing import Final

import structlog
from msgspec.structs import replace

from galaxy_mail.domain.records import Delivery, Failure, Json, Source
from galaxy_mail.domain.resend import ResendNotAllowed
from galaxy_mail.domain.resend_job import JobStatus, ResendJob, ResendJobRequest, new_job
from galaxy_mail.intake.intake import IdempotencyConflict
from galaxy_mail.intake.resending import Resending, UnknownParent
from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.links.errors import RedisFailure
from galaxy_mail.storage.operations.job_store import ResendJobStore, SavedJob
from galaxy_mail.storage.reader import Filter, Page, Position, Reader

log = structlog.get_logger()

OWNED_FOR_MS: Final = 15_000  # a process that saves nothing for so long has lost its jobs
PAGE: Final = 200
DRY_PAGES: Final = 10  # counted in one step


class ResendJobRunner:
    """Starts jobs, and works on those that no other process has in hand."""

    def __init__(self, reader: Reader, resending: Resending, jobs: ResendJobStore, clock: Clock) -> None:
        self._reader = reader
        self._resending = resending
        self._jobs = jobs
        self._clock = clock
        self._owner = secrets.token_hex(8)

    async def start(
        self, request: ResendJobRequest, asked: Json, *, idempotency_key: str
    ) -> tuple[ResendJob, bool]:
        """The job, and whether an earlier request made it. Raises IdempotencyConflict, RedisFailure.

        `asked` is the request as it came; repeats are compared by it.
        """
        job = new_job(request, asked, idempotency_key=idempotency_key, now_ms=self._clock.now_ms())
        existing = await self._jobs.create(job)
        if existing is None:
            return job, False
        if existing.job.fingerprint != job.fingerprint:
            raise IdempotencyConflict("this idempotency key was used for another job")
        return existing.job, True

    async def get(self, job_id: str) -> ResendJob | None:
        """The job, or None where there is none. Raises RedisFailure."""
        return await self._jobs.get(job_id)

    async def jobs_to_work_on(self) -> list[SavedJob]:
        """Unfinished jobs that no other process has in hand. Raises RedisFailure."""
        now_ms = self._clock.now_ms()
        return [
            saved
            for saved in await self._jobs.unfinished()
            if saved.job.may_be_worked_on_by(self._owner, now_ms)
        ]

    async def work_on(self, saved: SavedJob, *, at_most: int) -> ResendJob | None:
        """Resends up to `at_most` of the job's deliveries, or counts them, and saves the progress. Raises RedisFailure.

        None: another process has the job now. After an exception the job continues from where it was saved last; the
        idempotency keys recognise what was resent since.
        """
        owned: SavedJob | None = saved
        if not saved.job.is_owned_by(self._owner, self._clock.now_ms() + OWNED_FOR_MS // 2):
            owned = await self._save(saved.job, instead_of=saved)
        if owned is None:  # two processes saw an unowned job, and the other one took it
            return None
        try:
            job = await (
                self._count(owned.job) if saved.job.dry_run else self._resend_some(owned.job, at_most)
            )
        except RedisFailure:
            raise
        except Exception:  # a broken job must not stop the others, or the service
            log.exception("resend_job_failed", job_id=saved.job.job_id)
            failure = Failure(code="internal_error", summary="an unexpected error; the log has more")
            job = owned.job.finished(JobStatus.FAILED, at_ms=self._clock.now_ms(), failure=failure)
        done = await self._save(job, instead_of=owned)
        return None if done is None else done.job

    async def _save(self, job: ResendJob, *, instead_of: SavedJob) -> SavedJob | None:
        now_ms = self._clock.now_ms()
        if job.running:
            job = replace(job, owner=self._owner, owned_until_ms=now_ms + OWNED_FOR_MS, updated_at_ms=now_ms)
        return await self._jobs.save(job, instead_of=instead_of)

    async def _count(self, job: ResendJob) -> ResendJob:
        for _ in range(DRY_PAGES):
            page = await self._page(job, PAGE)
            job = self._advanced(job, page, matched=len(await self._due(job, page.items)))
            if not job.running:
                break
        return job

    async def _resend_some(self, job: ResendJob, at_most: int) -> ResendJob:
        page = await self._page(job, min(at_most, PAGE))
        due = await self._due(job, page.items)
        matched = resent = 0
        for delivery in due:
            matched += 1
            resent += await self._resend_for(job, delivery)
            if delivery is not due[-1] and not job.is_owned_by(
                self._owner, self._clock.now_ms() + OWNED_FOR_MS // 2
            ):
                # Redis is slow. Saved only at the page's end, the job would time out and go to another process each time.
                page = Page([], Position(delivery.created_at_ms, delivery.delivery_id))
                break
        return self._advanced(job, page, matched=matched, resent=resent, skipped=matched - resent)

    async def _due(self, job: ResendJob, deliveries: list[Delivery]) -> list[Delivery]:
        """Those that were not resent yet: a second job with the same filter must not mail everybody twice."""
        children = await self._reader.children([delivery.delivery_id for delivery in deliveries])
        due: list[Delivery] = []
        for delivery, clones in zip(deliveries, children, strict=True):
            key = job.idempotency_key(delivery.delivery_id)
            # A clone that this job made before a crash counts as its own work.
            if not clones or await self._reader.idempotency(Source.OPERATOR_RESEND, key) is not None:
                due.append(delivery)
        return due

    async def _resend_for(self, job: ResendJob, delivery: Delivery) -> bool:
        try:
            await self._resending.resend(
                delivery.delivery_id,
                idempotency_key=job.idempotency_key(delivery.delivery_id),
                resent_by=job.created_by,
            )
        except (UnknownParent, ResendNotAllowed, IdempotencyConflict) as refusal:
            log.info(
                "resend_skipped", job_id=job.job_id, delivery_id=delivery.delivery_id, reason=str(refusal)
            )
            return False
        return True

    async def _page(self, job: ResendJob, limit: int) -> Page[Delivery]:
        which = job.filter
        return await self._reader.deliveries(
            Filter(
                recipient=which.recipient,
                status=which.status,
                source=which.source,
                template_id=which.template_id,
                created_from_ms=which.created_from_ms,
                created_to_ms=job.created_to_ms,
            ),
            limit=limit,
            after=None
            if job.reached_at_ms is None or job.reached_id is None
            else Position(job.reached_at_ms, job.reached_id),
            oldest_first=True,
        )

    def _advanced(
        self, job: ResendJob, page: Page[Delivery], *, matched: int, resent: int = 0, skipped: int = 0
    ) -> ResendJob:
        job = replace(
            job, matched=job.matched + matched, resent=job.resent + resent, skipped=job.skipped + skipped
        )
        if page.next is None:
            return job.finished(JobStatus.DONE, at_ms=self._clock.now_ms())
        return replace(job, reached_at_ms=page.next.at_ms, reached_id=page.next.member)
