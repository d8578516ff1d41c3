from base64 import b64encode
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain.raw_fields import LEFT_OUT, RAW_FIELDS_MAX_BYTES, decode_value, keep, numbered

BIG = RAW_FIELDS_MAX_BYTES


def size(kept: dict[str, str]) -> int:
    return sum(len(name.encode()) + len(value.encode()) for name, value in kept.items())


def test_text_is_kept_as_it_is_and_in_order() -> None:
    fields = [(b"source", b"x"), ("ключ".encode(), "значение\0".encode()), (b"", b"")]
    assert list(keep(fields).items()) == [("source", "x"), ("ключ", "значение\0"), ("", "")]


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (b"\xff\x00", "base64:/wA="),
        (b"\xed\xa0\x80", "base64:7aCA"),
        (b"base64:/wA=", "text:base64:/wA="),
        (b"text:a", "text:text:a"),
        (b"cut:5", "text:cut:5"),
        (b"Cut:5", "Cut:5"),
    ],
)
def test_no_text_is_taken_for_a_marker(raw: bytes, kept: str) -> None:
    assert keep([(b"a", raw)]) == {"a": kept}
    assert keep([(raw, b"")]) == {kept: ""}


def test_a_name_that_comes_twice_is_numbered() -> None:
    fields = [(b"a", b"1"), (b"a", b"2"), (b"a (2)", b"3"), (b"a", b"4")]
    assert keep(fields) == {"a": "1", "a (2)": "2", "a (2) (2)": "3", "a (3)": "4"}
    assert numbered("b", {"a"}) == "b"


def test_a_long_value_is_cut_and_the_short_ones_stay_whole() -> None:
    payload = b'{"text_body":"' + b"x" * (2 * BIG)
    kept = keep([(b"payload_json", payload), (b"delivery_id", b"d.1"), (b"source", b"notification")])
    assert (kept["delivery_id"], kept["source"]) == ("d.1", "notification")
    assert kept["payload_json"].startswith(
        f'cut:{len(payload)}:{sha256(payload).hexdigest()}:{{"text_body":"xxx'
    )
    assert BIG * 0.98 < size(kept) <= BIG
    back = decode_value(kept["payload_json"])
    assert (back.whole_bytes, back.whole_sha256) == (len(payload), sha256(payload).hexdigest())


def test_a_cut_divides_no_character() -> None:
    for shift in range(4):
        kept = keep([(b"a", b"x" * shift + "😀".encode() * BIG)])
        assert kept["a"].endswith("😀")
        assert size(kept) <= BIG


def test_bytes_are_cut_too() -> None:
    payload = b"\xff" * (BIG - 1000)  # fits as bytes, not as base64
    back = decode_value(keep([(b"a", payload)])["a"])
    assert back.text is None
    assert back.base64 is not None
    assert len(back.base64) % 4 == 0
    assert (back.whole_bytes, back.whole_sha256) == (len(payload), sha256(payload).hexdigest())


def test_fields_without_end_are_counted() -> None:
    fields = [(f"{number:06}".encode(), b"v" * 10) for number in range(20_000)]
    kept = keep(fields)
    assert size(kept) <= BIG
    assert kept[LEFT_OUT] == f"{20_000 - len(kept) + 1} fields"
    assert len(kept) > 1000
    long_names = keep([(b"n" * 100_000 + bytes([65 + number]), b"v") for number in range(3)])
    assert size(long_names) < 2000
    assert len(long_names) == 3


@given(
    st.lists(
        st.tuples(st.binary(max_size=300), st.binary(max_size=200) | st.just(b"\xff" * 40_000)), max_size=6
    )
)
def test_whatever_the_fields_are_they_are_kept_within_bounds(fields: list[tuple[bytes, bytes]]) -> None:
    kept = keep(fields)
    assert size(kept) <= BIG
    assert len(kept) == len(fields) or LEFT_OUT in kept


@given(st.binary(max_size=200) | st.text(max_size=50).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_what_is_kept_whole_can_be_decode_value(raw: bytes) -> None:
    back = decode_value(keep([(b"a", raw)])["a"])
    assert (back.whole_bytes, back.whole_sha256) == (len(raw), None)
    if back.text is not None:
        assert back.text.encode() == raw
    else:
        assert back.base64 == b64encode(raw).decode()


@given(st.text(max_size=40) | st.text("cut:0b9ase64=", max_size=40))
def test_reading_back_never_fails(stored: str) -> None:
    assert decode_value(stored).whole_bytes >= 0
