"""Clocks that tests give to the store."""

from msgspec import Struct


class FixedClock(Struct, frozen=True):
    """Time that stands still."""

    ms: int

    def now_ms(self) -> int:
        return self.ms

    def script_ms(self) -> int:
        return self.ms
