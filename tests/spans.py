"""Traces that a test can look into, by OpenTelemetry's own in-memory exporter."""

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from galaxy_mail.telemetry.live_traces import LiveTraces
from galaxy_mail.telemetry.traces import Traces


class Spans:
    """Live traces, and the spans that have ended."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.traces: Traces = LiveTraces(provider)

    def ended(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of this name, in the order in which they ended."""
        return [span for span in self.ended() if span.name == name]

    def only(self) -> ReadableSpan:
        [span] = self.ended()
        return span
