"""What chaos tests share: a testbed whose promises are looked at when the test is done."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.testbed import Bed, bed_in, give_time


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    give_time(items, Path(__file__).parent)


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    """A Valkey of its own; claims live for 2 s, so that what is lost is taken over soon."""
    async with bed_in(
        tmp_path, claim_ttl="2s", retry_delays="50ms,50ms,50ms", operator_request_timeout="5s"
    ) as bed:
        yield bed
