import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain.media_type import (
    CONTENT_TYPE_MAX_CHARS,
    CONTENT_TYPE_SYNTAX,
    MediaType,
    name_of,
    parse_media_type,
)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("image/png", MediaType("image", "png", [])),
        (
            "Text/CSV; charset=utf-8;header=present",
            MediaType("Text", "CSV", ["charset=utf-8", "header=present"]),
        ),
        ('text/calendar ;\tmethod="RE;QUEST"', MediaType("text", "calendar", ['method="RE;QUEST"'])),
        ('a/b;c="\\"; d=e"', MediaType("a", "b", ['c="\\"; d=e"'])),
        ("a/b;", None),
        ("a/", None),
        ("a/b; c", None),
        ("a/b\n", None),
        ("a/b; c=" + "d" * CONTENT_TYPE_MAX_CHARS, None),
    ],
)
def test_a_media_type_and_its_parameters(text: str, parsed: MediaType | None) -> None:
    assert parse_media_type(text) == parsed


@given(st.from_regex(CONTENT_TYPE_SYNTAX, fullmatch=True))
def test_a_parsed_type_is_what_was_written(text: str) -> None:
    parsed = parse_media_type(text)
    assert (parsed is None) is (len(text) > CONTENT_TYPE_MAX_CHARS)
    if parsed is not None:
        written = ";".join([f"{parsed.type}/{parsed.subtype}", *parsed.parameters])
        assert re.sub(r"[ \t]", "", written) == re.sub(r"[ \t]", "", text)


@pytest.mark.parametrize(
    ("header", "name"),
    [(None, ""), ("", ""), ("Application/JSON", "application/json"), (" text/csv ; charset=x", "text/csv")],
)
def test_the_name_of_a_header_that_may_be_anything(header: str | None, name: str) -> None:
    assert name_of(header) == name
