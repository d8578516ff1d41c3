"""The supervisor: restarts crashed actors, within a bound, and reports their state.

The nurseries in which `keep_alive` is called decide the order of starting and stopping.
"""

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from math import inf
from random import Random
from typing import Final, Protocol

import structlog
import trio
from msgspec import Struct

from galaxy_mail.domain.errors import GalaxyMailError, leaves

log = structlog.get_logger()

TURNS_WITHIN_S: Final = 30.0
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 15.0
STEADY_AFTER_S: Final = 30.0  # after a run of this length, earlier crashes don't count as "in a row"
CRASHES_IN_A_ROW_MAX: Final = 10  # half a minute or more, with the pauses
RESTARTS_MAX: Final = 60  # or two per actor if that is more: one fault can crash all slots at once
RESTARTS_WINDOW_S: Final = 60.0


class Actor(Protocol):
    """Something that runs until its work is done or it is cancelled."""

    async def run(self) -> None: ...


class Heartbeat:
    """Shows that an actor's loop runs: the actor beats at every turn, and each beat sets when the next one is due.

    Before a call that may take longer than usual, the actor sets a later due time: `beat(within_s=75)`.
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
        """The actor waits for work without a limit: no beat is due until work comes."""
        self.beat(within_s=inf)


class Child(Struct, frozen=True, kw_only=True):
    """An actor's name and its builder. Each run builds a new actor: after a crash, only the state in Redis is kept."""

    name: str  # "sender-3"; the kind is the name without the number, "sender"
    build: Callable[[Heartbeat], Actor]
    turns_within_s: float = TURNS_WITHIN_S  # infinite for an actor without a loop, which never beats

    @property
    def kind(self) -> str:
        kind, _, number = self.name.rpartition("-")
        return kind if kind and number.isdigit() else self.name


class ActorStatus(StrEnum):
    STARTING = "starting"  # no heartbeat yet
    RUNNING = "running"
    BACKING_OFF = "backing_off"  # crashed, waits for its restart
    STOPPED = "stopped"  # returned or was cancelled


class ActorReport(Struct, frozen=True, kw_only=True):
    """The state of one actor, without secrets."""

    name: str
    status: ActorStatus
    restarts: int
    last_error: str | None  # the class of the last crash's exception; the log has the traceback
    turned_s: float | None  # trio.current_time() of its latest beat, while it runs


class RestartsExhausted(GalaxyMailError):
    """Actors crash too often. The process should exit, so that its platform starts a new one.

    The `__cause__` is the last crash.
    """

    def __init__(self, actor: str, limit: str) -> None:
        super().__init__(f"actor {actor} crashed, and the limit of {limit} is reached")
        self.actor = actor
        self.limit = limit


class Killed(GalaxyMailError):
    """The actor was killed by `Supervisor.kill`."""


class Supervisor:
    """Runs each child until it returns, and restarts a crashed child after a growing pause.

    `on_restart` is called with the actor's kind at each restart. A seeded `random` makes the pauses repeatable.
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
        self._random = random or Random()  # noqa: S311  # spreads restarts; not for security
        self._crashed_s: deque[float] = deque()  # times of all children's crashes within the window
        self._children: dict[str, _ChildState] = {}

    async def keep_alive(self, child: Child, *, retired: trio.Event | None = None) -> None:
        """Runs `child` until it returns, and restarts it after a crash. Once `retired` is set, a crash ends it, too.

        Raises RestartsExhausted if the child crashed too often in a row, or all children too often within the window.
        """
        if child.name in self._children:
            raise ValueError(f"an actor named {child.name} exists already")
        retired = trio.Event() if retired is None else retired
        state = self._children[child.name] = _ChildState(child)
        try:
            while (crash := await state.run_once()) is not None:
                await self._back_off(state, crash, retired)
                if retired.is_set():
                    break
                state.restarts += 1
                self._on_restart(child.kind)
        finally:
            state.status = ActorStatus.STOPPED

    def kill(self, name: str) -> bool:
        """Crashes a running actor, which is then restarted as after any crash. False if it does not run now.

        Raises KeyError for an unknown name.
        """
        return self._children[name].kill()

    def statistics(self) -> tuple[ActorReport, ...]:
        """The state of each actor, sorted by name: trio starts the tasks of a nursery in random order."""
        return tuple(self._children[name].report() for name in sorted(self._children))

    def stuck(self, now_s: float | None = None) -> tuple[str, ...]:
        """The names of the actors whose heartbeat is overdue."""
        now_s = trio.current_time() if now_s is None else now_s
        return tuple(name for name, state in self._children.items() if state.is_stuck(now_s))

    async def _back_off(self, state: "_ChildState", crash: Exception, retired: trio.Event) -> None:
        """Waits until the child's restart is due or it is retired. Raises RestartsExhausted."""
        if trio.current_effective_deadline() == -inf:
            await trio.sleep_forever()  # raises Cancelled: during a stop nothing is restarted
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
            raise RestartsExhausted(state.child.name, limit) from crash
        if state.crashes_in_a_row >= CRASHES_IN_A_ROW_MAX:
            raise RestartsExhausted(state.child.name, f"{CRASHES_IN_A_ROW_MAX} crashes in a row") from crash
        self._crashed_s.append(now_s)
        longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** max(0, state.crashes_in_a_row - 1))
        state.status = ActorStatus.BACKING_OFF
        # Half of the pause is random, so that actors that crash together do not restart together.
        with trio.move_on_after(longest_s * (1 + self._random.random()) / 2):
            await retired.wait()


class _ChildState:
    """The supervisor's state of one child."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.status = ActorStatus.STARTING
        self.restarts = 0
        self.crashes_in_a_row = 0
        self.last_error: str | None = None
        self.heartbeat = Heartbeat(child.turns_within_s)
        self.scope: trio.CancelScope | None = None  # of the present run

    async def run_once(self) -> Exception | None:
        """Builds and runs the child. Returns the exception if it crashed, None if it returned."""
        self.status = ActorStatus.RUNNING
        self.heartbeat = Heartbeat(self.child.turns_within_s)
        started_s = trio.current_time()
        crash: Exception | None = None
        try:
            with trio.CancelScope() as self.scope:
                await self.child.build(self.heartbeat).run()
            if self.scope.cancel_called:
                crash = Killed(self.child.name)
        except Exception as error:  # noqa: BLE001  # a supervisor handles every crash
            crash = error
        except BaseExceptionGroup as group:
            # The run was cancelled from outside and crashed meanwhile. Report the crash, raise the cancellation.
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
        if isinstance(crash, Killed):  # does not count as a crash in a row
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
