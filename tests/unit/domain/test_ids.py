import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain import ids
from galaxy_mail.domain.ids import NO_TRACING, Tracing, new_delivery_id, tracing_of, valid_traceparent

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
times = st.integers(0, 2**48 - 1)
randoms = st.binary(min_size=10, max_size=10)
CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def test_a_known_ulid() -> None:
    """The example of the ULID specification, in lower case."""
    number = 0
    for char in "tsv4rrffq69g5fav":
        number = number * 32 + CROCKFORD.index(char)
    assert new_delivery_id(1_469_922_850_259, number.to_bytes(10, "big")) == "01arz3ndektsv4rrffq69g5fav"


@given(times, randoms)
def test_an_id_holds_its_time_and_its_random_bytes(now_ms: int, random_bytes: bytes) -> None:
    delivery_id = new_delivery_id(now_ms, random_bytes)
    number = 0
    for char in delivery_id:
        number = number * 32 + CROCKFORD.index(char)
    assert (len(delivery_id), number >> 80, number & (2**80 - 1)) == (
        26,
        now_ms,
        int.from_bytes(random_bytes, "big"),
    )
    assert ids.DELIVERY_ID.fullmatch(delivery_id)


@given(st.lists(st.tuples(times, randoms), min_size=2, max_size=5, unique=True))
def test_ids_sort_by_time(parts: list[tuple[int, bytes]]) -> None:
    assert [new_delivery_id(*part) for part in sorted(parts)] == sorted(
        new_delivery_id(*part) for part in parts
    )


@pytest.mark.parametrize(("now_ms", "size"), [(-1, 10), (2**48, 10), (0, 9), (0, 11)])
def test_a_time_or_bytes_that_do_not_fit_are_an_error(now_ms: int, size: int) -> None:
    with pytest.raises(ValueError, match="48 bits"):
        new_delivery_id(now_ms, bytes(size))


@pytest.mark.parametrize("text", ["a", "a.b", "A_z~-0.9", "a" * 128, "1." * 63 + "ab"])
def test_a_delivery_id(text: str) -> None:
    assert ids.DELIVERY_ID.fullmatch(text)


@pytest.mark.parametrize(
    "text",
    ["", ".", "a.", ".a", "a..b", "a b", "a\n", "a/b", "a:b", "é", "a@b", "٣", "a" * 129, "1." * 64 + "a"],
)
def test_no_delivery_id(text: str) -> None:
    assert not ids.DELIVERY_ID.fullmatch(text)


@pytest.mark.parametrize("text", ["", ".", "..", "../a", "a/b", "a\\b", "~a", "a\0", "a\n", "a." * 64 + "b"])
def test_no_template_id(text: str) -> None:
    assert not ids.TEMPLATE_ID.fullmatch(text)


def test_keys_and_tracing_ids_are_printable_ascii_within_their_length() -> None:
    for grammar, longest in ((ids.IDEMPOTENCY_KEY, 255), (ids.TRACING_ID, 128)):
        assert grammar.fullmatch("".join(map(chr, range(0x20, 0x7F))))
        assert grammar.fullmatch("k" * longest)
        for text in ("", "k" * (longest + 1), "k\n", "\x1f", "\x7f", "é", "\0"):
            assert not grammar.fullmatch(text)


@pytest.mark.parametrize(
    "text",
    [
        f"00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-ff",
        f"01-{TRACE}-{SPAN}-00",
        f"cc-{TRACE}-{SPAN}-01-more-of-it",
    ],
)
def test_a_traceparent(text: str) -> None:
    assert valid_traceparent(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"01-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-00-" + "x" * 128,
    ],
)
def test_no_traceparent(text: str) -> None:
    assert valid_traceparent(text) is None


def test_tracing_that_breaks_its_grammar_is_dropped() -> None:
    traceparent = f"00-{TRACE}-{SPAN}-01"
    whole = Tracing(request_id="req-1", trace_id=TRACE, traceparent=traceparent)
    assert tracing_of("req-1", traceparent) == whole
    assert tracing_of("a\nb", "00-junk") == NO_TRACING
    assert tracing_of("x" * 129, None) == tracing_of(None, None) == NO_TRACING
