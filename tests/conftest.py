"""What tests on every level share: one Valkey for all tests of a process that need no failure of it."""

import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
import trio
from hypothesis import settings

from galaxy_mail.storage.links.script import scripts
from galaxy_mail.telemetry import logs
from tests.servers import ValkeyServer, run_commands
from tests.storehouse import Storehouse

# A busy machine is slow and not wrong. What hangs ends by pytest's own limit.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def logs_are_left_as_they_were() -> Iterator[None]:
    """What a test hears of the logs must not depend on the tests before it: who changes them changes them back."""
    before = _logging()
    yield
    assert _logging() == before


def _logging() -> dict[str, object]:
    return {
        **structlog.get_config(),
        "processors": list(structlog.get_config()["processors"]),
        "handlers": [h for h in logging.root.handlers if not type(h).__module__.startswith("_pytest")],
        "level": logging.root.level,
        "hooks": (sys.excepthook, sys.displayhook),
        **vars(logs._OUT),
    }


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[ValkeyServer]:
    """Started once. Whoever uses it empties it first, and never kills it."""
    with tempfile.TemporaryDirectory(prefix="valkey-", ignore_cleanup_errors=True) as folder:
        server = ValkeyServer(Path(folder))
        trio.run(server.start)
        # As a connection of the service does: a script that is not known yet would run behind those that are.
        run_commands(server.socket, [("SCRIPT", "LOAD", script.text) for script in scripts()])
        yield server
        server.kill()


@pytest.fixture
def empty_valkey(shared_valkey: ValkeyServer) -> ValkeyServer:
    run_commands(shared_valkey.socket, [("FLUSHALL",), ("CONFIG", "SET", "maxmemory", "0")])
    return shared_valkey


@pytest.fixture
async def house(empty_valkey: ValkeyServer) -> AsyncIterator[Storehouse]:
    """An empty store with a clock of its own. What a test leaves in it is verified, unless it broke it on purpose."""
    house = Storehouse(empty_valkey.socket)
    await house.epoch.check(house.link.pipeline)
    try:
        yield house
        if not house.broken:
            house.link.faults.clear()
            run_commands(empty_valkey.socket, [("CONFIG", "SET", "maxmemory", "0")])
            assert list(map(str, await house.verify())) == []
    finally:
        house.close()
