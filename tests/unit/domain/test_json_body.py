"""Bodies to named values: each checked, everything wrong told at once."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain.errors import FieldError
from galaxy_mail.domain.invalid import Fault, InvalidRequest
from galaxy_mail.domain.json_body import (
    Members,
    Parse,
    WrongValue,
    json_members,
    json_object,
    locale,
    mail_address,
    text_value,
)
from galaxy_mail.domain.records import Json


def members(**values: Any) -> Members:
    return Members(values, what="a member of this request")


def errors_of(some: Members) -> list[FieldError]:
    with pytest.raises(InvalidRequest) as raised:
        some.finish()
    return list(raised.value.errors)


def colour(value: Json) -> str:
    if value not in ("red", "blue"):
        raise WrongValue("must be one of red, blue")
    return text_value(value)


def limit(value: Json) -> int:
    if not isinstance(value, int) or value > 200:
        raise WrongValue("must be a whole number up to 200")
    return value


def test_what_is_there_and_right_is_taken() -> None:
    some = members(name="ann", colour="red")
    assert some.need("name", text_value, "") == "ann"
    assert some.take("colour", colour, None) == "red"
    assert some.take("limit", limit, 50) == 50
    some.finish()


def test_everything_wrong_is_told_at_once_with_its_field() -> None:
    some = members(colour="green", limit=201, cc=[], filter={"status": 1, "x": 2})
    some.need("name", text_value, "")
    some.take("colour", colour, None)
    some.take("limit", limit, 50)
    inner = some.need_members("filter")
    inner.need("status", colour, "red")
    inner.refuse_unknown()
    assert [str(error) for error in errors_of(some)] == [
        "name: is required",
        "colour: must be one of red, blue",
        "limit: must be a whole number up to 200",
        "filter.status: must be one of red, blue",
        "filter.x: is not a member of this request",
        "cc: is not a member of this request",
    ]


def test_an_object_that_is_none_is_told_once() -> None:
    some = members(filter=[1])
    inner = some.need_members("filter")
    inner.need("status", colour, "red")
    inner.refuse_unknown()
    assert [str(error) for error in errors_of(some)] == ["filter: must be a JSON object"]


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (text_value, ["a", ""], [1, None, ["a"]]),
        (mail_address, ["ann@example.org"], ["ann", "", 1, None, "a@b@c"]),
        (locale, ["en", "de-AT"], ["", 1, None, "e"]),
        (json_members, [{}, {"a": 1}], [[], "a", None, 1]),
    ],
)
def test_a_parser_takes_what_is_right_and_says_what_is_wrong(
    parse: Parse[Any], good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        parse(value)
    for value in bad:
        with pytest.raises(ValueError) as raised:
            parse(value)
        assert not value or not isinstance(value, str) or len(value) < 4 or value not in str(raised.value)


def test_errors_found_before_are_reported_with_those_of_the_body() -> None:
    before = [FieldError("Idempotency-Key", "is required")]
    with pytest.raises(InvalidRequest) as raised:
        Members.of_body(b"{", content_type="text/plain", max_bytes=7, errors=before)
    assert [error.field for error in raised.value.errors] == ["Idempotency-Key", "Content-Type"]
    assert raised.value.fault is Fault.UNSUPPORTED_MEDIA_TYPE
    some = Members.of_body(b'{"a":1}', content_type="application/json", max_bytes=7, errors=before)
    assert [error.field for error in errors_of(some)] == ["Idempotency-Key", "a"]


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


@given(st.binary(max_size=40), st.none() | st.text(max_size=40) | st.just("application/json"))
def test_any_body_gives_members_or_the_stated_error(body: bytes, content_type: str | None) -> None:
    with suppress(InvalidRequest):
        assert isinstance(json_object(body, content_type=content_type, max_bytes=30), dict)
