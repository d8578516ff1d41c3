"""One contract for every way to Redis: the data link, the control link, the accepting link, and the simulation's."""

from collections.abc import AsyncIterator
from typing import Final

import pytest
import trio

from galaxy_mail.storage.links.durability import Durability
from galaxy_mail.storage.links.errors import RedisRefused
from galaxy_mail.storage.links.protocol import Call, Pipeline
from galaxy_mail.storage.links.script import Script
from tests.blocking_link import BlockingLink
from tests.integration.storage.gateways import COUNT, ECHO, running
from tests.servers import ValkeyServer, run_command, valkey_server

OTHER: Final = Script.of("other", "return {KEYS[1], #ARGV, {1, 'two', false, 4}}")
FAILING: Final = Script.of("failing", "redis.call('SET', KEYS[1], 1) return redis.call('INCR', KEYS[2])")


@pytest.fixture(params=["data", "control", "accept", "accept with fsync", "blocking"])
async def pipeline(request: pytest.FixtureRequest, valkey: ValkeyServer) -> AsyncIterator[Pipeline]:
    if request.param == "blocking":
        link = BlockingLink(valkey.socket)
        yield link.pipeline
        link.close()
        return
    fsync = Durability.FSYNC if "fsync" in request.param else Durability.SERVER
    async with running(valkey.url, durability=fsync) as gateway:
        if request.param == "data":
            yield gateway.pipeline
        elif request.param == "control":
            yield gateway.control_pipeline
        else:
            yield gateway.accept_pipeline


async def test_replies_come_in_the_order_of_the_commands_and_in_redis_types(pipeline: Pipeline) -> None:
    replies = await pipeline(
        [
            ("SET", "text", "größe"),
            ("GET", "text"),
            ("GET", "nothing"),
            ("INCRBY", "number", 41),
            ("RPUSH", "list", b"\x00\xff", 2),
            ("LRANGE", "list", 0, -1),
            ("EVAL", "return {1, {2, {'x'}}, false}", 0),
        ]
    )
    assert replies == [b"OK", "größe".encode(), None, 41, 2, [b"\x00\xff", b"2"], [1, [2, [b"x"]], None]]


async def test_an_empty_pipeline_is_answered_with_nothing(pipeline: Pipeline) -> None:
    assert await pipeline([]) == []


async def test_an_error_is_a_value_in_its_slot_and_the_others_are_executed(pipeline: Pipeline) -> None:
    wrong_type, unknown, *rest = await pipeline(
        [
            ("LPUSH", "text", "x"),
            ("NOSUCHCOMMAND", "a secret"),
            ("INCR", "text"),
            ("GET", "text"),
            ("DEL", "text"),
        ]
    )
    assert wrong_type == 1
    assert isinstance(unknown, RedisRefused)
    assert unknown.code == "ERR"
    assert "secret" not in str(unknown)
    assert [reply.code for reply in rest[:2] if isinstance(reply, RedisRefused)] == ["WRONGTYPE", "WRONGTYPE"]
    assert rest[2] == 1


async def test_an_error_within_an_array_is_a_value_too(pipeline: Pipeline) -> None:
    (reply,) = await pipeline([("EVAL", "return {1, {err = 'MINE is this'}, {3, {err = 'DEEP'}}}", 0)])
    assert isinstance(reply, list)
    _, mine, nested = reply
    assert isinstance(mine, RedisRefused)
    assert mine.code == "MINE"
    assert isinstance(nested, list)
    assert isinstance(nested[1], RedisRefused)


@pytest.mark.parametrize(
    "code", ["OOM", "READONLYISH", "NOPERM", "BUSY", "MISCONF", "MASTERDOWN", "EXECABORT"]
)
async def test_the_code_of_an_error_is_its_first_word(pipeline: Pipeline, code: str) -> None:
    (reply,) = await pipeline([("EVAL", f"return redis.error_reply('{code} and so on')", 0)])
    assert isinstance(reply, RedisRefused)
    assert reply.code == code
    assert "and so on" in str(reply)


async def test_a_script_that_the_server_lacks_is_loaded_and_run_once_in_its_slot(
    pipeline: Pipeline, valkey: ValkeyServer
) -> None:
    for round_no in (1, 2):
        run_command(valkey.socket, "SCRIPT", "FLUSH")
        replies = await pipeline(
            [
                ("SET", "plain", round_no),
                Call(COUNT, ("counter",)),
                Call(OTHER, ("k", "l"), ("a", b"b", 3)),
                ("INCR", "plain"),
                Call(COUNT, ("counter",)),
            ]
        )
        assert replies == [
            b"OK",
            2 * round_no - 1,
            [b"k", 3, [1, b"two", None, 4]],
            round_no + 1,
            2 * round_no,
        ]
    assert run_command(valkey.socket, "GET", "counter") == b"4"


async def test_a_script_that_fails_is_an_error_in_its_slot_and_runs_once(
    pipeline: Pipeline, valkey: ValkeyServer
) -> None:
    await pipeline([("RPUSH", "list", "x")])
    counted, failed, again = await pipeline(
        [Call(COUNT, ("counter",)), Call(FAILING, ("trace", "list")), Call(COUNT, ("counter",))]
    )
    assert (counted, again) == (1, 2)
    assert isinstance(failed, RedisRefused)
    assert failed.code == "WRONGTYPE"
    assert run_command(valkey.socket, "GET", "trace") == b"1"


async def test_a_plain_evalsha_is_not_healed_since_its_text_is_unknown(pipeline: Pipeline) -> None:
    (reply,) = await pipeline([("EVALSHA", "0" * 40, 0)])
    assert isinstance(reply, RedisRefused)
    assert reply.code == "NOSCRIPT"


async def test_values_of_megabytes_pass_in_both_directions(pipeline: Pipeline) -> None:
    blob = bytes(range(256)) * 16384  # 4 MiB
    assert await pipeline([("SET", "blob", blob), ("GET", "blob"), ("STRLEN", "blob")]) == [
        b"OK",
        blob,
        len(blob),
    ]


async def test_an_argument_without_a_form_in_the_protocol_is_refused_before_anything_is_sent(
    pipeline: Pipeline, valkey: ValkeyServer
) -> None:
    with pytest.raises(TypeError):
        await pipeline([("INCR", "counter"), ("SET", "key", None)])  # type: ignore[list-item]  # what is tested
    assert await pipeline([("GET", "counter")]) == [None]


async def test_concurrent_callers_each_get_their_own_replies(pipeline: Pipeline) -> None:
    async def caller(number: int) -> None:
        for turn in range(5):
            words = [f"{number}.{turn}.{slot}" * (1 + number % 7 * 50) for slot in range(1 + number % 4)]
            assert await pipeline([Call(ECHO, (), (word,)) for word in words]) == [
                word.encode() for word in words
            ]

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(caller, number)


async def test_a_call_in_a_cancelled_scope_is_not_executed(pipeline: Pipeline, valkey: ValkeyServer) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await pipeline([("INCR", "counter")])
    assert scope.cancelled_caught
    assert await pipeline([("GET", "counter")]) == [None]


async def test_user_password_and_database_are_used_by_both_links() -> None:
    async with valkey_server() as server:
        for command in (
            ("ACL", "SETUSER", "mailer", "on", ">pass word/%", "~mail:*", "+@all", "-@dangerous"),
            ("SET", "mail:where", "database 0"),
            ("ACL", "SETUSER", "default", "off"),
        ):
            run_command(server.socket, *command)
        address = f"unix://mailer:pass%20word%2F%25@{server.socket}?db=3"
        async with running(address) as gateway:
            for pipeline in (gateway.pipeline, gateway.control_pipeline):
                nothing, who, refused = await pipeline(
                    [("GET", "mail:where"), ("ACL", "WHOAMI"), ("SET", "elsewhere", 1)]
                )
                assert nothing is None  # not in database 0
                assert who == b"mailer"
                assert isinstance(refused, RedisRefused)
                assert refused.code == "NOPERM"
                assert await pipeline([Call(COUNT, ("mail:counter",))]) != [None]
            assert await gateway.pipeline([("GET", "mail:counter")]) == [b"2"]
