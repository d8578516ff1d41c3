"""What one message costs: its assembly beside the standard library's, and what PIPELINING is worth to a distant relay.

Measured by `tests/bench/mime.py` and `tests/bench/smtp.py` on the core where the service runs otherwise.
"""

from tests.bench import mime, smtp
from tests.bench.figures import Figure
from tests.bench.process import SERVICE_CORE, on_core
from tests.bench.settings import Settings


def measure(_: Settings) -> list[Figure]:
    with on_core(SERVICE_CORE):
        measured = {**mime.measure(), **smtp.measure()}
    return [Figure(key=key, value=value) for key, value in measured.items()]
