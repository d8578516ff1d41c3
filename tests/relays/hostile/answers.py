"""Gives another answer to one exchange than the usual: a refusal, a 421, an unknown code, a digit that is not legal."""

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.relays.hostile.server import HangUp, MisbehavesOnce, Talk


class Answers(MisbehavesOnce):
    def __init__(self, at: Exchange, *replies: bytes, then_hangs_up: bool = False, **behaved: object) -> None:
        super().__init__(at, **behaved)
        self.replies = replies
        self.then_hangs_up = then_hangs_up

    async def misbehave(self, talk: Talk, said: bytes) -> None:
        await talk.say(*self.replies)
        if self.then_hangs_up:
            raise HangUp
