"""Somebody on the way adds commands' answers in clear behind the relay's yes to STARTTLS (as CVE-2011-0411 did)."""

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.relays.hostile.server import MisbehavesOnce, Talk


class Injected(MisbehavesOnce):
    def __init__(self, **behaved: object) -> None:
        super().__init__(Exchange.STARTTLS, **behaved)

    async def misbehave(self, talk: Talk, said: bytes) -> None:
        assert self.tls is not None
        await talk.say(b"220 2.0.0 go ahead", b"250-hostile.test", b"250 AUTH PLAIN")
        await talk.start_tls(self.tls)
