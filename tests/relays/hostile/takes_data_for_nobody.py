"""Answers 354 to DATA although it refused the only recipient: what RFC 2920 §3.1 has the lone dot for."""

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.relays.hostile.server import Server, Talk


class TakesDataForNobody(Server):
    """`then` answers a message of nothing. `refuses_sender`: it refuses MAIL instead, and takes the recipient."""

    def __init__(
        self, *, then: bytes = b"554 5.5.1 nobody", refuses_sender: bool = False, **behaved: object
    ) -> None:
        super().__init__(**behaved)  # type: ignore[arg-type] # Server's own parameters, passed on
        self.then = then
        self.refuses_sender = refuses_sender
        self.empty_messages = 0

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if exchange is Exchange.MAIL and self.refuses_sender:
            await talk.say(b"550 5.7.1 not you")
        elif exchange is Exchange.DATA:
            await talk.say(b"354 go ahead")
            talk.waits_for_message = True
        elif exchange is Exchange.FINAL and not said:
            self.empty_messages += 1
            await talk.say(self.then)
        else:
            await self.behave(talk, exchange, said)
