"""The world of a simulation: Redis that fails, a relay that lies, processes that die, one virtual clock. Never: real time.

Everything random comes from the seed, so that a seed gives the same run again. The scripts run on a real Valkey through a
link that blocks, so that virtual time stands still meanwhile.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Final, Self

import trio

from galaxy_mail.config import Config
from galaxy_mail.domain.records import AttemptStatus, Failure, RefusedRecipient, Result, SendResult
from galaxy_mail.providers.provider import Message, SendDeadline
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.service import Service
from galaxy_mail.storage.commands import Call, Command, Entry, Reply
from galaxy_mail.storage.errors import OutcomeUnknown, RedisRefused, RedisUnavailable
from galaxy_mail.storage.gateway import GatewayStatistics, OnConnect
from tests.blocking_link import BlockingLink

EPOCH_MS: Final = 4_100_000_000_123  # odd, and in the future: keys' times to live run on the server's clock


@dataclass
class Odds:
    """How often what fails, per call."""

    refused: float = 0.01  # Redis is away, nothing was run
    lost_reply: float = 0.01  # it was run, and nobody knows
    lost_call: float = 0.005  # it was not run, and nobody knows
    stall: float = 0.003  # the caller stands still for long before the call is run
    oom: float = 0.002
    relay: float = 0.4  # the relay does anything but accept


NO_FAULTS: Final = Odds(refused=0, lost_reply=0, lost_call=0, stall=0, oom=0, relay=0)


@dataclass
class Taken:
    """One message that the relay took."""

    delivery_id: str
    attempt_no: int
    recipients: tuple[str, ...]
    date_ms: int
    message_id: str


@dataclass
class World:
    rng: Random
    link: BlockingLink
    catalog: Catalog
    odds: Odds
    claim_ttl_s: float
    redis_up: bool = True
    clock_offset_ms: int = 0
    taken: list[Taken] = field(default_factory=list)
    recorded: defaultdict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    history: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def now_ms(self) -> int:
        """Redis' clock."""
        return EPOCH_MS + self.clock_offset_ms + round(trio.current_time() * 1000)

    def tell(self, event: str) -> None:
        self.history.append(f"{trio.current_time():12.3f} {event}")

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.history).encode()).hexdigest()[:16]

    def happens(self, chance: float, what: str) -> bool:
        if self.rng.random() >= chance:
            return False
        self.counts[what] += 1
        return True


class SimulatedGateway:
    """A process' way to Redis: the gateway's promises, and every way in which a call may go wrong."""

    def __init__(self, world: World, process: "Process", on_connect: OnConnect) -> None:
        self.world = world
        self.process = process
        self.connected = False
        self._on_connect = on_connect
        self._skew_ms = world.rng.randint(-200, 200)

    async def run(self) -> None:
        try:
            while True:
                if self.world.redis_up and not self.connected:
                    await self._on_connect(self._raw)
                    self.connected = True
                if not self.world.redis_up:
                    self.connected = False
                await trio.sleep(0.5)
        finally:
            self.connected = False

    async def _raw(self, commands: Sequence[Command | Call]) -> list[Reply]:
        await trio.lowlevel.checkpoint()
        return self.world.link.run(commands)

    async def pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        world = self.world
        names = "+".join(c.script.name if isinstance(c, Call) else str(c[0]) for c in commands[:4])
        if not self.connected or not self._reaches_redis():
            await trio.lowlevel.checkpoint()
            raise RedisUnavailable("away")
        if world.happens(world.odds.refused, "redis_refused"):
            await trio.lowlevel.checkpoint()
            raise RedisUnavailable("away, as the seed has it")
        try:
            if world.happens(world.odds.stall, "stall"):
                world.tell(f"{self.process.name} stalls before {names}")
                await trio.sleep(world.rng.uniform(0.5, 2) * world.claim_ttl_s)
            else:
                await trio.sleep(world.rng.uniform(0.0001, 0.003))
        except trio.Cancelled:
            # A caller's cancellation never reaches the connection: the call may well be run all the same.
            if self._reaches_redis() and world.rng.random() < 0.5:
                self._run(commands)
            raise
        if not self._reaches_redis():
            raise OutcomeUnknown("the connection was lost")
        if world.happens(world.odds.lost_call, "lost_call"):
            raise OutcomeUnknown("lost before it was run")
        replies = self._run(commands)
        if world.happens(world.odds.lost_reply, "lost_reply"):
            world.tell(f"{self.process.name} loses the reply of {names}")
            raise OutcomeUnknown("lost after it was run")
        await trio.sleep(world.rng.uniform(0.0001, 0.002))
        if self.process.dead:
            raise OutcomeUnknown("the process died")
        return replies

    async def accept_pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        if self.world.happens(self.world.odds.oom, "oom"):
            await trio.lowlevel.checkpoint()
            return [RedisRefused("OOM command not allowed when used memory > 'maxmemory'.") for _ in commands]
        return await self.pipeline(commands, timeout_s=timeout_s)

    def _reaches_redis(self) -> bool:
        return self.world.redis_up and not self.process.dead

    def _run(self, commands: Sequence[Command | Call]) -> list[Reply]:
        replies = self.world.link.run(commands)
        for command, reply in zip(commands, replies, strict=True):
            if not isinstance(command, Call) or not isinstance(reply, list):
                continue
            if command.script.name == "finish" and reply[0] == 1:
                # The attempt's key is KEYS[6], the token ARGV[2]; who records is who changes something.
                self.world.recorded[(str(command.args[0]), str(command.keys[5]))].add(str(command.args[1]))
            if command.script.name not in {"claim", "renew", "lease", "read_commands", "stream_state"}:
                self.world.tell(
                    f"{self.process.name} {command.script.name} {_first(command)} -> {reply[0]!r}"
                )
            elif command.script.name == "claim" and len(reply) > 4:
                ids = [_text(part[0]) for part in reply[4:] if isinstance(part, list)]
                self.world.tell(f"{self.process.name} claims {' '.join(ids)}")
        return replies

    async def read_stream(self, stream: str, after: str, *, count: int, block_ms: int) -> list[Entry]:
        if not self.connected or self.process.dead:
            await trio.lowlevel.checkpoint()
            raise RedisUnavailable("away")
        return await self.world.link.read_stream(stream, after, count=count, block_ms=block_ms)

    def now_ms(self) -> int:
        return self.world.now_ms() + self._skew_ms

    def statistics(self) -> GatewayStatistics:
        return GatewayStatistics(
            connected=self.connected,
            generation=0,
            in_flight=0,
            queued=0,
            batches=0,
            last_error=None,
            clock_offset_ms=0,
            clock_error_ms=0,
        )


class SimulatedProvider:
    """A relay's connection. Keeps the provider's promises; the relay keeps none."""

    name = "simulated"

    def __init__(self, world: World, process: "Process") -> None:
        self.world = world
        self.process = process

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def send(self, message: Message, *, may_finish: SendDeadline) -> SendResult:
        world, rng = self.world, self.world.rng
        await trio.sleep(rng.uniform(0.001, 0.2))
        bad = world.happens(world.odds.relay, "relay_misbehaves")
        early = rng.choice(["4xx", "5xx", "hang_up", "time_out", "late"]) if bad else "late"
        if early != "late":
            await trio.sleep(rng.uniform(1, 15) if early == "time_out" else 0)
            world.tell(f"relay {early} {message.delivery_id}:{message.attempt_no}")
            return _EARLY[early]
        if not may_finish():
            return _lost("claim_too_short", AttemptStatus.TRANSPORT_FAILED, unknown=False)
        if self.process.dead:
            await trio.sleep_forever()
        # The final dot is out: from here on nobody can take it back.
        late = rng.choice(["refused", "silent_taken", "silent_not_taken", "slow"]) if bad else "accepted"
        if late in {"accepted", "slow", "silent_taken"}:
            world.taken.append(
                Taken(
                    message.delivery_id,
                    message.attempt_no,
                    message.envelope.recipients(),
                    message.date_ms,
                    message.message_id,
                )
            )
            world.tell(f"relay takes {message.delivery_id}:{message.attempt_no} ({late})")
        answered_in_s = {"accepted": 0.05, "refused": 0.05, "slow": rng.uniform(5, 50)}.get(late, 60)
        try:
            await trio.sleep(answered_in_s)
        except trio.Cancelled:  # a stop: the answer may still come, within a bounded time
            if self.process.dead:
                raise
            if late in {"accepted", "slow"}:
                answered_in_s = 60 if rng.random() < 0.5 else 0.1
            with trio.CancelScope(shield=True):
                await trio.sleep(min(answered_in_s, 0.5))
        if late == "refused":
            return _EARLY["4xx"]
        if answered_in_s >= 60:
            return _lost("final_timeout", AttemptStatus.TIMED_OUT, unknown=True)
        return SendResult(
            result=Result.ACCEPTED, status=AttemptStatus.PROVIDER_ACCEPTED, provider_code="250 2.0.0"
        )


def _lost(code: str, status: AttemptStatus, *, unknown: bool) -> SendResult:
    return SendResult(
        result=Result.TRANSIENT_FAILURE,
        status=status,
        failure=Failure(code=code, summary=code),
        outcome_unknown=unknown,
    )


_EARLY: Final = {
    "4xx": SendResult(
        result=Result.TRANSIENT_FAILURE,
        status=AttemptStatus.PROVIDER_REJECTED,
        failure=Failure(code="relay_busy", summary="busy"),
        provider_code="451 4.3.0",
    ),
    "5xx": SendResult(
        result=Result.PERMANENT_FAILURE,
        status=AttemptStatus.PROVIDER_REJECTED,
        failure=Failure(code="relay_refused", summary="no such user"),
        provider_code="550 5.1.1",
        refused_recipients=(
            RefusedRecipient(address="who@b.example", provider_code="550 5.1.1", summary="no"),
        ),
    ),
    "hang_up": _lost("disconnected", AttemptStatus.TRANSPORT_FAILED, unknown=False),
    "time_out": _lost("envelope_timeout", AttemptStatus.TIMED_OUT, unknown=False),
}


class Process:
    """One instance of the service: it can be stopped, and it can die at any await without another word."""

    def __init__(self, world: World, name: str, config: Config) -> None:
        self.world = world
        self.name = name
        self.dead = False
        self.ended = trio.Event()
        self.service = Service(config, surroundings=self, random=Random(world.rng.random()), api=False)
        self._scope = trio.CancelScope()

    def gateway(self, on_connect: OnConnect) -> SimulatedGateway:
        return SimulatedGateway(self.world, self, on_connect)

    def provider(self) -> SimulatedProvider:
        return SimulatedProvider(self.world, self)

    def catalog(self) -> Catalog:
        return self.world.catalog

    def script_now(self) -> Callable[[], int]:
        return self.world.now_ms

    async def run(self) -> None:
        self.world.tell(f"{self.name} starts")
        try:
            with self._scope:
                await self.service.run()
        finally:
            self.ended.set()
            self.world.tell(f"{self.name} ended")

    def die(self) -> None:
        """kill -9: nothing of it reaches Redis or the relay any more."""
        self.world.tell(f"{self.name} dies")
        self.dead = True
        self._scope.cancel()

    def stop(self) -> None:
        self.world.tell(f"{self.name} is asked to stop")
        self.service.stop()


def _first(call: Call) -> str:
    return _text(call.args[0])


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
