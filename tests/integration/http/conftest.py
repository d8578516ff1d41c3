"""A world of its own for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.http.world import World, world
from tests.servers import ValkeyServer


@pytest.fixture
async def api(valkey: ValkeyServer) -> AsyncIterator[World]:
    async with world(valkey) as made:
        yield made
