"""Runs resend jobs, each at its own pace."""

from typing import Final

import structlog
import trio

from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.intake.resend_job_runner import ResendJobRunner
from galaxy_mail.storage.links.errors import RedisFailure

log = structlog.get_logger()

CHECK_EVERY_S: Final = 0.25
PAUSE_AFTER_FAILURE_S: Final = 2.0
SAVED_UP_MAX_S: Final = 1.0  # after a pause, a job catches up for at most this long: no burst


class ResendJobs:
    """In each step, resends as many deliveries of each unfinished job as its pace allows.

    Ends when cancelled. Touches jobs and intake. Any slot of any process sends the resent deliveries.
    """

    def __init__(self, *, runner: ResendJobRunner, heartbeat: Heartbeat) -> None:
        self._runner = runner
        self._heartbeat = heartbeat
        self._paid_up_to_s: dict[str, float] = {}  # job id -> the time up to which the job used its pace

    async def run(self) -> None:
        while True:
            self._heartbeat.beat()
            try:
                await self.step()
            except RedisFailure as failure:
                log.warning("resend_jobs_wait", error=str(failure))
                await trio.sleep(PAUSE_AFTER_FAILURE_S)
            await trio.sleep(CHECK_EVERY_S)

    async def step(self) -> int:
        """Works once on each job that its pace allows; returns their number. Raises RedisFailure."""
        jobs = await self._runner.jobs_to_work_on()
        known = {saved.job.job_id for saved in jobs}
        for job_id in self._paid_up_to_s.keys() - known:
            del self._paid_up_to_s[job_id]
        worked_on = 0
        for saved in jobs:
            self._heartbeat.beat()
            allowance = self._allowance(saved.job.job_id, saved.job.per_second)
            if allowance == 0:
                continue
            worked_on += 1
            job = await self._runner.work_on(saved, at_most=allowance)
            if job is not None and not job.running:
                log.info(
                    "resend_job_finished",
                    job_id=job.job_id,
                    status=job.status,
                    dry_run=job.dry_run,
                    matched=job.matched,
                    resent=job.resent,
                    skipped=job.skipped,
                )
        return worked_on

    def _allowance(self, job_id: str, per_second: int) -> int:
        """Takes the number of deliveries that this job may resend now from its pace."""
        now_s = trio.current_time()
        paid_s = self._paid_up_to_s.get(job_id, now_s - 1 / per_second)  # a new job begins with one
        paid_s = max(paid_s, now_s - max(SAVED_UP_MAX_S, 1 / per_second))
        allowance = int((now_s - paid_s) * per_second + 1e-9)
        self._paid_up_to_s[job_id] = paid_s + allowance / per_second
        return allowance
