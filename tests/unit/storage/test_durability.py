"""The barrier of each durability, and how its answer is judged: by its numbers."""

import pytest

from galaxy_mail.storage.links.durability import Durability
from galaxy_mail.storage.links.errors import RedisRefused
from galaxy_mail.storage.links.protocol import Reply


def test_each_durability_has_its_wait() -> None:
    assert {each: each.wait_command(4000) for each in Durability} == {
        Durability.SERVER: None,
        Durability.FSYNC: ("WAITAOF", 1, 0, 4000),
        Durability.REPLICA: ("WAIT", 1, 4000),
    }


@pytest.mark.parametrize(
    ("durability", "reply", "enough"),
    [
        (Durability.FSYNC, [1, 0], True),
        (Durability.FSYNC, [1, 3], True),
        (Durability.FSYNC, [0, 3], False),
        (Durability.FSYNC, [], False),
        (Durability.FSYNC, None, False),
        (Durability.REPLICA, 1, True),
        (Durability.REPLICA, 2, True),
        (Durability.REPLICA, 0, False),
        (Durability.REPLICA, b"OK", False),
    ],
)
def test_only_numbers_confirm(durability: Durability, reply: Reply, enough: bool) -> None:
    assert (durability.shortfall(reply) is None) is enough


def test_a_refused_wait_tells_why() -> None:
    assert durability_text() == "ERR WAITAOF cannot be used"


def durability_text() -> str | None:
    return Durability.FSYNC.shortfall(RedisRefused("ERR WAITAOF cannot be used"))
