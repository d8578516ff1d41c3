"""A store of a test's own: the real scripts on a Valkey that all tests of a process share, and a clock that the test sets.

The link blocks, so that nothing of this waits for a socket while a virtual clock could jump. Calls can be made to go wrong
by the name of their script.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Final, Literal, cast

import trio
from msgspec import Struct

from galaxy_mail.domain.acceptance import MailRequest, suppression_entries
from galaxy_mail.domain.conclusion import Begun, Conclusion, RetryPolicy, begin, conclude, give_back
from galaxy_mail.domain.records import Attempt, Delivery, RenderedContent, SendResult, Suppression
from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisFailure, RedisRefused, RedisUnavailable
from galaxy_mail.storage.links.protocol import Call, Command, Entry, Reply
from galaxy_mail.storage.operations.answers import AcceptAnswer
from galaxy_mail.storage.operations.claims import Claim, Claimed
from galaxy_mail.storage.operations.command_stream import CommandStream
from galaxy_mail.storage.operations.hold_store import HoldStore
from galaxy_mail.storage.operations.identity import StoreIdentity, Verdict
from galaxy_mail.storage.operations.job_store import ResendJobStore
from galaxy_mail.storage.operations.store import Store
from galaxy_mail.storage.operations.suppression_list import SuppressionList
from galaxy_mail.storage.operations.upkeep import Upkeep
from galaxy_mail.storage.reader import Reader
from galaxy_mail.storage.records.encoding import decode_attempt, decode_delivery
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import Retention
from galaxy_mail.storage.verify import Violation, verify
from tests.blocking_link import BlockingLink
from tests.deliveries import acceptance_of
from tests.keys import k

START_MS: Final = (
    4_100_000_000_123  # far ahead of the server's clock, which would end keys that are still wanted
)
TTL_MS: Final = 30_000
POLICY: Final = RetryPolicy()

Fault = Literal["none", "lost_reply", "lost_call", "refused"]
Dump = dict[str, tuple[object, int]]  # key -> its value, and the ms at which it ends (-1: never)


class Clock:
    """Epoch milliseconds that pass when a test says so; scripts go by them too."""

    def __init__(self) -> None:
        self.ms = START_MS
        self.scripts: Callable[[], int | None] = self.now_ms  # a test may tell scripts another time
        self._followed: Callable[[], int] | None = None

    def now_ms(self) -> int:
        return self.ms if self._followed is None else self._followed()

    def script_ms(self) -> int | None:
        return self.scripts()

    def follow(self, now_ms: Callable[[], int]) -> None:
        """From now on this is the time."""
        self._followed = now_ms

    def follow_trio(self) -> None:
        """Time passes as trio's does, from where the clock stands."""
        start_ms, began_s = self.ms, trio.current_time()
        self.follow(lambda: start_ms + round((trio.current_time() - began_s) * 1000))


class TroubledLink:
    """A RedisLink whose calls go wrong when told so."""

    def __init__(self, link: BlockingLink) -> None:
        self._link = link
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.asked: list[str] = []  # names of scripts and commands, in the order in which they were asked for
        self.calls: dict[str, Call] = {}  # the latest call of each script
        self.steps = 0  # checkpoints in each call, to be cancelled at

    def fail(self, name: str, *faults: Fault) -> None:
        """The next calls with this script or command go wrong like that."""
        self.faults[name].extend(faults)

    async def pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        await trio.lowlevel.checkpoint_if_cancelled()
        names = [name_of(command) for command in commands]
        self.asked += names
        self.calls |= {c.script.name: c for c in commands if isinstance(c, Call)}
        fault = next((self.faults[name].popleft() for name in names if self.faults[name]), None)
        if fault == "refused":
            raise RedisUnavailable("away, as the test has it")
        if fault == "lost_call":
            raise OutcomeUnknown("lost before it was run")
        replies = self._link.run(commands)  # in the order of the calls, as on any connection
        await trio.lowlevel.cancel_shielded_checkpoint()
        if fault == "lost_reply":
            raise OutcomeUnknown("lost after it was run")
        for _ in range(self.steps):
            await trio.lowlevel.checkpoint()  # the call is not undone by whoever is cancelled here
        return replies

    async def accept_pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        return await self.pipeline(commands)

    async def read_stream(self, stream: str, after: str, *, count: int, block_ms: int) -> list[Entry]:
        self.asked.append("XREAD")
        if self.faults["XREAD"]:
            self.faults["XREAD"].popleft()
            raise RedisUnavailable("away, as the test has it")
        return await self._link.read_stream(stream, after, count=count, block_ms=block_ms)


class Held(Struct, frozen=True):
    """A claim whose attempt has begun."""

    claim: Claim
    begun: Begun


class Storehouse:
    """One process' view of the store, with shorthands for what tests do all the time."""

    def __init__(
        self,
        socket_path: str,
        *,
        clock: Clock | None = None,
        keys: Keys | None = None,
        retention: Retention | None = None,
        durable: bool = False,
        owner: str = "me",
    ) -> None:
        self.clock = clock or Clock()
        self.raw = BlockingLink(socket_path)
        self.link = TroubledLink(self.raw)
        self.keys = keys or Keys()
        self.retention = retention or Retention()
        self.verdicts: list[Verdict] = []
        self.epoch = StoreIdentity(self.keys, clock=self.clock, on_verdict=self.verdicts.append)
        self.store = Store(
            self.link,
            keys=self.keys,
            retention=self.retention,
            claim_ttl_ms=TTL_MS,
            epoch=self.epoch,
            durable=durable,
            clock=self.clock,
        )
        self.stream = CommandStream(
            self.link,
            keys=self.keys,
            epoch=self.epoch,
            malformed_kept_ms=self.retention.attempt_ms,
            owner=owner,
            clock=self.clock,
        )
        self.holds = HoldStore(self.link, self.keys, self.clock)
        self.suppressions = SuppressionList(self.link, self.keys)
        self.upkeep = Upkeep(self.link, keys=self.keys, retention=self.retention, clock=self.clock)
        self.reader = Reader(self.link, keys=self.keys, retention=self.retention, clock=self.clock)
        self.jobs = ResendJobStore(self.link, keys=self.keys, epoch=self.epoch, retention=self.retention)
        self.broken = False  # a test broke the store on purpose: it is not verified at its end

    async def verify(self, *, repair: bool = False, passes: int = 1) -> list[Violation]:
        """What is wrong with it. `passes`: more than 1 while something else writes."""
        return await verify(
            self.link,
            keys=self.keys,
            retention=self.retention,
            clock=self.clock,
            repair=repair,
            passes=passes,
        )

    def close(self) -> None:
        self.raw.close()

    # Redis, past everything

    def run(self, *command: str | bytes | int) -> object:
        """One command; a refusal is raised."""
        [reply] = self.raw.run([command])
        if isinstance(reply, RedisFailure):
            raise reply
        return reply

    def again(self, name: str, *, args: dict[int, str | bytes | int] | None = None) -> list[Reply]:
        """Runs the latest call of a script once more, with some of its ARGV (from 1, as in Lua) exchanged."""
        call = self.link.calls[name]
        changed = list(call.args)
        for number, value in (args or {}).items():
            changed[number - 1] = value
        [reply] = self.raw.run([Call(call.script, call.keys, tuple(changed))])
        if isinstance(reply, RedisRefused):
            raise reply
        return cast("list[Reply]", reply)

    def dump(self) -> Dump:
        """Everything that the store holds."""
        read = {b"string": "GET", b"hash": "HGETALL", b"zset": "ZRANGE", b"stream": "XRANGE"}
        dump: Dump = {}
        for key in sorted(cast("list[bytes]", self.run("KEYS", "*"))):
            kind = cast("bytes", self.run("TYPE", key))
            more = {"ZRANGE": ("0", "-1", "WITHSCORES"), "XRANGE": ("-", "+")}.get(read[kind], ())
            value = self.run(read[kind], key, *more)
            if kind == b"hash":
                flat = cast("list[bytes]", value)
                value = dict(zip(flat[::2], flat[1::2], strict=True))
            dump[key.decode()] = (value, cast("int", self.run("PEXPIRETIME", key)))
        return dump

    def delivery(self, delivery_id: str) -> Delivery:
        return decode_delivery(cast("bytes", self.run("GET", k.delivery(delivery_id))), delivery_id)

    def attempt(self, delivery_id: str, number: int) -> Attempt:
        return decode_attempt(
            cast("bytes", self.run("GET", k.attempt(delivery_id, number))), delivery_id, number
        )

    def score(self, key: str, member: str) -> int | None:
        score = cast("bytes | None", self.run("ZSCORE", key, member))
        return None if score is None else int(float(score))

    # What a process does

    async def accept(self, request: MailRequest, *, look: bool = False) -> AcceptAnswer:
        """`look`: at the suppression list, in the script."""
        return await self.store.accept(
            acceptance_of(request, now_ms=self.clock.ms),
            unless_suppressed=suppression_entries(request.content.envelope) if look else (),
        )

    async def claim(self, places: int = 100, *, lost: bool = True) -> Claimed:
        return await self.store.claim(priority_places=places, normal_places=places, check_lost=lost)

    async def claim_one(self) -> Claim:
        [claim] = (await self.claim()).claims
        return claim

    async def begin(self, claim: Claim, *, rendered: RenderedContent | None = None) -> Held:
        begun = begin(claim.delivery, claim.attempt, rendered=rendered, provider="stub", now_ms=self.clock.ms)
        assert await self.store.begin(claim, begun, rendered=rendered) is None
        return Held(claim, begun)

    async def begun(self, request: MailRequest) -> Held:
        """A delivery whose attempt has begun."""
        await self.accept(request)
        return await self.begin(await self.claim_one())

    def conclusion(self, held: Held, result: SendResult, policy: RetryPolicy = POLICY) -> Conclusion:
        return conclude(held.begun.delivery, held.begun.attempt, result, policy, now_ms=self.clock.ms)

    async def finish(self, held: Held, result: SendResult) -> Conclusion:
        conclusion = self.conclusion(held, result)
        await self.store.finish(held.claim, conclusion)
        return conclusion

    async def sent(self, request: MailRequest, result: SendResult) -> Conclusion:
        """A delivery whose first attempt ended so."""
        return await self.finish(await self.begun(request), result)

    async def release(self, held: Held | Claim) -> None:
        if isinstance(held, Held):
            returned = give_back(held.begun.delivery, held.begun.attempt, now_ms=self.clock.ms)
            await self.store.release(held.claim, returned)
        else:
            await self.store.release(held, give_back(held.delivery, held.attempt, now_ms=self.clock.ms))

    async def suppress(self, address: str, reason: str = "bounced") -> None:
        await self.suppressions.put(Suppression(address=address, reason=reason, created_at_ms=self.clock.ms))


def name_of(command: Command | Call) -> str:
    return command.script.name if isinstance(command, Call) else str(command[0])


def refused(reply: object) -> str:
    """The code of Redis' refusal."""
    assert isinstance(reply, RedisRefused), reply
    return reply.code
