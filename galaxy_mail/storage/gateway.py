"""The only way to Redis, and its only owner. Never: a decision about mail, a repeat of what may have been executed."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from msgspec import Struct

from galaxy_mail.storage.commands import Call, Command, Entry, Reply

Pipeline: TypeAlias = Callable[[Sequence[Command | Call]], Awaitable[list[Reply]]]
OnConnect: TypeAlias = Callable[[Pipeline], Awaitable[None]]


class GatewayStatistics(Struct, frozen=True, kw_only=True):
    """What `/readyz` and the gauges show."""

    connected: bool
    generation: int  # connections made so far: it moves whenever Redis may be another one than before
    in_flight: int  # commands written and unanswered
    queued: int  # requests that wait to be written
    last_error: str | None  # why the connection was lost or could not be made; None while connected
    clock_offset_ms: float  # Redis' clock less this host's
    clock_error_ms: float  # half the round trip in which it was measured


class Gateway:
    """The skeleton of the interface; the links come with the next commit."""

    async def run(self) -> None:
        raise NotImplementedError

    async def wait_connected(self) -> None:
        raise NotImplementedError

    async def pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        raise NotImplementedError

    async def accept_pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        raise NotImplementedError

    async def read_stream(self, stream: str, after: str, *, count: int, block_ms: int) -> list[Entry]:
        raise NotImplementedError

    def now_ms(self) -> int:
        raise NotImplementedError

    def statistics(self) -> GatewayStatistics:
        raise NotImplementedError
