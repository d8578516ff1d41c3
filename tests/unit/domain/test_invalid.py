from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain.errors import FieldError
from galaxy_mail.domain.invalid import Fault, InvalidRequest, idempotency_key, json_object


def test_an_invalid_request_holds_every_problem() -> None:
    invalid = InvalidRequest([FieldError("a", "is required"), FieldError("b", "is empty")])
    assert [error.field for error in invalid.errors] == ["a", "b"]
    assert (str(invalid), invalid.fault) == ("a: is required; b: is empty", Fault.INVALID)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"; x=y',
    ],
)
def test_a_json_body(content_type: str) -> None:
    assert json_object(b'{"a":1}', content_type=content_type, max_bytes=7) == {"a": 1}


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "application/json; charset=latin-1",
    ],
)
def test_another_media_type_is_named_before_the_body_is_read(content_type: str | None) -> None:
    with pytest.raises(InvalidRequest) as raised:
        json_object(b"{" * 100, content_type=content_type, max_bytes=1)
    assert raised.value.fault is Fault.UNSUPPORTED_MEDIA_TYPE
    assert [error.field for error in raised.value.errors] == ["Content-Type"]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"a":1} ', Fault.TOO_LARGE),
        (b"{{{{{{{{", Fault.TOO_LARGE),
        (b"[1]", Fault.INVALID),
        (b"{", Fault.INVALID),
        (b"", Fault.INVALID),
    ],
)
def test_a_body_that_is_no_small_json_object(body: bytes, fault: Fault) -> None:
    with pytest.raises(InvalidRequest) as raised:
        json_object(body, content_type="application/json", max_bytes=7)
    assert (raised.value.fault, [error.field for error in raised.value.errors]) == (fault, ["body"])


def test_there_is_one_idempotency_key() -> None:
    assert idempotency_key(['"a, b"']) == '"a, b"'  # a comma makes no second one, and quotes belong to it


@pytest.mark.parametrize("values", [[], ["a", "a"], [""], ["k" * 256], ["a\tb"], ["ключ"]], ids=repr)
def test_no_idempotency_key(values: list[str]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        idempotency_key(values)
    assert [error.field for error in raised.value.errors] == ["Idempotency-Key"]


@given(st.binary(max_size=40), st.none() | st.text(max_size=40) | st.just("application/json"))
def test_any_body_gives_members_or_the_stated_error(body: bytes, content_type: str | None) -> None:
    with suppress(InvalidRequest):
        assert isinstance(json_object(body, content_type=content_type, max_bytes=30), dict)
