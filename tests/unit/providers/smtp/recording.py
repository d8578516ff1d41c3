"""A stream that remembers what was written to it, write by write."""

from collections.abc import Callable

import trio

from tests.unit.providers.smtp.wire import Pair, in_memory


class Recording(trio.abc.Stream):
    def __init__(self, stream: trio.abc.Stream, writes: list[bytes]) -> None:
        self._stream = stream
        self._writes = writes

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)
        self._writes.append(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


def recorded(writes: list[bytes], pair: Callable[[], Pair] = in_memory) -> Callable[[], Pair]:
    """Makes connections whose client's writes end up in `writes`, each once it was taken whole."""

    def connect() -> Pair:
        client, server = pair()
        return Recording(client, writes), server

    return connect
