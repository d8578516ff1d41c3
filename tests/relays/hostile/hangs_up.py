"""Closes the connection instead of an answer."""

from tests.relays.hostile.server import HangUp, MisbehavesOnce, Talk


class HangsUp(MisbehavesOnce):
    async def misbehave(self, talk: Talk, said: bytes) -> None:
        raise HangUp
