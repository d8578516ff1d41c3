"""What each figure means, which limit it has and what it is held against.

Ratios to a yardstick of the same run are verdicts. Milliseconds and megabytes depend on the machine: they are aims.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from tests.bench.figures import Figure


class Limit(Struct, frozen=True):
    """What a figure should be. Never asserted: a machine may be slow."""

    bound: float
    at_least: bool
    aim: bool  # true where it depends on the machine

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def excess(self, value: float) -> float:
        """How far beyond the bound, as a share of it; 0 where it is met."""
        return 0.0 if self.is_met(value) else abs(value - self.bound) / self.bound


def at_least(bound: float, *, aim: bool = False) -> Limit:
    return Limit(bound, at_least=True, aim=aim)


def at_most(bound: float, *, aim: bool = False) -> Limit:
    return Limit(bound, at_least=False, aim=aim)


class Unit(Struct, frozen=True):
    """How a figure is shown: `value / divisor`, with so many digits."""

    name: str
    divisor: float = 1.0
    digits: int = 0

    def show(self, value: float) -> str:
        return f"{value / self.divisor:,.{self.digits}f} {self.name}".rstrip()


PER_S: Final = Unit("/s")
TENTHS_PER_S: Final = Unit("/s", digits=1)
MICROSECONDS: Final = Unit("µs")
MS: Final = Unit("ms", digits=1)
CPU_MS: Final = Unit("ms CPU", digits=2)
MB: Final = Unit("MB", divisor=1e6, digits=1)
BYTES: Final = Unit("B")
TIMES: Final = Unit("×", digits=2)
PERCENT: Final = Unit("%", digits=1)


class Row(Struct, frozen=True):
    """One line of the report."""

    key: str
    label: str
    unit: Unit
    limit: Limit | None = None
    beside: str | None = None  # the yardstick's figure that is shown beside it


class Part(Struct, frozen=True):
    """One table of the report."""

    title: str
    rows: tuple[Row, ...]


# Ratio -> (of, to): computed within each run, so that both sides had the same minute of the same machine.
RATIOS: Final[Mapping[str, tuple[str, str]]] = {
    "ratio.auth": ("auth.rate", "bare_route.rate"),
    "ratio.drain_4": ("drain_4.rate", "celery.rate"),
    "ratio.drain_16": ("drain_16.rate", "celery.rate"),
    "ratio.drain_64": ("drain_64.rate", "celery.rate"),
    "ratio.priority_drain": ("auth.drain_rate", "celery.rate"),
    "ratio.sending": ("sending.post_to_relay.p50", "celery.latency.p50"),
    "ratio.ingest": ("ingest.rate", "replay.rate"),
    "ratio.scaling_slow_2": ("scaling.slow_2.rate", "scaling.slow_1.rate"),
    "ratio.scaling_slow_3": ("scaling.slow_3.rate", "scaling.slow_1.rate"),
    "ratio.scaling_fast_2": ("scaling.fast_2.rate", "scaling.fast_1.rate"),
    "ratio.scaling_fast_3": ("scaling.fast_3.rate", "scaling.fast_1.rate"),
}

PARTS: Final = (
    Part(
        "Start and rest",
        (
            Row("start.ready", "from the start to ready, from source", MS, at_most(1500, aim=True)),
            Row("start.cpu", "CPU until then", Unit("ms CPU")),
            Row("rest.rss", "resident memory at rest", MB, at_most(80e6, aim=True)),
            Row("rest.cpu", "of a core at rest", PERCENT),
        ),
    ),
    Part(
        "Login codes in: the auth route",
        (
            Row("ratio.auth", "requests a second, to a bare quart-trio route", TIMES, at_least(0.85)),
            Row("auth.rate", "requests a second, 16 connections", PER_S, beside="bare_route.rate"),
            Row("auth.latency.p50", "answer, 16 connections, p50", MS, beside="bare_route.latency.p50"),
            Row("auth.latency.p99", "answer, 16 connections, p99", MS, beside="bare_route.latency.p99"),
            Row(
                "auth.latency_at_50.p50",
                "answer at 50 a second, mail flowing, p50",
                MS,
                beside="bare_route.latency_at_50.p50",
            ),
            Row(
                "auth.latency_at_50.p99",
                "answer at 50 a second, mail flowing, p99",
                MS,
                beside="bare_route.latency_at_50.p99",
            ),
            Row("auth.cpu_ms", "CPU of a request", CPU_MS, beside="bare_route.cpu_ms"),
        ),
    ),
    Part(
        "Login codes out: from post to relay, 20 a second",
        (
            Row("ratio.sending", "post to relay, p50, to Celery's", TIMES),
            Row(
                "sending.post_to_relay.p50",
                "post to relay, p50",
                MS,
                at_most(6, aim=True),
                beside="celery.latency.p50",
            ),
            Row(
                "sending.post_to_relay.p99",
                "post to relay, p99",
                MS,
                at_most(15, aim=True),
                beside="celery.latency.p99",
            ),
            Row("sending.accept_to_sent.p50", "accepted to sent, by its record, p50", MS),
            Row("sending.accept_to_sent.p99", "accepted to sent, by its record, p99", MS),
            Row("sending.cpu_ms", "CPU of a login code, request included", CPU_MS),
        ),
    ),
    Part(
        "A backlog of notifications, rendered and sent",
        (
            Row("ratio.drain_4", "4 slots (default), to Celery", TIMES, at_least(5)),
            Row("ratio.drain_16", "16 slots, to Celery", TIMES, at_least(8)),
            Row("ratio.drain_64", "64 slots, to Celery", TIMES),
            Row("ratio.priority_drain", "login codes, 4 slots, to Celery", TIMES),
            Row("drain_4.rate", "deliveries a second, 4 slots", PER_S, beside="celery.rate"),
            Row("drain_16.rate", "deliveries a second, 16 slots", PER_S, beside="celery.rate"),
            Row("drain_64.rate", "deliveries a second, 64 slots", PER_S, beside="celery.rate"),
            Row(
                "drain_4.cpu_ms",
                "CPU of a delivery, 4 slots",
                CPU_MS,
                at_most(0.8, aim=True),
                "celery.cpu_ms",
            ),
            Row(
                "drain_16.cpu_ms",
                "CPU of a delivery, 16 slots",
                CPU_MS,
                at_most(0.8, aim=True),
                "celery.cpu_ms",
            ),
            Row(
                "drain_64.cpu_ms",
                "CPU of a delivery, 64 slots",
                CPU_MS,
                at_most(0.8, aim=True),
                "celery.cpu_ms",
            ),
            Row("drain_16.redis_cpu_ms", "CPU of a delivery in Redis, 16 slots", CPU_MS),
            Row("drain_4.busy", "of its core the service had, 4 slots", PERCENT),
            Row("drain_4.idle", "of its core nobody wanted, 4 slots", PERCENT),
            Row("drain_16.busy", "of its core the service had, 16 slots", PERCENT),
            Row("drain_16.idle", "of its core nobody wanted, 16 slots", PERCENT),
            Row("drain_16.peak_rss", "most resident memory meanwhile, 16 slots", MB),
            Row(
                "auth.drain_rate",
                "login codes a second, 4 slots (priority lane)",
                PER_S,
                beside="celery.rate",
            ),
            Row("auth.drain_cpu_ms", "CPU of a login code's delivery", CPU_MS, beside="celery.cpu_ms"),
        ),
    ),
    Part(
        "Telemetry",
        (
            Row(
                "profile_drain.telemetry_share",
                "logs and metrics, of a delivery's CPU (sampled)",
                PERCENT,
                at_most(10),
            ),
            Row(
                "profile_intake.telemetry_share",
                "logs and metrics, of a login code request's CPU (sampled)",
                PERCENT,
            ),
        ),
    ),
    Part(
        "Login codes while 50,000 notifications are due, 4 slots",
        (
            Row("lanes.fast.p50", "post to relay, p50, relay answers at once", MS),
            Row("lanes.fast.p99", "post to relay, p99, relay answers at once", MS, at_most(250, aim=True)),
            Row("lanes.slow.p50", "post to relay, p50, relay takes 50 ms", MS),
            Row("lanes.slow.p99", "post to relay, p99, relay takes 50 ms", MS, at_most(300, aim=True)),
            Row("lanes.peak_rss", "most resident memory while draining them", MB, at_most(120e6, aim=True)),
        ),
    ),
    Part(
        "Several processes on one Redis, 4 slots each",
        (
            Row("ratio.scaling_slow_2", "relay takes 50 ms: 2 processes, to 1", TIMES, at_least(1.9)),
            Row("ratio.scaling_slow_3", "relay takes 50 ms: 3 processes, to 1", TIMES, at_least(2.7)),
            Row("scaling.slow_1.rate", "relay takes 50 ms: deliveries a second, 1 process", TENTHS_PER_S),
            Row("scaling.slow_2.rate", "relay takes 50 ms: deliveries a second, 2 processes", TENTHS_PER_S),
            Row("scaling.slow_3.rate", "relay takes 50 ms: deliveries a second, 3 processes", TENTHS_PER_S),
            Row("scaling.slow_1.idle", "relay takes 50 ms: of all cores nobody wanted, 1 process", PERCENT),
            Row("scaling.slow_3.idle", "relay takes 50 ms: of all cores nobody wanted, 3 processes", PERCENT),
            Row("ratio.scaling_fast_2", "relay answers at once: 2 processes, to 1", TIMES),
            Row("ratio.scaling_fast_3", "relay answers at once: 3 processes, to 1", TIMES),
            Row("scaling.fast_1.rate", "relay answers at once: deliveries a second, 1 process", PER_S),
            Row("scaling.fast_2.rate", "relay answers at once: deliveries a second, 2 processes", PER_S),
            Row("scaling.fast_3.rate", "relay answers at once: deliveries a second, 3 processes", PER_S),
            Row(
                "scaling.fast_1.idle", "relay answers at once: of all cores nobody wanted, 1 process", PERCENT
            ),
            Row(
                "scaling.fast_2.idle",
                "relay answers at once: of all cores nobody wanted, 2 processes",
                PERCENT,
            ),
            Row(
                "scaling.fast_3.idle",
                "relay answers at once: of all cores nobody wanted, 3 processes",
                PERCENT,
            ),
            Row("scaling.least_share", "what the least busy of 3 processes sent (a third is even)", PERCENT),
            Row("scaling.copies", "messages of a delivery that had arrived before", Unit("")),
        ),
    ),
    Part(
        "The stream",
        (
            Row(
                "ratio.ingest", "backlog taken in, to a raw replay of the same scripts", TIMES, at_least(0.4)
            ),
            Row("ingest.rate", "commands a second", PER_S, at_least(4000, aim=True), "replay.rate"),
            Row("ingest.cpu_ms", "CPU of a command", CPU_MS),
            Row("stream.latency.p50", "published to durable at 100 a second, p50", MS),
            Row("stream.latency.p99", "published to durable at 100 a second, p99", MS, at_most(10, aim=True)),
            Row("stream.cpu_ms", "CPU of a command, its delivery included", CPU_MS),
        ),
    ),
    Part(
        "Redis",
        (
            Row("memory.delivery", "a finished notification, without its content", BYTES, at_most(1800)),
            Row("memory.delivery_content", "its content", BYTES),
            Row("memory.login_code", "a finished login code, without its content", BYTES, at_most(1800)),
            Row("memory.login_code_content", "its content", BYTES),
            Row("memory.stream_entry", "a command in the stream, until trimmed", BYTES),
        ),
    ),
    Part(
        "Operators",
        (
            Row(
                "pages.large", "first page of 50, large store, slowest filter, p95", MS, at_most(25, aim=True)
            ),
            Row("pages.small", "the same with 1,000 deliveries", MS),
            Row("pages.growth", "large to small store, worst filter", TIMES, at_most(2)),
            Row("by_id.large", "a delivery by its id, large store, p95", MS, at_most(10, aim=True)),
            Row("by_id.small", "the same with 1,000 deliveries", MS),
        ),
    ),
    Part(
        "The mail itself",
        (
            Row(
                "mime.login.ours_us",
                "a login mail assembled",
                MICROSECONDS,
                at_most(100, aim=True),
                "mime.login.email_serialise_us",
            ),
            Row(
                "mime.attachment.times_faster_than_serialise",
                "1 MiB attachment, to `EmailMessage.as_bytes`",
                TIMES,
                at_least(3),
            ),
            Row(
                "mime.attachment.ours_ms",
                "a mail with 1 MiB attached, assembled",
                MS,
                beside="mime.attachment.email_serialise_ms",
            ),
        ),
    ),
    Part(
        "A relay 30 ms away, one slot",
        (
            Row("smtp.away.times_faster", "with PIPELINING, to the same without", TIMES, at_least(1.8)),
            Row(
                "smtp.away.pipelined_rate",
                "messages a second, beside those without PIPELINING",
                TENTHS_PER_S,
                beside="smtp.away.in_turns_rate",
            ),
        ),
    ),
    Part(
        "Yardsticks",
        (
            Row("bare_route.rate", "bare quart-trio route: requests a second, 16 connections", PER_S),
            Row("bare_route.cpu_ms", "bare quart-trio route: CPU of a request", CPU_MS),
            Row("plain_sender_1.rate", "ready messages, pipelined SMTP, one connection", PER_S),
            Row("plain_sender_16.rate", "ready messages, pipelined SMTP, 16 connections", PER_S),
            Row("plain_sender_1.cpu_ms", "CPU of a ready message, one connection", CPU_MS),
            Row("plain_sender_16.cpu_ms", "CPU of a ready message, 16 connections", CPU_MS),
            Row("celery.rate", "Celery worker, the same job, one core", PER_S),
            Row("celery.cpu_ms", "Celery worker: CPU of a mail", CPU_MS),
            Row("celery.latency.p50", "Celery worker: enqueued to relay at 20 a second, p50", MS),
            Row("celery.latency.p99", "Celery worker: enqueued to relay at 20 a second, p99", MS),
            Row("celery.rss", "Celery worker: resident memory, both processes", MB),
            Row("replay.rate", "raw replay of the accepting scripts, pipelines of 50", PER_S),
            Row("sink.capacity", "messages the sink could take in a second of its CPU", PER_S),
        ),
    ),
)


def with_ratios(figures: Iterable[Figure]) -> list[Figure]:
    """One run's figures and the ratios that they give."""
    measured = list(figures)
    values = {figure.key: figure.value for figure in measured}
    for key, (of, to) in RATIOS.items():
        if of in values and to in values:
            measured.append(Figure(key=key, value=values[of] / values[to]))
    return measured
