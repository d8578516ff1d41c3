"""Behaves, but takes its time: so many seconds before each answer to these exchanges."""

from collections.abc import Mapping

import trio

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.relays.hostile.server import Server, Talk


class AnswersLate(Server):
    def __init__(self, delays_s: Mapping[Exchange, float], **behaved: object) -> None:
        super().__init__(**behaved)  # type: ignore[arg-type] # Server's own parameters, passed on
        self.delays_s = delays_s

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        await trio.sleep(self.delays_s.get(exchange, 0))
        await self.behave(talk, exchange, said)
