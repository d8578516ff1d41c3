"""Shared decoding of requests: tracing headers, query parameters, cursors and parsers of values."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from enum import StrEnum
from typing import Final, TypeVar

from galaxy_mail.domain.errors import FieldError
from galaxy_mail.domain.ids import (
    IDEMPOTENCY_KEY,
    IDEMPOTENCY_KEY_MAX_CHARS,
    TEMPLATE_ID,
    TEMPLATE_ID_MAX_CHARS,
    Tracing,
    tracing_of,
)
from galaxy_mail.domain.json_body import Members, Parse, WrongValue, text_value
from galaxy_mail.domain.records import Json
from galaxy_mail.domain.strict_json import MAX_NUMBER, shown_name
from galaxy_mail.http.connection import HttpRequest
from galaxy_mail.storage.reader import Position

BODY_MAX_BYTES: Final = 16 * 1024
LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 200
REASON_MAX_CHARS: Final = 500
PERSON_MAX_CHARS: Final = 128
CURSOR_MAX_CHARS: Final = 512

E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")


def tracing(request: HttpRequest) -> Tracing:
    return tracing_of(request.headers.get("X-Request-Id"), request.headers.get("Traceparent"))


def query_members(request: HttpRequest) -> Members:
    """The parameters of the query. A repeated parameter is an error."""
    repeated = [
        FieldError(shown_name(name), "comes more than once")
        for name, values in request.args.lists()
        if len(values) > 1
    ]
    return Members(request.args.to_dict(), what="a parameter of this route", errors=repeated)


def body_members(body: bytes, request: HttpRequest, max_bytes: int = BODY_MAX_BYTES) -> Members:
    """The members of the JSON object in the body. Raises InvalidRequest if the body is anything else."""
    return Members.of_body(body, content_type=request.headers.get("Content-Type"), max_bytes=max_bytes)


def take_paging(query: Members, cursor: Parse[T], first: T) -> tuple[int, T]:
    """The page's limit and the position that it follows. Raises InvalidRequest; no parameter may be taken later."""
    limit_, after = query.take("limit", limit, LIMIT_DEFAULT), query.take("cursor", cursor, first)
    query.finish()
    return limit_, after


# Parsers of values from a query or a JSON body.


def text(max_chars: int) -> Parse[str]:
    def parse(value: Json) -> str:
        chars = text_value(value)
        if not 1 <= len(chars) <= max_chars:
            raise WrongValue(f"must be 1 to {max_chars} characters")
        return chars

    return parse


def one_of(kind: type[E], only: frozenset[E] | None = None) -> Parse[E]:
    allowed = [member for member in kind if only is None or member in only]

    def parse(value: Json) -> E:
        for member in allowed:
            if member.value == value:
                return member
        raise WrongValue(f"must be one of {', '.join(member.value for member in allowed)}")

    return parse


def template_id(value: Json) -> str:
    if not isinstance(value, str) or not TEMPLATE_ID.fullmatch(value):
        raise WrongValue(
            f"must be dot-separated runs of A-Z a-z 0-9 _ - with {TEMPLATE_ID_MAX_CHARS} characters in all"
        )
    return value


def idempotency_key(value: Json) -> str:
    if not isinstance(value, str) or not IDEMPOTENCY_KEY.fullmatch(value):
        raise WrongValue(f"must be 1 to {IDEMPOTENCY_KEY_MAX_CHARS} printable ASCII characters")
    return value


def flag(value: Json) -> bool:
    if not isinstance(value, bool):
        raise WrongValue("must be true or false")
    return value


def number(at_least: int, at_most: int) -> Parse[int]:
    """A JSON integer."""

    def parse(value: Json) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= at_most:
            raise WrongValue(f"must be a whole number from {at_least} to {at_most}")
        return value

    return parse


def digits(at_least: int, at_most: int) -> Parse[int]:
    """An integer in a query."""

    def parse(value: Json) -> int:
        if not re.fullmatch(r"[0-9]{1,16}", value) or not at_least <= int(value) <= at_most:
            raise WrongValue(f"must be a whole number from {at_least} to {at_most}")
        return int(value)

    return parse


reason: Final = text(REASON_MAX_CHARS)
person: Final = text(PERSON_MAX_CHARS)
time_ms: Final = number(0, MAX_NUMBER)
query_time_ms: Final = digits(0, MAX_NUMBER)
limit: Final = digits(1, LIMIT_MAX)


def cursor(member: re.Pattern[str]) -> Parse[Position]:
    """base64url of `<ms>:<member>`, the last item of the page before."""

    def parse(value: Json) -> Position:
        at_ms, _, name = _decoded(value).partition(":")
        if not re.fullmatch(r"[0-9]{1,16}", at_ms) or int(at_ms) > MAX_NUMBER or not member.fullmatch(name):
            raise WrongValue(_NO_CURSOR)
        return Position(int(at_ms), name)

    return parse


def plain_cursor(value: Json) -> str:
    """A cursor that holds only an address."""
    return _decoded(value)


def encode_cursor(position: Position | None) -> str | None:
    return None if position is None else encode_plain_cursor(f"{position.at_ms}:{position.member}")


def encode_plain_cursor(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


_NO_CURSOR: Final = "is not a cursor of this list"
_CURSOR: Final = re.compile(rf"(?=.{{1,{CURSOR_MAX_CHARS}}}\Z)[A-Za-z0-9_-]+={{0,2}}")


def _decoded(value: Json) -> str:
    if not _CURSOR.fullmatch(value):
        raise WrongValue(_NO_CURSOR)
    encoded = value.rstrip("=")
    try:
        return urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    except ValueError:
        raise WrongValue(_NO_CURSOR) from None
