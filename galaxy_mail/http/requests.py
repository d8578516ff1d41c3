"""What requests have in common: tracing headers, query parameters, cursors, JSON bodies. Never: what they ask for."""

from collections.abc import Mapping
from typing import Self

from msgspec import Struct
from werkzeug.datastructures import Headers

from galaxy_mail.domain.ids import valid_traceparent, valid_tracing_id


class Tracing(Struct, frozen=True):
    """Which request this is, as the caller said. A value that breaks its grammar counts as left out."""

    request_id: str | None
    trace_id: str | None
    traceparent: str | None

    @classmethod
    def of(cls, headers: Headers | Mapping[str, str]) -> Self:
        traceparent = valid_traceparent(headers.get("Traceparent"))
        return cls(
            request_id=valid_tracing_id(headers.get("X-Request-Id")),
            trace_id=traceparent[3:35] if traceparent else None,  # version, trace id, parent id, flags
            traceparent=traceparent,
        )
