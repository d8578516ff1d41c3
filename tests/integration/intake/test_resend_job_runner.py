"""Resend jobs where Redis is slow: they come on, and stay with the process that has them."""

from typing import Any, Final

import pytest

from galaxy_mail.domain.records import DeliveryStatus
from galaxy_mail.domain.resend_job import ResendFilter, ResendJobRequest
from galaxy_mail.intake.intake import Intake
from galaxy_mail.intake.resend_job_runner import OWNED_FOR_MS, ResendJobRunner
from galaxy_mail.intake.resending import Resending, Resent
from galaxy_mail.telemetry.metrics import Metrics
from galaxy_mail.telemetry.traces import Traces
from tests.deliveries import REFUSED, request_of
from tests.storehouse import Storehouse

COUNT: Final = 12


def runner_of(house: Storehouse) -> ResendJobRunner:
    intake = Intake(
        house.store,
        clock=house.clock,
        idempotency_ttl_ms=house.retention.idempotency_ms,
        allowlist=frozenset(),
        message_domain="mail.example",
        metrics=Metrics(),
        traces=Traces(),
        on_accepted=lambda: None,
    )
    resending = Resending(house.reader, intake, house.clock, Traces())
    return ResendJobRunner(house.reader, resending, house.jobs, house.clock)


async def test_a_page_that_takes_longer_than_a_job_is_owned_is_saved_on_the_way(
    house: Storehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that took it from each other in the middle of the page would never come to its end."""
    for number in range(COUNT):
        await house.sent(request_of(f"d{number:02}"), REFUSED)
        house.clock.ms += 1
    here, there = runner_of(house), runner_of(house)
    resend = here._resending.resend

    async def slowly(*args: Any, **named: Any) -> Resent:
        house.clock.ms += OWNED_FOR_MS // 4
        return await resend(*args, **named)

    monkeypatch.setattr(here._resending, "resend", slowly)
    request = ResendJobRequest(
        filter=ResendFilter(status=DeliveryStatus.FAILED), reason="the relay is well again", per_second=1000
    )
    job, _ = await here.start(request, {}, idempotency_key="night")
    steps = 0
    while job.running:
        [saved] = await here.jobs_to_work_on()
        worked = await here.work_on(saved, at_most=200)
        assert worked is not None, "it stays ours"
        assert worked.resent > job.resent, "and comes on"
        if worked.running:
            assert await there.jobs_to_work_on() == []
        job, steps = worked, steps + 1
    assert (job.matched, job.resent, job.skipped) == (COUNT, COUNT, 0)
    assert steps > 1
    assert (await here.jobs_to_work_on()) == []
