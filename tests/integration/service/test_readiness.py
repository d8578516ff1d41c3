"""What `/readyz` says of a service that can't do its work, and what is logged when it starts."""

from pathlib import Path

import httpx
import pytest
import structlog.testing

from tests.integration.service.instance import LIMIT_S, Instance, until
from tests.servers import ValkeyServer, run_command


async def test_a_service_without_one_of_its_actors_is_not_ready(
    valkey: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("galaxy_mail.actors.supervisor.FIRST_PAUSE_S", 60.0)
    monkeypatch.setattr("galaxy_mail.actors.supervisor.LONGEST_PAUSE_S", 60.0)
    async with Instance(valkey, tmp_path, api=True).running() as instance:
        parts = instance.service.parts
        await until(lambda: parts.server is not None)
        assert parts.server is not None
        async with httpx.AsyncClient(base_url=parts.server.url, timeout=LIMIT_S) as client:
            assert (await client.get("/readyz")).status_code == 200
            assert parts.supervisor.kill("sender-1")
            await until(lambda: instance.metrics().get('actors{status="backing_off"}') == 1)
            answer = await client.get("/readyz?verbose")
    assert answer.status_code == 503
    assert answer.json()["failing"] == ["actors"]
    [actors] = [check for check in answer.json()["checks"] if check["name"] == "actors"]
    assert actors["detail"] == "sender-1 is backing_off"


async def test_the_start_warns_of_a_redis_that_may_lose_mail(valkey: ValkeyServer, tmp_path: Path) -> None:
    run_command(valkey.socket, "CONFIG", "SET", "appendonly", "no")
    with structlog.testing.capture_logs() as logged:
        async with Instance(valkey, tmp_path).running():
            pass
    [warning] = [line for line in logged if line["event"] == "redis_check"]
    assert warning["log_level"] == "warning"
    assert "the append-only file is off" in warning["warning"]


async def test_the_start_warns_of_templates_that_are_probably_wrong(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    folder = tmp_path / "templates" / "welcome" / "en"
    folder.mkdir(parents=True)
    (folder / "subject.tmpl").write_text("Hello")
    (folder / "text.tmpl").write_text("Hello")
    with structlog.testing.capture_logs() as logged:
        async with Instance(valkey, tmp_path, template_dir=str(tmp_path / "templates")).running():
            pass
    warnings = {line["file"]: line["message"] for line in logged if line["event"] == "template_warning"}
    assert warnings["auth.login_code"].startswith("missing: ")
