"""One instance of the service in a simulated world: it can be stopped, paused, and die at any await without a word."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Any, Final, Literal, cast

import trio
from msgspec.structs import replace

from galaxy_mail.actors.supervisor import RestartsExhausted
from galaxy_mail.config import Config
from galaxy_mail.domain.conclusion import LOSSES_MAX
from galaxy_mail.domain.holds import Cause, Hold
from galaxy_mail.domain.records import Failure, Lane, RenderedContent, decode
from galaxy_mail.relays.breaker_events import BY_DELIVERY
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.service.service import Service
from galaxy_mail.storage.links.errors import OutcomeUnknown
from galaxy_mail.storage.links.gateway import OnConnect
from galaxy_mail.storage.links.protocol import Call, Reply
from tests.keys import k
from tests.simulation.gateway import SimulatedGateway
from tests.simulation.relay import SimulatedProvider
from tests.simulation.witness import CLOCKS_APART_MS, Answered
from tests.simulation.world import World

AFTER_GRACE_S: Final = 2.0  # issue of every stop: it ends so long after its grace at the latest
MARGIN_S: Final = 0.05  # for the calls' own milliseconds
CANCELLED_WITHIN_S: Final = 3.0
ALL_CAUSES: Final = frozenset(Cause)
OPERATORS: Final = frozenset({Cause.OPERATOR})


Fate = Literal["die", "crash", "kill"]


class Crash(Exception):
    """A bug, as far as the service can tell: nobody expected it."""


@dataclass
class Plan:
    """Where this process meets its fate: at the nth point of this name ("" is any)."""

    point: str
    countdown: int
    fate: Fate


class Process:
    def __init__(self, world: World, name: str, config: Config, plan: Plan | None = None) -> None:
        self.world = world
        self.name = name
        self.config = config
        self.plan = plan
        self.dead = False  # kill -9: nothing of it reaches Redis or the relay any more
        self.knows_other_store = False  # it was connected before the store was wiped
        self.holds: list[Hold] | None = None  # as it last read them; None: not yet
        self._began: set[str] = set()  # tokens of the claims that it has tried to begin
        self.trouble_s = float("-inf")
        self.crashed_s = float("-inf")
        self.paused_until_s = float("-inf")
        self.must_end_by_s = float("inf")
        self.ended = trio.Event()
        self.links: list[SimulatedGateway] = []
        self.service = Service(config, dependencies=self, random=Random(world.rng.random()), api=False)
        self._scope = trio.CancelScope()

    # Its surroundings

    def gateway(self, on_connect: OnConnect) -> SimulatedGateway:
        gateway = SimulatedGateway(self.world, self, on_connect)
        self.links.append(gateway)
        return gateway

    def provider(self) -> SimulatedProvider:
        return SimulatedProvider(self.world, self)

    def catalog(self) -> Catalog:
        """Templates as they are in its release: no two processes have the same."""
        return Release(self.world.catalog, self.name)

    # Its life

    async def run(self) -> None:
        world = self.world
        world.tell(f"{self.name} starts")
        try:
            with self._scope:
                await self.service.run()
        except* RestartsExhausted:  # the platform starts another
            world.counts["restarts_exhausted"] += 1
            world.tell(f"{self.name} gives up")
        finally:
            self.ended.set()
            world.witness.reader_gone_s = trio.current_time()
            world.tell(f"{self.name} ended")
            late_s = trio.current_time() - max(self.must_end_by_s, self.paused_until_s + AFTER_GRACE_S)
            if late_s > 0 and not self.dead:
                world.witness.wrong(f"{self.name} ended {late_s:.3f} s after it should have")

    @property
    def over(self) -> bool:
        return self.dead or self.ended.is_set() or self.service.stopping

    @property
    def troubled_s(self) -> float:
        if self.service.parts.store_identity.replaced:
            return inf  # with every connection it drops what it held: nobody knows what that is worth
        return max(self.trouble_s, self.paused_until_s)

    def crashed(self) -> None:
        """A part of it is ended where it stands."""
        self.crashed_s = trio.current_time()

    def troubled(self, seconds: float = 0) -> None:
        """Something goes wrong, until so much later."""
        self.trouble_s = max(self.trouble_s, trio.current_time() + seconds)

    # What it knows of holds

    def read_holds(self, entries: Sequence[Reply]) -> None:
        self.holds = [decode(cast("bytes", data), Hold) for data in entries[1::2]]

    def knows_held(self, lane: Lane, *, by: frozenset[Cause] = frozenset(Cause)) -> bool:
        """Whether a hold that it has read holds the lane for certain, by any clock. Until it has read any, all are."""
        if self.holds is None:
            return True
        scopes = {"all", f"lane:{lane}", "relay:default"}
        return any(hold.scope in scopes for hold in self._sure_holds() if hold.cause in by)

    def _sure_holds(self) -> list[Hold]:
        sure_ms = self.world.now_ms() + CLOCKS_APART_MS
        return [hold for hold in self.holds or () if hold.until_ms is None or hold.until_ms > sure_ms]

    def asks(self, call: Call) -> None:
        """It may not claim for a lane that it knows is held, and not begin in one. A repeated begin may have begun.

        But for one delivery that probes the relay, of a lane that no operator holds.
        """
        wrong = self.world.witness.wrong
        answered = Answered.of(call, [])
        probed = any(
            hold.cause is Cause.BREAKER and hold.reason in BY_DELIVERY for hold in self._sure_holds()
        )
        if answered.name == "claim":
            for lane in Lane:
                places = answered.number(f"{lane}_places")
                causes = OPERATORS if probed and places == 1 else ALL_CAUSES
                if places and self.knows_held(lane, by=causes):
                    wrong(f"{self.name} claims for the {lane} lane, which is held")
        elif answered.name == "begin" and answered.text("token") not in self._began:
            self._began.add(answered.text("token"))
            lane = Lane.PRIORITY if answered.keys["schedule"] == k.lane(Lane.PRIORITY) else Lane.NORMAL
            if self.knows_held(lane, by=OPERATORS if self.is_in("relays") else ALL_CAUSES):
                wrong(f"{self.name} begins {answered.text('delivery_id')}, which is held")

    @property
    def serves(self) -> bool:
        return not self.over and self.service.parts.gateway.connected

    def die(self) -> None:
        self.world.tell(f"{self.name} dies")
        self.world.witness.reader_gone_s = trio.current_time()
        self.dead = True
        self._scope.cancel()

    def stop(self) -> None:
        self.world.tell(f"{self.name} is asked to stop")
        self._ends_within(self.config.shutdown_grace_ms / 1000 + AFTER_GRACE_S)
        self.service.stop()

    def cancel(self) -> None:
        """A second signal."""
        self.world.tell(f"{self.name} is asked to end at once")
        self.crashed()
        self._ends_within(CANCELLED_WITHIN_S)
        self.service.cancel()

    def _ends_within(self, seconds: float) -> None:
        self.must_end_by_s = min(self.must_end_by_s, trio.current_time() + seconds + MARGIN_S)

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT so much later."""
        self.world.tell(f"{self.name} is paused for {seconds:.1f} s")
        self.paused_until_s = max(self.paused_until_s, trio.current_time() + seconds)

    def kill_an_actor(self) -> None:
        supervisor = self.service.parts.supervisor
        name = self.world.rng.choice([report.name for report in supervisor.statistics()])
        self.world.tell(f"{self.name}: kills {name}")
        self.crashed()
        supervisor.kill(name)

    def poisoned_by(self, script: str, reply: list[Reply]) -> None:
        """What crashes whoever has claimed it. It ends with the tenth loss. Raises Crash."""
        if script != "claim":
            return
        for ticket in reply[4:]:
            delivery_id, _token, _lane, losses = cast("list[bytes]", ticket)
            if delivery_id.startswith(b"unloadable") and int(losses) < LOSSES_MAX:
                self.world.tell(f"{self.name}: {delivery_id.decode()} crashes its claimer")
                self.crashed()
                raise Crash(delivery_id)

    def poisoned_by_recipient(self, recipient: str) -> None:
        """What crashes its slot, or the whole process, before the final dot. Raises Crash."""
        if recipient.startswith(("crashes", "kills")):
            self.crashed()
            if recipient.startswith("kills"):
                self.die()
            raise Crash(recipient)

    def is_in(self, actor: str) -> bool:
        """Whether the running task belongs to this actor."""
        ward = self.service.parts.supervisor._children.get(actor)
        return ward is not None and ward.scope is not None and _is_within(ward.scope)

    async def reach(self, point: str) -> bool:
        """A named point of an await: here it may stand still, and here its plan may come true. True where it stood still."""
        stood_still = False
        while (until_s := self.paused_until_s) > trio.current_time() and not self.dead:
            stood_still = True
            with trio.CancelScope(shield=True):  # nothing reaches a process that stands still
                await trio.sleep_until(until_s)
        plan = self.plan
        if plan is not None and plan.point in {"", point}:
            plan.countdown -= 1
            if plan.countdown == 0:
                self.plan = None
                await self._meet(plan.fate, point)
        return stood_still

    async def _meet(self, fate: str, point: str) -> None:
        self.world.counts[f"{fate}_at_point"] += 1
        self.crashed()
        match fate:
            case "die":
                self.world.tell(f"{self.name} at {point}")
                self.die()
                await trio.lowlevel.checkpoint()
                raise OutcomeUnknown(
                    "the process died"
                )  # whoever asked from outside sees its connection close
            case "crash":
                self.world.tell(f"{self.name} crashes at {point}")
                raise Crash(point)
            case _:
                for name, ward in sorted(self.service.parts.supervisor._children.items()):
                    if ward.scope is not None and _is_within(ward.scope):
                        self.world.tell(f"{self.name}: kills {name} at {point}")
                        ward.kill()


class Release(Catalog):
    """A catalog whose mail tells which process rendered it."""

    def __init__(self, catalog: Catalog, release: str) -> None:
        super().__init__(catalog._templates, limits=catalog._limits, warnings=catalog.warnings)
        self._release = release

    def render(
        self, template_id: str, locale: str, variables: Mapping[str, Any]
    ) -> RenderedContent | Failure:
        outcome = super().render(template_id, locale, variables)
        if isinstance(outcome, Failure):
            return outcome
        return replace(outcome, text_body=f"{outcome.text_body}\nRendered by {self._release}")


def _is_within(scope: trio.CancelScope) -> bool:
    """Whether the running task is inside of this scope."""
    status: Any = trio.lowlevel.current_task()._cancel_status
    while status is not None:
        if status._scope is scope:
            return True
        status = status._parent
    return False
