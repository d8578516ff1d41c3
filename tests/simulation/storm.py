"""The faults of a simulation: processes that end in every way, a Redis that goes away, clocks that jump."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Final

import trio

from tests.simulation.process import Fate, Plan, Process
from tests.simulation.witness import Books
from tests.simulation.world import Mood, Snapshot, World

if TYPE_CHECKING:
    from tests.simulation.run import Simulation

EVERY_S: Final = 7.0
PROCESSES_MAX: Final = 3
EVENTS: Final = {
    "kill_actor": 7,
    "die": 3,
    "stop": 2,
    "cancel": 1,
    "pause": 2,
    "start": 4,
    "redis_away": 2,
    "clock": 1,
    "look": 1,
    "mood": 5,
}
MOODS: Final = tuple(mood for mood in Mood if mood is not Mood.WELL)
FATES: Final[tuple[Fate, ...]] = ("die", "crash", "kill")
POINTS: Final = (
    *("begin:before", "begin:after", "finish:before", "finish:after", "release:before", "release:after"),
    *("renew:before", "renew:after", "claim:before", "claim:after", "read_claimed:after", "accept:before"),
    *("accept:after", "lease:after", "read_commands:after", "XREAD:after", "XREAD:before"),
    *("save_hold:before", "save_hold:after", "HGETALL:after", "HGET:after", "lease:before"),
    *("probe:connected", "probe:answered"),
    *("send:connected", "send:envelope", "send:dot", "send:taken", "send:answered"),
)


class Storm:
    """Lasts `seconds`. `exchange`: how Redis' memory fails meanwhile."""

    def __init__(self, simulation: "Simulation") -> None:
        self.simulation = simulation
        self.world: World = simulation.world
        self.rng: Random = simulation.world.rng

    async def rage(self, seconds: float) -> None:
        until_s = trio.current_time() + seconds
        while True:
            await trio.sleep(self.rng.expovariate(1 / EVERY_S))
            if trio.current_time() >= until_s:
                return
            await self._happen(self.rng.choices(list(EVENTS), list(EVENTS.values()))[0])

    async def _happen(self, event: str) -> None:
        rng, world = self.rng, self.world
        living = self.simulation.living()
        one = rng.choice(living) if living else None
        match event:
            case "start" if len(living) < PROCESSES_MAX:
                self.simulation.start()
            case "redis_away":
                for process in living:
                    process.troubled()
                await world.redis_away(rng.uniform(0.5, 2 * world.claim_ttl_s))
                for process in self.simulation.living():
                    process.troubled()
            case "clock":
                world.clock_offset_ms += rng.randint(-1500, 3000)
                world.witness.clock_jumped_s = trio.current_time()
                world.tell("the clock jumps")
            case "mood":
                well = world.mood is not Mood.WELL and rng.random() < 0.6
                world.feels(Mood.WELL if well else rng.choice(MOODS))
            case "look":
                self.simulation.check_store()
            case _ if one is not None:
                self._end(event, one)
            case _:
                pass
        world.counts[event] += 1

    def _end(self, event: str, process: Process) -> None:
        match event:
            case "kill_actor":
                process.kill_an_actor()
            case "die":
                process.die()
            case "stop":
                process.stop()
            case "cancel":
                process.cancel()
            case "pause":
                process.pause(self.rng.uniform(0.5, 2) * self.world.claim_ttl_s)
            case _:
                pass

    async def roll_back(self, seconds: float) -> None:
        """A failover to a replica that lagged: what was acknowledged since is gone."""
        rng, world = self.rng, self.world
        await trio.sleep(rng.uniform(0.2, 0.7) * seconds)
        snapshot = world.snapshot()
        world.tell("what is written from here on will be lost")
        await trio.sleep(rng.uniform(0.1, 0.3) * seconds)
        await self._exchange(lambda: world.restore(snapshot))
        world.counts["rolled_back"] += 1

    async def wipe(self, seconds: float) -> None:
        """A failover to an empty Redis; an operator restarts the service a little later."""
        rng, world = self.rng, self.world
        await trio.sleep(rng.uniform(0.2, 0.7) * seconds)

        def empty() -> None:
            world.restore(Snapshot({}, Books(), 0))
            for process in self.simulation.living():
                process.knows_other_store = process.service.parts.store_identity.store_id is not None

        await self._exchange(empty)
        world.counts["wiped"] += 1
        await trio.sleep(rng.uniform(1, 20))
        for process in self.simulation.living():
            if process.knows_other_store:
                process.stop()
                self.simulation.start()

    async def _exchange(self, change: Callable[[], None]) -> None:
        for process in self.simulation.living():
            process.troubled()
        await self.world.redis_away(self.rng.uniform(0.5, 5), change)
        for process in self.simulation.living():
            process.troubled()


def plan(rng: Random) -> Plan | None:
    """At which await a new process dies, crashes, or has an actor killed; None for most of them."""
    if rng.random() < 0.5:
        return None
    fate: Fate = rng.choice(FATES)
    if rng.random() < 0.3:
        return Plan("", rng.randint(1, 300), fate)
    return Plan(rng.choice(POINTS), rng.choice([1, 1, 2, 3, 5, 8]), fate)
