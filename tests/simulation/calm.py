"""What must hold when nothing else fails: take-over, punctual retries, a quick reader, a stop that returns work at once."""

from random import Random
from typing import TYPE_CHECKING, Final

import trio

from galaxy_mail.domain.records import Lane
from tests.simulation.process import Process
from tests.simulation.storm import MOODS
from tests.simulation.workload import SCOPES
from tests.simulation.world import Mood, World

if TYPE_CHECKING:
    from tests.simulation.run import Simulation

SCENES: Final = {"none": 4, "die": 3, "stop": 3, "rush": 1, "flood": 1, "hold": 2, "relay": 4}
RETURNED_AFTER_S: Final = 0.3  # what no slot has begun is given back so long after a stop was asked for
FAIR_SHARE: Final = 10  # every tenth one that a slot takes is bulk
OBEYED_AFTER_S: Final = 1.1  # every process reads the holds once a second
TAKES_AFTER_S: Final = (
    12.0  # a relay that is back gets mail so soon: its longest pause is 6 s, with its spread
)
TAKEN_AFTER_S: Final = {Mood.SILENT: 27.0, Mood.NO_LOGIN: 300.0, Mood.NO_CONTENT: 70.0, Mood.FULL: 70.0}
FALLEN_MAX: Final = 4  # of each process: so many are charged before it blames a relay that fails everything
HOLDS_END_AFTER_S: Final = 1_200.0
LOGIN_CODE_AFTER_S: Final = 1.5  # a login code begins so long after its acceptance, whatever bulk is about


class Calm:
    """One scene after the storm, on two fresh processes."""

    def __init__(self, simulation: "Simulation") -> None:
        self.simulation = simulation
        self.world: World = simulation.world
        self.rng: Random = simulation.world.rng
        self.slots = simulation.config.attempt_worker_concurrency

    @property
    def _checks(self) -> bool:
        """Where something goes on crashing its owners, it is not calm."""
        return self.world.witness.calm_since_s is not None

    async def play(self) -> None:
        scene = self.rng.choices(list(SCENES), list(SCENES.values()))[0]
        self.world.tell(f"calm: {scene}")
        self.world.counts[f"calm_{scene}"] += 1
        match scene:
            case "die" | "stop":
                await self._one_of_two_ends(scene)
            case "rush":
                await self._rush()
            case "flood":
                await self._flood()
            case "hold":
                await self._hold()
            case "relay":
                await self._relay_fails()
            case _:
                pass
        self.world.normal_takes_s = 0.0
        living = self.simulation.living()
        if len(living) > 1 and self.rng.random() < 0.7:
            await self._stop(living[0])

    async def _one_of_two_ends(self, how: str) -> None:
        """With work in every state: what it held is done by the other one, in time. The witness looks at the clock."""
        await self._burst(self.rng.randint(4, 16), login_codes=self.rng.randint(1, 6))
        await trio.sleep(self.rng.uniform(0.02, 2.5))
        one = self.rng.choice(self.simulation.living())
        if how == "die":
            one.die()
        else:
            await self._stop(one)
        for _ in range(2):
            self.simulation.workload.publish_once(content="rendered")

    async def _stop(self, process: Process) -> None:
        witness = self.world.witness
        waiting = [(account, account.token) for account in witness.owned_by(process) if not account.begun]
        process.stop()
        await trio.sleep(RETURNED_AFTER_S)
        for account, token in waiting if self._checks else ():
            if account.owner is process and account.token == token and not account.begun:
                witness.wrong(f"{process.name} was asked to stop and kept {account.delivery_id}")
        await process.ended.wait()
        for account in witness.owned_by(process) if self._checks else ():
            witness.wrong(f"{process.name} stopped and kept {account.delivery_id}")

    async def _burst(self, commands: int, *, login_codes: int) -> None:
        self.world.normal_takes_s = self.rng.uniform(0.3, 3)
        for _ in range(commands):
            self.simulation.workload.publish_once(content=self.rng.choice(["rendered", "template", "large"]))
        for _ in range(login_codes):
            self.simulation.nursery.start_soon(self.simulation.workload.ask_once)

    async def _rush(self) -> None:
        """Login codes among bulk that is slow to send."""
        await self._burst(12, login_codes=0)
        await trio.sleep(1.5)
        first = len(self.world.witness.moves)
        for _ in range(8):
            self.simulation.nursery.start_soon(self.simulation.workload.ask_once)
            await trio.sleep(self.rng.uniform(0.2, 0.8))
        await trio.sleep(5)
        self._compare(first, Lane.PRIORITY, before_it=1 + self.slots)
        if self.slots > 1:
            self._begun_soon(first)

    async def _flood(self) -> None:
        """Bulk among login codes that come faster than one process can send them."""
        await self._stop(self.simulation.living()[0])
        first = len(self.world.witness.moves)
        self.simulation.workload.publish_once(content="rendered")
        async with trio.open_nursery() as nursery:
            for _ in range(80):
                nursery.start_soon(self.simulation.workload.ask_once)
        await trio.sleep(8)
        self._compare(first, Lane.NORMAL, before_it=3 * FAIR_SHARE)  # one slot never takes it

    async def _hold(self) -> None:
        """An operator holds, with work in every state: nothing begins, nothing stays claimed. Lifted, it goes on in time."""
        witness, workload = self.world.witness, self.simulation.workload
        scope = self.rng.choice(SCOPES)
        lanes = [lane for lane in Lane if scope in {"all", "relay:default", f"lane:{lane}"}]
        await self._burst(self.rng.randint(4, 16), login_codes=self.rng.randint(1, 6))
        await trio.sleep(self.rng.uniform(0.02, 2.5))
        await workload.hold(scope)
        await trio.sleep(OBEYED_AFTER_S)
        first = len(witness.moves)
        await self._burst(2, login_codes=2)
        await trio.sleep(self.rng.uniform(0.5, 5))
        for move in witness.moves[first:]:
            # Lost work is claimed, and given back. Who was asked to stop before may have a begin on its way.
            if move.lane in lanes and move.what == "begin" and not move.owner.over:
                witness.wrong(f"{move.delivery_id} began while {scope} is held")
        for account in witness.books.accounts.values() if self._checks else ():
            owner = account.owner
            if account.lane in lanes and owner is not None and not owner.over and not account.begun:
                witness.wrong(f"{account.delivery_id} is kept by {owner.name} while {scope} is held")
        await workload.lift(scope)
        if self._checks:
            witness.calm_since_s = trio.current_time()  # what was held could not be in time

    async def _relay_fails(self) -> None:
        """The relay alone fails, with work in every state: nothing is charged, and it goes on soon after its return."""
        world, witness, mood = self.world, self.world.witness, self.rng.choice(MOODS)
        checks, witness.calm_since_s = self._checks, None  # what is held can't be in time
        first = len(world.offers)
        world.feels(mood)
        await self._burst(self.rng.randint(4, 16), login_codes=self.rng.randint(1, 6))
        world.normal_takes_s = 0.0
        for _ in range(self.rng.randint(1, 12)):
            await trio.sleep(self.rng.uniform(0.5, 5))
            await self._burst(1, login_codes=1)
            world.normal_takes_s = 0.0
        world.feels(Mood.WELL)
        back_s, offered = trio.current_time(), len(world.offers)
        within_s = TAKEN_AFTER_S.get(mood, TAKES_AFTER_S)
        while checks and self._is_due() and not any(offer.taken for offer in world.offers[offered:]):
            if (waited_s := trio.current_time() - back_s) > within_s:
                witness.wrong(f"the relay, which was {mood}, is back for {waited_s:.3f} s and got no mail")
                break
            await trio.sleep(0.1)
        if mood is Mood.NO_CONTENT:
            taken = {offer.delivery_id for offer in world.offers if offer.taken}
            fallen = {offer.delivery_id for offer in world.offers[first:] if offer.mood is mood} - taken
            fallen = {name for name in fallen if self._has_ended(name)}
            if len(fallen) > FALLEN_MAX * len(self.simulation.living()):
                witness.wrong(f"{len(fallen)} fell to a relay that fails everything")
        with trio.move_on_after(HOLDS_END_AFTER_S):
            while witness.books.holds:  # noqa: ASYNC110  # what is waited for has no event of its own
                await trio.sleep(1)
        if checks:
            witness.calm_since_s = trio.current_time()

    def _is_due(self) -> bool:
        """Whether anything is due that no process has begun."""
        now_ms = self.world.now_ms()
        return any(
            account.due_ms <= now_ms and not account.ended and not account.begun
            for account in self.world.witness.books.accounts.values()
        )

    def _has_ended(self, delivery_id: str) -> bool:
        account = self.world.witness.books.accounts.get(delivery_id)
        return account is not None and account.ended

    def _compare(self, first: int, lane: Lane, *, before_it: int) -> None:
        """How many of the other lane began in the same process between a claim of this lane and its begin.

        So many may also begin before each of its own lane that is ahead of it.
        """
        moves = self.world.witness.moves[first:]
        for place, move in enumerate(moves):
            if move.what != "claim" or move.lane is not lane:
                continue
            others, ahead = 0, 1
            for later in moves[place + 1 :]:
                if later.delivery_id == move.delivery_id:
                    break
                if later.owner is move.owner and later.what in {"begin", "suppressed"}:
                    others += later.lane is not lane
                    ahead += later.lane is lane
            if others > before_it * ahead:
                self.world.witness.wrong(f"{move.delivery_id} ({lane}) waited for {others} of the other lane")

    def _begun_soon(self, first: int) -> None:
        claimed: dict[str, float] = {}
        for move in self.world.witness.moves[first:]:
            if move.lane is Lane.PRIORITY and move.what == "accept":
                claimed.setdefault(move.delivery_id, move.at_s)
            elif move.what == "begin" and move.delivery_id in claimed:
                waited_s = move.at_s - claimed.pop(move.delivery_id)
                if waited_s > LOGIN_CODE_AFTER_S:
                    self.world.witness.wrong(
                        f"{move.delivery_id}, a login code, waited {waited_s:.3f} s for a slot"
                    )
        for delivery_id, accepted_s in claimed.items():
            if trio.current_time() - accepted_s > LOGIN_CODE_AFTER_S:  # the others still have time
                self.world.witness.wrong(f"{delivery_id}, a login code, got no slot")
