"""The OpenAPI contract against the running service: schemathesis looks for an answer that the contract does not know."""

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.contracts.documents import CONTRACTS
from tests.servers import run_commands, valkey_server
from tests.service_process import fleet_of

EXAMPLES = 15
CONFIG = Path(__file__).with_name("schemathesis.toml")
GARBAGE = ("XADD", "mail:delivery_commands", "1-1", "delivery_id", "x")


@pytest.mark.timeout(400)
async def test_no_answer_is_undocumented(tmp_path: Path) -> None:
    async with (
        valkey_server("--appendonly", "yes") as valkey,
        fleet_of({"MAIL_REDIS_ADDR": valkey.url, "MAIL_STUB_OUTBOX": str(tmp_path)}) as fleet,
    ):
        service = await fleet.ready()
        run_commands(valkey.socket, [GARBAGE])
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            *("--config-file", str(CONFIG), "run", str(CONTRACTS / "openapi.yaml"), "--url", service.url),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", "1"),
            *("--workers", "1", "--no-color"),
        ]
        run = await trio.run_process(
            command, capture_stdout=True, stderr=subprocess.STDOUT, check=False, cwd=tmp_path
        )
        assert run.returncode == 0, run.stdout.decode()[-20_000:]
        # Whatever it was asked, it never met a defect of its own, and goes on.
        assert [line for line in service.lines if line["level"] in {"error", "critical"}] == []
        assert (await service.client.get("/livez")).status_code == 200
        sound = await fleet.run("verify-store")
        assert sound.status == 0, sound.output
        await fleet.stop()
