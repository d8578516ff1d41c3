"""OpenTelemetry's SDK with an OTLP exporter, set up by its own variables.

A thread of the SDK exports spans in batches from a bounded queue. So a slow or absent collector loses spans, but takes no
time or memory from the actors.
"""

from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.trace import get_current_span as span_of
from opentelemetry.util.types import Attributes


class FollowsLink(Sampler):
    """Samples an attempt's span if the acceptance that it links to was sampled, so that a sampled delivery is complete."""

    def __init__(self, otherwise: Sampler) -> None:
        self._otherwise = otherwise

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if not links or span_of(parent_context).get_span_context().is_valid:
            return self._otherwise.should_sample(
                parent_context, trace_id, name, kind, attributes, links, trace_state
            )
        sampled = any(link.context.trace_flags.sampled for link in links)
        return SamplingResult(Decision.RECORD_AND_SAMPLE if sampled else Decision.DROP, attributes)

    def get_description(self) -> str:
        return f"FollowsLink({self._otherwise.get_description()})"


def provider() -> TracerProvider:
    """A provider that exports. Raises ValueError or OSError for settings that make no exporter."""
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "galaxy-mail"}))
    # The service shuts it down. At exit it would wait for the collector beyond every deadline.
    made = TracerProvider(resource=resource, shutdown_on_exit=False)
    made.sampler = FollowsLink(made.sampler)
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made
