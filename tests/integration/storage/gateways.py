"""Gateways for tests: running while a block runs, ended with it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from galaxy_mail.settings.redis_address import parse_redis_address
from galaxy_mail.storage.durability import Durability
from galaxy_mail.storage.gateway import Gateway, OnConnect
from galaxy_mail.storage.script import Script

LIMIT_S: Final = 20.0  # for what takes milliseconds: a hanging test ends here
COUNT: Final = Script.of("count", "return redis.call('INCR', KEYS[1])")
ECHO: Final = Script.of("echo", "return ARGV[1]")


@asynccontextmanager
async def running(
    address: str,
    *,
    durability: Durability = Durability.SERVER,
    on_connect: OnConnect | None = None,
    load: Sequence[Script] = (),
    timeout_s: float = 5.0,
    heartbeat_s: float = 60.0,
    connected: bool = True,
) -> AsyncIterator[Gateway]:
    """A gateway that runs, connected unless told otherwise."""
    gateway = Gateway(
        parse_redis_address(address),
        durability=durability,
        on_connect=on_connect,
        load=load,
        timeout_s=timeout_s,
        heartbeat_s=heartbeat_s,
        patience_s=1.0 if connected else 0.1,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.run)
        if connected:
            with trio.fail_after(LIMIT_S):
                await gateway.wait_connected()
        yield gateway
        nursery.cancel_scope.cancel()
