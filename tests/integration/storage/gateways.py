"""Gateways for tests: running while a block runs, ended with it."""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import pytest
import trio

from galaxy_mail.settings.redis_address import parse_redis_address
from galaxy_mail.storage.links.durability import Durability
from galaxy_mail.storage.links.errors import RedisUnavailable
from galaxy_mail.storage.links.gateway import Gateway, OnConnect
from galaxy_mail.storage.links.protocol import Pipeline
from galaxy_mail.storage.links.script import Script

LIMIT_S: Final = 40.0  # for what takes milliseconds: a hanging test ends here
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


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what another task of this process, or another process, does next, without a sleep that hopes."""
    with trio.fail_after(LIMIT_S):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await trio.sleep(0.001)


async def until_refused(pipeline: Pipeline, why: str) -> None:
    """Calls until the reason of the refusal is this one: on a busy machine a deadline may be the first."""
    with trio.fail_after(LIMIT_S):
        while True:
            with pytest.raises(RedisUnavailable) as refused:
                await pipeline([("PING",)])
            if re.search(why, str(refused.value)):
                return
