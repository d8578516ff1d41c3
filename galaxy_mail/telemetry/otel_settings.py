"""Whether there are traces, by OpenTelemetry's own environment variables."""

import sys
from collections.abc import Mapping
from typing import Final

import structlog

from galaxy_mail.telemetry.traces import Traces

log = structlog.get_logger()

PROTOCOL: Final = "http/protobuf"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def traces_from_env(env: Mapping[str, str]) -> Traces:
    """Traces, live or off, as OpenTelemetry's own variables ask for. What prevents live traces is logged, not raised.

    `env` decides only whether traces are on; the SDK reads the environment of the process by itself.
    """
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Traces()
    if "opentelemetry.sdk.trace" in sys.modules:
        from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider

        started = get_tracer_provider()
        if not isinstance(started, ProxyTracerProvider):  # opentelemetry-instrument has set it up
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
    except (ValueError, OSError) as error:  # an invalid variable, or an unreadable certificate
        log.warning("traces_off", reason=f"OpenTelemetry refused its settings: {type(error).__name__}")
        return Traces()
