"""Exceptions to problem documents (RFC 9457), once for all routes."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog
import werkzeug.exceptions
from msgspec import Struct

from galaxy_mail.domain.errors import FieldError, GalaxyMailError
from galaxy_mail.domain.holds import UnknownScope
from galaxy_mail.domain.invalid import IDEMPOTENCY_KEY_HEADER, Fault, InvalidRequest
from galaxy_mail.domain.records import Failure
from galaxy_mail.domain.resend import ResendNotAllowed
from galaxy_mail.http.responses import NO_STORE, PROBLEM, Answer, Header
from galaxy_mail.http.tokens import Forbidden, Unauthorized
from galaxy_mail.intake.intake import IdempotencyConflict
from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisFailure, RedisRefused
from galaxy_mail.storage.operations.identity import StoreReplaced

log = structlog.get_logger()

RETRY_AFTER: Final[Header] = (b"retry-after", b"1")

TITLES: Final = {  # RFC 9110 §15; the standard library's depend on its version
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
_ENCODER: Final = msgspec.json.Encoder()


class NothingThere(GalaxyMailError):
    """What the path names does not exist, or is past its time."""

    def __init__(self, what: str) -> None:
        super().__init__(f"There is no such {what}.")


class WillNotRender(GalaxyMailError):
    """A preview failed; the failure's words are the answer's."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.summary)
        self.code = failure.code


class RequestTimedOut(GalaxyMailError):
    """The request's deadline passed. What it asked for may have been done."""


class Problem(Struct, frozen=True, kw_only=True):
    """What a problem document says. `headers` go beside it."""

    status: int
    code: str
    detail: str
    errors: Sequence[FieldError] = ()
    headers: tuple[Header, ...] = ()

    def answer(self) -> Answer:
        document: dict[str, Any] = {
            "type": "about:blank",  # RFC 9457 §4.2.1: the status says it; `code` tells programs more
            "title": TITLES[self.status],
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.errors:
            document["errors"] = [
                {"field": _encodable(error.field), "message": _encodable(error.message)}
                for error in self.errors
            ]
        return Answer(
            status=self.status, headers=(PROBLEM, NO_STORE, *self.headers), body=_ENCODER.encode(document)
        )


def problem(error: Exception) -> Problem:
    """What to answer when a handler raised this. Logs what is nobody's mistake but ours, or the store's."""
    match error:
        case InvalidRequest():
            return _invalid(error)
        case IdempotencyConflict():
            conflict = FieldError(IDEMPOTENCY_KEY_HEADER, "was used for another request")
            return _invalid(InvalidRequest([conflict], Fault.KEY_REUSED))
        case Unauthorized():
            return Problem(
                status=401,
                code="unauthorized",
                detail=str(error),
                headers=((b"www-authenticate", error.challenge.encode()),),
            )
        case Forbidden():
            return Problem(status=403, code="forbidden", detail=str(error))
        case NothingThere() | UnknownScope():
            return Problem(status=404, code="not_found", detail=str(error))
        case werkzeug.exceptions.NotFound():
            return Problem(status=404, code="not_found", detail="There is nothing at this path.")
        case werkzeug.exceptions.MethodNotAllowed():
            allowed = ", ".join(sorted(error.valid_methods or ()))
            return Problem(
                status=405,
                code="method_not_allowed",
                detail=f"This path takes {allowed}.",
                headers=((b"allow", allowed.encode()),),
            )
        case ResendNotAllowed():
            return Problem(status=409, code="resend_not_allowed", detail=str(error))
        case WillNotRender():
            return Problem(status=422, code=error.code, detail=str(error))
        case RequestTimedOut():
            return _unavailable("The request took too long; it may have been done all the same.")
        case RedisFailure():
            log.warning("request_without_store", error=type(error).__name__, reason=str(error))
            return _unavailable(_store_detail(error))
        case _:
            log.error("request_failed", exc_info=error)
            return Problem(status=500, code="internal_error", detail="An unexpected error.")


def _invalid(invalid: InvalidRequest) -> Problem:
    errors = invalid.errors
    match invalid.fault:
        case Fault.TOO_LARGE | Fault.UNSUPPORTED_MEDIA_TYPE if len(errors) == 1:
            detail = f"{'The body' if errors[0].field == 'body' else errors[0].field} {errors[0].message}."
        case Fault.KEY_REUSED:
            detail = "This Idempotency-Key was used for another request."
        case _:
            places = "one place" if len(errors) == 1 else f"{len(errors)} places"
            detail = f"The request is invalid in {places}."
    return Problem(
        status=_STATUS[invalid.fault], code="invalid_request", detail=_encodable(detail), errors=errors
    )


def _unavailable(detail: str) -> Problem:
    return Problem(status=503, code="service_unavailable", detail=detail, headers=(RETRY_AFTER,))


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
    """Half of a surrogate pair, which a name in a refused body may have, fits no answer."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
