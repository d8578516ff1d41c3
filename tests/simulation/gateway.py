"""A simulated process' way to Redis: the gateway's promises, and every way in which a call may go wrong."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Self, cast

import trio

from galaxy_mail.storage.links.data_link import PATIENCE_S
from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisRefused, RedisUnavailable
from galaxy_mail.storage.links.gateway import GatewayStatistics, OnConnect
from galaxy_mail.storage.links.protocol import Call, Command, Entry, Reply
from galaxy_mail.storage.links.redis_clock import HELD_MS
from tests.keys import k
from tests.simulation.witness import Answered, names_of
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.process import Process

RECONNECTS_WITHIN_S: Final = 0.5
CLOCK_MEASURED_EVERY_S: Final = 10.0
TIMEOUT_S: Final = 5.0
MATTERS: Final = {"begin": 2.0, "finish": 2.0, "release": 3.0, "renew": 2.0, "accept": 1.5}
BY_THE_CLOCK: Final = {"claim", "begin", "renew", "lease"}
UNTOLD: Final = {
    "claim",
    "renew",
    "lease",
    "read_commands",
    "read_claimed",
    "stream_state",
    "page",
    "save_job",
}


class SimulatedGateway:
    def __init__(self, world: World, process: "Process", on_connect: OnConnect) -> None:
        self.world = world
        self.process = process
        self.connected = False
        self._on_connect = on_connect
        self._generation = -1
        self._lost_s = float("-inf")  # when the connection was lost
        self._connected_again = trio.Event()
        self._skew_ms = world.rng.randint(-200, 200)
        self._clock_offset_ms = world.clock_offset_ms
        self._measured_s = float("-inf")
        self._last_ms = 0

    async def run(self) -> None:
        world = self.world
        try:
            while True:
                if self.connected and self._generation != world.redis_generation:
                    self.connected, self._lost_s = False, trio.current_time()
                    self._connected_again = trio.Event()
                if world.redis_up and not self.connected:
                    generation = world.redis_generation
                    self._measure()
                    await self._on_connect(self._raw)
                    if generation == world.redis_generation:
                        self.connected, self._generation = True, generation
                        self._connected_again.set()
                if trio.current_time() - self._measured_s >= CLOCK_MEASURED_EVERY_S:
                    self._measure()
                await trio.sleep(RECONNECTS_WITHIN_S)
        finally:
            self.connected = False

    def _measure(self) -> None:
        self._clock_offset_ms, self._measured_s = self.world.clock_offset_ms, trio.current_time()

    async def _raw(self, commands: Sequence[Command | Call]) -> list[Reply]:
        await trio.lowlevel.checkpoint()
        return self.world.link.run(commands)

    async def pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        return await self._pipeline(commands, full_from=None)

    async def accept_pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        # What was asked for before the connection was lost may still go to the store behind the next one.
        if self.connected and self.process.knows_other_store:
            self.world.witness.wrong(f"{self.process.name} accepts into a store that it does not know")
        full_from = None
        if self.world.happens(self.world.odds.oom, "oom"):
            full_from = self.world.rng.randrange(len(commands))
        return await self._pipeline(commands, full_from=full_from)

    async def _pipeline(self, commands: Sequence[Command | Call], *, full_from: int | None) -> list[Reply]:
        world, process, rng = self.world, self.process, self.world.rng
        name = _name(commands[0])
        if isinstance(commands[0], Call):
            process.asks(commands[0])
        await process.reach(f"{name}:before")
        if not self.connected:
            with trio.move_on_at(self._lost_s + PATIENCE_S):
                await self._connected_again.wait()
        if not self._reaches_redis():
            await trio.lowlevel.checkpoint()
            raise RedisUnavailable("away")
        generation = self._generation
        fault = world.fault(MATTERS.get(name, 1.0))
        if fault == "redis_refused":
            process.troubled()
            await trio.lowlevel.checkpoint()
            raise RedisUnavailable("away, as the seed has it")
        try:
            if fault == "stall":
                stalled_s = rng.uniform(0.5, 2) * world.claim_ttl_s
                process.troubled(stalled_s)
                world.tell(f"{process.name} stalls before {name}")
                await trio.sleep(stalled_s)
            else:
                await trio.sleep(rng.uniform(0.0001, 0.004))
        except trio.Cancelled:
            # A caller's cancellation never reaches the connection, and the end of its process comes too late:
            # what was written may be run all the same.
            if self._is_same(generation) and rng.random() < 0.5:
                self._run(commands, full_from)
            raise
        if not self._is_same(generation):
            process.troubled()
            raise OutcomeUnknown("the connection was lost")
        if fault == "lost_call":
            await self._no_answer()
        if fault == "lost_reply":
            whole = len(commands) == 1 or rng.random() < 0.5
            self._run(commands if whole else commands[: rng.randrange(1, len(commands))], full_from)
            world.tell(f"{process.name} loses the reply of {name}")
            if name == "begin" and rng.random() < 0.3:
                self._suppress_one(commands)
            await self._no_answer()
        if fault == "split" and len(commands) > 1:
            replies = await self._run_split(commands, full_from, generation)
        else:
            replies = self._run(commands, full_from)
        await process.reach(f"{name}:after")
        await trio.lowlevel.checkpoint()
        if process.dead:
            raise OutcomeUnknown("the process died")
        for reply in replies:
            if isinstance(reply, list):
                process.poisoned_by(name, reply)
        if commands[0] == ("HGETALL", k.holds):
            process.read_holds(cast("list[Reply]", replies[0]))
        return replies

    async def _no_answer(self) -> None:
        """A lost connection says so at once, a lost packet by the deadline. Raises OutcomeUnknown."""
        waits_s = self.world.rng.uniform(0, TIMEOUT_S) if self.world.rng.random() < 0.3 else 0
        self.process.troubled(waits_s)
        if waits_s:
            await trio.sleep(waits_s)
        raise OutcomeUnknown("as the seed has it")

    async def _run_split(
        self, commands: Sequence[Command | Call], full_from: int | None, generation: int
    ) -> list[Reply]:
        """Two parts, between which others' calls are run."""
        middle = self.world.rng.randrange(1, len(commands))
        replies = self._run(commands[:middle], full_from)
        rest = None if full_from is None else max(0, full_from - middle)
        try:
            await trio.sleep(0.002)
        except trio.Cancelled:
            if self._is_same(generation):
                self._run(commands[middle:], rest)
            raise
        if not self._is_same(generation):
            self.process.troubled()
            raise OutcomeUnknown("the connection was lost")
        return replies + self._run(commands[middle:], rest)

    def _suppress_one(self, commands: Sequence[Command | Call]) -> None:
        """Somebody of whom it is unknown whether the attempt began with him."""
        if isinstance(commands[0], Call):
            delivery = Answered.of(commands[0], [1]).delivery()
            recipients = delivery.envelope.recipients()
            for address in recipients if self.world.rng.random() < 0.5 else recipients[:1]:
                self.world.suppress(address.lower())

    def _reaches_redis(self) -> bool:
        return self.connected and self._is_same(self._generation) and not self.process.dead

    def _is_same(self, generation: int) -> bool:
        """Whether a connection of that time is still one."""
        return self.world.redis_up and generation == self.world.redis_generation

    def _run(self, commands: Sequence[Command | Call], full_from: int | None) -> list[Reply]:
        """Runs them now; from `full_from` on Redis is full and refuses what takes more mail in."""
        commands = [self._at_this_time(command) for command in commands]
        if full_from is None:
            return self._seen(commands, self.world.link.run(commands))
        replies = self._seen(
            commands[:full_from], self.world.link.run(commands[:full_from]) if full_from else []
        )
        for command in commands[full_from:]:
            if isinstance(command, Call) and "allow-oom" in command.script.text.splitlines()[0]:
                replies += self._seen([command], self.world.link.run([command]))
            else:
                replies.append(RedisRefused("OOM command not allowed when used memory > 'maxmemory'."))
        return replies

    def _at_this_time(self, command: Command | Call) -> Command | Call:
        """Scripts judge by the clock of the moment at which they run, not of that at which they were asked for."""
        if not isinstance(command, Call) or command.script.name not in BY_THE_CLOCK:
            return command
        args = list(command.args)
        args[names_of(command.script)[1].index("now_ms")] = self.world.now_ms()
        return Call(command.script, command.keys, tuple(args))

    def _seen(self, commands: Sequence[Command | Call], replies: list[Reply]) -> list[Reply]:
        world, process = self.world, self.process
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, RedisRefused):
                world.witness.wrong(f"Redis refused {_name(command)}: {reply}")
            if not isinstance(command, Call) or not isinstance(reply, list):
                continue
            name = command.script.name
            world.witness.saw(process, command, reply)
            if name not in UNTOLD:
                world.tell(f"{process.name} {name} {_text(command.args[0])[:60]} -> {reply[0]!r}")
            elif name == "claim" and len(reply) > 4:
                tickets = [(_text(part[0]), _text(part[3])) for part in reply[4:] if isinstance(part, list)]
                lost = " ".join(i if losses == "0" else f"{i} (lost {losses})" for i, losses in tickets)
                world.tell(f"{process.name} claims {lost}")
            if name == "purge" and reply[0] == 1:
                world.purge(Answered.of(command, reply).delivery())
        return replies

    async def read_stream(self, stream: str, after: str, *, count: int, block_ms: int) -> list[Entry]:
        world, process = self.world, self.process
        deadline_s = trio.current_time() + block_ms / 1000
        await process.reach("XREAD:before")
        while True:
            if not self._reaches_redis():
                await trio.lowlevel.checkpoint()
                raise RedisUnavailable("away")
            entries = await world.link.read_stream(stream, after, count=count, block_ms=0)
            if entries:
                await process.reach("XREAD:after")
                return entries
            with trio.move_on_at(deadline_s):
                await world.stream_grew.wait()
                continue
            return []

    @property
    def clock(self) -> Self:
        return self

    def script_ms(self) -> int:
        return self.world.now_ms()

    def now_ms(self) -> int:
        """As RedisClock: what its last measurement makes of it, and never backwards by little."""
        now_ms = self.world.now_ms() - self.world.clock_offset_ms + self._clock_offset_ms + self._skew_ms
        if now_ms < self._last_ms and self._last_ms - now_ms <= HELD_MS:
            return self._last_ms
        self._last_ms = now_ms
        return now_ms

    def statistics(self) -> GatewayStatistics:
        return GatewayStatistics(
            connected=self.connected,
            generation=max(0, self._generation),
            in_flight=0,
            queued=0,
            batches=0,
            last_error=None,
            clock_offset_ms=0,
        )


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _name(command: Command | Call) -> str:
    return command.script.name if isinstance(command, Call) else _text(command[0])
