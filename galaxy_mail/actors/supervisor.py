"""Keeps actors running: restarts what crashed, within a bound, and tells how each is.

The order of starting and stopping is not decided here but by the nurseries in which `keep_alive` is called.
"""

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from math import inf
from random import Random
from typing import Final, Protocol

import structlog
import trio
import trio.lowlevel
from msgspec import Struct

from galaxy_mail.domain.errors import GalaxyMailError, leaves

log = structlog.get_logger()

TURNS_WITHIN_S: Final = 30.0
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 15.0
STEADY_AFTER_S: Final = 30.0  # an actor that ran so long has got over its earlier crashes
CRASHES_IN_A_ROW_MAX: Final = 10  # with their pauses this is half a minute or more
RESTARTS_MAX: Final = (
    60  # or two for each actor, if that is more: what all slots share may crash them all at once
)
RESTARTS_WINDOW_S: Final = 60.0


class Actor(Protocol):
    """Something that runs until its work is done or it is cancelled."""

    async def run(self) -> None: ...


class Heartbeat:
    """An actor's sign that its loop turns: it beats at every turn, and promises when the next beat comes.

    A call that waits longer than the usual promise is announced with its own deadline, `beat(within_s=75)`.
    """

    __slots__ = ("beats", "due_s", "turned_s", "within_s")

    def __init__(self, within_s: float = TURNS_WITHIN_S) -> None:
        self.within_s = within_s
        self.beats = 0
        self.turned_s = trio.current_time()  # the latest beat; at first, the start
        self.due_s = self.turned_s + within_s

    def beat(self, *, within_s: float | None = None) -> None:
        self.beats += 1
        self.turned_s = now_s = trio.current_time()
        self.due_s = now_s + (self.within_s if within_s is None else within_s)

    def rest(self) -> None:
        """The actor waits for work that may never come: no beat is due until the next one."""
        self.beat(within_s=inf)


class Child(Struct, frozen=True, kw_only=True):
    """An actor by its name and how it is built, anew for each run: nothing survives a crash but Redis."""

    name: str  # "sender-3"; without the number it is the kind, "sender"
    build: Callable[[Heartbeat], Actor]
    turns_within_s: float = TURNS_WITHIN_S  # infinite: it has no loop and never beats

    @property
    def kind(self) -> str:
        kind, _, number = self.name.rpartition("-")
        return kind if kind and number.isdigit() else self.name


class ActorStatus(StrEnum):
    STARTING = "starting"  # its loop has not turned yet
    RUNNING = "running"
    BACKING_OFF = "backing_off"  # it crashed and will be started anew
    STOPPED = "stopped"  # it ended, or was ended


class ActorReport(Struct, frozen=True, kw_only=True):
    """How one actor is, free of secrets."""

    name: str
    status: ActorStatus
    restarts: int
    last_error: str | None  # the name of what it crashed with; the log has the rest
    turned_s: float | None  # trio.current_time() of its latest beat, while it runs


class RestartsExhausted(GalaxyMailError):
    """Actors crash more than restarting can help. The process should end, and its platform start another.

    The crash itself is the cause.
    """

    def __init__(self, actor: str, limit: str) -> None:
        super().__init__(f"actor {actor} crashed, and {limit} are the limit")
        self.actor = actor
        self.limit = limit


class Killed(GalaxyMailError):
    """Somebody killed the actor by its name."""


class Supervisor:
    """Runs each child until it returns; what crashes is built anew after a pause that grows.

    `on_restart` is told the kind of an actor each time one is started anew. A seeded `random` makes the pauses
    repeatable. Touches no actor's work.
    """

    def __init__(
        self,
        *,
        on_restart: Callable[[str], None] = lambda _kind: None,
        restarts_max: int | None = None,
        window_s: float = RESTARTS_WINDOW_S,
        random: Random | None = None,
    ) -> None:
        self._on_restart = on_restart
        self._restarts_max = restarts_max
        self._window_s = window_s
        self._random = random or Random()  # noqa: S311  # spreads restarts, guards nothing
        self._crashed_s: deque[float] = deque()  # when, over all children, within the window
        self._children: dict[str, _ChildState] = {}

    async def keep_alive(self, child: Child, *, retired: trio.Event | None = None) -> None:
        """Runs `child` until it returns, anew after a crash; once it is `retired`, a crash is its end too.

        Raises RestartsExhausted where it has crashed too often in a row, or all children together within the window.
        """
        if child.name in self._children:
            raise ValueError(f"there is an actor {child.name} already")
        retired = trio.Event() if retired is None else retired
        ward = self._children[child.name] = _ChildState(child)
        try:
            while (crash := await ward.run_once()) is not None:
                await self._back_off(ward, crash, retired)
                if retired.is_set():
                    break
                ward.restarts += 1
                self._on_restart(child.kind)
        finally:
            ward.status = ActorStatus.STOPPED

    def kill(self, name: str) -> bool:
        """Crashes an actor as it stands; it is restarted like any other. False: it does not run now.

        Raises KeyError for a name that nobody has.
        """
        return self._children[name].kill()

    def statistics(self) -> tuple[ActorReport, ...]:
        """How each actor is, by name: trio starts the tasks of one nursery in no order."""
        return tuple(self._children[name].report() for name in sorted(self._children))

    def stuck(self, now_s: float | None = None) -> tuple[str, ...]:
        """The names of the actors whose loop has not turned when it should have."""
        now_s = trio.current_time() if now_s is None else now_s
        return tuple(name for name, ward in self._children.items() if ward.is_stuck(now_s))

    async def _back_off(self, ward: "_ChildState", crash: Exception, retired: trio.Event) -> None:
        """Waits until the child may be started anew, or shall not be. Raises RestartsExhausted."""
        await trio.lowlevel.checkpoint()  # a crash during a stop is nobody's restart
        if retired.is_set():
            return
        now_s = trio.current_time()
        while self._crashed_s and self._crashed_s[0] <= now_s - self._window_s:
            self._crashed_s.popleft()
        restarts_max = self._restarts_max
        if restarts_max is None:
            restarts_max = max(RESTARTS_MAX, 2 * len(self._children))
        if len(self._crashed_s) >= restarts_max:
            limit = f"{restarts_max} restarts of actors within {self._window_s:g} s"
            raise RestartsExhausted(ward.child.name, limit) from crash
        if ward.crashes_in_a_row >= CRASHES_IN_A_ROW_MAX:
            raise RestartsExhausted(ward.child.name, f"{CRASHES_IN_A_ROW_MAX} crashes in a row") from crash
        self._crashed_s.append(now_s)
        longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** max(0, ward.crashes_in_a_row - 1))
        ward.status = ActorStatus.BACKING_OFF
        # Half of it is chance, so that what crashed together does not come back together.
        with trio.move_on_after(longest_s * (1 + self._random.random()) / 2):
            await retired.wait()


class _ChildState:
    """What the supervisor knows of one child."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.status = ActorStatus.STARTING
        self.restarts = 0
        self.crashes_in_a_row = 0
        self.last_error: str | None = None
        self.heartbeat = Heartbeat(child.turns_within_s)
        self.scope: trio.CancelScope | None = None  # of the run that is on

    async def run_once(self) -> Exception | None:
        """Builds and runs the child; what it crashed with, None when it returned."""
        self.status = ActorStatus.RUNNING
        self.heartbeat = Heartbeat(self.child.turns_within_s)
        started_s = trio.current_time()
        crash: Exception | None = None
        try:
            with trio.CancelScope() as self.scope:
                await self.child.build(self.heartbeat).run()
            if self.scope.cancel_called:
                crash = Killed(self.child.name)
        except Exception as error:  # noqa: BLE001  # whatever an actor crashed with is what this is for
            crash = error
        except BaseExceptionGroup as group:
            # A cancellation from outside, and in its course a crash: that one is told, and only this goes on.
            crashes, others = group.split(Exception)
            self._crashed(crashes, started_s)
            raise others or group from None
        finally:
            self.scope = None
        self._crashed(crash, started_s)
        return crash

    def _crashed(self, crash: Exception | None, started_s: float) -> None:
        if crash is None:
            return
        if trio.current_time() - started_s >= STEADY_AFTER_S:
            self.crashes_in_a_row = 0
        self.last_error = ", ".join(dict.fromkeys(type(one).__name__ for one in leaves(crash)))
        if isinstance(crash, Killed):  # which says nothing of how well it can run
            log.warning("actor_killed", actor=self.child.name, restarts=self.restarts)
        else:
            self.crashes_in_a_row += 1
            log.error("actor_crashed", actor=self.child.name, restarts=self.restarts, exc_info=crash)

    def kill(self) -> bool:
        if self.scope is None:
            return False
        self.scope.cancel()
        return True

    def is_stuck(self, now_s: float) -> bool:
        return self.scope is not None and now_s > self.heartbeat.due_s

    def report(self) -> ActorReport:
        status = self.status
        if status is ActorStatus.RUNNING and not self.heartbeat.beats and self.heartbeat.within_s < inf:
            status = ActorStatus.STARTING
        return ActorReport(
            name=self.child.name,
            status=status,
            restarts=self.restarts,
            last_error=self.last_error,
            turned_s=self.heartbeat.turned_s if self.scope is not None else None,
        )
