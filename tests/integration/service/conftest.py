"""What tests of the whole service share."""

from collections.abc import AsyncIterator
from typing import cast

import pytest

from tests.servers import ValkeyServer
from tests.storehouse import Storehouse


@pytest.fixture
async def valkey(valkey: ValkeyServer) -> AsyncIterator[ValkeyServer]:
    """A server of one's own, whose store is verified at the end."""
    yield valkey
    house = Storehouse(valkey.socket)
    seconds, microseconds = cast("list[bytes]", house.run("TIME"))
    house.clock.ms = int(seconds) * 1000 + int(microseconds) // 1000
    try:
        assert list(map(str, await house.verify())) == []
    finally:
        house.close()
