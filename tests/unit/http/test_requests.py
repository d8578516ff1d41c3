"""Values of requests: taken by name, checked, everything wrong told at once."""

from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain.errors import FieldError
from galaxy_mail.domain.ids import DELIVERY_ID, ENTRY_ID
from galaxy_mail.domain.invalid import InvalidRequest
from galaxy_mail.http import requests as r
from galaxy_mail.storage.records.reader import Position


def members(**values: Any) -> r.Members:
    return r.Members(values, what="a member of this request")


def errors_of(some: r.Members) -> list[FieldError]:
    with pytest.raises(InvalidRequest) as raised:
        some.finish()
    return list(raised.value.errors)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


def test_what_is_there_and_right_is_taken() -> None:
    some = members(name="ann", colour="red")
    assert some.need("name", r.person, "") == "ann"
    assert some.take("colour", r.one_of(Colour), None) is Colour.RED
    assert some.take("limit", r.limit, 50) == 50
    some.finish()


def test_everything_wrong_is_told_at_once_with_its_field() -> None:
    some = members(colour="green", limit="0", cc=[], filter={"status": 1, "x": 2})
    some.need("name", r.person, "")
    some.take("colour", r.one_of(Colour), None)
    some.take("limit", r.limit, 50)
    inner = some.need_members("filter")
    inner.need("status", r.one_of(Colour), Colour.RED)
    inner.refuse_unknown()
    assert [str(error) for error in errors_of(some)] == [
        "name: is required",
        "colour: must be one of red, blue",
        "limit: must be a whole number from 1 to 200",
        "filter.status: must be one of red, blue",
        "filter.x: is not a member of this request",
        "cc: is not a member of this request",
    ]


def test_an_object_that_is_none_is_told_once() -> None:
    some = members(filter=[1])
    inner = some.need_members("filter")
    inner.need("status", r.one_of(Colour), Colour.RED)
    inner.refuse_unknown()
    assert [str(error) for error in errors_of(some)] == ["filter: must be a JSON object"]


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (r.text(3), ["a", "abc", "öäü"], ["", "abcd", 1, None, ["a"]]),
        (r.one_of(Colour), ["red"], ["RED", "", 1, None, {}]),
        (r.one_of(Colour, frozenset({Colour.BLUE})), ["blue"], ["red"]),
        (r.mail_address, ["ann@example.org"], ["ann", "", 1, None, "a@b@c"]),
        (r.template_id, ["auth.login_code"], ["../x", "", 1, None, "a" * 129]),
        (r.idempotency_key, ["k", " ~"], ["", "ö", 1, None, "k" * 256, "a\n"]),
        (r.flag, [True, False], [1, 0, "yes", None]),
        (r.json_members, [{}, {"a": 1}], [[], "a", None, 1]),
        (r.number(1, 3), [1, 3], [0, 4, True, "1", 1.5, None]),
        (r.digits(1, 200), ["1", "200", "007"], ["0", "201", "", "1.0", "-1", "+1", " 1", "1" * 17, "\u0661"]),
        (r.query_time_ms, ["0", "9007199254740991"], ["9007199254740992", "-1"]),
        (r.time_ms, [0, 9007199254740991], [9007199254740992, -1]),
    ],
)  # fmt: skip
def test_a_parser_takes_what_is_right_and_says_what_is_wrong(
    parse: r.Parse[Any], good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        parse(value)
    for value in bad:
        with pytest.raises(ValueError) as raised:
            parse(value)
        assert not value or not isinstance(value, str) or len(value) < 4 or value not in str(raised.value)


@given(st.integers(0, 2**53 - 1), st.from_regex(DELIVERY_ID, fullmatch=True))
def test_a_cursor_leads_back_to_its_position(at_ms: int, delivery_id: str) -> None:
    position = Position(at_ms, delivery_id)
    encoded = r.encode_cursor(position)
    assert encoded is not None
    assert r.cursor(DELIVERY_ID)(encoded) == position
    assert r.cursor(DELIVERY_ID)(encoded + "=" * (-len(encoded) % 4)) == position


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda data: data.decode("latin-1")))
def test_whatever_is_no_cursor_is_refused_by_a_sentence(text: str) -> None:
    for parse in (r.cursor(DELIVERY_ID), r.cursor(ENTRY_ID)):
        with pytest.raises(ValueError, match="is not a cursor of this list"):
            parse(text)


def test_a_cursor_of_another_list_is_refused() -> None:
    encoded = r.encode_cursor(Position(1, "notify.4711"))
    with pytest.raises(ValueError, match="is not a cursor"):
        r.cursor(ENTRY_ID)(encoded)


@given(st.text(max_size=100).filter(lambda text: text.isprintable() and text))
def test_a_plain_cursor_leads_back_to_its_text(text: str) -> None:
    assert r.plain_cursor(r.encode_plain_cursor(text)) == text
