"""Leaves once it has taken a message: with a word (421) or without, at once or when it is spoken to again."""

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.relays.hostile.server import HangUp, Server, Talk


class LeavesIdle(Server):
    def __init__(self, *, says: bytes = b"", at_once: bool, **behaved: object) -> None:
        super().__init__(**behaved)  # type: ignore[arg-type] # Server's own parameters, passed on
        self.says = says
        self.at_once = at_once

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if len(self.talks) > 1:
            return await self.behave(talk, exchange, said)
        if exchange is Exchange.MAIL and self.messages and not self.at_once:
            await self._leave(talk)
        await self.behave(talk, exchange, said)
        if exchange is Exchange.FINAL and self.at_once:
            await self._leave(talk)
        return None

    async def _leave(self, talk: Talk) -> None:
        if self.says:
            await talk.say(self.says)
        raise HangUp
