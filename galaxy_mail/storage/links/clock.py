"""The clock that records and scripts go by."""

from typing import Protocol


class Clock(Protocol):
    """Redis' clock, since processes on several hosts compare due times and claims. Tests have clocks of their own."""

    def now_ms(self) -> int:
        """Epoch milliseconds, for records."""
        ...

    def script_ms(self) -> int | None:
        """What a script takes for the present time; None: it asks the server."""
        ...
