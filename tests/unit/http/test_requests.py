"""Values of requests: taken by name, checked, everything wrong told at once."""

from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain.ids import DELIVERY_ID, ENTRY_ID
from galaxy_mail.domain.json_body import Parse
from galaxy_mail.http import requests as r
from galaxy_mail.storage.reader import Position


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (r.text(3), ["a", "abc", "öäü"], ["", "abcd", 1, None, ["a"]]),
        (r.one_of(Colour), ["red"], ["RED", "", 1, None, {}]),
        (r.one_of(Colour, frozenset({Colour.BLUE})), ["blue"], ["red"]),
        (r.template_id, ["auth.login_code"], ["../x", "", 1, None, "a" * 129]),
        (r.idempotency_key, ["k", " ~"], ["", "ö", 1, None, "k" * 256, "a\n"]),
        (r.flag, [True, False], [1, 0, "yes", None]),
        (r.number(1, 3), [1, 3], [0, 4, True, "1", 1.5, None]),
        (r.digits(1, 200), ["1", "200", "007"], ["0", "201", "", "1.0", "-1", "+1", " 1", "1" * 17, "\u0661"]),
        (r.query_time_ms, ["0", "9007199254740991"], ["9007199254740992", "-1"]),
        (r.time_ms, [0, 9007199254740991], [9007199254740992, -1]),
    ],
)  # fmt: skip
def test_a_parser_takes_what_is_right_and_says_what_is_wrong(
    parse: Parse[Any], good: list[Any], bad: list[Any]
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
