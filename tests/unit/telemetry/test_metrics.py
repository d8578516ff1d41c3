"""Which numbers follow from what happened."""

import re
import sys

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from galaxy_mail.domain.commands import FailureCode
from galaxy_mail.domain.conclusion import (
    RetryPolicy,
    begin,
    conclude,
    conclude_late_suppression,
    conclude_lost_owner,
    conclude_render_failure,
)
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Blame,
    Delivery,
    DeliveryStatus,
    Envelope,
    Failure,
    Lane,
    PayloadMode,
    RenderedContent,
    Result,
    SendResult,
    Source,
)
from galaxy_mail.telemetry.metrics import CONTENT_TYPE, Gauge, Metrics

NOW_MS = 1_700_000_000_123
ADDRESS = "marked.person@example.org"
DELIVERY = Delivery(
    delivery_id="marked-delivery",
    source=Source.AUTHSESSION,
    lane=Lane.PRIORITY,
    status=DeliveryStatus.QUEUED,
    payload_mode=PayloadMode.TEMPLATE,
    template_id="auth.login_code",
    locale="fr-CA",
    envelope=Envelope(to=(ADDRESS,)),
    idempotency_key="marked-key",
    attempt_count=1,
    message_id="marked-delivery@example.org",
    created_at_ms=NOW_MS,
    updated_at_ms=NOW_MS,
)
ATTEMPT = Attempt(
    delivery_id="marked-delivery", attempt_no=1, status=AttemptStatus.SCHEDULED, scheduled_for_ms=NOW_MS
)
BEGUN = begin(
    DELIVERY,
    ATTEMPT,
    rendered=RenderedContent(subject="s", text_body="t", locale_used="fr", locale_fallback_used=True),
    provider="smtp",
    now_ms=NOW_MS + 300,
)
ACCEPTED = SendResult(result=Result.ACCEPTED, status=AttemptStatus.PROVIDER_ACCEPTED)
TIMED_OUT = SendResult(
    result=Result.TRANSIENT_FAILURE,
    status=AttemptStatus.TIMED_OUT,
    failure=Failure(code="no_final_reply", summary="no answer"),
    blame=Blame.MESSAGE,
    outcome_unknown=True,
)
REFUSED = SendResult(
    result=Result.PERMANENT_FAILURE,
    status=AttemptStatus.PROVIDER_REJECTED,
    failure=Failure(code="recipients_refused", summary="550"),
    blame=Blame.MESSAGE,
)


def changed(metrics: Metrics) -> dict[str, float]:
    """Every sample that is not zero, but for buckets and sums and for what tells of the process."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            if (
                not sample.value
                or sample.name.endswith(("_bucket", "_sum"))
                or not sample.name.startswith("galaxy_mail_")
            ):
                continue
            labels = ",".join(sample.labels.values())
            found[sample.name.removeprefix("galaxy_mail_") + (f"{{{labels}}}" if labels else "")] = (
                sample.value
            )
    found.pop("build_info{0.1.0}")
    return found


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_nothing_has_happened_yet(metrics: Metrics) -> None:
    assert changed(metrics) == {}


def test_an_acceptance_is_counted_by_its_source(metrics: Metrics) -> None:
    metrics.accepted(DELIVERY)
    metrics.accepted(replace(DELIVERY, source=Source.NOTIFICATION, status=DeliveryStatus.SUPPRESSED))
    metrics.took_in(Source.AUTHSESSION, 0.002)
    assert changed(metrics) == {
        "accepted_total{authsession}": 1,
        "accepted_total{notification}": 1,
        "delivery_statuses_total{queued}": 1,
        "delivery_statuses_total{suppressed}": 1,
        "suppressed_total{notification}": 1,
        "intake_seconds_count{authsession}": 1,
    }


def test_what_was_not_accepted_is_counted_by_its_reason(metrics: Metrics) -> None:
    metrics.duplicate(Source.NOTIFICATION)
    metrics.conflict(Source.AUTHSESSION)
    metrics.malformed(FailureCode.INVALID_PAYLOAD)
    metrics.ingress_gap(7)
    assert changed(metrics) == {
        "duplicates_total{notification}": 1,
        "conflicts_total{authsession}": 1,
        "malformed_commands_total{invalid_payload}": 1,
        "ingress_gap_entries_total": 7,
    }


def test_a_begin_tells_how_long_the_attempt_was_due_and_a_fallback_once(metrics: Metrics) -> None:
    metrics.attempt_begun(BEGUN)
    assert changed(metrics) == {
        "queue_wait_seconds_count{priority}": 1,
        "delivery_statuses_total{sending}": 1,
        "delivery_statuses_total{rendered}": 1,
        "locale_fallbacks_total{auth.login_code}": 1,
    }
    assert 'galaxy_mail_queue_wait_seconds_sum{lane="priority"} 0.3\n' in metrics.exposition().decode()
    again = conclude(BEGUN.delivery, BEGUN.attempt, TIMED_OUT, RetryPolicy(), now_ms=NOW_MS + 400)
    assert again.next_attempt is not None
    metrics.attempt_begun(
        begin(again.delivery, again.next_attempt, rendered=None, provider="smtp", now_ms=NOW_MS + 70_000)
    )
    assert changed(metrics)["locale_fallbacks_total{auth.login_code}"] == 1
    assert changed(metrics)["delivery_statuses_total{rendered}"] == 1


def test_a_sent_mail_tells_how_long_it_took(metrics: Metrics) -> None:
    metrics.sent(ACCEPTED, seconds=0.05)
    metrics.concluded(conclude(BEGUN.delivery, BEGUN.attempt, ACCEPTED, RetryPolicy(), now_ms=NOW_MS + 1500))
    assert changed(metrics) == {
        "provider_send_seconds_count{accepted}": 1,
        "attempts_total{provider_accepted}": 1,
        "delivery_statuses_total{sent}": 1,
        "deliveries_ended_total{priority,sent}": 1,
        "accept_to_sent_seconds_count{priority}": 1,
    }
    assert 'galaxy_mail_accept_to_sent_seconds_sum{lane="priority"} 1.5\n' in metrics.exposition().decode()


def test_failures_are_counted_by_their_code(metrics: Metrics) -> None:
    metrics.concluded(conclude(BEGUN.delivery, BEGUN.attempt, TIMED_OUT, RetryPolicy(), now_ms=NOW_MS + 400))
    metrics.concluded(conclude(BEGUN.delivery, BEGUN.attempt, REFUSED, RetryPolicy(), now_ms=NOW_MS + 400))
    unrendered = Failure(code="missing_variables", summary="code")
    metrics.concluded(conclude_render_failure(DELIVERY, ATTEMPT, unrendered, now_ms=NOW_MS))
    assert changed(metrics) == {
        "attempts_total{timed_out}": 1,
        "attempts_total{provider_rejected}": 2,
        "attempts_outcome_unknown_total": 1,
        "attempt_failures_total{message,no_final_reply,transient_failure}": 1,
        "attempt_failures_total{message,recipients_refused,permanent_failure}": 1,
        "attempt_failures_total{message,missing_variables,permanent_failure}": 1,
        "delivery_statuses_total{queued}": 1,
        "delivery_statuses_total{failed}": 2,
        "deliveries_ended_total{priority,failed}": 2,
        "deliveries_failed_total{recipients_refused,priority}": 1,
        "deliveries_failed_total{missing_variables,priority}": 1,
    }


def test_suppression_is_no_failure(metrics: Metrics) -> None:
    metrics.concluded(conclude_late_suppression(DELIVERY, ATTEMPT, now_ms=NOW_MS))
    assert changed(metrics) == {
        "attempts_total{provider_rejected}": 1,
        "delivery_statuses_total{suppressed}": 1,
        "deliveries_ended_total{priority,suppressed}": 1,
        "suppressed_total{authsession}": 1,
    }


def test_dead_letters_are_counted_by_their_reason(metrics: Metrics) -> None:
    metrics.concluded(
        conclude(BEGUN.delivery, BEGUN.attempt, TIMED_OUT, RetryPolicy(delays_ms=()), now_ms=NOW_MS)
    )
    lost = conclude_lost_owner(DELIVERY, ATTEMPT, RetryPolicy(), losses=10, now_ms=NOW_MS)
    assert lost is not None
    metrics.concluded(lost)
    got = changed(metrics)
    assert got["dead_letters_total{retries_exhausted}"] == got["dead_letters_total{crash_loop}"] == 1
    assert got["delivery_statuses_total{dead_letter}"] == 2


def test_the_process_counts_its_failures(metrics: Metrics) -> None:
    metrics.claim_lost()
    metrics.claim_stale()
    metrics.actor_restarted("sender")
    metrics.redis_link_up("data")
    metrics.store_alarm("rolled_back")
    metrics.answered("/api/v1/internal/deliveries/<delivery_id>", 404)
    assert changed(metrics) == {
        "lost_claims_total": 1,
        "stale_claims_total": 1,
        "actor_restarts_total{sender}": 1,
        "redis_connections_total{data}": 1,
        "store_alarms_total{rolled_back}": 1,
        "http_responses_total{/api/v1/internal/deliveries/<delivery_id>,404}": 1,
    }


def test_an_expected_actor_is_there_before_its_first_restart(metrics: Metrics) -> None:
    metrics.expect_actor("sender")
    assert b'galaxy_mail_actor_restarts_total{actor="sender"} 0.0' in metrics.exposition()


def test_gauges_are_read_when_somebody_asks(metrics: Metrics) -> None:
    depth = {"priority": 1.0, "normal": 5.0}
    metrics.show(Gauge.SCHEDULED_ATTEMPTS, lambda: depth)
    metrics.show(Gauge.HOLDS, lambda: [("operator", "all")])
    metrics.show(Gauge.CLAIMS, lambda: 99)
    metrics.show(Gauge.CLAIMS, lambda: 3)
    metrics.show(Gauge.STREAM_LAG, lambda: None)
    assert changed(metrics) == {
        "scheduled_attempts{priority}": 1,
        "scheduled_attempts{normal}": 5,
        "holds{operator,all}": 1,
        "claims": 3,
    }
    depth["normal"] = 6
    assert changed(metrics)["scheduled_attempts{normal}"] == 6
    assert b"stream_lag" not in metrics.exposition(), "what is not known is not shown as 0"


@pytest.mark.parametrize("gauge", list(Gauge))
def test_every_gauge_can_be_shown(metrics: Metrics, gauge: Gauge) -> None:
    metrics.show(gauge, lambda: 1)
    assert f"galaxy_mail_{gauge} 1.0\n" in metrics.exposition().decode()


def test_two_services_do_not_count_for_each_other(metrics: Metrics) -> None:
    other = Metrics()
    other.claim_lost()
    assert changed(metrics) == {}


def test_names_follow_the_conventions(metrics: Metrics) -> None:
    for gauge in Gauge:
        metrics.show(gauge, lambda: 1)
    families = [
        f
        for f in text_string_to_metric_families(metrics.exposition().decode())
        if f.name.startswith("galaxy_mail_")
    ]
    assert len(families) > 30
    for family in families:
        assert re.fullmatch(r"[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        assert not re.search(r"(_ms|_milliseconds|_count|_total)$", family.name), (
            "base units; the parser took _total off"
        )
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prometheus-client reads /proc")
def test_the_process_tells_of_its_memory_and_files(metrics: Metrics) -> None:
    text = metrics.exposition().decode()
    assert "process_resident_memory_bytes" in text
    assert "process_open_fds" in text


def test_every_malformed_code_is_there_before_it_comes(metrics: Metrics) -> None:
    text = metrics.exposition().decode()
    assert all(f'galaxy_mail_malformed_commands_total{{code="{code}"}} 0.0' in text for code in FailureCode)


def test_nobody_is_named_in_the_exposition(metrics: Metrics) -> None:
    metrics.accepted(DELIVERY)
    metrics.attempt_begun(BEGUN)
    for result in (ACCEPTED, TIMED_OUT, REFUSED):
        metrics.concluded(conclude(BEGUN.delivery, BEGUN.attempt, result, RetryPolicy(), now_ms=NOW_MS))
    assert "marked" not in metrics.exposition().decode()
