"""Resend jobs in Redis."""

from typing import Final, cast

from msgspec import DecodeError, Struct

from galaxy_mail.domain.records import decode, encode
from galaxy_mail.domain.resend_job import ResendJob
from galaxy_mail.storage.links.protocol import Call
from galaxy_mail.storage.links.script import script
from galaxy_mail.storage.operations.answers import Answer, answered
from galaxy_mail.storage.operations.store import Store
from galaxy_mail.storage.records import keys as k

SAVE_JOB: Final = script("save_job")

UNFINISHED_MAX: Final = 100  # jobs that are looked at; more wait until these are finished


class SavedJob(Struct, frozen=True):
    """A job with the bytes that stand for it, which the next save replaces."""

    job: ResendJob
    raw: bytes


class ResendJobStore:
    """Jobs by id. A finished one is kept as long as a delivery is."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def now_ms(self) -> int:
        """Epoch milliseconds on Redis' clock."""
        return self._store.now_ms()

    async def create(self, job: ResendJob) -> SavedJob | None:
        """Makes it durable; the one that has its id already, or None where that is new. Raises RedisTrouble."""
        self._store.epoch.refuse_if_replaced()
        [reply] = await self._store.link.accept_pipeline([self._save_call(job, b"")])
        answer, *rest = cast("list[int | bytes]", answered(reply))
        if answer == Answer.DONE:
            return None
        raw = cast("bytes", rest[0])
        return SavedJob(decode(raw, ResendJob), raw)

    async def save(self, job: ResendJob, *, instead_of: SavedJob) -> SavedJob | None:
        """Replaces that record; None where another one stands there by now. Raises RedisTrouble."""
        [reply] = await self._store.link.pipeline([self._save_call(job, instead_of.raw)])
        [answer, *_] = cast("list[int | bytes]", answered(reply))
        return SavedJob(job, encode(job)) if answer == Answer.DONE else None

    async def get(self, job_id: str) -> ResendJob | None:
        """The job, if it exists and can be read. Raises RedisTrouble."""
        [reply] = await self._store.link.pipeline([("GET", k.job(job_id))])
        saved = _saved(cast("bytes | None", answered(reply)))
        return None if saved is None else saved.job

    async def unfinished(self) -> list[SavedJob]:
        """Jobs that still have work, oldest first. Raises RedisTrouble."""
        [reply] = await self._store.link.pipeline([("ZRANGE", k.IDX_JOBS, 0, UNFINISHED_MAX - 1)])
        ids = [job_id.decode() for job_id in cast("list[bytes]", answered(reply))]
        if not ids:
            return []
        [reply] = await self._store.link.pipeline([("MGET", *map(k.job, ids))])
        saved = map(_saved, cast("list[bytes | None]", answered(reply)))
        return [one for one in saved if one is not None]

    def _save_call(self, job: ResendJob, expected: bytes) -> Call:
        purge_at_ms = None if job.running else job.updated_at_ms + self._store.retention.delivery_ms
        return Call(
            SAVE_JOB,
            (k.job(job.job_id), k.IDX_JOBS),
            (
                job.job_id,
                expected,
                encode(job),
                job.created_at_ms,
                "" if purge_at_ms is None else purge_at_ms,
            ),
        )


def _saved(data: bytes | None) -> SavedJob | None:
    if data is None:
        return None
    try:
        return SavedJob(decode(data, ResendJob), data)
    except DecodeError:  # a newer release wrote it, and one of that release works on it
        return None
