"""Which problem document an exception becomes, and that none of them tells too much."""

import json
from typing import Any

import pytest
import werkzeug.exceptions
from structlog.testing import capture_logs

from galaxy_mail.domain.errors import FieldError
from galaxy_mail.domain.invalid import Fault, InvalidRequest
from galaxy_mail.domain.records import Failure
from galaxy_mail.domain.resend import ResendNotAllowed
from galaxy_mail.http.problems import NothingThere, RequestTimedOut, WillNotRender, problem
from galaxy_mail.http.tokens import Forbidden, Unauthorized
from galaxy_mail.intake.intake import IdempotencyConflict
from galaxy_mail.storage.links.errors import NotDurable, OutcomeUnknown, RedisRefused, RedisUnavailable
from galaxy_mail.storage.operations.identity import StoreReplaced
from tests.contracts.documents import openapi, validator

BAD_CODE = [FieldError("code", "must be text")]

ERRORS: list[tuple[Exception, int, str]] = [
    (InvalidRequest(BAD_CODE), 400, "invalid_request"),
    (InvalidRequest(BAD_CODE, Fault.TOO_LARGE), 413, "invalid_request"),
    (InvalidRequest(BAD_CODE, Fault.UNSUPPORTED_MEDIA_TYPE), 415, "invalid_request"),
    (InvalidRequest(BAD_CODE, Fault.KEY_REUSED), 422, "invalid_request"),
    (IdempotencyConflict("used"), 422, "invalid_request"),
    (Unauthorized("A token is needed.", "Bearer"), 401, "unauthorized"),
    (Forbidden("Not this one."), 403, "forbidden"),
    (NothingThere("delivery"), 404, "not_found"),
    (werkzeug.exceptions.NotFound(), 404, "not_found"),
    (werkzeug.exceptions.MethodNotAllowed(["GET", "HEAD"]), 405, "method_not_allowed"),
    (ResendNotAllowed("It is queued."), 409, "resend_not_allowed"),
    (WillNotRender(Failure(code="missing_variables", summary="missing: code")), 422, "missing_variables"),
    (RequestTimedOut(), 503, "service_unavailable"),
    (RedisUnavailable("gone"), 503, "service_unavailable"),
    (OutcomeUnknown("lost"), 503, "service_unavailable"),
    (NotDurable("no disk"), 503, "service_unavailable"),
    (StoreReplaced("wiped"), 503, "service_unavailable"),
    (RedisRefused("OOM command not allowed"), 503, "service_unavailable"),
    (RedisRefused("READONLY You can't write"), 503, "service_unavailable"),
    (RuntimeError("secret-493027"), 500, "internal_error"),
    (ExceptionGroup("several", [ValueError("secret-493027")]), 500, "internal_error"),
]


def document_of(error: Exception) -> Any:
    return json.loads(problem(error).body)


@pytest.mark.parametrize(("error", "status", "code"), ERRORS, ids=lambda value: repr(value)[:60])
def test_an_exception_becomes_the_contracts_problem(error: Exception, status: int, code: str) -> None:
    answer = problem(error)
    document = json.loads(answer.body)
    validator(openapi(), {"$ref": "#/components/schemas/Problem"}).validate(document)
    assert (answer.status, document["status"], document["code"]) == (status, status, code)
    assert document["detail"].endswith(".") or status == 422
    assert (b"content-type", b"application/problem+json") in answer.headers
    assert ((b"retry-after", b"1") in answer.headers) == (status == 503)


def test_fields_are_told_and_only_where_there_are_any() -> None:
    assert document_of(InvalidRequest(BAD_CODE))["errors"] == [{"field": "code", "message": "must be text"}]
    assert "errors" not in document_of(NothingThere("delivery"))


def test_a_challenge_comes_with_401_and_what_is_allowed_with_405() -> None:
    assert (b"www-authenticate", b"Bearer") in problem(Unauthorized("No.", "Bearer")).headers
    not_allowed = problem(werkzeug.exceptions.MethodNotAllowed(["HEAD", "GET"]))
    assert (b"allow", b"GET, HEAD") in not_allowed.headers


def test_what_nobody_expected_is_logged_and_not_told() -> None:
    with capture_logs() as lines:
        document = document_of(RuntimeError("secret-493027"))
    assert "493027" not in json.dumps(document)
    [line] = lines
    assert (line["event"], line["log_level"]) == ("request_failed", "error")
    assert isinstance(line["exc_info"], RuntimeError)


def test_what_the_store_says_is_logged_and_not_told() -> None:
    with capture_logs() as lines:
        document = document_of(RedisUnavailable("can't connect to redis.internal:6379"))
    assert "redis.internal" not in json.dumps(document)
    assert lines[0]["reason"] == "can't connect to redis.internal:6379"


def test_a_full_store_says_so() -> None:
    assert document_of(RedisRefused("OOM command not allowed"))["detail"] == "The store is full."


def test_names_that_fit_no_answer_are_escaped() -> None:
    error = InvalidRequest([FieldError("\ud800", "is not a member")])
    assert document_of(error)["errors"][0]["field"] == r"\ud800"


@pytest.mark.parametrize(
    ("field", "detail"), [("body", "The body is bad."), ("Content-Type", "Content-Type is bad.")]
)
def test_a_single_fault_is_the_detail(field: str, detail: str) -> None:
    assert document_of(InvalidRequest([FieldError(field, "is bad")], Fault.TOO_LARGE))["detail"] == detail
