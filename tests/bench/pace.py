"""Things at a set rate, whatever they take."""

import time
from collections.abc import Iterator

from tests.bench.figures import NS_PER_MS


def at_set_rate(number: int, *, per_s: float) -> Iterator[tuple[int, int]]:
    """0 to `number` - 1, each no earlier than it is due, with the monotonic ns at which it was."""
    first_ns = time.monotonic_ns() + 10 * NS_PER_MS
    for index in range(number):
        due_ns = first_ns + round(index * 1e9 / per_s)
        time.sleep(max(due_ns - time.monotonic_ns(), 0) / 1e9)
        yield index, due_ns
