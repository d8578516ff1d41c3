"""The HTTP client of the commands that use a running service, and their error messages.

Exit statuses: 0 success; 1 not found or refused; 2 invalid input; 3 the service is unreachable or unavailable.
"""

import os
import secrets
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final
from urllib.parse import quote

import click
import httpx

from galaxy_mail.cli.output import Json, Row, print_json, print_table, shown
from galaxy_mail.config import ClientConfig
from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.http.routes import API

TIMEOUT_S: Final = 30.0  # above MAIL_OPERATOR_REQUEST_TIMEOUT, so that the service reports its own time-outs
PAGE_MAX: Final = 200
LOCAL: Final = ("127.0.0.1", "localhost", "[::1]")  # hosts that are reached without a proxy


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
                API + path,
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
        with self._translated(), self._client.stream("GET", API + path) as response:
            if not response.is_success:
                response.read()
                raise _error(response)
            for chunk in response.iter_bytes():
                write(chunk)

    def items(self, path: str, limit: int | None, **params: object) -> tuple[list[Json], bool]:
        """The items of a list, at most `limit`, and whether there are more. Raises ApiError."""
        items: list[Json] = []
        cursor = None
        while limit is None or len(items) < limit:
            size = PAGE_MAX if limit is None else min(limit - len(items), PAGE_MAX)
            page = self.get(path, **params, limit=size, cursor=cursor)
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return items, False
        return items, True

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


def print_list(
    path: str,
    limit: int | None,
    as_json: bool,
    columns: Sequence[str],
    row: Callable[[Json], Row],
    *,
    nothing: str,
    **conditions: object,
) -> None:
    """Prints a list of the service as JSON or as a table. `nothing` is the message for an empty list."""
    with service() as api:
        items, more = api.items(path, limit, **conditions)
    if as_json:
        print_json({"items": items})
    elif items:
        print_table(columns, [row(item) for item in items])
    else:
        click.echo(nothing, err=True)
    if more:
        click.echo(f"{len(items)} shown, there are more: pass --limit or --all", err=True)
