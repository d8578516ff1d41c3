"""Speaks in the middle of the message, and then hangs up, reads on, or just stops reading."""

from enum import StrEnum

import trio

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.relays.hostile.server import HangUp, MisbehavesOnce, Talk


class Then(StrEnum):
    HANGS_UP = "hangs up"
    READS_ON = "reads on"
    STOPS_READING = "stops reading"


class Interrupts(MisbehavesOnce):
    def __init__(self, says: bytes, then: Then, **behaved: object) -> None:
        super().__init__(Exchange.BODY, **behaved)
        self.says = says
        self.then = then

    async def misbehave(self, talk: Talk, said: bytes) -> None:
        if self.says:
            await talk.say(self.says)
        if self.then is Then.HANGS_UP:
            raise HangUp
        if self.then is Then.STOPS_READING:
            await trio.sleep_forever()
