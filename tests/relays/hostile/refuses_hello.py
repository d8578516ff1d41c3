"""Knows neither EHLO nor HELO, or EHLO alone; and may leave over it."""

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.relays.hostile.server import HangUp, Server, Talk


class RefusesHello(Server):
    def __init__(self, *, takes_helo: bool, hangs_up: bool = False, **behaved: object) -> None:
        super().__init__(**behaved)  # type: ignore[arg-type] # Server's own parameters, passed on
        self.takes_helo = takes_helo
        self.hangs_up = hangs_up

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if exchange is not Exchange.EHLO or (self.takes_helo and said.startswith(b"HELO")):
            await self.behave(talk, exchange, said)
        elif self.hangs_up:
            await talk.say(b"554 5.7.1 go away")
            raise HangUp
        else:
            await talk.say(b"502 5.5.1 unknown")
