"""The only way to Redis, and its only owner.

pipeline ------------> data link ----------------------> Redis      scripts and reads
accept_pipeline -----> data link, or one that only accepts          and waits for the disk or a replica
read_stream ---------> control link, a connection of its own        blocking XREAD
control_pipeline ----> control link                                 start-up checks, INFO
                       control link -----> Sentinel                 where the primary is, for all of them
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import trio
from msgspec import Struct

from galaxy_mail.settings.redis_address import RedisAddress
from galaxy_mail.storage.links.control_link import ControlLink
from galaxy_mail.storage.links.data_link import PATIENCE_S, DataLink
from galaxy_mail.storage.links.durability import Durability
from galaxy_mail.storage.links.protocol import Call, Command, Entry, Pipeline, Reply
from galaxy_mail.storage.links.redis_clock import RedisClock
from galaxy_mail.storage.links.script import Script, scripts

OnConnect: TypeAlias = Callable[[Pipeline], Awaitable[None]]

TIMEOUT_S: Final = 5.0
HEARTBEAT_S: Final = 10.0


class GatewayStatistics(Struct, frozen=True, kw_only=True):
    """What `/readyz` and the gauges show."""

    connected: bool
    generation: int  # connections made so far: it moves whenever Redis may be another one than before
    in_flight: int  # commands written and unanswered
    queued: int  # requests that wait to be written
    batches: int  # round trips so far: written batches of requests
    last_error: str | None  # why the connection was lost or could not be made; None while connected
    clock_offset_ms: float  # Redis' clock less this host's


class Gateway:
    """Keeps the connections to Redis, hands commands to them and replies back.

    `on_connect` is given every new connection before anything else uses it, that of the acceptances too; when it
    raises RedisFailure, the connection is given up and made anew. `run` ends only when cancelled: Redis being away is
    no crash. It may run again after it ended.
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        durability: Durability = Durability.SERVER,
        on_connect: OnConnect | None = None,
        load: Sequence[Script] | None = None,
        timeout_s: float = TIMEOUT_S,
        heartbeat_s: float = HEARTBEAT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`load`: the scripts that a new connection loads; None means all that ship with the package.
        `patience_s`: so long after the loss of a connection its callers wait for the next one; then they fail at once.
        """
        if address.embedded_dir is not None:
            raise ValueError("an embedded Valkey has an address of its own: EmbeddedValkey.address")
        self.on_connect = on_connect
        self._load = load
        self.clock = RedisClock()
        self._control = ControlLink(address, timeout_s=timeout_s)

        def link(
            name: str, durability: Durability, heartbeat: Callable[[Pipeline], Awaitable[None]]
        ) -> DataLink:
            return DataLink(
                self._control.primary,
                name=name,
                timeout_s=timeout_s,
                prepare=self._prepare,
                heartbeat=heartbeat,
                heartbeat_s=heartbeat_s,
                patience_s=patience_s,
                durability=durability,
            )

        self._data = link("data", Durability.SERVER, self.clock.measure)
        self._accept = self._data if durability is Durability.SERVER else link("accept", durability, _ping)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._control.run)
            nursery.start_soon(self._data.run)
            if self._accept is not self._data:
                nursery.start_soon(self._accept.run)

    async def wait_connected(self) -> None:
        while not self.connected:
            await self._data.connected.wait()
            await self._accept.connected.wait()

    @property
    def connected(self) -> bool:
        return self._data.connected.is_set() and self._accept.connected.is_set()

    async def pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        """See RedisLink."""
        return await self._data.queue.pipeline(commands, timeout_s=timeout_s)

    async def accept_pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        """See RedisLink."""
        return await self._accept.queue.pipeline(commands, timeout_s=timeout_s)

    async def read_stream(self, stream: str, after: str, *, count: int, block_ms: int) -> list[Entry]:
        """See RedisLink."""
        return await self._control.read_stream(stream, after, count=count, block_ms=block_ms)

    async def control_pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        """Like `pipeline`, apart from the hot path: for what may be slow or long, such as INFO."""
        return await self._control.pipeline(commands, timeout_s=timeout_s)

    def statistics(self) -> GatewayStatistics:
        links = {self._data, self._accept}
        return GatewayStatistics(
            connected=self.connected,
            generation=sum(link.connections for link in links),
            in_flight=sum(link.in_flight for link in links),
            queued=sum(len(link.queue) for link in links),
            batches=sum(link.batches for link in links),
            last_error=next(
                (link.last_error for link in (self._data, self._accept) if link.last_error), None
            ),
            clock_offset_ms=self.clock.offset_ms,
        )

    async def _prepare(self, pipeline: Pipeline) -> None:
        await self.clock.measure(pipeline)
        load = scripts() if self._load is None else self._load
        # A refusal shows in the first call, which then can't be healed either.
        await pipeline([("SCRIPT", "LOAD", script.text) for script in load])
        if self.on_connect is not None:
            await self.on_connect(pipeline)


async def _ping(pipeline: Pipeline) -> None:
    """Heartbeat of the accepting connection. Its replies wait for the disk, so TIME would measure nothing."""
    await pipeline([("PING",)])
