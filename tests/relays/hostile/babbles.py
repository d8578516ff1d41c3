"""Answers with bytes that no SMTP server sends."""

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.relays.hostile.server import MisbehavesOnce, Talk


class Babbles(MisbehavesOnce):
    def __init__(
        self, at: Exchange, babble: bytes = b"HTTP/1.1 400 Bad Request\r\n\r\n", **behaved: object
    ) -> None:
        super().__init__(at, **behaved)
        self.babble = babble

    async def misbehave(self, talk: Talk, said: bytes) -> None:
        await talk.say_raw(self.babble)
