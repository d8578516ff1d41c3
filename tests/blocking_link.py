"""A RedisLink that blocks: for simulations, where waiting for a socket must not let the clock jump.

Never in production: nothing else runs while it waits.
"""

import socket
from collections.abc import Sequence
from typing import Final, cast

import hiredis
import trio

from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisRefused, RedisUnavailable
from galaxy_mail.storage.links.protocol import Call, Command, Entry, Reply
from galaxy_mail.storage.links.request_queue import pack

_MISSING: Final = object()


class BlockingLink:
    """One connection to a unix socket."""

    def __init__(self, socket_path: str, *, timeout_s: float = 20.0) -> None:
        self._path = socket_path
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._parser = hiredis.Reader(replyError=RedisRefused, notEnoughData=_MISSING)

    async def pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        await trio.lowlevel.checkpoint_if_cancelled()
        replies = self.run(
            commands
        )  # before anything else runs: in the order of the calls, as on any connection
        await trio.lowlevel.cancel_shielded_checkpoint()
        return replies

    async def accept_pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        return await self.pipeline(commands)

    async def read_stream(self, stream: str, after: str, *, count: int, block_ms: int) -> list[Entry]:
        """Waits on trio's clock, in one piece: what arrives meanwhile is read after it."""
        command = ("XREAD", "COUNT", count, "STREAMS", stream, after)
        (reply,) = await self.pipeline([command])
        if reply is None:
            await trio.sleep(block_ms / 1000)
            (reply,) = await self.pipeline([command])
        if isinstance(reply, RedisRefused):
            raise reply
        if reply is None:
            return []
        ((_stream, entries),) = cast("list[tuple[bytes, list[tuple[bytes, list[bytes]]]]]", reply)
        return [
            (entry_id.decode(), list(zip(fields[::2], fields[1::2], strict=True)))
            for entry_id, fields in entries
        ]

    def run(self, commands: Sequence[Command | Call]) -> list[Reply]:
        """`pipeline` for synchronous callers."""
        replies = self._exchange([pack(command) for command in commands])
        unknown: list[tuple[int, Call]] = [
            (slot, command)
            for slot, (command, reply) in enumerate(zip(commands, replies, strict=True))
            if isinstance(reply, RedisRefused) and reply.code == "NOSCRIPT" and isinstance(command, Call)
        ]
        for slot, call in unknown:
            _loaded, replies[slot] = self._exchange([pack(("SCRIPT", "LOAD", call.script.text)), pack(call)])
        return replies

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, packed: list[bytes]) -> list[Reply]:
        try:
            link = self._connected()
        except OSError as error:
            raise RedisUnavailable(str(error)) from error
        replies: list[Reply] = []
        try:
            link.sendall(b"".join(packed))
            while len(replies) < len(packed):
                data = link.recv(65536)
                if not data:
                    raise ConnectionResetError("Redis closed the connection")
                self._parser.feed(data)
                while (reply := self._parser.gets()) is not _MISSING:
                    replies.append(reply)
        except OSError as error:
            self.close()
            raise OutcomeUnknown(str(error)) from error
        return replies

    def _connected(self) -> socket.socket:
        if self._socket is None:
            link = socket.socket(socket.AF_UNIX)
            link.settimeout(self._timeout_s)
            try:
                link.connect(self._path)
            except OSError:
                link.close()
                raise
            self._socket = link
            self._parser = hiredis.Reader(replyError=RedisRefused, notEnoughData=_MISSING)
        return self._socket
