"""Runs seeds in a process of their own, each chunk on its own Valkey."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog
import trio

from galaxy_mail.rendering.bundled import bundled_templates
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.rendering.limits import RenderLimits
from tests.blocking_link import BlockingLink
from tests.servers import ValkeyServer
from tests.simulation.run import Run, simulate


def run_seeds(seeds: Sequence[int]) -> list[Run]:
    """The runs of these seeds, in order."""
    catalog = Catalog.load(bundled_templates(), limits=RenderLimits())
    with _quiet(), tempfile.TemporaryDirectory(prefix="simulation-") as folder:
        server = ValkeyServer(Path(folder))
        trio.run(server.start)
        link = BlockingLink(server.socket)
        try:
            return [simulate(seed, link, catalog) for seed in seeds]
        finally:
            link.close()
            server.kill()


@contextmanager
def _quiet() -> Iterator[None]:
    """Thousands of seeds log what went wrong as it should; their history says it better."""
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(wrapper_class=before)
