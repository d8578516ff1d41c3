"""Spans while traces are on, what stands for them while they are off, and the way to a collector."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import trio
from msgspec.structs import replace
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from structlog.testing import capture_logs

from galaxy_mail.domain.records import Delivery, DeliveryStatus, Envelope, PayloadMode, Source
from galaxy_mail.telemetry.otel_settings import traces_from_env
from galaxy_mail.telemetry.otlp import FollowsLink
from galaxy_mail.telemetry.traces import OFF, Span, Traces
from tests.collector import Collector, collector_running
from tests.spans import Spans

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = CALLER[:-1] + "0"
SECRET = "S3cretMark"
DELIVERY = Delivery(
    delivery_id="d1",
    source=Source.NOTIFICATION,
    status=DeliveryStatus.SENDING,
    payload_mode=PayloadMode.TEMPLATE,
    template_id="welcome",
    locale="fr",
    envelope=Envelope(to=(f"{SECRET}@example.org",)),
    idempotency_key="k",
    message_id="d1@example.org",
    created_at_ms=1,
    updated_at_ms=1,
)


@pytest.fixture
def spans() -> Spans:
    return Spans()


def is_sampled(span: Span) -> bool:
    match = re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-([0-9a-f]{2})", span.traceparent() or "")
    assert match is not None
    return bool(int(match[1], 16) & 1)


def place_of(context: trace.SpanContext | None) -> tuple[int, int]:
    assert context is not None
    return context.trace_id, context.span_id


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def test_an_acceptance_goes_on_with_its_callers_trace(spans: Spans) -> None:
    with spans.traces.accepting(Source.AUTHSESSION, "d1", CALLER) as span:
        stored = span.traceparent()
    ended = spans.only()
    assert (ended.name, ended.kind) == ("accept", trace.SpanKind.SERVER)
    assert ended.parent is not None
    assert f"{ended.parent.span_id:016x}" == CALLER[36:52]
    assert ended.context is not None
    assert stored == f"00-{CALLER[3:35]}-{ended.context.span_id:016x}-01"
    assert ended.attributes == {"galaxy_mail.source": "authsession", "galaxy_mail.delivery_id": "d1"}


@pytest.mark.parametrize(
    "traceparent", [None, "", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", CALLER + "-x"]
)
def test_an_acceptance_without_a_caller_starts_a_trace(spans: Spans, traceparent: str | None) -> None:
    with spans.traces.accepting(Source.NOTIFICATION, "d1", traceparent) as span:
        assert is_sampled(span)
    ended = spans.only()
    assert ended.parent is None
    assert ended.kind is trace.SpanKind.CONSUMER


def test_an_attempt_links_to_its_acceptance_over_the_queue(spans: Spans) -> None:
    with spans.traces.accepting(Source.NOTIFICATION, "d1") as accepting:
        stored = accepting.traceparent()
    delivery = replace(DELIVERY, traceparent=stored)
    restarted = Spans()  # another process, later
    with restarted.traces.rendering(delivery):
        pass
    with restarted.traces.sending(delivery, 2, "smtp") as span:
        span.set(result="accepted", provider_code=None)
    accepted, (render, send) = spans.only(), restarted.ended()
    for span_of_attempt in (render, send):
        [link] = span_of_attempt.links
        assert place_of(link.context) == place_of(accepted.context)
        assert span_of_attempt.parent is None
        assert trace_of(span_of_attempt) != trace_of(accepted)
    assert render.attributes == {
        "galaxy_mail.template_id": "welcome",
        "galaxy_mail.locale": "fr",
        "galaxy_mail.delivery_id": "d1",
        "galaxy_mail.source": "notification",
    }
    assert send.kind is trace.SpanKind.CLIENT
    assert dict(send.attributes or {}) == {
        "galaxy_mail.attempt_no": 2,
        "galaxy_mail.provider": "smtp",
        "galaxy_mail.delivery_id": "d1",
        "galaxy_mail.source": "notification",
        "galaxy_mail.result": "accepted",
    }


@pytest.mark.parametrize("traceparent", [None, "nonsense"])
def test_an_attempt_without_a_known_acceptance_links_to_nothing(
    spans: Spans, traceparent: str | None
) -> None:
    with (
        spans.traces.accepting(Source.AUTHSESSION, "d1"),
        spans.traces.sending(replace(DELIVERY, traceparent=traceparent), 1, "stub"),
    ):
        pass
    assert spans.ended()[0].links == ()


def test_a_resend_holds_the_acceptance_of_its_clone(spans: Spans) -> None:
    with spans.traces.resending("parent"), spans.traces.accepting(Source.OPERATOR_RESEND, "d1"):
        pass
    accept, resend = spans.ended()
    assert accept.parent == resend.context
    assert resend.attributes == {"galaxy_mail.parent_delivery_id": "parent"}


def test_spans_of_a_batch_do_not_become_each_others_parents(spans: Spans) -> None:
    batch = [spans.traces.accepting(Source.NOTIFICATION, "d1") for _ in range(3)]
    for span in batch:
        span.end()
    assert [span.parent for span in spans.ended()] == [None] * 3
    assert len({trace_of(span) for span in spans.ended()}) == 3


def test_a_failure_is_marked_by_its_code(spans: Spans) -> None:
    with spans.traces.sending(DELIVERY, 1, "smtp") as span:
        span.failed("connect_refused")
    assert spans.only().status.status_code is trace.StatusCode.ERROR
    assert spans.only().status.description == "connect_refused"


def test_of_an_exception_only_its_name_is_told(spans: Spans) -> None:
    with pytest.raises(ValueError, match=SECRET), spans.traces.sending(DELIVERY, 1, "smtp"):
        raise ValueError(SECRET)
    ended = spans.only()
    assert ended.status.description == "ValueError"
    assert ended.events == ()
    assert SECRET not in ended.to_json()


async def test_a_cancelled_attempt_ends_its_span(
    spans: Spans, autojump_clock: trio.testing.MockClock
) -> None:
    with trio.move_on_after(1), spans.traces.sending(DELIVERY, 1, "smtp"):
        await trio.sleep_forever()
    assert spans.only().status.description == "Cancelled"
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_tasks_have_their_own_current_span(
    spans: Spans, autojump_clock: trio.testing.MockClock
) -> None:
    async def resend(name: str, wait_s: float) -> None:
        with spans.traces.resending(name):
            await trio.sleep(wait_s)
            with spans.traces.accepting(Source.OPERATOR_RESEND, "d1"):
                await trio.sleep(wait_s)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(resend, "one", 1)
        nursery.start_soon(resend, "two", 1.5)
    resends = {place_of(span.context) for span in spans.ended() if span.name == "resend"}
    accepts = [span for span in spans.ended() if span.name == "accept"]
    assert len(resends) == len(accepts) == 2
    assert {place_of(span.parent) for span in accepts} == resends


@pytest.mark.parametrize("otherwise", [ALWAYS_ON, ALWAYS_OFF])
@pytest.mark.parametrize(("traceparent", "follows"), [(CALLER, True), (UNSAMPLED, False), (None, None)])
def test_an_attempt_is_sampled_as_its_acceptance_was(
    otherwise: Sampler, traceparent: str | None, follows: bool | None
) -> None:
    spans = Spans(FollowsLink(ParentBased(otherwise)))
    with spans.traces.sending(replace(DELIVERY, traceparent=traceparent), 1, "smtp"):
        pass
    expected = follows if follows is not None else otherwise is ALWAYS_ON
    assert bool(spans.ended()) is expected


def test_what_is_within_a_sampled_span_is_sampled_with_it() -> None:
    spans = Spans(FollowsLink(ParentBased(ALWAYS_ON)))
    with (
        spans.traces.resending("parent"),
        spans.traces.sending(replace(DELIVERY, traceparent=UNSAMPLED), 1, "smtp"),
    ):
        pass
    assert len(spans.ended()) == 2


def test_a_span_that_is_not_sampled_still_tells_its_place() -> None:
    spans = Spans(ParentBased(ALWAYS_OFF))
    with spans.traces.accepting(Source.NOTIFICATION, "d1") as span:
        span.set(result="x")
        span.failed("x")
        assert not is_sampled(span)
    assert spans.ended() == ()


# Off


async def test_while_traces_are_off_every_span_is_the_same_nothing() -> None:
    traces = Traces()
    assert not traces.on
    spans = [
        traces.accepting("notification", "d1", CALLER),
        traces.rendering(DELIVERY),
        traces.sending(DELIVERY, 1, "smtp"),
        traces.resending("d1"),
    ]
    assert all(span is OFF for span in spans)
    with OFF as span:
        span.set(result="x")
        span.failed("x")
        span.end()
        assert span.traceparent(CALLER) == CALLER, "the caller's is passed on"
        assert span.traceparent() is None
    await traces.flush_and_close(0)


def test_while_traces_are_off_opentelemetry_is_not_imported() -> None:
    script = (
        "import sys; from galaxy_mail.telemetry.otel_settings import traces_from_env; assert not traces_from_env({}).on;"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=50)


# From the environment to a collector

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "true"}, None),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, None),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "only http/protobuf"),
    ],
)
def test_traces_stay_off_unless_they_are_wanted_and_possible(env: dict[str, str], reason: str | None) -> None:
    with capture_logs() as lines:
        assert not traces_from_env(env).on
    assert [line["event"] for line in lines] == ["traces_off"] * bool(reason)
    assert not lines or str(reason) in lines[0]["reason"]


def test_a_missing_extra_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "galaxy_mail.telemetry.otlp", None)
    with capture_logs() as lines:
        assert not traces_from_env(ENDPOINT).on
    [line] = lines
    assert "galaxy-mail[otel]" in line["reason"]
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in line["reason"]


def test_settings_that_make_no_exporter_leave_traces_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://u:{SECRET}@127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with capture_logs() as lines:
        assert not traces_from_env(ENDPOINT).on
    assert [line["event"] for line in lines] == ["traces_off"]
    assert SECRET not in str(lines)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collector_running() as made:
        yield made


@pytest.mark.parametrize(("name", "shown"), [(None, "galaxy-mail"), ("mail-eu", "mail-eu")])
async def test_spans_reach_a_collector(
    monkeypatch: pytest.MonkeyPatch, collector: Collector, name: str | None, shown: str
) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url} | ({"OTEL_SERVICE_NAME": name} if name else {})
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    traces = traces_from_env(env)
    assert traces.on
    with traces.accepting(Source.NOTIFICATION, "d1", CALLER) as accepting:
        delivery = replace(DELIVERY, traceparent=accepting.traceparent())
    with traces.sending(delivery, 1, "smtp"):
        pass
    await traces.flush_and_close(20)
    [resource] = [resource for request in collector.requests for resource in request.resource_spans]
    accept, send = resource.scope_spans[0].spans
    assert (accept.name, send.name) == ("accept", "send")
    assert send.links[0].span_id == accept.span_id
    assert send.links[0].trace_id == accept.trace_id == bytes.fromhex(CALLER[3:35])
    assert shown in [
        one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
    ]
    assert SECRET not in str(collector.requests)


async def test_a_collector_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = await trio.open_tcp_listeners(0, host="127.0.0.1")  # accepts in its backlog and never answers
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{listener[0].socket.getsockname()[1]}"}
    for variable, value in (endpoint | {"OTEL_EXPORTER_OTLP_TIMEOUT": "0.5"}).items():
        monkeypatch.setenv(variable, value)
    traces = traces_from_env(endpoint)
    with traces.sending(DELIVERY, 1, "smtp"):
        pass
    with capture_logs() as lines, trio.fail_after(10):
        await traces.flush_and_close(0.05)
    assert [line["event"] for line in lines] == ["traces_lost"]
    await listener[0].aclose()
    for thread in threading.enumerate():  # it gives up after its own time-out; no other test shall hear of it
        if thread.name.startswith("OtelBatch"):
            await trio.to_thread.run_sync(thread.join)
