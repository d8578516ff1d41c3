"""What a message costs before it is sent: its assembly, beside the standard library's. Measured by `tests/bench/mime.py`."""

from tests.bench import mime
from tests.bench.figures import Figure
from tests.bench.process import SERVICE_CORE, on_core
from tests.bench.settings import Settings


def measure(_: Settings) -> list[Figure]:
    with on_core(SERVICE_CORE):
        return [Figure(key=key, value=value) for key, value in mime.measure().items()]
