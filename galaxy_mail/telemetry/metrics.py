"""Counters, histograms and gauges for Prometheus.

Each service has its own Metrics; nothing is registered globally. Actors report what happened in the domain's words, and
this module knows which series that changes. Gauges are read at each scrape.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from galaxy_mail.domain.commands import FailureCode
from galaxy_mail.domain.conclusion import Begun, Conclusion
from galaxy_mail.domain.records import (
    AttemptStatus,
    Delivery,
    DeliveryStatus,
    Lane,
    Result,
    SendResult,
    Source,
)
from galaxy_mail.domain.states import FINISHED, TERMINAL
from galaxy_mail.telemetry.series import Counter, Histogram

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
FAILURES: Final = (Result.TRANSIENT_FAILURE, Result.PERMANENT_FAILURE)

FAST_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
REQUEST_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SEND_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 30, 60, 120)
# Up to beyond the last retry: mail that was sent at the fourth attempt is 36 minutes old.
PATIENT_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 900, 3600, 14400, 86400)

# A mapping has a value per label; a list has the labels of each series whose value is 1. None: not known now, not shown.
Reading = float | Mapping[str, float] | list[tuple[str, ...]] | None


class Gauge(StrEnum):
    """What is read at each scrape. The value is the metric's name without its prefix."""

    SCHEDULED_ATTEMPTS = "scheduled_attempts"
    OLDEST_SCHEDULED_AGE = "oldest_scheduled_age_seconds"
    CLAIMS = "claims"
    SENDER_SLOTS = "sender_slots"
    BUSY_SENDER_SLOTS = "busy_sender_slots"
    HOLDS = "holds"
    HELD_LANES = "held_lanes"
    STREAM_LAG = "stream_lag_entries"
    STREAM_READER = "stream_reader"
    REDIS_CONNECTED = "redis_connected"
    REDIS_PENDING = "redis_pending_calls"
    ACTORS = "actors"
    STUCK_ACTORS = "stuck_actors"


_GAUGES: Final[Mapping[Gauge, tuple[str, tuple[str, ...]]]] = {
    Gauge.SCHEDULED_ATTEMPTS: ("Attempts in the schedule, claimed ones included.", ("lane",)),
    Gauge.OLDEST_SCHEDULED_AGE: ("How long the attempt that waits longest has been due.", ("lane",)),
    Gauge.CLAIMS: ("Attempts that some sender owns.", ()),
    Gauge.SENDER_SLOTS: ("Sender slots of this process.", ()),
    Gauge.BUSY_SENDER_SLOTS: ("Sender slots of this process with an attempt in hand.", ()),
    Gauge.HOLDS: ("1 for each hold in force, as this process knows them.", ("cause", "scope")),
    Gauge.HELD_LANES: ("1 where a hold keeps this process from beginning anything in the lane.", ("lane",)),
    Gauge.STREAM_LAG: ("Stream entries that nobody has read yet.", ()),
    Gauge.STREAM_READER: ("1 where this process is the one that reads the stream.", ()),
    Gauge.REDIS_CONNECTED: ("1 while the link to Redis is up.", ("link",)),
    Gauge.REDIS_PENDING: ("Calls that wait for Redis or for their turn.", ()),
    Gauge.ACTORS: ("Actors of this process by what they do.", ("status",)),
    Gauge.STUCK_ACTORS: ("Actors of this process whose loop has not turned when it should have.", ()),
}


class Metrics(Collector):
    """All metrics of one service. Only trio's thread may call it."""

    def __init__(self) -> None:
        sources = [(source,) for source in Source]
        statuses = [(status,) for status in DeliveryStatus]
        ended = [(lane, status) for lane in Lane for status in DeliveryStatus if status in TERMINAL]
        finished = [(status,) for status in AttemptStatus if status in FINISHED]
        self.accepted_total = _counter("accepted", "Deliveries durably accepted.", ("source",), sources)
        self.duplicates_total = _counter(
            "duplicates", "Requests and commands that repeated an accepted one.", ("source",), sources
        )
        self.conflicts_total = _counter(
            "conflicts", "Idempotency keys used again for something else.", ("source",), sources
        )
        self.suppressed_total = _counter(
            "suppressed", "Deliveries that ended because every recipient is suppressed.", ("source",), sources
        )
        self.malformed_total = _counter(
            "malformed_commands",
            "Stream entries that could not be accepted.",
            ("code",),
            [(code,) for code in FailureCode],
        )
        self.ingress_gap_total = _counter(
            "ingress_gap_entries", "Stream entries trimmed before they were read."
        )
        self.statuses_total = _counter(
            "delivery_statuses", "Deliveries that came into a status.", ("status",), statuses
        )
        self.attempts_total = _counter("attempts", "Attempts that ended.", ("status",), finished)
        self.failures_total = _counter(
            "attempt_failures",
            "Attempts that failed; suppression is no failure.",
            ("result", "code", "blame"),
            (),
        )
        self.ended_total = _counter(
            "deliveries_ended",
            "Deliveries that came into a terminal status after an attempt.",
            ("lane", "status"),
            ended,
        )
        self.failed_total = _counter(
            "deliveries_failed",
            "Deliveries that ended as failed, by the code of their failure.",
            ("lane", "code"),
            (),
        )
        self.outcome_unknown_total = _counter(
            "attempts_outcome_unknown", "Attempts whose message may have left without anybody knowing."
        )
        self.dead_letters_total = _counter(
            "dead_letters", "Deliveries given up.", ("reason",), [("retries_exhausted",), ("crash_loop",)]
        )
        self.locale_fallbacks_total = _counter(
            "locale_fallbacks", "Deliveries rendered in another locale than asked for.", ("template_id",), ()
        )
        self.lost_claims_total = _counter("lost_claims", "Claims taken over from an owner that was lost.")
        self.stale_claims_total = _counter(
            "stale_claims", "Claims of this process that another one took over."
        )
        self.actor_restarts_total = _counter(
            "actor_restarts", "Actors started anew after a crash.", ("actor",), ()
        )
        self.redis_connections_total = _counter(
            "redis_connections", "Connections made to Redis.", ("link",), [("data",)]
        )
        self.store_alarms_total = _counter(
            "store_alarms",
            "Times the store was found exchanged or set back, or its stream begun again below the offset.",
            ("kind",),
            [("strange",), ("rolled_back",), ("stream_restarted",)],
        )
        self.http_responses_total = _counter(
            "http_responses", "Answers of the API, by route (not by path).", ("route", "status"), ()
        )
        self.intake_seconds = _histogram(
            "intake_seconds",
            "From a request or a command to its durable acceptance.",
            REQUEST_S,
            "source",
            Source,
        )
        self.queue_wait_seconds = _histogram(
            "queue_wait_seconds", "From when an attempt was due to its begin.", PATIENT_S, "lane", Lane
        )
        self.render_seconds = _histogram("render_seconds", "Rendering of one delivery.", FAST_S)
        self.send_seconds = _histogram(
            "provider_send_seconds", "One attempt's time with the provider.", SEND_S, "result", Result
        )
        self.accept_to_sent_seconds = _histogram(
            "accept_to_sent_seconds",
            "From acceptance until the provider has taken it.",
            PATIENT_S,
            "lane",
            Lane,
        )
        self._series: list[Counter | Histogram] = [
            part for part in vars(self).values() if isinstance(part, Counter | Histogram)
        ]
        self._version = version("galaxy-mail")
        self._readers: dict[Gauge, Callable[[], Reading]] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    # Intake

    def accepted(self, delivery: Delivery) -> None:
        """A new delivery is durable: queued, or suppressed from the start."""
        self.accepted_total.add(delivery.source)
        self._came_into(delivery)

    def duplicate(self, source: str) -> None:
        self.duplicates_total.add(source)

    def conflict(self, source: str) -> None:
        self.conflicts_total.add(source)

    def malformed(self, code: str) -> None:
        self.malformed_total.add(code)

    def ingress_gap(self, entries: int) -> None:
        """This many stream entries were trimmed before they were read."""
        self.ingress_gap_total.add(count=entries)

    def took_in(self, source: str, seconds: float) -> None:
        """How long a request or command took until it was durable."""
        self.intake_seconds.observe(seconds, source)

    def answered(self, route: str, status: int) -> None:
        """`route` is the pattern that matched, never the path."""
        self.http_responses_total.add(route, str(status))

    # Attempts

    def attempt_begun(self, begun: Begun) -> None:
        """An attempt's begin is recorded, and its provider call starts."""
        delivery, attempt = begun.delivery, begun.attempt
        started_ms = attempt.started_at_ms or attempt.scheduled_for_ms
        self.queue_wait_seconds.observe((started_ms - attempt.scheduled_for_ms) / 1000, delivery.lane)
        self.statuses_total.add(delivery.status)
        if delivery.rendered_at_ms == attempt.started_at_ms:  # this begin fixed the content
            self.statuses_total.add(DeliveryStatus.RENDERED)
            if delivery.locale_fallback_used and delivery.template_id is not None:
                self.locale_fallbacks_total.add(delivery.template_id)

    def sent(self, result: SendResult, *, seconds: float) -> None:
        """The provider answered, or its deadline passed."""
        self.send_seconds.observe(seconds, result.result)

    def concluded(self, conclusion: Conclusion) -> None:
        """An attempt's end is recorded, and what follows from it."""
        attempt, delivery = conclusion.attempt, conclusion.delivery
        self.attempts_total.add(attempt.status)
        if attempt.failure is not None and attempt.result in FAILURES:
            self.failures_total.add(attempt.result, attempt.failure.code, attempt.blame or "")
        if attempt.outcome_unknown:
            self.outcome_unknown_total.add()
        if conclusion.dead_letter is not None:
            self.dead_letters_total.add(conclusion.dead_letter.reason)
        self._came_into(delivery)
        if delivery.status in TERMINAL:
            self.ended_total.add(delivery.lane, delivery.status)
        if delivery.status is DeliveryStatus.FAILED and delivery.failure is not None:
            self.failed_total.add(delivery.lane, delivery.failure.code)
        if delivery.status is DeliveryStatus.SENT and delivery.finished_at_ms is not None:
            waited_s = (delivery.finished_at_ms - delivery.created_at_ms) / 1000
            self.accept_to_sent_seconds.observe(waited_s, delivery.lane)

    def claim_lost(self) -> None:
        """This process took a claim over that its owner had lost."""
        self.lost_claims_total.add()

    def claim_stale(self) -> None:
        """Another process took over what this one held."""
        self.stale_claims_total.add()

    # The process

    def expect_actor(self, actor: str) -> None:
        """Shows the actor's restarts as 0 before the first one, which Prometheus would otherwise not see as an increase."""
        self.actor_restarts_total.add(actor, count=0)

    def actor_restarted(self, actor: str) -> None:
        """`actor` is the kind, such as "sender", not the number of a slot."""
        self.actor_restarts_total.add(actor)

    def redis_link_up(self, link: str) -> None:
        self.redis_connections_total.add(link)

    def store_alarm(self, kind: str) -> None:
        self.store_alarms_total.add(kind)

    def show(self, gauge: Gauge, read: Callable[[], Reading]) -> None:
        """Each scrape calls `read` for the gauge's value. A later reader replaces an earlier one."""
        self._readers[gauge] = read

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format; its content type is CONTENT_TYPE."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The registry calls this at each scrape."""
        info = GaugeMetricFamily(
            "galaxy_mail_build_info", "1, with the version as its label.", labels=("version",)
        )
        info.add_metric((self._version,), 1)
        yield info
        for gauge, read in self._readers.items():
            yield from _gauge_family(gauge, read())
        for series in self._series:
            yield from series.collect()

    def _came_into(self, delivery: Delivery) -> None:
        self.statuses_total.add(delivery.status)
        if delivery.status is DeliveryStatus.SUPPRESSED:
            self.suppressed_total.add(delivery.source)


def _counter(
    name: str,
    help_text: str,
    labels: tuple[str, ...] = (),
    known: Iterable[Sequence[str]] = ((),),
) -> Counter:
    return Counter(f"galaxy_mail_{name}", help_text, labels, known)


def _histogram(
    name: str,
    help_text: str,
    bounds: tuple[float, ...],
    label: str | None = None,
    known: type[StrEnum] | tuple[()] = (),
) -> Histogram:
    return Histogram(f"galaxy_mail_{name}", help_text, bounds, label, known)


def _gauge_family(gauge: Gauge, reading: Reading) -> Iterator[Metric]:
    if reading is None:
        return
    help_text, labels = _GAUGES[gauge]
    family = GaugeMetricFamily(f"galaxy_mail_{gauge}", help_text, labels=labels)
    if isinstance(reading, Mapping):
        for label, value in reading.items():
            family.add_metric((label,), value)
    elif isinstance(reading, list):
        for labels_of_one in reading:
            family.add_metric(labels_of_one, 1)
    else:
        family.add_metric((), reading)
    yield family
