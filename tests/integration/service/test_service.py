"""The whole service in this process, on a real Redis with the stub: starts, sends, is wrecked, stops, and loses nothing."""

from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any, Final, cast

import httpx
import pytest
import structlog.testing
import trio
from trio.testing import wait_all_tasks_blocked

from galaxy_mail.actors.supervisor import RestartsExhausted
from galaxy_mail.domain.holds import Cause, Hold
from galaxy_mail.domain.records import DeliveryStatus, Lane
from galaxy_mail.storage.links.errors import RedisFailure, UnfitRedis
from tests.deliveries import login_code_of, request_of
from tests.integration.service.instance import LIMIT_S, SLOTS, Instance, deliveries, kill, left, until
from tests.keys import k
from tests.servers import ValkeyServer, run_command, run_commands

S = DeliveryStatus
CODES: Final = [f"c{number}" for number in range(20)]
COMMANDS: Final = [f"n{number}" for number in range(20)]


async def test_mail_of_both_intakes_is_sent(valkey: ValkeyServer, tmp_path: Path) -> None:
    async with Instance(valkey, tmp_path).running() as instance:
        instance.publish(*COMMANDS)
        await instance.accept(*CODES)
        await until(lambda: left(valkey, 40) == 0)
        assert not any(instance.service.parts.gauges.checks().values())
        assert instance.service.parts.supervisor.stuck() == ()
    assert instance.sent() == Counter(CODES + COMMANDS)
    assert {delivery.status for delivery in deliveries(valkey).values()} == {S.SENT}
    assert instance.service.parts.gauges.checks()["stopping"] is not None


async def test_a_stopped_service_has_given_everything_back(valkey: ValkeyServer, tmp_path: Path) -> None:
    """With work in every state: under way, in a lane, due later, ended; and another instance goes on at once."""
    script = """{"rules":[
        {"recipient":"slow*","outcomes":["accepted"],"latency":"400ms"},
        {"recipient":"hangs*","outcomes":["accepted"],"latency":"5m"},
        {"recipient":"late*","outcomes":["transient_failure","accepted"]}]}"""
    settings: dict[str, Any] = {"shutdown_grace": "1s", "retry_delays": "1s", "claim_ttl": "60s"}
    async with Instance(valkey, tmp_path, script=script, **settings).running() as first:
        await first.accept("late-1", "quick-1")
        await until(lambda: left(valkey, 2) == 1)
        first.publish("hangs-1", "hangs-2")
        await until(lambda: first.service.parts.lanes.idle_slots() == SLOTS - 2)
        await first.accept("slow-1")
        await until(lambda: first.service.parts.lanes.idle_slots() == 0)
        await first.accept("slow-2", "slow-3")
        first.publish("n1", "n2")
        await until(lambda: len(deliveries(valkey)) == 9)
        began_s = monotonic()
        first.service.stop()
        await first.ended.wait()
        assert monotonic() - began_s < 1 + 2
    assert run_command(valkey.socket, "HLEN", k.claims) == 0
    assert not run_command(valkey.socket, "EXISTS", k.claim_losses)
    before = deliveries(valkey)
    assert before["hangs-1"].status is S.RENDERED
    assert before["late-1"].status is S.QUEUED
    assert before["slow-1"].status is S.SENT
    assert all(delivery.attempt_count == 1 for name, delivery in before.items() if name != "late-1")
    async with Instance(valkey, tmp_path, script='{"default":["accepted"]}', **settings).running() as second:
        await until(lambda: left(valkey, 9) == 0)
    assert second.sent() == Counter(before.keys())


async def test_attempts_have_the_grace_of_a_stop_and_no_more(valkey: ValkeyServer, tmp_path: Path) -> None:
    script = '{"rules":[{"recipient":"*","outcomes":["accepted"],"latency":"5m"}]}'
    async with Instance(valkey, tmp_path, script=script, shutdown_grace="7s").running() as instance:
        service = instance.service
        await instance.accept("c1")
        await until(lambda: service.parts.lanes.idle_slots() == SLOTS - 1)
        before_s = trio.current_time()
        service.stop()
        await wait_all_tasks_blocked()
        assert service._work is not None
        assert before_s + 7 <= service._work.deadline <= trio.current_time() + 7
        service.cancel()


async def test_without_any_grace_work_under_way_is_given_back(valkey: ValkeyServer, tmp_path: Path) -> None:
    script = '{"rules":[{"recipient":"*","outcomes":["accepted"],"latency":"5m"}]}'
    async with Instance(valkey, tmp_path, script=script, shutdown_grace="0s").running() as instance:
        await instance.accept("c1", "c2", "c3", "c4")
        await until(lambda: instance.service.parts.lanes.idle_slots() == 0)
        began_s = monotonic()
    assert monotonic() - began_s < 2
    assert run_command(valkey.socket, "HLEN", k.claims) == 0
    assert instance.sent() == Counter()


async def test_cancelled_it_ends_at_once_and_gives_back_what_it_can(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    script = '{"rules":[{"recipient":"*","outcomes":["accepted"],"latency":"5m"}]}'
    async with Instance(valkey, tmp_path, script=script).running() as instance:
        await instance.accept("c1")
        await until(lambda: instance.service.parts.lanes.idle_slots() == SLOTS - 1)
        began_s = monotonic()
        instance.service.cancel()
        await instance.ended.wait()
        assert monotonic() - began_s < 2
    assert run_command(valkey.socket, "HLEN", k.claims) == 0


ACTORS: Final = [
    "scheduler",
    "sender-0",
    "sender-1",
    "sender-2",
    "ingress",
    "janitor",
    "relays",
    "resend-jobs",
    "redis",
]


@pytest.mark.parametrize("name", ACTORS)
async def test_an_actor_killed_while_mail_flows_is_restarted_and_nothing_is_lost(
    name: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    script = '{"rules":[{"recipient":"*","outcomes":["accepted"],"latency":"3ms"}]}'
    async with Instance(valkey, tmp_path, script=script).running() as instance:
        service = instance.service
        instance.publish(*COMMANDS)
        for number, code in enumerate(CODES):
            await instance.accept(code)
            if number in {3, 11}:
                await kill(service, name)
        await until(lambda: left(valkey, 40) == 0)
        assert [
            (r.restarts, r.last_error) for r in service.parts.supervisor.statistics() if r.name == name
        ] == [(2, "Killed")]
        await until(lambda: not any(service.parts.gauges.checks().values()))
    _nothing_lost(instance, CODES + COMMANDS)


async def test_every_actor_killed_again_and_again_while_mail_flows(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    script = '{"rules":[{"recipient":"*","outcomes":["accepted"],"latency":"5ms"}]}'
    names = [f"d{number}" for number in range(60)]
    async with Instance(valkey, tmp_path, script=script).running() as instance:
        supervisor = instance.service.parts.supervisor

        async def wreck() -> None:
            for name in ACTORS * 3:
                supervisor.kill(name)
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wreck)
            instance.publish(*names[30:])
            await instance.accept(*names[:30])
        await until(lambda: left(valkey, 60) == 0)
    _nothing_lost(instance, names)


def _nothing_lost(instance: Instance, names: list[str]) -> None:
    """Each was sent; twice only if nobody could know about the first time."""
    records = deliveries(instance.valkey)
    assert records.keys() == set(names)
    assert {delivery.status for delivery in records.values()} == {S.SENT}
    for name, times in instance.sent().items():
        unknown = [
            b'"outcome_unknown":true' in cast("bytes", data)
            for data in run_commands(
                instance.valkey.socket,
                [("GET", k.attempt(name, n)) for n in range(1, records[name].attempt_count + 1)],
            )
        ]
        assert 1 <= times <= 1 + sum(unknown)
    assert instance.sent().keys() == set(names)


async def test_redis_killed_while_mail_flows_comes_back_with_all_that_was_promised(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    run_command(valkey.socket, "CONFIG", "SET", "appendfsync", "always")
    async with Instance(valkey, tmp_path).running() as instance:
        instance.publish(*COMMANDS)
        await instance.accept(*CODES[:10])
        valkey.kill()
        await valkey.start()
        await instance.accept(*CODES[10:])
        await until(lambda: left(valkey, 40) == 0)
        reports = instance.service.parts.supervisor.statistics()
        assert all(report.restarts == 0 for report in reports), "Redis being away is no crash"
    _nothing_lost(instance, CODES + COMMANDS)


async def test_a_stop_while_redis_hangs_is_over_within_the_grace_and_two_seconds(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    async with Instance(valkey, tmp_path, shutdown_grace="1s").running() as instance:
        await instance.accept("c1")
        await until(lambda: left(valkey, 1) == 0)
        valkey.pause()
        try:
            began_s = monotonic()
            instance.service.stop()
            await instance.ended.wait()
            assert monotonic() - began_s < 1 + 2
        finally:
            valkey.resume()


async def test_a_stop_before_redis_ever_answered(valkey: ValkeyServer, tmp_path: Path) -> None:
    valkey.kill()
    async with Instance(valkey, tmp_path).running(connected=False) as instance:
        await until(lambda: bool(instance.service.parts.gauges.checks()["redis"]))
        began_s = monotonic()
        instance.service.stop()
        await instance.ended.wait()
        assert monotonic() - began_s < 2
    await valkey.start()


async def test_it_starts_before_redis_does(valkey: ValkeyServer, tmp_path: Path) -> None:
    valkey.kill()
    async with Instance(valkey, tmp_path).running(connected=False) as instance:
        await until(lambda: bool(instance.service.parts.gauges.checks()["redis"]))
        await valkey.start()
        await until(lambda: instance.service.parts.gateway.connected)
        await instance.accept("c1")
        await until(lambda: left(valkey, 1) == 0)
        assert not any(instance.service.parts.gauges.checks().values())


async def test_a_redis_that_would_lose_mail_ends_the_start(valkey: ValkeyServer, tmp_path: Path) -> None:
    run_command(valkey.socket, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    service = Instance(valkey, tmp_path).service
    with trio.fail_after(LIMIT_S), pytest.raises(UnfitRedis, match="allkeys-lru"):
        await service.run()


async def test_a_redis_that_becomes_unfit_is_not_used_and_ends_nothing(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    async with Instance(valkey, tmp_path).running() as instance:
        run_command(valkey.socket, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        run_command(valkey.socket, "CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: "allkeys-lru" in (instance.service.parts.gauges.checks()["redis"] or ""))
        run_command(valkey.socket, "CONFIG", "SET", "maxmemory-policy", "noeviction")
        await until(lambda: instance.service.parts.gateway.connected)
        await instance.accept("c1")
        await until(lambda: left(valkey, 1) == 0)


async def test_a_wiped_store_stops_intake_and_is_told(valkey: ValkeyServer, tmp_path: Path) -> None:
    async with Instance(valkey, tmp_path).running() as instance:
        await instance.accept("c1")
        await until(lambda: left(valkey, 1) == 0)
        run_commands(valkey.socket, [("FLUSHALL",), ("CLIENT", "KILL", "TYPE", "normal")])
        await until(lambda: bool(instance.service.parts.gauges.checks()["store"]))
        with pytest.raises(RedisFailure, match="wiped"):
            await instance.service.parts.intake.accept(login_code_of("c2"))
        instance.publish("n1")
        await trio.sleep(0.2)
        assert run_command(valkey.socket, "EXISTS", k.delivery("n1"), k.delivery("c2")) == 0
        assert instance.service.parts.metrics.store_alarms_total.value("strange") == 1


async def test_an_actor_that_only_crashes_ends_the_process(
    valkey: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("galaxy_mail.actors.supervisor.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("galaxy_mail.actors.supervisor.LONGEST_PAUSE_S", 0.002)
    instance = Instance(valkey, tmp_path)

    async def crash() -> float:
        raise ZeroDivisionError

    monkeypatch.setattr("galaxy_mail.actors.scheduler.Scheduler.turn", lambda self: crash())
    with (
        structlog.testing.capture_logs(),  # ten tracebacks
        trio.fail_after(LIMIT_S),
        pytest.RaisesGroup(RestartsExhausted, flatten_subgroups=True),
    ):
        await instance.service.run()


async def test_the_api_belongs_to_it(valkey: ValkeyServer, tmp_path: Path) -> None:
    async with Instance(valkey, tmp_path, api=True).running() as instance:
        await until(lambda: instance.service.parts.server is not None)
        assert instance.service.parts.server is not None
        async with httpx.AsyncClient(base_url=instance.service.parts.server.url, timeout=LIMIT_S) as client:
            answers: list[httpx.Response] = []

            async def post() -> None:
                answers.append(
                    await client.post(
                        "/api/v1/internal/login-code-deliveries",
                        json={"email": "ann@x.example", "code": "042137", "locale": "en"},
                        headers={"Idempotency-Key": "k"},
                    )
                )

            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(post)
            assert {(answer.status_code, answer.text) for answer in answers} == {(200, '{"outcome":"sent"}')}
            assert len({answer.headers["Delivery-Id"] for answer in answers}) == 1
            replayed = [answer.headers.get("Idempotency-Replayed") for answer in answers]
            assert Counter(replayed) == {None: 1, "true": 49}
            await until(lambda: left(valkey, 1) == 0)
            assert (await client.get("/readyz")).status_code == 200
    assert sum(instance.sent().values()) == 1


async def test_metrics_count_the_actors_that_hang(
    valkey: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Instance(valkey, tmp_path).running() as instance:
        service = instance.service
        assert "\ngalaxy_mail_stuck_actors 0.0\n" in service.parts.metrics.exposition().decode()
        monkeypatch.setattr(service.parts.supervisor, "stuck", lambda: ("sender-1", "janitor"))
        assert "\ngalaxy_mail_stuck_actors 2.0\n" in service.parts.metrics.exposition().decode()


def test_the_names_of_its_actors_are_known(tmp_path: Path) -> None:
    """What the tests above kill is all there is, but for the API and an embedded Redis."""

    class Nowhere(ValkeyServer):
        pass

    async def names() -> set[str]:
        instance = Instance(Nowhere(tmp_path), tmp_path)
        async with instance.running(connected=False):
            await until(lambda: len(instance.service.parts.supervisor.statistics()) >= len(ACTORS))
            return {report.name for report in instance.service.parts.supervisor.statistics()}

    assert trio.run(names) == set(ACTORS)
    assert request_of().delivery_id == "d1"


# Holds


async def test_a_held_lane_takes_mail_in_and_sends_nothing_until_the_hold_is_lifted(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    async with Instance(valkey, tmp_path).running() as instance:
        parts = instance.service.parts
        await parts.hold_store.put(operators("lane:priority"))
        await until(lambda: parts.lanes.is_held(Lane.PRIORITY))
        await instance.accept("c1", "c2")
        instance.publish("d1")
        await until(lambda: left(valkey, 3) == 2)
        assert set(instance.sent()) == {"d1"}
        assert run_command(valkey.socket, "HLEN", k.claims) == 0
        shown = parts.metrics.exposition().decode().splitlines()
        assert 'galaxy_mail_holds{cause="operator",scope="lane:priority"} 1.0' in shown
        assert 'galaxy_mail_held_lanes{lane="priority"} 1.0' in shown
        assert 'galaxy_mail_held_lanes{lane="normal"} 0.0' in shown
        assert await parts.hold_store.lift(Cause.OPERATOR, "lane:priority", now_ms=parts.clock.now_ms())
        await until(lambda: left(valkey, 3) == 0)
        assert set(instance.sent()) == {"c1", "c2", "d1"}


async def test_a_hold_is_in_force_before_a_new_process_sends_anything(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    async with Instance(valkey, tmp_path).running() as instance:
        await instance.service.parts.hold_store.put(operators("all"))
        await until(lambda: instance.service.parts.lanes.is_held(Lane.NORMAL))
        await instance.accept("c1")
    async with Instance(valkey, tmp_path).running() as instance:
        parts = instance.service.parts
        await until(lambda: parts.holds.snapshot is not None)
        assert parts.holds.lanes == frozenset(Lane)
        await instance.accept("c2")
        await parts.hold_store.lift(Cause.OPERATOR, "all", now_ms=parts.clock.now_ms())
        await until(lambda: left(valkey, 2) == 0)
    assert deliveries(valkey)["c1"].attempt_count == 1


def operators(scope: str) -> Hold:
    return Hold(scope=scope, cause=Cause.OPERATOR, reason="move", since_ms=1)
