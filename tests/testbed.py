"""A Valkey, service processes on it, and the books of what they promise: what end-to-end and chaos tests stand on."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest
import trio

from tests.ledger import Arrival, Findings, Ledger, arrival, outbox_arrivals
from tests.relays.hostile.server import Server
from tests.servers import ValkeyServer, valkey_server
from tests.service_process import Fleet, ServiceProcess, fleet_of

FROM: Final = "mail@galaxy.test"
LIMIT_S: Final = 300  # of one test; most take a few seconds


def give_time(items: Iterable[pytest.Item], folder: Path) -> None:
    """Tests in this folder start processes, so that on a busy machine they take longer than others may."""
    for item in items:
        if item.path.is_relative_to(folder) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LIMIT_S))


class Bed:
    """Made by `bed_in`; what was promised is held against the facts at its end."""

    def __init__(self, valkey: ValkeyServer, fleet: Fleet, folder: Path) -> None:
        self.valkey = valkey
        self.fleet = fleet
        self.folder = folder
        self.outbox = folder / "outbox"
        self.ledger = Ledger(valkey.socket)
        self.ledger.sources.append(lambda: outbox_arrivals(self.outbox))
        self.ended = True  # whether everything has to have come to its end
        self.closed = False

    async def login_code(self, process: ServiceProcess, key: str, **given: str) -> httpx.Response | None:
        """Asks for a login code, and books the answer. None: there was none."""
        try:
            answer = await process.post_login_code(key, **given)
        except httpx.TransportError:
            self.ledger.unanswered(key)
            return None
        if answer.status_code == httpx.codes.OK:
            self.ledger.answered(key, answer.headers["Delivery-Id"])
        elif answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            self.ledger.unanswered(key)
        return answer

    def stub_script(self, text: str) -> str:
        """A file for MAIL_STUB_SCRIPT."""
        path = self.folder / "stub.json"
        path.write_text(text)
        return str(path)

    @asynccontextmanager
    async def relay(self, server: Server) -> AsyncIterator[dict[str, str | None]]:
        """The settings that send mail to this relay; what it takes goes into the books."""

        def arrived() -> list[Arrival]:
            return [arrival(message) for message in server.messages]

        self.ledger.sources.append(arrived)
        async with listening(server) as port:
            yield smtp_settings(port)

    async def close(self) -> Findings:
        """Stops what runs, and holds the books against the facts. True afterwards: every promise was kept."""
        await self.fleet.stop()
        self.closed = True
        findings = await self.ledger.close(everything_ended=self.ended)
        assert findings.wrong == [], "\n".join(
            [
                f"{len(findings.wrong)} wrong:",
                *findings.wrong[:20],
                *(p.story() for p in self.fleet.processes),
            ]
        )
        return findings


@asynccontextmanager
async def bed_in(folder: Path, *valkey_options: str, **settings: str) -> AsyncIterator[Bed]:
    """A testbed whose services have these settings: variables less MAIL_, in lower case."""
    env = {f"MAIL_{name.upper()}": value for name, value in settings.items()}
    # Every second, a sync that takes long puts off the writing too, and a kill then costs what was acknowledged.
    kept = ("--appendonly", "yes", "--appendfsync", "always")
    async with valkey_server(*kept, *valkey_options) as valkey:
        base = {"MAIL_REDIS_ADDR": valkey.url, "MAIL_STUB_OUTBOX": str(folder / "outbox")}
        async with fleet_of({**base, **env}) as fleet:
            bed = Bed(valkey, fleet, folder)
            yield bed
            # Not reached where the test failed.
            if not bed.closed:
                await bed.close()


@asynccontextmanager
async def listening(server: Server) -> AsyncIterator[int]:
    """This relay on a loopback port."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024)
        nursery.start_soon(trio.serve_listeners, server.handle, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def smtp_settings(port: int) -> dict[str, str | None]:
    return {
        "smtp_mode": "smtp",
        "smtp_addr": f"127.0.0.1:{port}",
        "smtp_tls": "none",
        "smtp_from_email": FROM,
        "stub_outbox": None,
    }
