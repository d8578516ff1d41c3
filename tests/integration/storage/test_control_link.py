"""What the control link leaves behind when it is cancelled: no connection."""

import gc
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import pytest
import trio

from galaxy_mail.settings.redis_address import parse_redis_address
from galaxy_mail.storage.links.control_link import ControlLink

LIMIT_S: Final = 10


class SilentServer:
    """Takes connections and what they send, and never answers."""

    def __init__(self) -> None:
        self.port = 0
        self.asked = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                while await stream.receive_some():
                    self.asked.set()
            except trio.BrokenResourceError:
                pass


@asynccontextmanager
async def silent_server() -> AsyncIterator[SilentServer]:
    server = SilentServer()
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
        server.port = listener.socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()


# What a new connection waits for: the answer to its name, or to its password.
ADDRESSES: Final = {
    "named": "redis://127.0.0.1:{port}",
    "authenticated": "redis://:secret@127.0.0.1:{port}/3",
}


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
async def test_a_connection_that_is_being_made_is_closed_by_a_cancellation(address: str) -> None:
    """At each step of the way from the first request to the first bytes that the server gets."""
    steps = 0
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        while not await _cancelled(address, steps):
            steps += 1
        gc.collect()
    assert [str(one.message) for one in warned if one.category is ResourceWarning] == []
    assert steps > 5


async def _cancelled(address: str, steps: int) -> bool:
    """Whether the server had been asked before the link was cancelled."""
    with trio.fail_after(LIMIT_S):
        async with silent_server() as server, trio.open_nursery() as nursery:
            link = ControlLink(parse_redis_address(address.format(port=server.port)), timeout_s=LIMIT_S)
            nursery.start_soon(link.run)
            nursery.start_soon(link.pipeline, [("PING",)])
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
            return server.asked.is_set()
