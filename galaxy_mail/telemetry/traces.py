"""Spans of OpenTelemetry: acceptance, rendering, sending, resend.

A queue lies between acceptance and sending, and perhaps a restart, so the span of one can't be the parent of the other.
The delivery stores the `traceparent` of the span that accepted it, and the spans of its attempts link to that.

This module has the spans that do nothing, for when traces are off, which is the usual case. OpenTelemetry is not even
imported then. `live_traces.py` has the other case, `otel_settings.py` decides between the two.
"""

# ruff: noqa: ARG002  # spans that do nothing ignore their arguments

from types import TracebackType
from typing import Final, Self

from galaxy_mail.domain.records import Delivery

Value = str | int | bool | None


class Span:
    """One step of one delivery. In a `with` block it is the parent of the spans that start within the block."""

    __slots__ = ()

    def set(self, **attributes: Value) -> None:
        """Adds attributes. Those without a value are left out."""

    def failed(self, code: str) -> None:
        """Marks the span as failed. `code` is from a closed set."""

    def end(self) -> None:
        """Ends the span. A `with` block does it by itself."""

    def traceparent(self, otherwise: str | None = None) -> str | None:
        """This span's traceparent (W3C Trace Context §3.2). While traces are off it is `otherwise`, the caller's."""
        return otherwise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


OFF: Final = Span()


class Traces:
    """Starts spans. Here traces are off, and every span does nothing."""

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
        """An operator's resend, the parent of the clone's acceptance."""
        return OFF

    async def flush_and_close(self, within_s: float) -> None:
        """Exports the spans that are left, within this time. Spans that end later are lost."""
