"""Keeps the connection open and says nothing any more."""

import trio

from tests.relays.hostile.server import MisbehavesOnce, Talk


class SaysNothing(MisbehavesOnce):
    async def misbehave(self, talk: Talk, said: bytes) -> None:
        await trio.sleep_forever()
