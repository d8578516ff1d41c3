"""Takes a number of recipients in one message, and refuses the others for their number."""

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.relays.hostile.server import Server, Talk


class TakesRecipients(Server):
    def __init__(self, count: int, then: bytes, **behaved: object) -> None:
        super().__init__(**behaved)  # type: ignore[arg-type] # Server's own parameters, passed on
        self.count = count
        self.then = then

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if exchange is Exchange.RCPT and talk.recipients_accepted >= self.count:
            await talk.say(self.then)
        else:
            await self.behave(talk, exchange, said)
