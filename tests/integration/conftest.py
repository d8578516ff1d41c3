"""What integration tests share: a Valkey of their own, and a gateway to it."""

from collections.abc import AsyncIterator

import pytest

from galaxy_mail.storage.links.gateway import Gateway
from tests.integration.storage.gateways import running
from tests.servers import ValkeyServer, valkey_server


@pytest.fixture
async def valkey() -> AsyncIterator[ValkeyServer]:
    """An empty Valkey on a unix socket, with an append-only file as in production."""
    # Every second, a sync that takes long puts off the writing too, and a kill then costs what was acknowledged.
    async with valkey_server("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
async def gateway(valkey: ValkeyServer) -> AsyncIterator[Gateway]:
    """A connected gateway to `valkey`."""
    async with running(valkey.url) as gateway:
        yield gateway
