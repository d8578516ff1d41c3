"""The whole service in this process, on a real Redis with the stub."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, cast

import trio

from galaxy_mail.config import Config
from galaxy_mail.domain.records import Delivery
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.service.service import Service
from galaxy_mail.storage.links.errors import RedisFailure
from galaxy_mail.storage.records.encoding import decode_delivery
from galaxy_mail.telemetry.traces import Traces
from tests.deliveries import login_code_of
from tests.integration.intake.desk import entry
from tests.keys import k
from tests.servers import ValkeyServer, run_command, run_commands

STREAM: Final = "mail:delivery_commands"
LIMIT_S: Final = 30.0  # for what takes a second: a hanging test ends here
SLOTS: Final = 3


class Instance:
    """One service on a server, with what it sent."""

    def __init__(
        self,
        valkey: ValkeyServer,
        folder: Path,
        *,
        script: str = "",
        api: bool = False,
        traces: Traces | None = None,
        **settings: str,
    ) -> None:
        self.valkey = valkey
        self.outbox = folder / "outbox"
        env = {
            "MAIL_REDIS_ADDR": valkey.url,
            "MAIL_INTERNAL_HTTP_ADDR": "127.0.0.1:0",
            "MAIL_ATTEMPT_WORKER_CONCURRENCY": str(SLOTS),
            "MAIL_STUB_OUTBOX": str(self.outbox),
            "MAIL_CLAIM_TTL": "3s",
            "MAIL_STREAM_BLOCK_TIMEOUT": "50ms",
        }
        if script:
            (folder / "stub.json").write_text(script)
            env["MAIL_STUB_SCRIPT"] = str(folder / "stub.json")
        env |= {f"MAIL_{name.upper()}": value for name, value in settings.items()}
        self.service = Service(Config.from_env(env), api=api, traces=traces)
        self.ended = trio.Event()

    @asynccontextmanager
    async def running(self, *, connected: bool = True) -> AsyncIterator["Instance"]:
        """The service while the block runs; it is asked to stop at its end, if it was not before."""

        async def run() -> None:
            try:
                await self.service.run()
            finally:
                self.ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            if connected:
                await until(lambda: self.service.parts.gateway.connected)
            try:
                yield self
            finally:
                self.service.stop()
            with trio.fail_after(LIMIT_S):
                await self.ended.wait()

    async def accept(self, *names: str) -> None:
        """Login codes by the one intake. As a caller does, it asks again where Redis is away."""
        for name in names:
            while True:
                try:
                    outcome = await self.service.parts.intake.accept(login_code_of(name))
                except RedisFailure:
                    await trio.sleep(0.02)
                else:
                    assert outcome.outcome == "sent"
                    break

    def publish(self, *names: str) -> None:
        """Commands by the other one."""
        flat = [[part for pair in entry("", name)[1] for part in pair] for name in names]
        run_commands(self.valkey.socket, [("XADD", STREAM, "*", *parts) for parts in flat])

    def metrics(self) -> dict[str, float]:
        """By its name without the prefix, and with its labels: each series that `/metrics` shows now."""
        lines = self.service.parts.metrics.exposition().decode().splitlines()
        series = (line.rpartition(" ") for line in lines if line.startswith("galaxy_mail_"))
        return {name.removeprefix("galaxy_mail_"): float(value) for name, _, value in series}

    def sent(self) -> Counter[str]:
        """How often each delivery is in the outbox."""
        return Counter(
            path.name.rpartition(".eml")[0].rpartition(".")[0] for path in self.outbox.glob("*.eml")
        )


def deliveries(valkey: ValkeyServer) -> dict[str, Delivery]:
    ids = cast("list[bytes]", run_command(valkey.socket, "ZRANGE", k.created_at_index, 0, -1))
    records = run_commands(valkey.socket, [("GET", k.delivery(i.decode())) for i in ids])
    return {
        i.decode(): decode_delivery(cast("bytes", data), i.decode())
        for i, data in zip(ids, records, strict=True)
    }


def left(valkey: ValkeyServer, expected: int) -> int:
    """How many of so many deliveries have not ended."""
    counts = run_commands(valkey.socket, [("ZCARD", k.status_index(status)) for status in sorted(TERMINAL)])
    return expected - sum(cast("list[int]", counts))


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what another task of this process does next."""
    with trio.fail_after(LIMIT_S):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await trio.sleep(0.005)


async def kill(service: Service, name: str) -> None:
    """Kills an actor; true afterwards: it runs again."""

    def restarts() -> int:
        [report] = [report for report in service.parts.supervisor.statistics() if report.name == name]
        return report.restarts

    before = restarts()
    await until(lambda: service.parts.supervisor.kill(name))
    await until(lambda: restarts() > before)
