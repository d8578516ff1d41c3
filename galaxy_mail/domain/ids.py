"""The grammars of ids and keys, tracing ids, and new delivery ids."""

import re
from typing import Final

from msgspec import Struct

DELIVERY_ID_MAX_CHARS: Final = 128
TEMPLATE_ID_MAX_CHARS: Final = 128
IDEMPOTENCY_KEY_MAX_CHARS: Final = 255
TRACING_MAX_CHARS: Final = 128

# Each syntax is the `pattern` in the contracts, which give the length separately.
DELIVERY_ID_SYNTAX: Final = (
    r"[A-Za-z0-9_~-]+(\.[A-Za-z0-9_~-]+)*"  # a dot-atom: it is the left side of Message-ID
)
TEMPLATE_ID_SYNTAX: Final = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"  # a safe folder name: not `..`, no slash
ENTRY_ID_SYNTAX: Final = r"[0-9]{1,20}-[0-9]{1,20}"
PRINTABLE_ASCII_SYNTAX: Final = r"[ -~]+"
# W3C Trace Context §3.2.2: version 00 has four members; later versions may have more. An id of zeros is invalid.
TRACEPARENT_SYNTAX: Final = (
    r"(00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"|(?!00|ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[ -~]*)?)"
)


def _grammar(syntax: str, max_chars: int) -> re.Pattern[str]:
    """The pattern of this syntax with this length, for `fullmatch`."""
    return re.compile(rf"(?=.{{1,{max_chars}}}\Z)(?:{syntax})")


DELIVERY_ID: Final = _grammar(DELIVERY_ID_SYNTAX, DELIVERY_ID_MAX_CHARS)
TEMPLATE_ID: Final = _grammar(TEMPLATE_ID_SYNTAX, TEMPLATE_ID_MAX_CHARS)
ENTRY_ID: Final = re.compile(ENTRY_ID_SYNTAX)
IDEMPOTENCY_KEY: Final = _grammar(PRINTABLE_ASCII_SYNTAX, IDEMPOTENCY_KEY_MAX_CHARS)
TRACING_ID: Final = _grammar(PRINTABLE_ASCII_SYNTAX, TRACING_MAX_CHARS)  # `request_id` and `trace_id`
TRACEPARENT: Final = _grammar(TRACEPARENT_SYNTAX, TRACING_MAX_CHARS)

ULID_RANDOM_BYTES: Final = 10
_ULID_CHARS: Final = 26
_CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # without i, l, o and u, which are misread
_CROCKFORD_PAIRS: Final = tuple(high + low for high in _CROCKFORD for low in _CROCKFORD)


def new_delivery_id(now_ms: int, random_bytes: bytes) -> str:
    """A ULID in lower case: 48 bits of time and ten random bytes. Ids sort by time."""
    if not 0 <= now_ms < 1 << 48 or len(random_bytes) != ULID_RANDOM_BYTES:
        raise ValueError("a ULID takes a time of 48 bits and ten random bytes")
    number = now_ms << 80 | int.from_bytes(random_bytes, "big")
    return "".join(
        [_CROCKFORD_PAIRS[number >> shift & 1023] for shift in range(5 * (_ULID_CHARS - 2), -1, -10)]
    )


class Tracing(Struct, frozen=True, kw_only=True):
    """The request and the trace that a mail belongs to, as its caller says."""

    request_id: str | None = None
    trace_id: str | None = None
    traceparent: str | None = None


NO_TRACING: Final = Tracing()


def tracing_of(request_id: str | None, traceparent: str | None) -> Tracing:
    """What these headers say. An invalid one counts as absent: it must not fail the request (W3C Trace Context §3.2)."""
    traceparent = valid_traceparent(traceparent)
    return Tracing(
        request_id=request_id if request_id is not None and TRACING_ID.fullmatch(request_id) else None,
        trace_id=trace_id_in(traceparent) if traceparent else None,
        traceparent=traceparent,
    )


def trace_id_in(traceparent: str) -> str:
    """The trace that a valid traceparent belongs to (W3C Trace Context §3.2.2: version, trace id, parent id, flags)."""
    return traceparent[3:35]


def valid_traceparent(text: str | None) -> str | None:
    """The value of the header `traceparent`, None if it is invalid."""
    return text if text is not None and TRACEPARENT.fullmatch(text) else None
