"""The bench runs against the service as it is today: every section gives its figures and loses no mail.

A few of everything: what the numbers are is not looked at.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.figures import Figure
from tests.bench.sections import auth, drain, ingest, lanes, pages, redis_memory, scaling, sending, stream
from tests.bench.settings import Settings, Sizes

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the bench pins cores and reads /proc"),
    pytest.mark.timeout(180),
]

TINY = Sizes(
    intake=40,
    intake_warm_up=16,
    rate_s=1,
    drain=50,
    celery=0,
    plain=0,
    ingest=2_000,
    kept=100,
    small_store=50,
    large_store=100,
    pages=2,
    due=1_500,
    lane_s=1,
    scaling=60,
)


@pytest.mark.parametrize(
    ("measure", "some_of_its_figures"),
    [
        (auth.measure, {"auth.rate", "auth.latency_at_50.p99", "auth.drain_rate"}),
        (drain.measure, {"drain_4.rate", "drain_16.cpu_ms", "drain_64.rate"}),
        (sending.measure, {"sending.post_to_relay.p50", "sending.accept_to_sent.p99"}),
        (ingest.measure, {"ingest.rate", "replay.rate"}),
        (stream.measure, {"stream.latency.p99"}),
        (lanes.measure, {"lanes.fast.p99", "lanes.slow.p99", "lanes.peak_rss"}),
        (redis_memory.measure, {"memory.delivery", "memory.login_code", "memory.stream_entry"}),
        (pages.measure, {"pages.large", "pages.growth", "by_id.large"}),
        (
            scaling.measure,
            {"scaling.slow_1.rate", "scaling.slow_3.idle", "scaling.fast_2.rate", "scaling.copies"},
        ),
    ],
    ids=["auth", "drain", "sending", "ingest", "stream", "lanes", "memory", "pages", "scaling"],
)
def test_a_section_measures_the_service(
    measure: Callable[[Settings], list[Figure]], some_of_its_figures: set[str], tmp_path: Path
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core for the service and one for the rest")
    shared = tmp_path / "shared"
    shared.mkdir()
    figures = measure(Settings(sizes=TINY, workdir=tmp_path, shared=shared))
    assert some_of_its_figures <= {figure.key for figure in figures}
