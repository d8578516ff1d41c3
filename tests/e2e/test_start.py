"""Starts that go wrong, and starts that have to wait: what an operator reads, and with which status it ends."""

import socket
from pathlib import Path

import pytest

from tests.ledger import command
from tests.servers import run_command
from tests.service_process import API
from tests.testbed import Bed


async def test_a_broken_configuration_names_every_variable_at_once(bed: Bed) -> None:
    """Status 2, one line for each problem, no traceback, and no secret repeated."""
    broken = await bed.fleet.run(
        redis_addr="redis//nowhere:hunter2@",
        claim_ttl="1s",
        retry_delays="1m,soon",
        attempt_worker_concurrency="many",
        smtp_mode="smtp",
        smtp_password="hunter3",
        operator_tokens="hunter4 hunter5",
        shutdown_gracy="3s",
    )
    assert broken.status == 2
    for variable in (
        "MAIL_REDIS_ADDR",
        "MAIL_CLAIM_TTL",
        "MAIL_RETRY_DELAYS",
        "MAIL_ATTEMPT_WORKER_CONCURRENCY",
        "MAIL_SMTP_ADDR",
        "MAIL_SMTP_FROM_EMAIL",
        "MAIL_SMTP_USERNAME",
        "MAIL_OPERATOR_TOKENS",
        "MAIL_SHUTDOWN_GRACY",
    ):
        assert variable in broken.output, broken.output
    assert "Traceback" not in broken.output
    assert "hunter" not in broken.output
    assert broken.lines == []


async def test_a_port_in_use_is_reported_in_one_line(bed: Bed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = await bed.fleet.run(internal_http_addr=f"127.0.0.1:{port}")
    assert service.status == 1
    assert f"127.0.0.1:{port}" in service.output
    assert "Traceback" not in service.story()


async def test_a_broken_template_stops_the_start_with_its_file_and_line(bed: Bed, tmp_path: Path) -> None:
    folder = tmp_path / "templates" / "welcome" / "en"
    folder.mkdir(parents=True)
    (folder / "subject.tmpl").write_text("Hello")
    (folder / "text.tmpl").write_text("Hello\n{{ name ")
    service = await bed.fleet.run(template_dir=str(tmp_path / "templates"))
    assert service.status == 1
    assert "welcome/en/text.tmpl:2" in service.output
    assert "Traceback" not in service.story()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_redis_that_drops_mail_when_it_is_full_is_refused(bed: Bed, policy: str) -> None:
    """Right at the start: later, nobody would notice what it dropped."""
    run_command(bed.valkey.socket, "CONFIG", "SET", "maxmemory-policy", policy)
    service = await bed.fleet.run()
    assert service.status == 1
    assert f"maxmemory-policy is {policy}" in service.output
    assert "Traceback" not in service.story()
    assert run_command(bed.valkey.socket, "DBSIZE") == 0
    assert service.events("redis_unfit")


async def test_without_redis_it_waits_says_so_and_serves_once_redis_comes(bed: Bed) -> None:
    """No restart is needed; what comes meanwhile is refused in time and leaves nothing behind."""
    bed.valkey.kill()
    service = bed.fleet.start(operator_request_timeout="2s")
    await service.wait_listening()
    refused = await bed.login_code(service, "early")
    assert refused is not None
    assert (refused.status_code, refused.json()["code"]) == (503, "service_unavailable")
    assert "Retry-After" in refused.headers
    assert refused.elapsed.total_seconds() < 2 + 5  # a busy machine needs its own time, too
    assert (await service.client.get("/livez")).status_code == 200
    status, checks = await service.ready_checks()
    assert status == 503
    assert "No such file" in str(checks["redis"]) or "refused" in str(checks["redis"])
    lost = await service.wait_line("redis_connection_lost")
    assert "No such file" in lost["reason"] or "refused" in lost["reason"]

    await bed.valkey.start()
    await service.wait_ready()
    assert run_command(bed.valkey.socket, "ZCARD", "mail:idx:created_at") == 0
    accepted = await bed.login_code(service, "early")
    assert accepted is not None
    assert accepted.status_code == 200
    await service.wait_status(bed.ledger.keys["early"], "sent")
    assert await service.metric("galaxy_mail_actor_restarts_total") == 0


async def test_redis_that_goes_later_is_waited_for_and_nothing_is_half_done(bed: Bed) -> None:
    """Requests are refused meanwhile; a command that is published before the service is back is taken then."""
    service = await bed.fleet.ready(operator_request_timeout="2s")
    await bed.login_code(service, "before")
    await service.wait_status(bed.ledger.keys["before"], "sent")
    bed.valkey.kill()
    await service.wait_line("redis_connection_lost")
    for number in range(3):
        refused = await bed.login_code(service, f"meanwhile-{number}")
        assert refused is not None
        assert (refused.status_code, refused.json()["code"]) == (503, "service_unavailable")
        listed = await service.client.get(f"{API}/deliveries")
        assert (listed.status_code, listed.json()["code"]) == (503, "service_unavailable")
    status, checks = await service.ready_checks()
    assert (status, checks["actors"]) == (503, None)

    await bed.valkey.start()
    await bed.ledger.wait_loaded()
    bed.ledger.publish(command("n1"))
    await service.wait_status("n1", "sent")
    for number in range(3):
        await bed.login_code(service, f"meanwhile-{number}")
    await bed.login_code(service, "before")
    await bed.ledger.wait_quiet()
    assert (await service.ready_checks())[0] == 200
    assert await service.metric("galaxy_mail_actor_restarts_total") == 0
    findings = await bed.close()
    assert len(findings.deliveries) == 5


async def test_redis_that_hangs_is_no_hang_of_ours(bed: Bed) -> None:
    """A stopped server keeps its connections: each request is answered in time all the same, as not known."""
    service = await bed.fleet.ready(operator_request_timeout="2s")
    bed.valkey.pause()
    for _ in range(2):
        refused = await bed.login_code(service, "hanging")
        assert refused is not None
        assert (refused.status_code, refused.json()["code"]) == (503, "service_unavailable")
        assert refused.elapsed.total_seconds() < 2 + 5  # a busy machine needs its own time, too
    bed.valkey.resume()
    await service.wait_ready()
    # It may have reached the server, to be run when that woke: asked again it is one mail all the same.
    while (again := await bed.login_code(service, "hanging")) is None or again.status_code != 200:
        pass
    assert len(bed.ledger.deliveries()) == 1
    await service.wait_status(bed.ledger.keys["hanging"], "sent")


async def test_a_private_valkey_is_found_again_by_the_next_start(bed: Bed, tmp_path: Path) -> None:
    """Also after kill -9 of the service, which its Valkey may survive for a moment."""
    address = f"embedded:{tmp_path / 'private'}"
    first = await bed.fleet.ready(redis_addr=address)
    answer = await first.post_login_code("key")
    assert answer.status_code == 200
    await first.wait_status(answer.headers["Delivery-Id"], "sent")
    first.kill()
    await first.wait_ended()
    second = await bed.fleet.ready(redis_addr=address)
    again = await second.post_login_code("key")
    assert again.headers["Delivery-Id"] == answer.headers["Delivery-Id"]
    sound = await bed.fleet.run("verify-store", redis_addr=address)
    assert (sound.status, sound.output) == (0, "the store is sound\n")
    assert len(list(bed.outbox.iterdir())) == 1
    bed.ledger.sources.clear()  # the books are those of another store
