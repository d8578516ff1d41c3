import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from galaxy_mail.domain.strict_json import (
    ITEMS_MAX,
    MAX_DEPTH,
    MAX_NUMBER,
    StrictJsonError,
    loads,
    shown_name,
)

numbers = st.integers(-MAX_NUMBER, MAX_NUMBER) | st.floats(-MAX_NUMBER, MAX_NUMBER)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=15,
)
almost_json = st.text('{}[]":,\\u0dD8ec.-+e1 \n\ttruefalsn' + "\ufeffé\x00", max_size=40)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"{}", {}),
        (b' \t\r\n[1, "a", null, true, false] \n', [1, "a", None, True, False]),
        (b'"\\u00e9\\n\\/\\ud83d\\ude00"', "é\n/😀"),
        ('"é😀\u2028"'.encode(), "é😀\u2028"),
        (b'"\\\\ud800"', "\\ud800"),  # an escaped backslash, not an escape of half a pair
        (b'{"a":{"a":1},"b":{"a":2}}', {"a": {"a": 1}, "b": {"a": 2}}),
        (b'{"a":1,"A":2,"\\u00c4":3}', {"a": 1, "A": 2, "Ä": 3}),
        (b"9007199254740991", MAX_NUMBER),
        (b"-9007199254740991", -MAX_NUMBER),
        (b"0.1", 0.1),
        (b"1e-400", 0),
    ],
)
def test_json_is_read(text: bytes, value: Any) -> None:
    assert loads(text) == value


@pytest.mark.parametrize("text", ["1", "1.0", "1e0", "10E-1", "0.1e1", "1.000000000000000000000000"])
def test_an_integral_number_is_an_int_however_it_is_written(text: str) -> None:
    assert (loads(text.encode()), type(loads(text.encode()))) == (1, int)


@pytest.mark.parametrize("text", ["-0", "-0.0", "0e5"])
def test_zero_has_no_sign(text: str) -> None:
    zero = loads(text.encode())
    assert (zero, type(zero), math.copysign(1, zero)) == (0, int, 1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "empty"),
        (b" ", "not JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"a":1}'.decode().encode("utf-16"), "not UTF-8"),
        (b'"\xff"', "not UTF-8 (byte 1)"),
        (b'"\xed\xa0\x80"', "not UTF-8"),  # half a pair, encoded: CESU-8
        (b'"\xc0\xaf"', "not UTF-8"),  # longer than need be
        (b'{"a":1,"a":1}', "`a` comes twice"),
        (b'[{"x":{"a":1,"b":2,"\\u0061":3}}]', "`a` comes twice"),
        (b'{"":1,"":2}', "`` comes twice"),
        (b"NaN", "NaN is not JSON"),
        (b"[Infinity]", "Infinity is not JSON"),
        (b"-Infinity", "-Infinity is not JSON"),
        (b'"\\ud800"', "surrogate"),
        (b'"\\udc00"', "surrogate"),
        (b'"\\uDFFF\\uD800"', "surrogate"),
        (b'{"\\ud83d":1}', "surrogate"),
        (b'["\\ud83d\\u0041"]', "surrogate"),
        (b"{} {}", "not JSON: Extra data"),
        (b"1,", "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b"{a:1}", "not JSON"),
        (b"[1 2]", "not JSON"),
        (b'"\n"', "not JSON"),
        (b'"\\x41"', "not JSON"),
        (b"01", "not JSON"),
        (b"+1", "not JSON"),
        (b".5", "not JSON"),
        (b"5.", "not JSON"),
        (b"0x10", "not JSON"),
        (b"1_000", "not JSON"),
        ("१".encode(), "not JSON"),
        (b"// x\n1", "not JSON"),
        (b"True", "not JSON"),
        (b"\0", "not JSON"),
        (b"\xc2\xa01", "not JSON"),  # a blank that JSON doesn't know
        (b"9007199254740992", "would lose digits"),
        (b"-9007199254740992", "would lose digits"),
        (b"9007199254740992.0", "would lose digits"),
        (b"1e16", "would lose digits"),
        (b"1e999", "would lose digits"),
        (b"-1e999", "would lose digits"),
        (b"9" * 1_000_000, "would lose digits"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text: bytes, problem: str) -> None:
    with pytest.raises(StrictJsonError) as raised:
        loads(text)
    assert problem in str(raised.value)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_nesting_is_bounded(opening: bytes, closing: bytes) -> None:
    times = MAX_DEPTH // len(closing)
    loads(opening * times + b"1" + closing * times)
    with pytest.raises(StrictJsonError, match="nested deeper than 32 levels"):
        loads(opening * times + b"[1]" + closing * times)


def test_the_bound_on_nesting_counts_levels_not_brackets() -> None:
    loads(b"[" + b",".join([b"[],{}"] * MAX_DEPTH) + b"]")
    loads(b'["' + b"[{" * MAX_DEPTH + b'"]')
    beside = b"[1],{}," * MAX_DEPTH
    opening, closing = b"[" * (MAX_DEPTH - 1), b"]" * (MAX_DEPTH - 1)
    loads(opening + beside + b"[]" + closing)
    with pytest.raises(StrictJsonError, match="deeper than 32 levels"):
        loads(opening + beside + b"[[]]" + closing)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 99_999, b"[" * 5_000 + b"]" * 5_000])
def test_nesting_beyond_all_bounds_is_refused_alike(text: bytes) -> None:
    with pytest.raises(StrictJsonError, match="nested deeper than 32 levels"):
        loads(text)


@pytest.mark.parametrize("item", [b"1", b'""', b"{}", b'{"a":"\\","}', b'"a,b"'])
def test_the_number_of_values_is_bounded(item: bytes) -> None:
    most = b"[" + b",".join([item] * (ITEMS_MAX + 1)) + b"]"
    assert len(loads(most)) == ITEMS_MAX + 1
    with pytest.raises(StrictJsonError, match=f"more than {ITEMS_MAX} members and elements"):
        loads(most[:-1] + b"," + item + b"]")


def test_commas_in_texts_are_not_values() -> None:
    text = 'a,"' * (ITEMS_MAX + 5)
    assert loads(json.dumps([text]).encode()) == [text]


@given(st.binary(max_size=60) | almost_json.map(str.encode))
@example(b'"\\ud800" x')
@example(b"\xef\xbb\xbf")
def test_any_bytes_give_a_value_or_the_stated_error(data: bytes) -> None:
    try:
        value = loads(data)
    except StrictJsonError as error:
        problem = str(error)
    else:
        assert value == json.loads(data)  # whoever reads leniently reads the same
        return
    assert problem.isprintable()


@given(values, st.booleans())
def test_every_value_comes_back_from_its_json(value: Any, escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped).encode()
    assert loads(text) == value


def test_the_error_holds_no_part_of_the_text() -> None:
    for text in (
        b'{"code":"493027"',
        b'{"code":"493027\xff"}',
        b'{"code":"493027","code":"493027"}',
        b'["493027\\ud800"]',
    ):
        with pytest.raises(StrictJsonError) as raised:
            loads(text)
        error: BaseException | None = raised.value
        while error is not None:
            assert "493027" not in repr(vars(error)) + str(error)
            assert not isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
            error = error.__context__


def test_a_name_is_shown_short_and_printable() -> None:
    assert shown_name("code") == "code"
    assert shown_name("a\nb\u202e") == "a�b�"
    assert shown_name("x" * 65) == "x" * 64 + "…"
    with pytest.raises(StrictJsonError, match=r"`x{64}…` comes twice"):
        loads(json.dumps({"x" * 1000: 1}).replace("}", ', "' + "x" * 1000 + '": 2}').encode())
