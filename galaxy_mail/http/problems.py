"""Translates exceptions to problem documents (RFC 9457) for all routes."""

from collections.abc import Sequence
from typing import Any, Final

import structlog
import werkzeug.exceptions

from galaxy_mail.domain.errors import FieldError, GalaxyMailError
from galaxy_mail.domain.invalid import IDEMPOTENCY_KEY_HEADER, Fault, InvalidRequest
from galaxy_mail.domain.records import Failure
from galaxy_mail.domain.resend import ResendNotAllowed
from galaxy_mail.http.responses import PROBLEM, Header, Response, json_response
from galaxy_mail.http.tokens import Forbidden, Unauthorized
from galaxy_mail.intake.intake import IdempotencyConflict
from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisFailure, RedisRefused
from galaxy_mail.storage.operations.identity import StoreReplaced

log = structlog.get_logger()

RETRY_AFTER: Final[Header] = (b"retry-after", b"1")

TITLES: Final = {  # RFC 9110 §15; http.HTTPStatus changes them between Python versions
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

_STATUS: Final = {
    Fault.INVALID: 400,
    Fault.TOO_LARGE: 413,
    Fault.UNSUPPORTED_MEDIA_TYPE: 415,
    Fault.KEY_REUSED: 422,
}


class NothingThere(GalaxyMailError):
    """The resource at this path does not exist or has expired."""

    def __init__(self, what: str) -> None:
        super().__init__(f"There is no such {what}.")


class WillNotRender(GalaxyMailError):
    """The preview failed. The response has the failure's code and summary."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.summary)
        self.code = failure.code


class RequestTimedOut(GalaxyMailError):
    """The request's deadline passed. Its effect may have happened."""


def problem(error: Exception) -> Response:
    """The response to this exception of a handler. Logs the errors that are not the caller's."""
    match error:
        case InvalidRequest():
            return _invalid(error)
        case IdempotencyConflict():
            conflict = FieldError(IDEMPOTENCY_KEY_HEADER, "was used for another request")
            return _invalid(InvalidRequest([conflict], Fault.KEY_REUSED))
        case Unauthorized():
            challenge = (b"www-authenticate", error.challenge.encode())
            return _document(401, "unauthorized", str(error), challenge)
        case Forbidden():
            return _document(403, "forbidden", str(error))
        case NothingThere():
            return _document(404, "not_found", str(error))
        case werkzeug.exceptions.NotFound():
            return _document(404, "not_found", "There is nothing at this path.")
        case werkzeug.exceptions.MethodNotAllowed():
            allowed = ", ".join(sorted(error.valid_methods or ()))
            allow = (b"allow", allowed.encode())
            return _document(405, "method_not_allowed", f"This path takes {allowed}.", allow)
        case ResendNotAllowed():
            return _document(409, "resend_not_allowed", str(error))
        case WillNotRender():
            return _document(422, error.code, str(error))
        case RequestTimedOut():
            return _unavailable("The request took too long; it may have been done all the same.")
        case RedisFailure():
            log.warning("request_without_store", error=type(error).__name__, reason=str(error))
            return _unavailable(_store_detail(error))
        case _:
            log.error("request_failed", exc_info=error)
            return _document(500, "internal_error", "An unexpected error.")


def _invalid(invalid: InvalidRequest) -> Response:
    errors = invalid.errors
    match invalid.fault:
        case Fault.TOO_LARGE | Fault.UNSUPPORTED_MEDIA_TYPE if len(errors) == 1:
            detail = f"{'The body' if errors[0].field == 'body' else errors[0].field} {errors[0].message}."
        case Fault.KEY_REUSED:
            detail = "This Idempotency-Key was used for another request."
        case _:
            places = "one place" if len(errors) == 1 else f"{len(errors)} places"
            detail = f"The request is invalid in {places}."
    return _document(_STATUS[invalid.fault], "invalid_request", _encodable(detail), errors=errors)


def _unavailable(detail: str) -> Response:
    return _document(503, "service_unavailable", detail, RETRY_AFTER)


def _document(
    status: int, code: str, detail: str, *headers: Header, errors: Sequence[FieldError] = ()
) -> Response:
    document: dict[str, Any] = {
        "type": "about:blank",  # RFC 9457 §4.2.1: the status is the type; `code` is for programs
        "title": TITLES[status],
        "status": status,
        "detail": detail,
        "code": code,
    }
    if errors:
        document["errors"] = [
            {"field": _encodable(error.field), "message": _encodable(error.message)} for error in errors
        ]
    return json_response(document, *headers, status=status, kind=PROBLEM)


def _store_detail(trouble: RedisFailure) -> str:
    match trouble:
        case StoreReplaced():
            return "The store was exchanged; an operator has to look at it."
        case RedisRefused() if trouble.code == "OOM":
            return "The store is full."
        case RedisRefused():
            return "The store refused the request."
        case OutcomeUnknown():
            return "The store did not answer in time; the request may have been done all the same."
        case _:
            return "The store can't be reached."


def _encodable(text: str) -> str:
    """`text` with lone surrogates escaped: a name in a refused body may have them, and UTF-8 can't encode them."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
