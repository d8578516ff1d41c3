"""The suppression list as CSV: what is given can be taken, and what can't is told by its line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain.invalid import InvalidRequest
from galaxy_mail.domain.records import Suppression
from galaxy_mail.http import suppression_csv
from galaxy_mail.http.suppression_csv import ERRORS_MAX, HEADER

NOW_MS = 1_733_300_000_000

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
entries = st.builds(
    Suppression,
    address=st.from_regex(r"[a-z0-9]{0,8}@[a-z]{1,8}\.test", fullmatch=True),
    reason=texts,
    created_by=st.none() | texts,
    created_at_ms=st.integers(0, 2**53 - 1),
)


def decode(text: str | bytes) -> list[Suppression]:
    data = text if isinstance(text, bytes) else text.encode()
    return suppression_csv.decode(data, "importer", NOW_MS)


def errors_of(text: str | bytes) -> list[str]:
    with pytest.raises(InvalidRequest) as raised:
        decode(text)
    return [str(error) for error in raised.value.errors]


@given(st.lists(entries, max_size=20, unique_by=lambda entry: entry.address))
def test_what_the_export_gives_can_be_imported(given_entries: list[Suppression]) -> None:
    data = HEADER + suppression_csv.encode(given_entries)
    assert suppression_csv.decode(data, None, NOW_MS) == given_entries


def test_columns_come_in_any_order_and_may_be_left_out() -> None:
    assert decode("reason,address\r\ncomplained,Bob@Example.ORG\r\n") == [
        Suppression(
            address="bob@example.org", reason="complained", created_by="importer", created_at_ms=NOW_MS
        )
    ]


def test_empty_cells_count_as_left_out() -> None:
    [entry] = decode("address,reason,created_by,created_at_ms\n@closed.example,gone,,\n")
    assert (entry.created_by, entry.created_at_ms) == ("importer", NOW_MS)


def test_spreadsheets_put_a_mark_before_and_blank_lines_behind() -> None:
    assert len(decode(b"\xef\xbb\xbfaddress,reason\r\na@b.test,x\r\n\r\n")) == 1


def test_only_the_columns_make_an_empty_list() -> None:
    assert decode("address,reason\r\n") == []


def test_every_bad_line_is_told_by_where_it_begins() -> None:
    text = (
        "address,reason,created_at_ms\n"
        "nobody,x,\n"  # 2
        '"ann@example.org","two\nlines",\n'  # 3 and 4
        "ann@example.org,again,\n"  # 5
        "bob@example.org,,\n"  # 6
        "bob@example.org,x,soon\n"  # 7
        "bob@example.org,x\n"  # 8
    )
    assert errors_of(text) == [
        "line 2: address: an address needs an @",
        "line 5: address: stands in an earlier line, too",
        "line 6: reason: must be 1 to 500 characters",
        "line 7: created_at_ms: must be a whole number from 0 to 9007199254740991",
        "line 8: has 2 cells instead of 3",
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "line 1: must name the columns, address and reason at least"),
        ("\r\n\r\n", "line 1: must name the columns, address and reason at least"),
        ("address\r\n", "line 1: reason: is required"),
        ("a@b.test,x\r\n", "line 1: a@b.test: is no column of this list"),
        ("address,reason,address\r\n", "line 1: names a column twice"),
        (b"address,reason\r\na@b.test,\xff\r\n", "body: is not UTF-8 (byte 25)"),
        ('address,reason\r\na@b.test,"x\r\n', "line 2: is not CSV (RFC 4180)"),
        ('address,reason\r\na@b.test,"x"y\r\n', "line 2: is not CSV (RFC 4180)"),
    ],
)
def test_a_file_that_is_none_is_told_so(text: str | bytes, error: str) -> None:
    assert error in errors_of(text)


def test_no_answer_lists_more_bad_lines_than_people_read() -> None:
    errors = errors_of("address,reason\n" + "nobody,x\n" * (ERRORS_MAX + 5))
    assert len(errors) == ERRORS_MAX + 1
    assert errors[-1] == "body: has 5 more bad lines"
