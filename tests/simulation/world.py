"""The world of a simulation: a virtual clock, a Redis that fails, what the relay took, what was seen.

Everything random comes from the seed, so that a seed gives the same run again. The scripts run on a real Valkey through a
link that blocks, so that virtual time stands still meanwhile.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from math import inf
from random import Random
from typing import Any, Final, TypeVar, cast

import trio

from galaxy_mail.domain.records import Delivery, Envelope, RenderedContent, SendResult, Suppression, encode
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.storage.links.errors import RedisRefused
from galaxy_mail.storage.links.protocol import Call, Command, Entry, Reply
from galaxy_mail.storage.operations.identity import entry_number
from tests.blocking_link import BlockingLink
from tests.keys import k
from tests.simulation.witness import Begin, Books, Published, Witness

EPOCH_MS: Final = 4_100_000_000_123  # odd, and in the future: keys' times to live run on the server's clock
STREAM: Final = "mail:delivery_commands"

T = TypeVar("T")


@dataclass
class Odds:
    """How often what fails, per call."""

    redis_refused: float = 0.01  # Redis is away, nothing was run
    lost_reply: float = 0.01  # all or a part of it was run, and nobody knows
    lost_call: float = 0.005  # it was not run, and nobody knows
    stall: float = 0.003  # the caller stands still for long before the call is run
    split: float = 0.003  # others' calls come between those of one pipeline
    oom: float = 0.004  # of those that accept
    relay: float = 0.4  # the relay does anything but accept


NO_FAULTS: Final = Odds(redis_refused=0, lost_reply=0, lost_call=0, stall=0, split=0, oom=0, relay=0)


class Mood(StrEnum):
    """How the relay treats everyone for a while."""

    WELL = "well"
    AWAY = "away"
    SILENT = "silent"
    CLOSING = "closing"  # 421 to MAIL
    CROWDED = "crowded"  # too many connections
    NO_SENDER = "no_sender"
    NO_LOGIN = "no_login"
    FULL = "full"  # 452 4.3.1 to the final dot: the relay says itself that it is at fault
    NO_CONTENT = "no_content"  # 554 5.7.1 to the final dot: each answer alone blames the message


@dataclass
class Offer:
    """One message in a relay's hands, from the moment at which a slot handed it over."""

    delivery_id: str
    attempt_no: int
    process: str
    envelope: Envelope
    content: RenderedContent
    message_id: str
    date_ms: int
    begin: Begin | None  # what Redis knew of it then
    order: int  # of what Redis ran before it
    taken: bool = False  # the final dot left, and the relay has it
    mood: Mood = Mood.WELL  # which gave the answer; well: none of them
    answer: SendResult | None = None
    answered_s: float = 0.0


@dataclass
class Snapshot:
    """All that Redis held at a moment."""

    keys: dict[bytes, tuple[bytes, int]]  # the dump, and when it ends: 0 for never
    books: Books
    order: int


@dataclass
class World:
    rng: Random
    link: BlockingLink
    catalog: Catalog
    odds: Odds
    claim_ttl_s: float
    witness: Witness = field(init=False)
    _outage: trio.Lock = field(default_factory=trio.Lock)
    redis_up: bool = True
    redis_generation: int = 0  # connections of an earlier one are lost
    clock_offset_ms: int = 0
    offers: list[Offer] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    calm: trio.Event = field(default_factory=trio.Event)
    stream_grew: trio.Event = field(default_factory=trio.Event)
    last_entry_id: str = ""
    mood: Mood = Mood.WELL
    moods: list[tuple[float, Mood]] = field(default_factory=list)  # since when
    connections: int = 0  # mails that the relay has in hand
    normal_takes_s: float = 0.0  # so long the relay needs for normal mail, while calm
    forgotten: dict[str, tuple[Delivery, list[bytes | None]]] = field(
        default_factory=dict
    )  # records as they went
    suppressed_once: set[str] = field(default_factory=set)

    def now_ms(self) -> int:
        """Redis' clock."""
        return EPOCH_MS + self.clock_offset_ms + round(trio.current_time() * 1000)

    def script_ms(self) -> int:
        return self.now_ms()

    def tell(self, event: str) -> None:
        self.history.append(f"{trio.current_time():12.3f} {event}")

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.history).encode()).hexdigest()[:16]

    def happens(self, chance: float, what: str) -> bool:
        if self.rng.random() >= chance:
            return False
        self.counts[what] += 1
        return True

    def fault(self, more: float) -> str:
        """What goes wrong with a call, mostly nothing: "". `more`: calls that matter meet more of it."""
        roll = self.rng.random() / more
        odds = self.odds
        for name in ("redis_refused", "lost_reply", "lost_call", "stall", "split"):
            roll -= cast("float", getattr(odds, name))
            if roll < 0:
                self.counts[name] += 1
                return name
        return ""

    def feels(self, mood: Mood) -> None:
        """The relay's mood from now on."""
        self.mood = mood
        self.moods.append((trio.current_time(), mood))
        self.counts[f"relay_{mood}"] += 1
        self.tell(f"the relay is {mood}")

    def felt_otherwise(self, mood: Mood, from_s: float, until_s: float) -> bool:
        """Whether the relay was in another mood at some moment of this time."""
        for (since_s, felt), (end_s, _) in pairwise([*self.moods, (inf, mood)]):
            if felt is not mood and since_s <= until_s and end_s >= from_s:
                return True
        return not self.moods or self.moods[0][0] > from_s

    async def silence(self, seconds: float) -> None:
        """A relay that says nothing; when everything has become calm, it does not go on for long."""
        with trio.move_on_after(seconds):
            await self.calm.wait()
            await trio.sleep(1)

    # Redis, from outside of every process

    def run(self, *commands: Command | Call) -> list[Reply]:
        replies = self.link.run(commands)
        for reply in replies:
            if isinstance(reply, RedisRefused):
                raise reply
        return replies

    def instantly(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of what never waits for anything but the link of `instant_link`."""
        try:
            work.send(None)
        except StopIteration as done:
            return cast("T", done.value)
        work.close()
        raise AssertionError("it waited")

    def suppress(self, entry: str, *, reason: str | None = "bounced") -> None:
        """Puts an address or a domain on the list, or takes it off."""
        self.tell(f"{entry} is {'suppressed' if reason else 'not suppressed any more'}")
        self.counts["suppress"] += 1
        if reason is None:
            self.run(("HDEL", k.suppressions, entry))
            self.witness.books.suppressed.pop(entry, None)
        else:
            record = Suppression(address=entry, reason=reason, created_at_ms=self.now_ms())
            self.run(("HSET", k.suppressions, entry, encode(record)))
            self.witness.books.suppressed[entry] = reason
            self.suppressed_once.add(entry)

    def lift_all(self) -> None:
        """What operators hold is held no more."""
        self.tell("every hold is lifted")
        self.run(("DEL", k.holds))
        self.witness.books.holds.clear()

    def publish(self, fields: dict[str, str], published: Callable[[str], Published]) -> None:
        """An entry for the stream. Its id is its own: the server's clock is not the simulation's."""
        entry_id = f"{self.now_ms()}-0"
        if self.last_entry_id and entry_number(entry_id) <= entry_number(self.last_entry_id):
            milliseconds, sequence = entry_number(self.last_entry_id)
            entry_id = f"{milliseconds}-{sequence + 1}"
        self.run(("XADD", STREAM, entry_id, *(part for pair in fields.items() for part in pair)))
        self.last_entry_id = entry_id
        self.witness.books.stream.append(published(entry_id))
        self.stream_grew.set()
        self.stream_grew = trio.Event()

    def snapshot(self) -> Snapshot:
        keys = sorted(cast("list[bytes]", self.run(("KEYS", "*"))[0]))
        dumps = cast("list[bytes]", self.run(*(("DUMP", key) for key in keys)) if keys else [])
        ends_ms = cast("list[int]", self.run(*(("PEXPIRETIME", key) for key in keys)) if keys else [])
        return Snapshot(
            {key: (dump, max(end, 0)) for key, dump, end in zip(keys, dumps, ends_ms, strict=True)},
            self.witness.books.copied(),
            self.witness.order,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Redis comes back as it was then, as after a failover to a replica that lagged; {} is an empty one."""
        self.run(("FLUSHDB",))
        if snapshot.keys:
            self.run(*(("RESTORE", key, end, dump, "ABSTTL") for key, (dump, end) in snapshot.keys.items()))
        self.witness.restored(snapshot.books, snapshot.order)

    def purge(self, delivery: Delivery) -> None:
        """Its record is gone now; what it was is judged all the same."""
        delivery_id = delivery.delivery_id
        keys = [k.attempt(delivery_id, number) for number in range(1, delivery.attempt_count + 1)]
        found = cast("list[bytes | None]", self.run(("MGET", *keys))[0]) if keys else []
        self.forgotten[delivery_id] = (delivery, found)

    async def redis_away(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Every connection is lost, and for a while there is none."""
        async with self._outage:
            self.tell("Redis is away")
            self.redis_up = False
            self.redis_generation += 1
            self.stream_grew.set()
            self.stream_grew = trio.Event()
            await trio.sleep(seconds)
            meanwhile()
            self.redis_up = True
            self.tell("Redis is back")


class InstantLink:
    """A link that never yields to another task: what is read through it was so at one moment."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        return self._world.link.run(commands)

    accept_pipeline = pipeline

    async def read_stream(self, stream: str, after: str, *, count: int, block_ms: int) -> list[Entry]:
        raise AssertionError("nothing waits here")
