"""What `/metrics` shows of a whole service, under a load of which every figure is known."""

from pathlib import Path
from typing import Final

import structlog.testing
import trio
from trio.testing import wait_all_tasks_blocked

from galaxy_mail.actors.janitor import Janitor
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.acceptance import MailRequest
from tests.deliveries import acceptance_of, login_code_of, request_of
from tests.integration.intake.desk import entry
from tests.integration.service.instance import SLOTS, STREAM, Instance, kill, left, until
from tests.servers import ValkeyServer, run_commands

HOUR_MS: Final = 60 * 60 * 1000


async def test_the_gauges_show_what_is_in_redis(valkey: ValkeyServer, tmp_path: Path) -> None:
    """Each has a value that no other one has, so that none is stuck or in another's place."""
    instance = Instance(valkey, tmp_path, claim_ttl="1h")
    parts = instance.service.parts
    janitor = parts.janitor.build(Heartbeat())
    assert isinstance(janitor, Janitor)

    async def accept(request: MailRequest, hours_ago: int) -> None:
        accepted_at_ms = parts.clock.now_ms() - hours_ago * HOUR_MS
        await parts.store.accept(acceptance_of(request, now_ms=accepted_at_ms))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.gateway.run)
        await until(lambda: parts.gateway.connected)
        assert "claims" not in instance.metrics(), "it is not known before the first sample"
        for number, hours_ago in enumerate([9, 8, 3]):
            await accept(login_code_of(f"c{number}"), hours_ago)
        for number in range(5):
            await accept(request_of(f"n{number}"), 7)
        claimed = await parts.store.claim(priority_places=2, normal_places=0, check_lost=True)
        assert [claim.delivery_id for claim in claimed.claims] == ["c0", "c1"]
        instance.publish("n10", "n11", "n12", "n13")
        await janitor.sample()
        shown = instance.metrics()
        nursery.cancel_scope.cancel()
    assert shown['scheduled_attempts{lane="priority"}'] == 3
    assert shown['scheduled_attempts{lane="normal"}'] == 5
    assert shown['oldest_scheduled_age_seconds{lane="priority"}'] // 3600 == 3
    assert shown['oldest_scheduled_age_seconds{lane="normal"}'] // 3600 == 7
    assert shown["claims"] == 2
    assert shown["stream_lag_entries"] == 4


async def test_the_gauges_show_what_the_process_does(valkey: ValkeyServer, tmp_path: Path) -> None:
    script = '{"rules":[{"recipient":"*","outcomes":["accepted"],"latency":"5m"}]}'
    async with Instance(valkey, tmp_path, script=script, shutdown_grace="0s").running() as instance:
        parts = instance.service.parts
        await until(lambda: instance.metrics()["stream_reader"] == 1)
        await instance.accept("c1")
        await until(lambda: parts.lanes.idle_slots() < SLOTS)
        shown = instance.metrics()
        assert shown["sender_slots"] == SLOTS
        assert shown["busy_sender_slots"] == 1
        assert shown['redis_connected{link="data"}'] == 1
        assert shown["stuck_actors"] == 0
        assert shown['redis_connections_total{link="data"}'] == 1

        before = shown["redis_pending_calls"]
        valkey.pause()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(parts.gateway.pipeline, [("PING",)])
            await wait_all_tasks_blocked()
            pending = instance.metrics()["redis_pending_calls"]
            valkey.resume()
        assert pending >= before + 20
    shown = instance.metrics()
    assert shown["stream_reader"] == 0
    assert shown['redis_connected{link="data"}'] == 0
    assert shown['actors{status="stopped"}'] == len(parts.supervisor.statistics())


async def test_restarts_are_counted_by_the_kind_of_actor(valkey: ValkeyServer, tmp_path: Path) -> None:
    with structlog.testing.capture_logs():
        async with Instance(valkey, tmp_path).running() as instance:
            for name in ("sender-1", "sender-2", "ingress"):
                await kill(instance.service, name)
    restarts = {
        name: value
        for name, value in instance.metrics().items()
        if name.startswith("actor_restarts_total") and value
    }
    assert restarts == {
        'actor_restarts_total{actor="sender"}': 2,
        'actor_restarts_total{actor="ingress"}': 1,
    }


async def test_every_step_of_the_mail_is_counted_and_timed(valkey: ValkeyServer, tmp_path: Path) -> None:
    """Of four codes one is refused and one given up, of five commands one is repeated and one malformed."""
    script = """{"rules":[
        {"recipient":"ok*","outcomes":["accepted"],"latency":"20ms"},
        {"recipient":"refused*","outcomes":["permanent_failure"],"latency":"10ms"},
        {"recipient":"busy*","outcomes":["transient_failure"],"latency":"10ms"}]}"""
    async with Instance(valkey, tmp_path, script=script, retry_delays="none").running() as instance:
        await instance.accept("ok-1", "ok-2", "refused-1", "busy-1")
        _, repeated = entry("", "ok-3")
        _, malformed = entry("", "ok-4", payload_json="{")
        run_commands(
            valkey.socket,
            [
                ("XADD", STREAM, "*", *(part for field in fields for part in field))
                for fields in (repeated, repeated, malformed)
            ],
        )
        instance.publish("ok-5", "ok-6")
        await until(lambda: left(valkey, 7) == 0)
    counted = {name: value for name, value in instance.metrics().items() if "_total" in name and value}
    assert counted == {
        'accepted_total{source="authsession"}': 4,
        'accepted_total{source="notification"}': 3,
        'duplicates_total{source="notification"}': 1,
        'malformed_commands_total{code="invalid_payload"}': 1,
        'delivery_statuses_total{status="queued"}': 7,
        'delivery_statuses_total{status="rendered"}': 7,
        'delivery_statuses_total{status="sending"}': 7,
        'delivery_statuses_total{status="sent"}': 5,
        'delivery_statuses_total{status="failed"}': 1,
        'delivery_statuses_total{status="dead_letter"}': 1,
        'attempts_total{status="provider_accepted"}': 5,
        'attempts_total{status="provider_rejected"}': 2,
        'attempt_failures_total{blame="message",code="message_refused",result="permanent_failure"}': 1,
        'attempt_failures_total{blame="message",code="message_deferred",result="transient_failure"}': 1,
        'dead_letters_total{reason="retries_exhausted"}': 1,
        'deliveries_ended_total{lane="normal",status="sent"}': 3,
        'deliveries_ended_total{lane="priority",status="sent"}': 2,
        'deliveries_ended_total{lane="priority",status="failed"}': 1,
        'deliveries_ended_total{lane="priority",status="dead_letter"}': 1,
        'deliveries_failed_total{code="message_refused",lane="priority"}': 1,
        'redis_connections_total{link="data"}': 1,
    }
    timed = instance.metrics()
    assert timed['intake_seconds_count{source="notification"}'] == 3
    assert timed['queue_wait_seconds_count{lane="priority"}'] == 4
    assert timed['queue_wait_seconds_count{lane="normal"}'] == 3
    assert timed["render_seconds_count"] == 4
    assert timed["render_seconds_sum"] > 0
    assert timed['provider_send_seconds_count{result="accepted"}'] == 5
    assert timed['provider_send_seconds_sum{result="accepted"}'] >= 5 * 0.02
    assert timed['provider_send_seconds_count{result="permanent_failure"}'] == 1
    assert timed['provider_send_seconds_count{result="transient_failure"}'] == 1
    assert timed['accept_to_sent_seconds_count{lane="priority"}'] == 2
    assert timed['accept_to_sent_seconds_sum{lane="priority"}'] >= 2 * 0.02
    assert timed['accept_to_sent_seconds_count{lane="normal"}'] == 3
