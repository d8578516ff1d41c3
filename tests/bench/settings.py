"""How much a run measures, and where it works."""

from pathlib import Path
from typing import Final

from msgspec import Struct

REPOSITORY: Final = Path(__file__).parents[2]

CONNECTIONS: Final = 16  # of the intake at full speed
ASKED_PER_S: Final = 50  # of the intake's latency
SENT_PER_S: Final = 20  # of the latency up to the relay
PUBLISHED_PER_S: Final = 100  # of the stream's latency


class Sizes(Struct, frozen=True, kw_only=True):
    """Numbers of things; the limits are stated for `FULL`."""

    intake: int  # requests at full speed
    intake_warm_up: int
    rate_s: int  # seconds of each measurement at a set rate
    drain: int  # deliveries in the backlog
    celery: int  # tasks in Celery's backlog: its rate is steady, so fewer say the same
    plain: int  # messages of the plain sender
    ingest: int  # commands in the stream's backlog
    kept: int  # finished deliveries from which Redis' memory is asked, to twice as many
    small_store: int  # deliveries that pages are cut from
    large_store: int
    pages: int  # requests for each kind of page
    due: int  # notifications due while login codes go out
    lane_s: int  # seconds of login codes meanwhile
    scaling: int  # deliveries that several processes share, where the relay is the limit


FULL: Final = Sizes(
    intake=4_000,
    intake_warm_up=200,
    rate_s=15,
    drain=5_000,
    celery=1_500,
    plain=20_000,
    ingest=20_000,
    kept=5_000,
    small_store=1_000,
    large_store=200_000,
    pages=200,
    due=50_000,
    lane_s=20,
    scaling=600,
)
QUICK: Final = Sizes(
    intake=800,
    intake_warm_up=50,
    rate_s=4,
    drain=1_000,
    celery=300,
    plain=5_000,
    ingest=4_000,
    kept=1_000,
    small_store=1_000,
    large_store=10_000,
    pages=50,
    due=5_000,
    lane_s=4,
    scaling=150,
)


class Settings(Struct, frozen=True, kw_only=True):
    """What every section is handed."""

    sizes: Sizes
    workdir: Path  # of one section in one run: sockets, logs, data
    shared: Path  # of all runs: what is made once, a recording or a large store
