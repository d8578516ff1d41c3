"""Redis' clock as this host knows it: its own monotonic clock plus an offset measured by TIME.

Before the first measurement the offset is that of this host's clock.
"""

import time
from collections.abc import Callable
from typing import Final

from galaxy_mail.storage.links.protocol import Pipeline

SAMPLES: Final = 3
DRIFT_PPM: Final = 100  # by how much two hosts' clocks may part; crystals do 50 each
HELD_MS: Final = 2_000  # a correction backwards by no more than this is waited out


class RedisClock:
    """`now_ms` for all records. Never goes backwards, unless Redis' own clock went back by more than HELD_MS.

    Then (a failover to a host whose clock is wrong) it follows: due times are judged on Redis' clock, and a time that
    stood still in its future would delay every mail until it is reached.
    """

    def __init__(self, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._monotonic_ns = monotonic_ns
        self._offset_ns = time.time_ns() - monotonic_ns()
        self._error_ns: int | None = None  # half of the round trip that measured the offset
        self._measured_ns = 0
        self._last_ms = 0

    @property
    def offset_ms(self) -> float:
        """Redis' clock less this host's."""
        return (self._offset_ns - (time.time_ns() - self._monotonic_ns())) / 1e6

    @property
    def error_ms(self) -> float | None:
        """How far off `now_ms` may have been when it was measured last. None: not measured yet."""
        return None if self._error_ns is None else self._error_ns / 1e6

    def now_ms(self) -> int:
        now_ms = (self._monotonic_ns() + self._offset_ns) // 1_000_000
        if now_ms < self._last_ms and self._last_ms - now_ms <= HELD_MS:
            return self._last_ms
        self._last_ms = now_ms
        return now_ms

    def script_ms(self) -> None:
        """Scripts ask the server."""

    async def measure(self, pipeline: Pipeline) -> None:
        """Asks for TIME a few times and keeps the answer of the quickest round trip."""
        best: tuple[int, int] | None = None
        for _ in range(SAMPLES):
            before_ns = self._monotonic_ns()
            (reply,) = await pipeline([("TIME",)])
            round_trip_ns = self._monotonic_ns() - before_ns
            if not isinstance(reply, list):  # refused by an ACL: the offset stays what it was
                return
            seconds, microseconds = (int(part) for part in reply if isinstance(part, bytes))
            redis_ns = (seconds * 1_000_000 + microseconds) * 1_000
            if best is None or round_trip_ns < best[0]:
                best = (round_trip_ns, redis_ns - before_ns - round_trip_ns // 2)
        if best is not None:
            self._believe(*best)

    def _believe(self, round_trip_ns: int, offset_ns: int) -> None:
        """The new offset, unless the old one is known better and lies within the new one's error: a slow round trip."""
        now_ns = self._monotonic_ns()
        error_ns = round_trip_ns // 2
        if self._error_ns is not None:
            grown_ns = self._error_ns + (now_ns - self._measured_ns) * DRIFT_PPM // 1_000_000
            if grown_ns < error_ns and abs(offset_ns - self._offset_ns) <= error_ns + grown_ns:
                return
        self._offset_ns, self._error_ns, self._measured_ns = offset_ns, error_ns, now_ns
