"""A connection to Redis for the commands that use the store without the service."""

import os
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import click
import trio

from galaxy_mail.config import StoreConfig
from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.settings.redis_address import RedisAddress
from galaxy_mail.storage.embedded import EmbeddedValkey
from galaxy_mail.storage.links.gateway import Gateway
from galaxy_mail.storage.links.script import Script
from galaxy_mail.telemetry import logs

CONNECT_WITHIN_S: Final = 10.0


class RedisUnreachable(GalaxyMailError):
    """Redis can't be reached, or a request failed."""

    exit_status: Final = 3


def store_config() -> StoreConfig:
    """The settings of the store. Until the command ends, errors are logged to standard error. Raises ConfigError."""
    config = StoreConfig.from_env(os.environ)
    click.get_current_context().call_on_close(logs.configure("error", "console", sys.stderr.buffer))
    return config


@asynccontextmanager
async def connected_gateway(
    address: RedisAddress, *, load: Sequence[Script] | None = None
) -> AsyncGenerator[Gateway]:
    """A connected gateway. `load` as for Gateway. Raises RedisUnreachable."""
    if address.embedded_dir is not None:
        address = EmbeddedValkey(address.embedded_dir).address
    gateway = Gateway(address, load=load)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.run)
        with trio.move_on_after(CONNECT_WITHIN_S):
            await gateway.wait_connected()
        if not gateway.connected:
            raise RedisUnreachable(f"can't reach Redis: {gateway.statistics().last_error}")
        yield gateway
        nursery.cancel_scope.cancel()
