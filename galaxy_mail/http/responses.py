"""The responses of the API: status, headers and body, encoded."""

from collections.abc import AsyncGenerator, Iterable
from typing import Final

import msgspec
from msgspec import Struct

Header = tuple[bytes, bytes]

JSON: Final[Header] = (b"content-type", b"application/json")
PROBLEM: Final[Header] = (b"content-type", b"application/problem+json")
CSV: Final[Header] = (b"content-type", b"text/csv; charset=utf-8; header=present")
NO_STORE: Final[Header] = (b"cache-control", b"no-store")  # recipients must not get into caches
REPLAYED: Final[Header] = (b"idempotency-replayed", b"true")

_ENCODER: Final = msgspec.json.Encoder()


class Response(Struct, frozen=True, kw_only=True):
    """A response. An unbounded body comes in `parts`: each is sent before the next one is made."""

    status: int
    headers: tuple[Header, ...] = ()
    body: bytes = b""
    parts: AsyncGenerator[bytes, None] | None = None


def json_response(value: object, *headers: Header, status: int = 200, kind: Header = JSON) -> Response:
    return Response(status=status, headers=(kind, NO_STORE, *headers), body=_ENCODER.encode(value))


def page_response(items: Iterable[object], next_cursor: str | None) -> Response:
    return json_response({"items": list(items), "next_cursor": next_cursor})
