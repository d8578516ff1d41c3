"""Replies come out in the type that their command has, or not at all."""

from collections.abc import Callable

import pytest

from galaxy_mail.storage.links.errors import RedisRefused
from galaxy_mail.storage.links.protocol import Reply
from galaxy_mail.storage.links.replies import (
    UnexpectedReply,
    answered,
    as_bytes,
    as_bytes_list,
    as_entries,
    as_int,
    as_list,
    as_optional_bytes,
    as_optional_bytes_list,
    as_scan,
    as_text,
)

REFUSED = RedisRefused("WRONGTYPE no")


@pytest.mark.parametrize(
    ("read", "reply", "value"),
    [
        (answered, None, None),
        (as_int, 7, 7),
        (as_bytes, b"", b""),
        (as_text, b"\xc3\xa4", "ä"),
        (as_optional_bytes, None, None),
        (as_optional_bytes, b"x", b"x"),
        (as_list, [1, None], [1, None]),
        (as_bytes_list, [b"a", b"b"], [b"a", b"b"]),
        (as_optional_bytes_list, [b"a", None], [b"a", None]),
        (as_scan, [b"17", [b"a"]], ("17", [b"a"])),
        (as_entries, [[b"1-0", [b"n", b"v"]]], [("1-0", [(b"n", b"v")])]),
    ],
)
def test_a_reply_of_the_right_type_is_its_value(
    read: Callable[[Reply], object], reply: Reply, value: object
) -> None:
    assert read(reply) == value


@pytest.mark.parametrize(
    ("read", "reply"),
    [
        (as_int, b"7"),
        (as_int, None),
        (as_bytes, 7),
        (as_bytes, None),
        (as_text, [b"a"]),
        (as_optional_bytes, 0),
        (as_list, b"secret"),
        (as_bytes_list, [b"secret", None]),
        (as_optional_bytes_list, [b"secret", 1]),
        (as_scan, [b"secret"]),
        (as_scan, [0, [b"secret"]]),
        (as_entries, [[b"1-0", [b"secret"], b"more"]]),
    ],
)
def test_another_type_is_an_error_that_quotes_nothing(read: Callable[[Reply], object], reply: Reply) -> None:
    with pytest.raises(UnexpectedReply) as error:
        read(reply)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("read", [answered, as_int, as_bytes, as_optional_bytes, as_list, as_scan])
def test_a_refusal_is_raised(read: Callable[[Reply], object]) -> None:
    with pytest.raises(RedisRefused) as refused:
        read(REFUSED)
    assert refused.value is REFUSED


def test_a_refusal_within_a_list_is_raised() -> None:
    with pytest.raises(RedisRefused):
        as_bytes_list([b"a", REFUSED])
