import pytest

from galaxy_mail.domain.errors import FieldError
from galaxy_mail.domain.invalid import Fault, InvalidRequest, idempotency_key


def test_an_invalid_request_holds_every_problem() -> None:
    invalid = InvalidRequest([FieldError("a", "is required"), FieldError("b", "is empty")])
    assert [error.field for error in invalid.errors] == ["a", "b"]
    assert (str(invalid), invalid.fault) == ("a: is required; b: is empty", Fault.INVALID)


def test_there_is_one_idempotency_key() -> None:
    assert idempotency_key(['"a, b"']) == '"a, b"'  # a comma makes no second one, and quotes belong to it


@pytest.mark.parametrize("values", [[], ["a", "a"], [""], ["k" * 256], ["a\tb"], ["ключ"]], ids=repr)
def test_no_idempotency_key(values: list[str]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        idempotency_key(values)
    assert [error.field for error in raised.value.errors] == ["Idempotency-Key"]
