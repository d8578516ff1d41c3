"""Resend jobs in Redis."""

from typing import Final

from msgspec import DecodeError, Struct

from galaxy_mail.domain.records import decode, encode
from galaxy_mail.domain.resend_job import ResendJob
from galaxy_mail.storage.links.protocol import Call, RedisLink
from galaxy_mail.storage.links.replies import as_bytes_list, as_optional_bytes, as_optional_bytes_list
from galaxy_mail.storage.operations.identity import StoreIdentity
from galaxy_mail.storage.operations.save_job import SAVE_JOB, SaveJobArgs, SaveJobKeys
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import Retention

UNFINISHED_MAX: Final = 100  # jobs that are looked at; more wait until these are finished


class SavedJob(Struct, frozen=True):
    """A job with the bytes that stand for it, which the next save replaces."""

    job: ResendJob
    raw: bytes


class ResendJobStore:
    """Jobs by id. A finished one is kept as long as a delivery is."""

    def __init__(self, link: RedisLink, *, keys: Keys, epoch: StoreIdentity, retention: Retention) -> None:
        self._link = link
        self._keys = keys
        self._epoch = epoch
        self._retention = retention

    async def create(self, job: ResendJob) -> SavedJob | None:
        """Makes it durable; the one that has its id already, or None where that is new. Raises RedisFailure."""
        self._epoch.refuse_if_replaced()
        [reply] = await self._link.accept_pipeline([self._save_call(job, None)])
        other = SAVE_JOB.decode(reply)
        return None if other is None else SavedJob(decode(other.raw, ResendJob), other.raw)

    async def save(self, job: ResendJob, *, instead_of: SavedJob) -> SavedJob | None:
        """Replaces that record; None where another one stands there by now. Raises RedisFailure."""
        [reply] = await self._link.pipeline([self._save_call(job, instead_of.raw)])
        return SavedJob(job, encode(job)) if SAVE_JOB.decode(reply) is None else None

    async def get(self, job_id: str) -> ResendJob | None:
        """The job, if it exists and can be read. Raises RedisFailure."""
        [reply] = await self._link.pipeline([("GET", self._keys.job(job_id))])
        saved = _saved(as_optional_bytes(reply))
        return None if saved is None else saved.job

    async def unfinished(self) -> list[SavedJob]:
        """Jobs that still have work, oldest first. Raises RedisFailure."""
        [reply] = await self._link.pipeline([("ZRANGE", self._keys.jobs_index, 0, UNFINISHED_MAX - 1)])
        ids = [job_id.decode() for job_id in as_bytes_list(reply)]
        if not ids:
            return []
        [reply] = await self._link.pipeline([("MGET", *map(self._keys.job, ids))])
        saved = map(_saved, as_optional_bytes_list(reply))
        return [one for one in saved if one is not None]

    def _save_call(self, job: ResendJob, expected: bytes | None) -> Call:
        return SAVE_JOB.call(
            SaveJobKeys(job=self._keys.job(job.job_id), unfinished=self._keys.jobs_index),
            SaveJobArgs(
                job_id=job.job_id,
                expected=expected,
                record=encode(job),
                created_at_ms=job.created_at_ms,
                purge_at_ms=None if job.running else job.updated_at_ms + self._retention.delivery_ms,
            ),
        )


def _saved(data: bytes | None) -> SavedJob | None:
    if data is None:
        return None
    try:
        return SavedJob(decode(data, ResendJob), data)
    except DecodeError:  # a newer release wrote it, and one of that release works on it
        return None
