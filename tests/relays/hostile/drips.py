"""Sends every byte by itself, whatever it says."""

import trio

from tests.relays.hostile.server import Server


class Drips(Server):
    async def handle(self, stream: trio.abc.Stream) -> None:
        await super().handle(_Dripping(stream))


class _Dripping(trio.abc.Stream):
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for byte in bytes(data):
            await self._stream.send_all(bytes([byte]))
            await trio.lowlevel.checkpoint()  # so that the peer may read it before the next

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()
