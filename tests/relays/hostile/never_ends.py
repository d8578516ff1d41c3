"""Begins a reply and never comes to its end: a line without end, or lines without end."""

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.relays.hostile.server import MisbehavesOnce, Talk


class NeverEnds(MisbehavesOnce):
    def __init__(
        self, at: Exchange, endless: bytes = b"250-" + b"x" * 1_000 + b"\r\n", **behaved: object
    ) -> None:
        super().__init__(at, **behaved)
        self.endless = endless

    async def misbehave(self, talk: Talk, said: bytes) -> None:
        while True:  # until the client hangs up: then the stream breaks
            await talk.say_raw(self.endless)
