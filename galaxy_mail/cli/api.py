"""The HTTP client of the commands that use a running service, their error messages and their output.

Exit statuses: 0 success; 1 not found or refused; 2 invalid input; 3 the service is unreachable or unavailable.
"""

import getpass
import json
import os
import re
import secrets
import ssl
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from itertools import islice
from typing import Any, Final
from urllib.parse import quote

import click
import httpx

from galaxy_mail.config import ClientConfig
from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.settings import kinds

PATH: Final = "/api/v1/internal"
TIMEOUT_S: Final = 30.0  # above MAIL_OPERATOR_REQUEST_TIMEOUT, so that the service reports its own time-outs
PAGE_MAX: Final = 200
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LOCAL: Final = ("127.0.0.1", "localhost", "[::1]")  # hosts that are reached without a proxy

Json = Any
Row = Sequence[object]


class ApiError(GalaxyMailError):
    """The service did not fulfil a request. The message is for the operator."""

    exit_status = 1


class NotFound(ApiError):
    """The requested resource does not exist."""


class RequestRefused(ApiError):
    """The request is valid but not allowed, for example in the delivery's present status."""


class InvalidInput(ApiError):
    """The service found an invalid value in the request."""

    exit_status = 2


class ServiceUnavailable(ApiError):
    """The service does not answer, is temporarily unavailable, or the peer is not Galaxy Mail."""

    exit_status = 3


def _tls(config: ClientConfig) -> ssl.SSLContext | bool:
    """The trusted CA certificates and our client certificate; True for the system's defaults."""
    if config.api_ca_file is None and config.api_cert_file is None:
        return True
    context = ssl.create_default_context(cafile=config.api_ca_file)
    if config.api_cert_file is not None:
        context.load_cert_chain(config.api_cert_file, config.api_key_file)
    return context


class ApiClient:
    """An HTTP client of the service's internal API."""

    def __init__(self, config: ClientConfig) -> None:
        self._url = config.api_url
        headers = {"User-Agent": f"galaxy-mail/{version('galaxy-mail')}"}
        if config.api_token is not None:
            headers["Authorization"] = f"Bearer {config.api_token}"
        self._client = httpx.Client(
            base_url=config.api_url,
            headers=headers,
            timeout=TIMEOUT_S,
            verify=_tls(config),
            mounts={f"all://{host}": None for host in LOCAL},
        )

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, **params: object) -> Json:
        """The decoded body of a GET. Raises ApiError."""
        return self.request("GET", path, params=params)[1]

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, object] | None = None,
        body: Json = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Json]:
        """The status and the decoded body, None if the body is empty. Raises ApiError."""
        given = {name: str(value) for name, value in (params or {}).items() if value is not None}
        with self._translated():
            response = self._client.request(
                method,
                PATH + path,
                params=given,
                json=body,
                content=content,
                headers=dict(headers or {}),
            )
        if not response.is_success:
            raise _error(response)
        return response.status_code, self._value(response) if response.content else None

    def download(self, path: str, write: Callable[[bytes], object]) -> None:
        """Writes the body of a GET chunk by chunk. Raises ApiError, also if the connection breaks on the way."""
        with self._translated(), self._client.stream("GET", PATH + path) as response:
            if not response.is_success:
                response.read()
                raise _error(response)
            for chunk in response.iter_bytes():
                write(chunk)

    def items(self, path: str, limit: int | None, **params: object) -> "Listed":
        """The items of a list, page by page. Raises ApiError during iteration."""
        return Listed(self, path, limit, params)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translates httpx's exceptions."""
        try:
            yield
        except httpx.TimeoutException:
            raise ServiceUnavailable(f"{self._url} did not answer within {TIMEOUT_S:g} s") from None
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise ServiceUnavailable(f"can't reach {self._url} (MAIL_API_URL): {shown(reason)}") from None

    def _value(self, response: httpx.Response) -> Json:
        try:
            return response.json()
        except ValueError:
            raise ServiceUnavailable(f"the server at {self._url} (MAIL_API_URL) is not Galaxy Mail") from None


class Listed:
    """The items of a list, fetched during iteration. Afterwards, `more` is true if the limit cut the list."""

    def __init__(self, api: ApiClient, path: str, limit: int | None, params: Mapping[str, object]) -> None:
        self._api, self._path, self._limit, self._params = api, path, limit, params
        self.more = False

    def __iter__(self) -> Iterator[Json]:
        left = self._limit
        cursor: str | None = None
        while left is None or left > 0:
            size = PAGE_MAX if left is None else min(left, PAGE_MAX)
            page = self._api.get(self._path, **self._params, limit=size, cursor=cursor)
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return
            left = None if left is None else left - len(page["items"])
        self.more = True


def _error(response: httpx.Response) -> ApiError:
    try:
        problem = response.json()
        detail, code = str(problem["detail"]), str(problem["code"])
        places = [f"{error['field']}: {error['message']}" for error in problem.get("errors", ())]
    except (ValueError, KeyError, TypeError):
        return ServiceUnavailable(
            f"the server at {response.url.copy_with(raw_path=b'/')} (MAIL_API_URL) is not Galaxy Mail: "
            f"status {response.status_code}"
        )
    message = shown("; ".join(places) if places else detail)
    match code:
        case "not_found":
            return NotFound(message)
        case "unauthorized":
            return RequestRefused(f"{message} Is MAIL_API_TOKEN one of the service's MAIL_OPERATOR_TOKENS?")
        case "forbidden":
            return RequestRefused(
                f"{message} MAIL_API_TOKEN must be one of the service's MAIL_OPERATOR_TOKENS."
            )
        case "service_unavailable" | "internal_error":
            return ServiceUnavailable(message)
        case "invalid_request" if response.status_code in (400, 413, 415):
            return InvalidInput(message)
        case _:
            return RequestRefused(message)


# Options that several commands share

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
how_many = click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="Show at most this many."
)
everything = click.option("--all", "everything", is_flag=True, help="Show all. Overrides --limit.")


@contextmanager
def service() -> Iterator[ApiClient]:
    """A client of the service at MAIL_API_URL. Raises ConfigError."""
    api = ApiClient(ClientConfig.from_env(os.environ))
    try:
        yield api
    finally:
        api.close()


def segment(text: str) -> str:
    """`text` percent-encoded as one segment of a path."""
    return quote(text, safe="")


def new_key() -> str:
    """A random idempotency key."""
    return f"cli-{secrets.token_hex(12)}"


def caller() -> str | None:
    """The name of the system's user, None if it is unknown."""
    try:
        return getpass.getuser()[:128] or None
    except (KeyError, OSError):
        return None


class Moment(click.ParamType):  # type: ignore[type-arg]  # before click 8.4 it takes no parameter
    """A point in time, typed as a duration before now or as an ISO 8601 time."""

    name = "time"
    _ago = staticmethod(kinds.duration_ms(at_least="1ms", at_most="87600h"))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Epoch milliseconds."""
        if isinstance(value, int):
            return value
        try:
            return int(time.time() * 1000) - self._ago(value)
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is neither a duration such as 90m or 2d nor a time such as 2026-01-31T22:00",
                param,
                ctx,
            )
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - EPOCH) // timedelta(milliseconds=1)

    @staticmethod
    def encoded(at_ms: int) -> str:
        """The moment as an absolute time that `convert` reads."""
        return (
            (EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )


MOMENT: Final = Moment()

# Output


def print_json(value: Json) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_items(
    listed: Listed, as_json: bool, columns: Sequence[str], row: Callable[[Json], Row], nothing: str
) -> None:
    """Prints a list as JSON or as a table. `nothing` is the message for an empty list."""
    items = list(listed)
    if as_json:
        print_json({"items": items})
    elif items:
        print_table(columns, [row(item) for item in items])
    else:
        click.echo(nothing, err=True)
    if listed.more:
        click.echo(f"{len(items)} shown, there are more: pass --limit or --all", err=True)


def print_table(columns: Sequence[str], rows: Sequence[Row]) -> None:
    cells = [[shown(value) for value in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(columns, *cells, strict=True)]
    for number, line in enumerate([list(columns), *cells]):
        text = "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)
        )
        click.echo(text.rstrip() if number else click.style(text.rstrip(), bold=True))


def print_members(members: Mapping[str, object]) -> None:
    """Prints one record, a line for each member."""
    width = max(map(len, members))
    for name, value in members.items():
        click.echo(f"{click.style(f'{name:<{width}}', bold=True)}  {shown(value)}".rstrip())


def shown(value: object) -> str:
    """`value` as text without terminal control characters; an absent value is a dash."""
    match value:
        case None | "" | [] | ():
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(shown, value))
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def moment(at_ms: int | None) -> str | None:
    """A time in UTC, to the second, in the format of the logs."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def shortened(text: str | None, longest: int) -> str | None:
    return text if text is None or len(text) <= longest else text[: longest - 1] + "…"


def failure_of(item: Mapping[str, Any]) -> str | None:
    failure = item["failure"]
    return None if failure is None else f"{failure['code']}: {failure['summary']}"


def first_of(values: Sequence[str]) -> str | None:
    """The first value and the number of the others."""
    if not values:
        return None
    others = sum(1 for _ in islice(values, 1, None))
    return f"{shortened(values[0], 40)}{f' +{others}' if others else ''}"


_WIDE: Final = frozenset("WF")
_ZERO: Final = re.compile(r"[\u0300-\u036f\u200b-\u200d\ufe00-\ufe0f]")


def _width(text: str) -> int:
    """The number of terminal columns that `text` takes."""
    if text.isascii():
        return len(text)
    return sum(1 + (unicodedata.east_asian_width(char) in _WIDE) for char in _ZERO.sub("", text))
