"""Spans of OpenTelemetry: acceptance, rendering, sending, resend.

A queue lies between acceptance and sending, and a restart may too, so that one span can't be the other's parent: the
accepting span's `traceparent` is stored in the delivery, and the spans of its attempts link to it.

Here is what stands for traces while they are off, which is the usual case: nothing is made and OpenTelemetry is not
even imported. `live_traces.py` has the other case.
"""

# ruff: noqa: ARG002  # what is off looks at nothing

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

import structlog

from galaxy_mail.domain.records import Delivery

log = structlog.get_logger()

Value = str | int | bool | None
PROTOCOL: Final = "http/protobuf"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class Span:
    """What happens to one delivery at one step; in a `with` block, the parent of what starts within it."""

    __slots__ = ()

    def set(self, **attributes: Value) -> None:
        """Says more about the step. Attributes without a value are left out."""

    def failed(self, code: str) -> None:
        """The step did not do what it should; `code` is from a closed set."""

    def end(self) -> None:
        """It is over. A `with` block does it by itself."""

    def traceparent(self, otherwise: str | None = None) -> str | None:
        """What to store of this span (W3C Trace Context §3.2); `otherwise`, from the caller, while traces are off."""
        return otherwise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


OFF: Final = Span()


class Traces:
    """Makes the spans: none at all, while traces are off."""

    on: bool = False

    def accepting(self, source: str, delivery_id: str | None, traceparent: str | None = None) -> Span:
        """Accepting a request or a command; the caller's span is the parent. A malformed command may name no delivery."""
        return OFF

    def rendering(self, delivery: Delivery) -> Span:
        return OFF

    def sending(self, delivery: Delivery, attempt_no: int, provider: str) -> Span:
        """One attempt's time with the provider."""
        return OFF

    def resending(self, parent_delivery_id: str) -> Span:
        """An operator's resend; the acceptance of the clone belongs into it."""
        return OFF

    async def flush_and_close(self, within_s: float) -> None:
        """Exports what is left, as far as there is time. Spans that end later are lost."""


def from_env(env: Mapping[str, str]) -> Traces:
    """Traces as OpenTelemetry's own variables ask for them. What prevents them is logged and never raised.

    The SDK reads the process' environment by itself; `env` only decides whether it is started.
    """
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Traces()
    if "opentelemetry.sdk.trace" in sys.modules:
        from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider

        started = get_tracer_provider()
        if not isinstance(started, ProxyTracerProvider):  # by opentelemetry-instrument
            from galaxy_mail.telemetry.live_traces import LiveTraces

            return LiveTraces(started)
    wanted = next((name for name in _ENDPOINTS if env.get(name)), None)
    if wanted is None or env.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return Traces()
    protocol = next((env[name] for name in _PROTOCOLS if env.get(name)), PROTOCOL)
    if protocol != PROTOCOL:
        log.warning("traces_off", reason=f"the OTLP protocol {protocol} is not built in, only {PROTOCOL}")
        return Traces()
    try:
        from galaxy_mail.telemetry.live_traces import LiveTraces
        from galaxy_mail.telemetry.otlp import provider
    except ImportError:
        log.warning("traces_off", reason=f"{wanted} is set, but traces need: pip install 'galaxy-mail[otel]'")
        return Traces()
    try:
        return LiveTraces(provider())
    except (ValueError, OSError) as error:  # what a variable holds, or a certificate that can't be read
        log.warning("traces_off", reason=f"OpenTelemetry refused its settings: {type(error).__name__}")
        return Traces()
