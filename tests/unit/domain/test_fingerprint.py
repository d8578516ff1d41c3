import json
from base64 import urlsafe_b64decode
from hashlib import sha256
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxy_mail.domain.fingerprint import canonical, fingerprint, without_empty
from galaxy_mail.domain.strict_json import MAX_NUMBER, loads

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
floats = st.floats(allow_nan=False, allow_infinity=False) | st.floats(1e-8, 1e-4) | st.floats(0, 1e4)
numbers = st.integers(-MAX_NUMBER, MAX_NUMBER) | floats
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=15,
)


@given(values)
@settings(max_examples=300)
def test_the_fast_path_gives_what_the_reference_gives(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


def test_every_character_is_encoded_as_by_the_reference() -> None:
    every = [chr(code) for code in [*range(0xD800), *range(0xE000, 0x11_0000)]]
    assert canonical("".join(every)) == rfc8785.dumps("".join(every))
    names = dict.fromkeys(every[::97], 1)  # where UTF-16 sorts unlike code points, too
    assert canonical(names) == rfc8785.dumps(names)


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0.0, b"0"),
        (-0.0, b"0"),
        (1.0, b"1"),
        (1e-5, b"0.00001"),
        (9.999e-6, b"0.000009999"),
        (1.5e-6, b"0.0000015"),
        (9.5e-7, b"9.5e-7"),
        (1e-7, b"1e-7"),
        (0.1, b"0.1"),
        (-12.5, b"-12.5"),
        (4503599627370495.5, b"4503599627370495.5"),
        (1e20, b"100000000000000000000"),
        (1e21, b"1e+21"),
        (5e-324, b"5e-324"),
        (True, b"true"),
    ],
)
def test_numbers_are_encoded_as_by_ecmascript(number: float, encoded: bytes) -> None:
    assert canonical([number]) == b"[" + encoded + b"]"


def test_the_example_of_the_rfc() -> None:
    text = r"""{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"""
    expected = (
        r'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        r'"string":"€$\u000f\nA' + "'" + r'B\"\\\\\"/"}'
    )
    assert canonical(json.loads(text)) == expected.encode()  # RFC 8785 §3.2.2


def test_a_fingerprint_is_half_of_a_sha_256_in_base64url() -> None:
    for number in range(200):  # every character of its alphabet comes up
        made = fingerprint({"b": [], "a": number})
        assert len(made) == 22
        assert urlsafe_b64decode(made + "==") == sha256(b'{"a":%d,"b":[]}' % number).digest()[:16]


@pytest.mark.parametrize(
    "spellings",
    [
        (b'{"a":1,"b":[2]}', b'{ "b" : [ 2.0 ] ,\n"a":1e0}'),
        (b'["\\u00e9/"]', '["é\\/"]'.encode()),
        (b"[0]", b"[-0.0]"),
        (b"[0.000001]", b"[1e-6]"),
    ],
)
def test_spelling_does_not_count(spellings: tuple[bytes, bytes]) -> None:
    first, second = (fingerprint(loads(text)) for text in spellings)
    assert first == second


@given(values, values)
def test_only_equal_values_have_equal_fingerprints(first: Any, second: Any) -> None:
    same = rfc8785.dumps(first) == rfc8785.dumps(second)
    assert (fingerprint(first) == fingerprint(second)) == same


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        MAX_NUMBER + 1,
        -MAX_NUMBER - 1,
        "\ud800",
        {"\udfff": 1},
        {1: 2},
        [b"x"],
        (1, {2}),
    ],
    ids=repr,
)
def test_what_is_no_json_has_no_fingerprint(value: Any) -> None:
    with pytest.raises(ValueError):
        fingerprint(value)


def test_named_empty_lists_count_as_left_out() -> None:
    members = {"cc": [], "bcc": ["a@b.c"], "variables": {}, "note": [], "text": ""}
    assert without_empty(members, {"cc", "bcc", "variables"}) == {
        "bcc": ["a@b.c"],
        "variables": {},
        "note": [],
        "text": "",
    }
