"""From bytes to replies, however the bytes are cut."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.providers.smtp.replies import (
    LINE_MAX_BYTES,
    LINES_MAX,
    TEXT_MAX,
    NotSmtp,
    Reply,
    ReplyReader,
    one_line,
)


def read_all(*pieces: bytes) -> list[Reply]:
    reader, replies = ReplyReader(), []
    for piece in pieces:
        reader.receive(piece)
        while (reply := reader.next_reply()) is not None:
            replies.append(reply)
    return replies


WELL_FORMED = {
    "one line": (b"250 ok\r\n", [Reply(250, (b"ok",))]),
    "no text": (b"250\r\n", [Reply(250, (b"",))]),
    "an empty text": (b"250 \r\n", [Reply(250, (b"",))]),
    "several lines": (b"250-a\r\n250-b c\r\n250 d\r\n", [Reply(250, (b"a", b"b c", b"d"))]),
    "a last line without text": (b"250-a\r\n250\r\n", [Reply(250, (b"a", b""))]),
    "a bare LF": (b"250-a\n250 b\n", [Reply(250, (b"a", b"b"))]),
    "two in one packet": (b"250 ok\r\n354 go\r\n", [Reply(250, (b"ok",)), Reply(354, (b"go",))]),
    "a code that nobody knows": (b"299 x\r\n", [Reply(299, (b"x",))]),
    "a digit that is never legal": (b"650 x\r\n", [Reply(650, (b"x",))]),
    "bytes that are no text": (b"250 \xff\x00\r\n", [Reply(250, (b"\xff\x00",))]),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_a_reply_reads_the_same_whole_byte_by_byte_and_with_trailing_bytes(name: str) -> None:
    data, replies = WELL_FORMED[name]
    assert read_all(data) == replies
    assert read_all(*(bytes([byte]) for byte in data)) == replies
    assert read_all(data + b"2") == replies
    assert read_all(data + data) == replies + replies


@given(st.lists(st.sampled_from([data for data, _ in WELL_FORMED.values()]), max_size=5), st.data())
def test_no_cut_changes_what_is_read(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert read_all(*parts) == read_all(whole)


NOT_SMTP = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n",
    "another protocol that waits in the middle of its line": b"HTTP",
    "a TLS record": b"\x16\x03\x01\x02\x00",
    "two digits": b"25 ok\r\n",
    "four digits": b"2500 ok\r\n",
    "an empty line": b"\r\n",
    "text where a separator belongs": b"250ok\r\n",
    "digits of another script": "٢٥٠ ok\r\n".encode(),
    "lines with different codes": b"250-a\r\n550 b\r\n",
    "a line without end": b"250 " + b"x" * LINE_MAX_BYTES,
    "a line that ends too late": b"250 " + b"x" * LINE_MAX_BYTES + b"\r\n",
    "lines without end": b"250-x\r\n" * LINES_MAX,
}


@pytest.mark.parametrize("name", NOT_SMTP)
def test_what_no_smtp_server_says_is_refused(name: str) -> None:
    with pytest.raises(NotSmtp):
        read_all(NOT_SMTP[name])
    with pytest.raises(NotSmtp):
        read_all(*(bytes([byte]) for byte in NOT_SMTP[name]))


def test_the_longest_line_and_the_longest_reply_pass() -> None:
    assert len(read_all(b"250 " + b"x" * (LINE_MAX_BYTES - 5) + b"\r\n")) == 1
    assert len(read_all(b"250-x\r\n" * (LINES_MAX - 1) + b"250 x\r\n")) == 1


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    with suppress(NotSmtp):
        read_all(data)


def test_a_reader_is_empty_only_between_replies() -> None:
    reader, seen = ReplyReader(), []
    for piece in (b"", b"25", b"0-a\r\n", b"250 b\r\n", b"250 c\r\n2"):
        reader.receive(piece)
        reader.next_reply()
        seen.append(reader.is_empty)
    assert seen == [True, False, False, True, False]


@pytest.mark.parametrize(
    ("line", "label", "text"),
    [
        (b"550 5.1.1 no such reader", "550 5.1.1", "no such reader"),
        (b"550 5.1.1", "550 5.1.1", ""),
        (b"550 no such reader", "550", "no such reader"),
        (b"550 4.1.1 another class", "550", "another class"),  # RFC 2034 §4: the classes have to agree
        (b"550 5.1.1x", "550", "5.1.1x"),
        (b"550 5.1234.1 x", "550", "5.1234.1 x"),
        (b"550-5.1.1 no\r\n550 5.1.1 such reader", "550 5.1.1", "no such reader"),
    ],
)
def test_the_enhanced_code_is_told_from_the_text(line: bytes, label: str, text: str) -> None:
    (reply,) = read_all(line + b"\r\n")
    assert (reply.label, reply.text) == (label, text)


def test_a_text_becomes_one_bounded_printable_line() -> None:
    assert one_line("a\r\n b\tc\x00\x1b[31md\u202e") == "a b c [31md"
    assert one_line("x" * TEXT_MAX) == "x" * TEXT_MAX
    assert len(one_line("x" * (TEXT_MAX + 1))) == TEXT_MAX
    assert one_line("x" * (TEXT_MAX + 1)).endswith("…")
