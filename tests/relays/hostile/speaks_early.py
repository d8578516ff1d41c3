"""Says more than it was asked: the usual answer, and at once something that would answer the next question."""

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.relays.hostile.server import MisbehavesOnce, Talk


class _Held:
    """Collects what is said, so that it leaves in one piece."""

    def __init__(self) -> None:
        self.said = b""

    async def send_all(self, data: bytes) -> None:
        self.said += data


class SpeaksEarly(MisbehavesOnce):
    def __init__(self, at: Exchange, early: bytes, **behaved: object) -> None:
        super().__init__(at, **behaved)
        self.early = early

    async def misbehave(self, talk: Talk, said: bytes) -> None:
        stream, held = talk.stream, _Held()
        talk.stream = held  # type: ignore[assignment] # only send_all is called while it is there
        try:
            await self.behave(talk, self.at, said)
        finally:
            talk.stream = stream
        await talk.say_raw(held.said + self.early)
