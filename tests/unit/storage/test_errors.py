"""What an error tells and what it must not."""

import pytest

from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.storage.links.errors import (
    NotDurable,
    OutcomeUnknown,
    RedisFailure,
    RedisRefused,
    RedisUnavailable,
    UnfitRedis,
)


def test_who_catches_failures_of_redis_catches_all_of_them() -> None:
    assert all(
        issubclass(kind, RedisFailure)
        for kind in (RedisUnavailable, OutcomeUnknown, NotDurable, RedisRefused)
    )
    assert issubclass(NotDurable, OutcomeUnknown)
    assert not issubclass(RedisUnavailable, OutcomeUnknown)
    assert issubclass(RedisFailure, GalaxyMailError)


@pytest.mark.parametrize(
    ("text", "code", "shown"),
    [
        ("OOM command not allowed", "OOM", "OOM command not allowed"),
        (
            "ERR unknown command 'X', with args beginning with: 'my secret' 'code' ",
            "ERR",
            "ERR unknown command 'X'",
        ),
        ("ERR unknown subcommand, with args beginning with: 'x'", "ERR", "ERR unknown subcommand"),
        ("", "", ""),
        ("ALONE", "ALONE", "ALONE"),
    ],
)
def test_a_refusal_has_a_code_and_quotes_no_arguments(text: str, code: str, shown: str) -> None:
    refused = RedisRefused(text)
    assert (refused.code, str(refused)) == (code, shown)


def test_an_unfit_server_is_told_with_all_its_reasons() -> None:
    unfit = UnfitRedis(("one thing", "another"))
    assert "one thing; another" in str(unfit)
