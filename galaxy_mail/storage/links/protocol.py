"""What is said to Redis and what it answers: commands, calls of scripts, replies, and who carries them. No I/O."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from galaxy_mail.storage.links.errors import RedisRefused
from galaxy_mail.storage.links.script import Script

Arg: TypeAlias = bytes | str | int
Command: TypeAlias = tuple[Arg, ...]  # ("GET", key)


class Call(Struct, frozen=True):
    """One run of a script. Where the server doesn't know it (NOSCRIPT: certainly not run), the link loads and repeats."""

    script: Script
    keys: tuple[str | bytes, ...] = ()
    args: tuple[Arg, ...] = ()


# An error reply is a value in its slot. A status (+OK) is bytes.
Reply: TypeAlias = "bytes | int | list[Reply] | RedisRefused | None"

# `RedisLink.pipeline` bound to one connection, as those get it who prepare or examine a connection.
Pipeline: TypeAlias = Callable[[Sequence[Command | Call]], Awaitable[list[Reply]]]

Entry: TypeAlias = tuple[str, list[tuple[bytes, bytes]]]  # a stream entry: its id, its fields in order


class RedisLink(Protocol):
    """The way to Redis as the store sees it: the gateway, or a synchronous link in a simulation."""

    async def pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        """One reply per command, in order. Not a transaction.

        Raises RedisUnavailable when none of them was executed, OutcomeUnknown when any may have been.
        """
        ...

    async def accept_pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        """Like `pipeline`, for what is answered `sent`: returns once it is as durable as configured.

        Raises NotDurable (an OutcomeUnknown) when that is not confirmed in time.
        """
        ...

    async def read_stream(self, stream: str, after: str, *, count: int, block_ms: int) -> list[Entry]:
        """The entries behind `after`, at most `count`; none after `block_ms` of waiting. Changes nothing."""
        ...
