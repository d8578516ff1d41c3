"""Relays for chaos: they hold connections where they are told to, or take their time."""

from collections import Counter
from random import Random
from typing import Final

import trio

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.relays.hostile.server import Server, Talk

# Where a connection can be held: before the relay reacts to it.
HOLDS: Final = (
    Exchange.GREETING,
    Exchange.EHLO,
    Exchange.MAIL,
    Exchange.RCPT,
    Exchange.DATA,
    Exchange.FINAL,
)
TAKEN: Final = "taken"  # the message is the relay's, and the answer has not left
Hold = str  # one of HOLDS, or TAKEN


class Holding(Server):
    """While `holding`, each connection stands still at a place that the random numbers choose, the first time there."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.holding = False
        self.held: Counter[Hold] = Counter()  # connections that stand still, by where
        self.unanswered: list[bytes] = []  # messages that are taken, now or once released, without an answer
        self._random = random
        self._places: dict[Talk, Hold] = {}
        self._released = trio.Event()

    def hold(self) -> None:
        """From now on connections are held."""
        self.holding = True
        self.held.clear()
        self.unanswered.clear()
        self._places.clear()
        self._released = trio.Event()

    def release(self) -> None:
        """Whoever is still there goes on, and nobody is held any more."""
        self.holding = False
        self._released.set()

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if self.holding:
            place = self._places.get(talk)
            if place is None:  # a connection of before has its greeting behind it
                ahead = HOLDS[HOLDS.index(exchange) if exchange in HOLDS else 0 :]
                place = self._places[talk] = self._random.choice((*ahead, TAKEN))
            if exchange is Exchange.FINAL:
                self.unanswered.append(said)
            if place == exchange:
                await self._hold(place)
            elif place == TAKEN and exchange is Exchange.FINAL:
                self.messages.append(said)
                await self._hold(place)
                await talk.say(b"250 2.0.0 taken")
                return
        await self.behave(talk, exchange, said)

    async def _hold(self, place: Hold) -> None:
        self.held[place] += 1
        await self._released.wait()


class Slow(Server):
    """Behaves, and takes up to so many seconds for each answer."""

    def __init__(self, random: Random, most_s: float) -> None:
        super().__init__()
        self.most_s = most_s
        self._random = random

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        await trio.sleep(self._random.uniform(0, self.most_s))
        await self.behave(talk, exchange, said)
        await trio.sleep(self._random.uniform(0, self.most_s))


class HoldsAll(Server):
    """Holds every message at its final dot until it is told not to; then it has taken it."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = True
        self.held: list[bytes] = []
        self.released = trio.Event()

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if exchange is Exchange.FINAL and self.holds:
            self.held.append(said)
            await self.released.wait()
        await self.behave(talk, exchange, said)
