"""The error of an invalid request, and the idempotency key's check."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from galaxy_mail.domain.errors import FieldError, GalaxyMailError
from galaxy_mail.domain.ids import IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_MAX_CHARS

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


def too_large(max_bytes: int) -> InvalidRequest:
    """The refusal of a body that has more bytes."""
    return InvalidRequest([FieldError(BODY, f"has more than {max_bytes} bytes")], Fault.TOO_LARGE)


def idempotency_key(values: Sequence[str]) -> str:
    """The value of the header `Idempotency-Key`, which must occur once in `values`. Raises InvalidRequest."""
    if len(values) != 1:
        problem = "comes more than once" if values else "is required"
    elif not IDEMPOTENCY_KEY.fullmatch(values[0]):
        problem = f"must be 1 to {IDEMPOTENCY_KEY_MAX_CHARS} printable ASCII characters"
    else:
        return values[0]
    raise InvalidRequest([FieldError(IDEMPOTENCY_KEY_HEADER, problem)])
