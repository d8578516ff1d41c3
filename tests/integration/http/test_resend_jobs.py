"""Resending all that match a filter: as a job that is paced, survives its process, and resends nothing twice."""

from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from galaxy_mail.actors.resend_jobs import CHECK_EVERY_S, ResendJobs
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.records import Source
from galaxy_mail.intake.resend_job_runner import OWNED_FOR_MS, ResendJobRunner
from galaxy_mail.storage.links.errors import RedisUnavailable
from tests.contracts.documents import openapi, validator
from tests.integration.http.world import DAY_MS, DELAYED, REFUSED, Told, World
from tests.servers import ValkeyServer, run_command

ASKED: dict[str, Any] = {"filter": {"status": "dead_letter"}, "reason": "the relay was down"}


async def start(api: World, key: str = "k", **changes: Any) -> Told:
    return await api.ask("POST", "resends", json_body={**ASKED, **changes}, headers={"Idempotency-Key": key})


async def job(api: World, job_id: str) -> dict[str, Any]:
    told = await api.get(f"resends/{job_id}")
    assert told.status == 200
    validator(openapi(), {"$ref": "#/components/schemas/ResendJob"}).validate(told.json)
    shown: dict[str, Any] = told.json
    return shown


def another_runner(api: World) -> ResendJobRunner:
    """As another process would have it."""
    return ResendJobRunner(api.reader, api.resending, api.jobs, api.clock)


def actor(api: World) -> ResendJobs:
    return ResendJobs(runner=another_runner(api), heartbeat=Heartbeat())


async def work(api: World, steps: int = 50) -> None:
    """Steps as they come, a second apart, until no job is left."""
    worker = actor(api)
    for _ in range(steps):
        await worker.step()
        worker._paid_up_to_s = {job_id: at - 1 for job_id, at in worker._paid_up_to_s.items()}


def clones(items: list[dict[str, Any]]) -> list[str]:
    return sorted(item["parent_delivery_id"] for item in items if item["source"] == "operator_resend")


async def test_a_job_is_accepted_and_can_be_read(api: World) -> None:
    told = await start(api, created_by="ann", per_second=5)
    assert told.status == 202
    assert told.headers["location"] == f"/api/v1/internal/resends/{told.json['job_id']}"
    shown = await job(api, told.json["job_id"])
    assert shown == told.json
    assert (shown["status"], shown["filter"], shown["per_second"]) == (
        "running",
        {"status": "dead_letter"},
        5,
    )
    assert (shown["created_by"], shown["reason"], shown["dry_run"]) == ("ann", "the relay was down", False)


async def test_everything_that_matches_is_resent_once_and_nothing_else(api: World) -> None:
    dead = [await api.made(DELAYED) for _ in range(5)]
    await api.made(REFUSED)
    await api.accept()
    told = await start(api)
    await work(api)
    shown = await job(api, told.json["job_id"])
    assert (shown["status"], shown["matched"], shown["resent"], shown["skipped"]) == ("done", 5, 5, 0)
    assert shown["finished_at_ms"] is not None
    assert clones(await api.everything("deliveries")) == sorted(dead)


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ({"source": "authsession"}, {1}),
        ({"template_id": "auth.login_code"}, {1}),
        ({"recipient": "BOB@example.org"}, {2}),
        ({}, {0, 1, 2}),
    ],
)
async def test_every_condition_of_the_filter_counts(
    api: World, filter_: dict[str, str], expected: set[int]
) -> None:
    dead = [
        await api.made(DELAYED),
        await api.made(DELAYED, source=Source.AUTHSESSION),
        await api.made(DELAYED, to="bob@example.org"),
    ]
    await start(api, filter={"status": "dead_letter", **filter_})
    await work(api)
    assert clones(await api.everything("deliveries")) == sorted(dead[number] for number in expected)


async def test_times_bound_the_job_on_both_sides(api: World) -> None:
    dead = [await api.made(DELAYED) for _ in range(3)]
    times = [(await api.delivery(one)).created_at_ms for one in dead]
    await start(api, filter={"status": "dead_letter", "created_from_ms": times[1], "created_to_ms": times[1]})
    await work(api)
    expected = sorted(one for one, at in zip(dead, times, strict=True) if at == times[1])
    assert clones(await api.everything("deliveries")) == expected


async def test_a_dry_run_counts_and_resends_nothing(api: World) -> None:
    for _ in range(5):
        await api.made(DELAYED)
    told = await start(api, dry_run=True)
    await work(api)
    shown = await job(api, told.json["job_id"])
    assert (shown["status"], shown["matched"], shown["resent"], shown["dry_run"]) == ("done", 5, 0, True)
    assert len(await api.everything("deliveries")) == 5


async def test_what_was_resent_already_does_not_match(api: World) -> None:
    """By hand or by another job, whose filter overlaps: nobody gets the same mail twice by mistake."""
    dead = [await api.made(DELAYED) for _ in range(3)]
    by_hand = await api.ask("POST", f"deliveries/{dead[0]}/resend", headers={"Idempotency-Key": "by hand"})
    await api.finish(DELAYED)
    counted, first = await start(api, "k0", dry_run=True), await start(api, "k1")
    await work(api)
    second = await start(api, "k2")
    await work(api)
    for told, matched in ((counted, 3), (first, 3), (second, 0)):
        shown = await job(api, told.json["job_id"])
        assert (shown["status"], shown["matched"], shown["skipped"]) == ("done", matched, 0)
    # The clone that died in its turn is a dead letter of its own, and the one that stands for its parent.
    expected = sorted([dead[0], by_hand.json["delivery_id"], *dead[1:]])
    assert clones(await api.everything("deliveries")) == expected


async def test_what_the_job_made_itself_is_not_resent_by_it(api: World) -> None:
    """The clones die too, and match: younger than the job, they are none of its business."""
    for _ in range(3):
        await api.made(DELAYED)
    told = await start(api, per_second=1)
    worker = actor(api)
    for _ in range(12):
        await worker.step()
        worker._paid_up_to_s = {job_id: at - 1 for job_id, at in worker._paid_up_to_s.items()}
        await api.finish(DELAYED)
    shown = await job(api, told.json["job_id"])
    assert (shown["status"], shown["resent"]) == ("done", 3)


async def test_what_can_not_be_resent_is_skipped_and_the_rest_is_not(
    api: World, valkey: ValkeyServer
) -> None:
    dead = [await api.made(DELAYED) for _ in range(3)]
    run_command(valkey.socket, "DEL", f"mail:payloads:{dead[1]}")
    told = await start(api)
    await work(api)
    shown = await job(api, told.json["job_id"])
    assert (shown["status"], shown["matched"], shown["resent"], shown["skipped"]) == ("done", 3, 2, 1)


async def test_a_job_goes_on_in_another_process_where_its_first_one_died(api: World) -> None:
    dead = [await api.made(DELAYED) for _ in range(6)]
    told = await start(api)
    saved = (await api.resend_jobs.jobs_to_work_on())[0]
    first = await api.resend_jobs.work_on(saved, at_most=2)
    assert first is not None
    assert first.resent == 2
    # It dies here, with two more resent and not saved.
    for delivery_id in dead[2:4]:
        await api.resending.resend(delivery_id, idempotency_key=first.idempotency_key(delivery_id))
    assert await actor(api).step() == 0  # the job is still its own
    api.link.ahead_ms += OWNED_FOR_MS
    await work(api)
    shown = await job(api, told.json["job_id"])
    assert (shown["status"], shown["matched"], shown["resent"]) == ("done", 6, 6)
    assert clones(await api.everything("deliveries")) == sorted(dead)


async def test_of_two_processes_that_see_an_unowned_job_one_works_on_it(api: World) -> None:
    for _ in range(4):
        await api.made(DELAYED)
    await start(api)
    other = another_runner(api)
    [mine], [theirs] = await api.resend_jobs.jobs_to_work_on(), await other.jobs_to_work_on()
    assert await api.resend_jobs.work_on(mine, at_most=1) is not None
    assert await other.work_on(theirs, at_most=1) is None
    assert len(clones(await api.everything("deliveries"))) == 1


async def test_a_job_that_can_not_be_worked_on_fails_and_stops_no_other(
    api: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.made(DELAYED)
    broken = (await start(api, "k1")).json["job_id"]
    sound = (await start(api, "k2", dry_run=True)).json["job_id"]

    async def crash(*_args: object, **_how: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(ResendJobRunner, "_resend_some", crash)
    with capture_logs() as lines:
        await work(api, 3)
    shown = await job(api, broken)
    assert (shown["status"], shown["failure"]["code"]) == ("failed", "internal_error")
    assert (await job(api, sound))["status"] == "done"
    assert "resend_job_failed" in [line["event"] for line in lines]


async def test_a_failure_of_redis_fails_no_job(api: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.made(DELAYED)
    told = await start(api)
    with monkeypatch.context() as patch:

        async def away(*_args: object, **_how: object) -> None:
            raise RedisUnavailable("away")

        patch.setattr(api.intake, "accept", away)
        with pytest.raises(RedisUnavailable):
            await work(api)
    api.link.ahead_ms += OWNED_FOR_MS
    await work(api)
    assert (await job(api, told.json["job_id"]))["resent"] == 1


async def test_a_repeat_is_told_the_job_as_it_is_now(api: World) -> None:
    await api.made(DELAYED)
    first = await start(api)
    await work(api)
    again = await start(api)
    assert (again.status, again.headers["idempotency-replayed"]) == (200, "true")
    assert again.json["job_id"] == first.json["job_id"]
    assert again.json["status"] == "done"
    assert len(await api.everything("deliveries")) == 2


async def test_the_same_key_for_another_job_is_refused(api: World) -> None:
    await start(api)
    told = await start(api, dry_run=True)
    assert (told.status, told.fields) == (422, ["Idempotency-Key"])


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"reason": ""}, ["reason"]),
        ({"filter": {}}, ["filter.status"]),
        ({"filter": []}, ["filter"]),
        ({"filter": {"status": "queued"}}, ["filter.status"]),
        ({"filter": {"status": "sent", "idempotency_key": "k"}}, ["filter.idempotency_key"]),
        ({"filter": {"status": "sent", "recipient": "ann"}}, ["filter.recipient"]),
        ({"per_second": 0}, ["per_second"]),
        ({"per_second": 1001}, ["per_second"]),
        ({"dry_run": "yes"}, ["dry_run"]),
        ({"who": "ann"}, ["who"]),
    ],
)
async def test_a_bad_request_names_its_fields(api: World, changes: dict[str, Any], fields: list[str]) -> None:
    told = await start(api, **changes)
    assert (told.status, told.code, told.fields) == (400, "invalid_request", fields)


async def test_without_a_key_there_is_no_job(api: World) -> None:
    told = await api.ask("POST", "resends", json_body=ASKED)
    assert (told.status, told.fields) == (400, ["Idempotency-Key"])


@pytest.mark.parametrize("job_id", ["x", "01je50a7gkq3v9d2xw8m4r6tzn", "%00"])
async def test_an_unknown_job_is_404(api: World, job_id: str) -> None:
    told = await api.get(f"resends/{job_id}")
    assert (told.status, told.code) == (404, "not_found")


async def test_a_finished_job_is_kept_for_a_while_and_looked_at_no_more(
    api: World, valkey: ValkeyServer
) -> None:
    job_id = (await start(api)).json["job_id"]
    key = f"mail:jobs:{job_id}"
    assert run_command(valkey.socket, "PTTL", key) == -1
    await work(api)
    kept_ms = run_command(valkey.socket, "PTTL", key)
    assert isinstance(kept_ms, int)
    assert 29 * DAY_MS < kept_ms <= 30 * DAY_MS
    assert run_command(valkey.socket, "ZCARD", "mail:idx:jobs") == 0


async def test_the_audit_log_tells_who_asked_for_what(api: World) -> None:
    with capture_logs() as lines:
        told = await start(api, created_by="ann", dry_run=True)
    [line] = [line for line in lines if line["event"] == "operator_action"]
    assert (line["action"], line["who"], line["created_by"]) == ("resend_job", "anonymous", "ann")
    assert (line["filter"], line["reason"]) == ({"status": "dead_letter"}, "the relay was down")
    assert (line["job_id"], line["dry_run"]) == (told.json["job_id"], True)


# The pace, on a clock that is moved by hand


class Counting:
    """Stands for the use case: jobs that never end, and how much of each was allowed."""

    def __init__(self, per_second: int) -> None:
        from galaxy_mail.domain.records import DeliveryStatus
        from galaxy_mail.domain.resend_job import JobStatus, ResendFilter, ResendJob
        from galaxy_mail.storage.operations.job_store import SavedJob

        self.allowed = 0
        self.saved = SavedJob(
            ResendJob(
                job_id="j",
                fingerprint="f",
                status=JobStatus.RUNNING,
                filter=ResendFilter(status=DeliveryStatus.FAILED),
                reason="x",
                per_second=per_second,
                created_at_ms=1,
                updated_at_ms=1,
            ),
            b"",
        )
        self.steps = trio.Event()

    async def jobs_to_work_on(self) -> list[Any]:
        return [self.saved]

    async def work_on(self, saved: Any, *, at_most: int) -> None:
        self.allowed += at_most


@pytest.mark.parametrize("per_second", [1, 3, 20, 1000])
async def test_a_job_keeps_to_its_pace(per_second: int, autojump_clock: MockClock) -> None:
    counting = Counting(per_second)
    worker = ResendJobs(runner=counting, heartbeat=Heartbeat())  # type: ignore[arg-type]  # a stand-in
    with trio.move_on_after(10 - CHECK_EVERY_S / 2):
        await worker.run()
    assert abs(counting.allowed - 10 * per_second) <= max(1, per_second * CHECK_EVERY_S)


async def test_a_job_that_had_to_wait_does_not_catch_up_at_once(autojump_clock: MockClock) -> None:
    counting = Counting(20)
    worker = ResendJobs(runner=counting, heartbeat=Heartbeat())  # type: ignore[arg-type]  # a stand-in
    await worker.step()
    await trio.sleep(3600)
    counting.allowed = 0
    await worker.step()
    assert counting.allowed == 20
