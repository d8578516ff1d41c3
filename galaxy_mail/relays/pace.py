"""How many of this process' slots may begin at one relay. Pure.

One number serves after a breaker's hold, for a relay that limits connections and for one that is overloaded. It is 1 after a
breaker's hold. It doubles with each second without a failure of the relay. A failure halves it, at most once a second.

The shell calls `held` when the breaker's hold ends, `failed` for each attempt that the relay is blamed for, and `passed`
each second.
"""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

STEP_MS: Final = 1_000


class Pace(Struct, frozen=True, kw_only=True):
    all_slots: int
    slots: int  # that may begin
    quiet_since_ms: int = 0  # the last failure or change
    halved_ms: int | None = None


def full(slots: int) -> Pace:
    """The pace of a process that has seen no failure."""
    return Pace(all_slots=slots, slots=slots)


def held(pace: Pace, *, now_ms: int) -> Pace:
    """The pace after a breaker's hold."""
    return replace(pace, slots=1, quiet_since_ms=now_ms)


def failed(pace: Pace, *, now_ms: int) -> Pace:
    """The pace after a failure of the relay."""
    if pace.halved_ms is not None and now_ms - pace.halved_ms < STEP_MS:
        return replace(pace, quiet_since_ms=now_ms)
    return replace(pace, slots=max(1, pace.slots // 2), quiet_since_ms=now_ms, halved_ms=now_ms)


def passed(pace: Pace, *, now_ms: int) -> Pace:
    """The pace when time has passed: doubled for each whole second without a failure."""
    seconds = (now_ms - pace.quiet_since_ms) // STEP_MS
    if seconds < 1 or pace.slots == pace.all_slots:
        return pace
    slots = pace.slots
    for _ in range(seconds):
        slots = min(2 * slots, pace.all_slots)
        if slots == pace.all_slots:
            break
    return replace(pace, slots=slots, quiet_since_ms=pace.quiet_since_ms + seconds * STEP_MS)
