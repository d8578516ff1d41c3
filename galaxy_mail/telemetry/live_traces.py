"""Spans that OpenTelemetry records.

This module uses only the API; `otlp.py` sets the SDK up.
"""

from collections.abc import Mapping
from contextvars import Token
from types import TracebackType
from typing import Final, Self

import structlog
import trio
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    Link,
    SpanKind,
    Status,
    StatusCode,
    TracerProvider,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from galaxy_mail.domain.records import Delivery, Source
from galaxy_mail.telemetry.traces import Span, Traces, Value

log = structlog.get_logger()

SCOPE: Final = "galaxy_mail"
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class LiveTraces(Traces):
    """Starts spans with a provider's tracer, and closes that provider at the end."""

    on = True

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(SCOPE)

    def accepting(self, source: str, delivery_id: str | None, traceparent: str | None = None) -> Span:
        kind = SpanKind.CONSUMER if source == Source.NOTIFICATION else SpanKind.SERVER
        parent = _context_of(traceparent) if traceparent else None
        attributes = {"source": str(source), "delivery_id": delivery_id}
        return self._start("accept", kind, attributes, parent=parent)

    def rendering(self, delivery: Delivery) -> Span:
        attributes = {"template_id": delivery.template_id, "locale": delivery.locale}
        return self._start("render", SpanKind.INTERNAL, attributes, accepted=delivery)

    def sending(self, delivery: Delivery, attempt_no: int, provider: str) -> Span:
        attributes: dict[str, Value] = {"attempt_no": attempt_no, "provider": provider}
        return self._start("send", SpanKind.CLIENT, attributes, accepted=delivery)

    def resending(self, parent_delivery_id: str) -> Span:
        return self._start("resend", SpanKind.SERVER, {"parent_delivery_id": parent_delivery_id})

    async def flush_and_close(self, within_s: float) -> None:
        shut_down = getattr(self._provider, "shutdown", None)  # the API has no such method, the SDK has
        if shut_down is None:
            return
        with trio.move_on_after(within_s) as deadline:
            await trio.to_thread.run_sync(shut_down, abandon_on_cancel=True)
        if deadline.cancelled_caught:
            log.warning("traces_lost", reason=f"the collector did not take them within {within_s:g} s")

    def _start(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, Value],
        *,
        parent: Context | None = None,
        accepted: Delivery | None = None,
    ) -> Span:
        links = None
        if accepted is not None:
            attributes = {
                **attributes,
                "delivery_id": accepted.delivery_id,
                "source": accepted.source.value,
            }
            if accepted.traceparent is not None:
                context = get_current_span(_context_of(accepted.traceparent)).get_span_context()
                links = [Link(context)] if context.is_valid else None
        return _LiveSpan(
            self._tracer.start_span(
                name, context=parent, kind=kind, links=links, attributes=_named(attributes)
            )
        )


class _LiveSpan(Span):
    """A span that is recorded, or was sampled out."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        self._token: Token[Context] | None = None

    def set(self, **attributes: Value) -> None:
        if self._span.is_recording():
            self._span.set_attributes(_named(attributes))

    def failed(self, code: str) -> None:
        if self._span.is_recording():
            self._span.set_status(Status(StatusCode.ERROR, code))

    def end(self) -> None:
        self._span.end()

    def traceparent(self, otherwise: str | None = None) -> str | None:
        context = self._span.get_span_context()
        if not context.is_valid:
            return otherwise
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def __enter__(self) -> Self:
        self._token = attach(set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            detach(self._token)
            self._token = None
        if error is not None:  # the name alone: the message may quote the mail
            self.failed(type(error).__name__)
        self._span.end()


def _context_of(traceparent: str) -> Context:
    """The context that this traceparent names. An invalid one gives an empty context, and not the current one."""
    return _PROPAGATOR.extract({"traceparent": traceparent}, context=Context())


def _named(attributes: Mapping[str, Value]) -> dict[str, str | int | bool]:
    return {f"galaxy_mail.{name}": value for name, value in attributes.items() if value is not None}
