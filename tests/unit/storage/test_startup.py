"""Versions and words of servers that tests can't start."""

from collections.abc import Sequence

import pytest

from galaxy_mail.storage.links.durability import Durability
from galaxy_mail.storage.links.errors import RedisRefused, UnfitRedis
from galaxy_mail.storage.links.protocol import Call, Command, Pipeline, Reply
from galaxy_mail.storage.links.startup_checks import check_redis


def server(info: str | None = None, **hello: str) -> Pipeline:
    """A server that says this of itself, and refuses what else an operator may ask."""

    async def pipeline(commands: Sequence[Command | Call]) -> list[Reply]:
        answers: dict[object, Reply] = {
            "HELLO": [part.encode() for pair in hello.items() for part in pair],
            "INFO": RedisRefused("NOPERM no") if info is None else info.encode(),
            "CONFIG": RedisRefused("ERR unknown command 'CONFIG'"),
            "EVALSHA": RedisRefused("NOSCRIPT No matching script."),
            "WAITAOF": RedisRefused("ERR unknown command 'WAITAOF'"),
            "WAIT": 0,
            "PING": b"PONG",
        }
        return [answers[command[0]] for command in commands if isinstance(command, tuple)]

    return pipeline


GOOD = "# Memory\r\nmaxmemory_policy:noeviction\r\n# Persistence\r\naof_enabled:1\r\n"


@pytest.mark.parametrize(
    "version",
    [
        "redis_version:7.0.0",
        "redis_version:7.0.15",
        "redis_version:8.2.1",
        "redis_version:7.2.4\r\nvalkey_version:7.2.11",
        "redis_version:7.2.4\r\nvalkey_version:9.1.2",
        "redis_version:255.255.255",
        "redis_version:7.4.0-rc1",
    ],
)
async def test_these_versions_serve(version: str) -> None:
    assert await check_redis(server(f"{GOOD}{version}\r\n")) == ()


@pytest.mark.parametrize("version", ["6.2.14", "5.0.7", "6.9.9"])
async def test_older_versions_are_refused_also_when_only_hello_tells_them(version: str) -> None:
    for pipeline in (server(f"{GOOD}redis_version:{version}\r\n"), server(version=version)):
        with pytest.raises(UnfitRedis, match=version):
            await check_redis(pipeline)


@pytest.mark.parametrize(
    ("hello", "word"), [({"mode": "cluster"}, "cluster mode"), ({"role": "replica"}, "replica")]
)
async def test_mode_and_role_are_known_from_hello_where_info_is_refused(
    hello: dict[str, str], word: str
) -> None:
    with pytest.raises(UnfitRedis, match=word):
        await check_redis(server(None, version="7.2.4", **hello))


async def test_fsync_on_a_server_without_waitaof_is_refused() -> None:
    with pytest.raises(UnfitRedis, match=r"Redis 7\.2 or Valkey"):
        await check_redis(server(f"{GOOD}redis_version:7.0.15\r\n"), durability=Durability.FSYNC)


async def test_a_server_that_says_nothing_passes_with_warnings() -> None:
    assert len(await check_redis(server())) == 2


async def test_words_that_are_not_understood_are_passed_over() -> None:
    assert (
        await check_redis(server(f"{GOOD}a line without colon\r\nredis_version:unstable\r\nodd:1:2\r\n"))
        == ()
    )
