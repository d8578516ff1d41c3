"""The gateway while Redis is slow, lost, killed, stopped, loading or of the wrong kind."""

import asyncio
import math
import random
from pathlib import Path

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from galaxy_mail.storage.links import control_link, data_link
from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisFailure, RedisRefused, RedisUnavailable
from galaxy_mail.storage.links.gateway import Gateway
from galaxy_mail.storage.links.protocol import Call, Pipeline
from tests.integration.storage.gateways import COUNT, ECHO, LIMIT_S, running, until, until_refused
from tests.proxy import proxy_before
from tests.servers import ValkeyServer, run_command, valkey_server


def is_unconnected(gateway: Gateway) -> bool:
    return not gateway.statistics().connected


@pytest.mark.parametrize("link", ["data", "control"])
async def test_a_lost_reply_is_unknown_and_the_command_was_executed_once(
    link: str, valkey: ValkeyServer
) -> None:
    async with proxy_before(valkey.socket) as proxy, running(proxy.url, load=(COUNT,)) as gateway:
        pipeline = gateway.pipeline if link == "data" else gateway.control_pipeline
        await pipeline([("PING",)])
        proxy.lose_replies = True
        with pytest.raises(OutcomeUnknown):
            await pipeline([Call(COUNT, ("counter",)), ("INCR", "other")])
        proxy.lose_replies = False
        await gateway.wait_connected()
        assert await pipeline([("MGET", "counter", "other")]) == [[b"1", b"1"]]


async def test_replies_lost_a_hundred_times_never_repeat_a_command(valkey: ValkeyServer) -> None:
    unknown = unavailable = 0
    async with proxy_before(valkey.socket) as proxy, running(proxy.url) as gateway:
        proxy.lose_replies = True

        async def caller(number: int) -> None:
            nonlocal unknown, unavailable
            try:
                await gateway.pipeline([("INCR", f"counter:{number}")])
            except OutcomeUnknown:
                unknown += 1
            except RedisUnavailable:
                unavailable += 1

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(caller, number)
    values = [run_command(valkey.socket, "GET", f"counter:{number}") for number in range(100)]
    assert set(values) <= {None, b"1"}
    assert unknown + unavailable == 100
    assert unknown >= 1
    assert values.count(b"1") <= unknown


async def test_replies_in_pieces_are_put_together(valkey: ValkeyServer) -> None:
    async with proxy_before(valkey.socket) as proxy, running(proxy.url) as gateway:
        proxy.in_bytes = True
        for pipeline in (gateway.pipeline, gateway.control_pipeline):
            replies = await pipeline(
                [("ECHO", "größe"), ("EVAL", "return {1, {'x', {err = 'NO'}}}", 0), ("GET", "nothing")]
            )
            assert replies[0] == "größe".encode()
            assert repr(replies[1]) == "[1, [b'x', RedisRefused('NO')]]"
            assert replies[2] is None


async def test_a_crash_in_the_asyncio_loop_is_the_control_links_own_affair(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_link, "RESTART_PAUSE_S", 0)

    async def crash(*args: object) -> None:
        asyncio.get_running_loop().call_soon(divmod, 1, 0)
        await asyncio.sleep(LIMIT_S)

    # Kept, and not shown: a traceback for a terminal takes seconds to be rendered.
    with capture_logs() as lines:
        async with running(valkey.url, timeout_s=LIMIT_S) as gateway:
            await gateway.control_pipeline([("PING",)])
            with monkeypatch.context() as patch:
                patch.setattr(control_link, "_exchange", crash)
                with trio.fail_after(LIMIT_S), pytest.raises(OutcomeUnknown):
                    await gateway.control_pipeline([("INCR", "counter")])
            assert await gateway.control_pipeline([("INCR", "counter")]) == [1]
            assert await gateway.pipeline([("GET", "counter")]) == [b"1"]
            assert gateway.statistics().generation == 1
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["redis_control_link_crashed"]


async def test_after_a_kill_and_a_restart_nothing_acknowledged_is_lost_and_nothing_ran_twice() -> None:
    async with (
        valkey_server("--appendonly", "yes", "--appendfsync", "always") as valkey,
        running(valkey.url, timeout_s=LIMIT_S) as gateway,
    ):
        acknowledged = unknown = 0
        stop = trio.Event()

        async def writer() -> None:
            nonlocal acknowledged, unknown
            while not stop.is_set():
                try:
                    (reply,) = await gateway.pipeline([Call(COUNT, ("counter",))])
                except OutcomeUnknown:
                    unknown += 1
                except RedisUnavailable:
                    pass
                else:
                    assert isinstance(reply, int), reply
                    acknowledged += 1

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(writer)
            for kills in range(1, 4):
                enough = acknowledged + 100
                await until(lambda enough=enough: acknowledged >= enough)  # type: ignore[misc]  # bound in this turn
                valkey.kill()
                await until(lambda: is_unconnected(gateway))
                await valkey.start()
                await gateway.wait_connected()
                assert gateway.statistics().generation == kills + 1
            stop.set()
        (counted,) = await gateway.pipeline([("GET", "counter")])
    assert isinstance(counted, bytes)
    assert acknowledged <= int(counted) <= acknowledged + unknown


async def test_a_server_that_stops_answering_costs_its_deadline_and_then_the_connection(
    valkey: ValkeyServer,
) -> None:
    async with running(valkey.url, timeout_s=1.0) as gateway:
        valkey.pause()
        with trio.fail_after(LIMIT_S), pytest.raises(OutcomeUnknown, match="1 s"):
            await gateway.pipeline([("INCR", "counter")])
        await until(lambda: is_unconnected(gateway))
        with trio.fail_after(LIMIT_S), pytest.raises(RedisUnavailable):
            await gateway.pipeline([("INCR", "never")])
        valkey.resume()
        with trio.fail_after(LIMIT_S):
            await gateway.wait_connected()
        replies = await gateway.pipeline([("GET", "counter"), ("GET", "never")], timeout_s=LIMIT_S)
        assert replies == [b"1", None]


async def test_a_shorter_deadline_is_its_callers_own_and_spares_the_connection(valkey: ValkeyServer) -> None:
    async with running(valkey.url, timeout_s=LIMIT_S) as gateway:
        valkey.pause()
        async with trio.open_nursery() as nursery:
            replies: list[object] = []

            async def patient() -> None:
                replies.extend(await gateway.pipeline([("ECHO", "patient")]))

            nursery.start_soon(patient)
            with pytest.raises(OutcomeUnknown):
                await gateway.pipeline([("INCR", "counter")], timeout_s=0.5)
            valkey.resume()
        assert replies == [b"patient"]
        assert await gateway.pipeline([("GET", "counter")]) == [b"1"]
        assert gateway.statistics().generation == 1


async def test_a_control_command_without_an_answer_is_unknown_and_the_next_has_a_new_connection(
    valkey: ValkeyServer,
) -> None:
    async with running(valkey.url, timeout_s=1.0) as gateway:
        await gateway.control_pipeline([("PING",)], timeout_s=LIMIT_S)  # has to import and to connect
        valkey.pause()
        with trio.fail_after(LIMIT_S), pytest.raises(OutcomeUnknown):
            await gateway.control_pipeline([("INCR", "counter")])
        with trio.fail_after(LIMIT_S), pytest.raises(RedisFailure):
            await gateway.control_pipeline([("INCR", "counter")])
        valkey.resume()
        run_command(valkey.socket, "SET", "counter", 7)
        assert await gateway.control_pipeline([("GET", "counter")], timeout_s=LIMIT_S) == [b"7"]


async def test_a_dead_peer_is_found_without_anybody_calling(valkey: ValkeyServer) -> None:
    async with (
        proxy_before(valkey.socket) as proxy,
        running(proxy.url, timeout_s=0.5, heartbeat_s=0.05) as gateway,
    ):
        proxy.hold_replies = True
        await until(lambda: is_unconnected(gateway))
        proxy.hold_replies = False
        proxy.cut()
        with trio.fail_after(LIMIT_S):
            await gateway.wait_connected()


async def test_without_a_server_callers_wait_a_moment_and_then_fail_at_once(tmp_path: Path) -> None:
    async with running(f"unix://{tmp_path}/nothing.sock", connected=False) as gateway:
        await until_refused(gateway.pipeline, "No such file")
        trouble = gateway.statistics().last_error
        assert trouble is not None
        assert "No such file" in trouble
        with trio.fail_after(LIMIT_S):  # a hundred deadlines would be 500 s
            for _ in range(100):
                with pytest.raises(RedisUnavailable, match="No such file"):
                    await gateway.pipeline([("PING",)])
        with pytest.raises(RedisUnavailable):
            await gateway.control_pipeline([("PING",)])


async def test_callers_who_try_again_go_through_once_redis_is_back(valkey: ValkeyServer) -> None:
    async with running(valkey.url, timeout_s=LIMIT_S) as gateway:
        valkey.kill()
        await until(lambda: is_unconnected(gateway))
        async with trio.open_nursery() as nursery:
            replies: list[object] = []

            async def caller() -> None:
                while not replies:
                    try:
                        replies.extend(await gateway.pipeline([("INCR", "counter")]))
                    except RedisUnavailable:
                        await trio.sleep(0.01)

            for _ in range(3):
                nursery.start_soon(caller)
            await valkey.start()
        assert run_command(valkey.socket, "GET", "counter") == b"3"


async def test_a_server_that_loads_its_data_is_waited_for() -> None:
    async with valkey_server(
        "--appendonly", "yes", "--loading-process-events-interval-bytes", "1024"
    ) as valkey:
        run_command(valkey.socket, "DEBUG", "POPULATE", 2000)
        run_command(valkey.socket, "BGREWRITEAOF")
        await until(lambda: b"aof_rewrite_in_progress:0" in _info(valkey, "persistence"))
        valkey.kill()
        valkey.options += (
            "--key-load-delay",
            "5000",
        )  # microseconds: ten seconds, unless it is told otherwise
        await valkey.start()
        assert b"loading:1" in _info(valkey, "persistence"), "the server was too quick for this test"
        async with running(valkey.url, connected=False) as gateway:
            await until_refused(gateway.pipeline, "LOADING")
            run_command(valkey.socket, "CONFIG", "SET", "key-load-delay", 0)
            with trio.fail_after(LIMIT_S):
                await gateway.wait_connected()
            assert b"loading:0" in _info(valkey, "persistence")
            assert await gateway.pipeline([("DBSIZE",)]) == [2000]


async def test_callers_outside_are_answered_when_the_gateway_stops(valkey: ValkeyServer) -> None:
    errors: list[RedisFailure] = []
    async with trio.open_nursery() as outside:
        async with running(valkey.url) as gateway:
            await gateway.control_pipeline([("PING",)])
            valkey.pause()

            async def caller(pipeline: Pipeline) -> None:
                try:
                    await pipeline([("PING",)])
                except RedisFailure as error:
                    errors.append(error)

            for pipeline in (gateway.pipeline, gateway.control_pipeline):
                for _ in range(2):
                    outside.start_soon(caller, pipeline)
            await until(lambda: gateway.statistics().in_flight == 2)
            await trio.testing.wait_all_tasks_blocked()
        valkey.resume()
    assert len(errors) == 4
    for pipeline in (gateway.pipeline, gateway.control_pipeline):
        with pytest.raises(RedisUnavailable, match="stopped"):
            await pipeline([("PING",)])


async def test_a_stopped_gateway_runs_again(valkey: ValkeyServer) -> None:
    async with running(valkey.url) as gateway:
        await gateway.control_pipeline([("PING",)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.run)
        await gateway.wait_connected()
        assert await gateway.pipeline([("PING",)]) == [b"PONG"]
        assert await gateway.control_pipeline([("PING",)]) == [b"PONG"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answers", [True, False], ids=["a quick server", "a silent server"])
@pytest.mark.parametrize("link", ["data", "control"])
async def test_a_caller_may_leave_after_any_number_of_steps_and_the_connection_never_notices(
    link: str, answers: bool, valkey: ValkeyServer
) -> None:
    async with running(valkey.url, load=(COUNT, ECHO), timeout_s=LIMIT_S) as gateway:
        pipeline = gateway.pipeline if link == "data" else gateway.control_pipeline
        await pipeline([("PING",)])
        clients = await _clients(gateway)
        left = 0
        for steps in range(25):
            if not answers:
                valkey.pause()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pipeline, [Call(COUNT, ("counter",)), Call(ECHO, (), ("not yours",))])
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            left += scope.cancelled_caught
            valkey.resume()
            word = f"after {steps} steps"
            assert await pipeline([Call(ECHO, (), (word,)), ("ECHO", word)]) == [word.encode()] * 2
        assert await _clients(gateway) == clients
        (counted,) = await pipeline([("GET", "counter")])
        assert isinstance(counted, bytes)
        if not answers:
            assert left == 25
            assert 15 <= int(counted) <= 25  # those who left a written call had it executed


async def test_a_storm_of_cancellations_mixes_no_replies_and_costs_no_connection(
    valkey: ValkeyServer,
) -> None:
    async with running(valkey.url, load=(ECHO,), timeout_s=LIMIT_S) as gateway:
        chance = random.Random(20240229)
        answered = left = 0

        async def caller(number: int) -> None:
            nonlocal answered, left
            for turn in range(25):
                words = [
                    f"{number}.{turn}.{slot}." + "x" * chance.choice((0, 10, 20_000)) for slot in range(3)
                ]
                with trio.move_on_after(chance.choice((0, 0.0001, 0.0005, 0.002, math.inf))) as scope:
                    replies = await gateway.pipeline([Call(ECHO, (), (word,)) for word in words])
                    assert replies == [word.encode() for word in words]
                    answered += 1
                left += scope.cancelled_caught

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(caller, number)
        assert answered + left == 500
        assert answered >= 50
        assert left >= 50
        assert gateway.statistics().generation == 1
        assert gateway.statistics().in_flight == 0


async def test_what_its_caller_left_before_it_was_written_is_not_executed(valkey: ValkeyServer) -> None:
    async with running(valkey.url) as gateway:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(gateway.pipeline, [("INCR", "counter")])
                await trio.lowlevel.checkpoint()  # it stands in the queue, and the writer hasn't run since
                assert gateway.statistics().in_flight == 0
                scope.cancel()
        assert await gateway.pipeline([("GET", "counter")]) == [None]


async def test_a_hundred_concurrent_callers_cost_few_round_trips(gateway: Gateway) -> None:
    before = gateway.statistics().batches
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(gateway.pipeline, [("SET", f"key:{number}", number)])
    assert gateway.statistics().batches - before <= 5


async def test_only_so_many_batches_are_in_flight_and_the_rest_follows(valkey: ValkeyServer) -> None:
    async with running(valkey.url, timeout_s=LIMIT_S) as gateway:
        before = gateway.statistics().batches
        valkey.pause()
        async with trio.open_nursery() as nursery:
            for number in range(3 * data_link.BATCHES_IN_FLIGHT):
                nursery.start_soon(gateway.pipeline, [("RPUSH", "list", number)])
                await trio.testing.wait_all_tasks_blocked()
            assert gateway.statistics().batches - before == data_link.BATCHES_IN_FLIGHT
            assert gateway.statistics().in_flight == data_link.BATCHES_IN_FLIGHT
            assert gateway.statistics().queued == 2 * data_link.BATCHES_IN_FLIGHT
            valkey.resume()
        numbers = [str(number).encode() for number in range(3 * data_link.BATCHES_IN_FLIGHT)]
        assert await gateway.pipeline([("LRANGE", "list", 0, -1)]) == [numbers]
        assert gateway.statistics().in_flight == 0


async def test_a_full_queue_holds_callers_until_their_deadline(valkey: ValkeyServer) -> None:
    outcomes: list[type[RedisFailure]] = []
    async with running(valkey.url, timeout_s=LIMIT_S) as gateway:
        valkey.pause()

        async def caller() -> None:
            try:
                await gateway.pipeline([("SET", "key", bytes(2**20))], timeout_s=1.0)
            except RedisFailure as error:
                outcomes.append(type(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller)
            await until(lambda: gateway.statistics().in_flight == 1)
            for _ in range(29):  # the server's socket takes no more
                nursery.start_soon(caller)
        assert len(outcomes) == 30
        assert set(outcomes) == {OutcomeUnknown, RedisUnavailable}
        valkey.resume()
        assert await gateway.pipeline([("PING",)]) == [b"PONG"]


async def test_a_server_that_speaks_another_language_is_given_up(tmp_path: Path) -> None:
    with trio.socket.socket(trio.socket.AF_UNIX) as listening:
        await listening.bind(str(tmp_path / "http.sock"))
        listening.listen(8)

        async def serve(client: trio.SocketStream) -> None:
            async with client:
                await client.receive_some(1000)
                await client.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listening)])
            async with running(f"unix://{tmp_path}/http.sock", connected=False) as gateway:
                await until_refused(gateway.pipeline, "Protocol error")
            nursery.cancel_scope.cancel()


async def test_a_server_that_becomes_a_replica_is_left_until_it_is_a_primary_again(
    valkey: ValkeyServer,
) -> None:
    async with running(valkey.url) as gateway:
        run_command(valkey.socket, "REPLICAOF", "127.0.0.1", 1)
        (reply,) = await gateway.pipeline([("SET", "key", 1)])
        assert isinstance(reply, RedisRefused)
        assert reply.code == "READONLY"
        await until(lambda: "replica" in (gateway.statistics().last_error or ""))
        run_command(valkey.socket, "REPLICAOF", "NO", "ONE")
        with trio.fail_after(LIMIT_S):
            await gateway.wait_connected()
        assert await gateway.pipeline([("SET", "key", 1)]) == [b"OK"]


async def test_a_wrong_password_is_named_and_not_shown(valkey: ValkeyServer) -> None:
    run_command(valkey.socket, "CONFIG", "SET", "requirepass", "right")
    async with running(f"unix://:wrong-one@{valkey.socket}", connected=False) as gateway:
        with trio.fail_after(LIMIT_S), pytest.raises(RedisUnavailable, match="WRONGPASS") as trouble:
            await gateway.pipeline([("PING",)])
        with pytest.raises(RedisUnavailable) as control_trouble:
            await gateway.control_pipeline([("PING",)])
        for text in (str(trouble.value), str(control_trouble.value), str(gateway.statistics())):
            assert "wrong-one" not in text


async def test_every_new_connection_is_shown_to_its_owner_before_anything_else_uses_it(
    valkey: ValkeyServer,
) -> None:
    seen: list[object] = []

    async def on_connect(pipeline: Pipeline) -> None:
        run_command(valkey.socket, "CLIENT", "LIST")
        seen.extend(await pipeline([("GET", "counter")]))
        if len(seen) == 2:
            raise OutcomeUnknown("this connection is not wanted")

    async with running(valkey.url, on_connect=on_connect) as gateway:
        assert seen == [None]
        await gateway.pipeline([("SET", "counter", 5)])
        run_command(valkey.socket, "CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: len(seen) >= 2)
        with trio.fail_after(LIMIT_S):
            await gateway.pipeline([("INCR", "counter")])
        assert seen == [None, b"5", b"5"]  # never b"6": no caller came first
        assert gateway.statistics().generation == 2


async def test_a_bug_in_the_owners_check_is_a_crash_and_no_silence(valkey: ValkeyServer) -> None:
    async def on_connect(pipeline: Pipeline) -> None:
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with running(valkey.url, on_connect=on_connect):
            pass


def _info(server: ValkeyServer, section: str) -> bytes:
    reply = run_command(server.socket, "INFO", section)
    assert isinstance(reply, bytes)
    return reply


async def _clients(gateway: Gateway) -> set[bytes]:
    """The ids of the connections that we have."""
    (listed,) = await gateway.pipeline([("CLIENT", "LIST")])
    assert isinstance(listed, bytes)
    return {line.split()[0] for line in listed.splitlines() if b"name=galaxy-mail" in line}
