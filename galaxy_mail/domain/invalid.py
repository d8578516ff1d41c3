"""The error of an invalid request, and the checks that all JSON requests share."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from galaxy_mail.domain.errors import FieldError, GalaxyMailError
from galaxy_mail.domain.ids import IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_MAX_CHARS
from galaxy_mail.domain.records import Json
from galaxy_mail.domain.strict_json import StrictJsonError, loads

IDEMPOTENCY_KEY_HEADER: Final = "Idempotency-Key"
BODY: Final = "body"  # the `field` of an error about the whole body


class Fault(StrEnum):
    """The kind of an invalid request, which decides the status of the answer."""

    INVALID = "invalid"  # 400
    TOO_LARGE = "too_large"  # 413
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"  # 415
    KEY_REUSED = "key_reused"  # 422: this idempotency key belongs to another request


class InvalidRequest(GalaxyMailError):
    """The request is invalid, and a repeat will be, too. `errors` has every problem, without values."""

    def __init__(self, errors: Sequence[FieldError], fault: Fault = Fault.INVALID) -> None:
        super().__init__("; ".join(str(error) for error in errors))
        self.errors = tuple(errors)
        self.fault = fault


def idempotency_key(values: Sequence[str]) -> str:
    """The value of the header `Idempotency-Key`, which must occur once in `values`. Raises InvalidRequest."""
    if len(values) != 1:
        problem = "comes more than once" if values else "is required"
    elif not IDEMPOTENCY_KEY.fullmatch(values[0]):
        problem = f"must be 1 to {IDEMPOTENCY_KEY_MAX_CHARS} printable ASCII characters"
    else:
        return values[0]
    raise InvalidRequest([FieldError(IDEMPOTENCY_KEY_HEADER, problem)])


def json_object(body: bytes, *, content_type: str | None, max_bytes: int) -> dict[str, Json]:
    """The members of a body that is a strict JSON object. Raises InvalidRequest."""
    if not _is_json(content_type):
        problem = FieldError("Content-Type", "must be application/json")
        raise InvalidRequest([problem], Fault.UNSUPPORTED_MEDIA_TYPE)
    if len(body) > max_bytes:
        raise InvalidRequest([FieldError(BODY, f"has more than {max_bytes} bytes")], Fault.TOO_LARGE)
    try:
        value = loads(body)
    except StrictJsonError as error:
        raise InvalidRequest([FieldError(BODY, error.message)]) from None
    if not isinstance(value, dict):
        raise InvalidRequest([FieldError(BODY, "must be a JSON object")])
    return value


def _is_json(content_type: str | None) -> bool:
    """RFC 8259 defines no `charset`, but many clients send one. Only UTF-8 is correct."""
    media_type, _, parameters = (content_type or "").partition(";")
    if media_type.strip().lower() != "application/json":
        return False
    names = (parameter.partition("=") for parameter in parameters.split(";"))
    charsets = (value.strip().strip('"') for name, _, value in names if name.strip().lower() == "charset")
    return all(charset.lower() in {"utf-8", "utf8"} for charset in charsets)
