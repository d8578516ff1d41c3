"""The blocking read of a stream: what it returns, whom it holds up, what it survives."""

from functools import partial

import pytest
import trio

from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisFailure, RedisRefused, RedisUnavailable
from galaxy_mail.storage.links.gateway import Gateway
from tests.blocking_link import BlockingLink
from tests.integration.storage.gateways import LIMIT_S, running, until
from tests.servers import ValkeyServer, run_command


async def test_entries_come_in_order_with_repeated_fields_and_raw_bytes(
    gateway: Gateway, valkey: ValkeyServer
) -> None:
    link = BlockingLink(valkey.socket)
    run_command(valkey.socket, "XADD", "commands", "1-1", "a", "1", "a", "2", b"\xff", b"\x00")
    run_command(valkey.socket, "XADD", "commands", "1-2", "b", "")
    run_command(valkey.socket, "XADD", "commands", "2-0", "c", "3")
    first = ("1-1", [(b"a", b"1"), (b"a", b"2"), (b"\xff", b"\x00")])
    second, third = ("1-2", [(b"b", b"")]), ("2-0", [(b"c", b"3")])
    for reader in (gateway, link):
        assert await reader.read_stream("commands", "0-0", count=10, block_ms=1) == [first, second, third]
        assert await reader.read_stream("commands", "0-0", count=2, block_ms=1) == [first, second]
        assert await reader.read_stream("commands", "1-2", count=10, block_ms=1) == [third]
        assert await reader.read_stream("commands", "2-0", count=10, block_ms=1) == []
        assert await reader.read_stream("nothing", "0-0", count=10, block_ms=1) == []
    link.close()


async def test_a_read_wakes_with_the_entry_that_it_waits_for_and_holds_up_nobody(gateway: Gateway) -> None:
    async with trio.open_nursery() as nursery:
        read: list[str] = []

        async def reader() -> None:
            entries = await gateway.read_stream("commands", "0-0", count=10, block_ms=60_000)
            read.extend(entry_id for entry_id, _ in entries)

        nursery.start_soon(reader)
        await _wait_blocked(gateway)
        with trio.fail_after(LIMIT_S):
            assert await gateway.pipeline([("PING",)]) == [b"PONG"]
            assert not read
            await gateway.pipeline([("XADD", "commands", "7-0", "a", "1")])
    assert read == ["7-0"]


async def test_a_reader_who_leaves_costs_the_next_one_no_entry_and_no_connection(gateway: Gateway) -> None:
    await gateway.read_stream("commands", "0-0", count=10, block_ms=1)
    before = await _reader_ids(gateway)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(gateway.read_stream, "commands", "0-0", count=10, block_ms=60_000))
        await _wait_blocked(gateway)
        nursery.cancel_scope.cancel()
    await gateway.pipeline([("XADD", "commands", "7-0", "a", "1")])
    with trio.fail_after(LIMIT_S):
        assert await gateway.read_stream("commands", "0-0", count=10, block_ms=1) == [("7-0", [(b"a", b"1")])]
    assert await _reader_ids(gateway) == before


async def test_a_key_that_is_no_stream_is_refused_by_name(gateway: Gateway) -> None:
    await gateway.pipeline([("SET", "commands", "text")])
    with pytest.raises(RedisRefused) as refused:
        await gateway.read_stream("commands", "0-0", count=10, block_ms=1)
    assert refused.value.code == "WRONGTYPE"


async def test_a_read_survives_its_server(valkey: ValkeyServer) -> None:
    async with running(valkey.url) as gateway:
        run_command(valkey.socket, "XADD", "commands", "7-0", "a", "1")
        assert await gateway.read_stream("commands", "0-0", count=10, block_ms=1)
        async with trio.open_nursery() as nursery:

            async def blocked() -> None:
                with pytest.raises(OutcomeUnknown):
                    await gateway.read_stream("commands", "7-0", count=10, block_ms=60_000)

            nursery.start_soon(blocked)
            await _wait_blocked(gateway)
            valkey.kill()
        with pytest.raises(RedisUnavailable):
            await gateway.read_stream("commands", "0-0", count=10, block_ms=1)
        await valkey.start()
        await until(lambda: run_command(valkey.socket, "PING") == b"PONG")  # it has read its data
        assert await gateway.read_stream("commands", "0-0", count=10, block_ms=1) == [("7-0", [(b"a", b"1")])]


async def test_a_server_that_stops_answering_ends_a_read_soon_after_its_block(valkey: ValkeyServer) -> None:
    async with running(valkey.url, timeout_s=0.5) as gateway:
        await _read_nothing(gateway)
        valkey.pause()
        with trio.fail_after(LIMIT_S), pytest.raises(RedisFailure):
            await gateway.read_stream("commands", "0-0", count=10, block_ms=100)
        valkey.resume()
        await _read_nothing(gateway)


async def _read_nothing(gateway: Gateway) -> None:
    """An answer within so short a time that a busy machine may need several tries."""
    with trio.fail_after(LIMIT_S):
        while True:
            try:
                assert await gateway.read_stream("commands", "0-0", count=10, block_ms=1) == []
            except RedisFailure:
                continue
            return


async def _reader_ids(gateway: Gateway) -> list[bytes]:
    (listed,) = await gateway.pipeline([("CLIENT", "LIST")])
    assert isinstance(listed, bytes)
    return [line.split()[0] for line in listed.splitlines() if b"name=galaxy-mail:reader" in line]


async def _wait_blocked(gateway: Gateway) -> None:
    """Until the server says that somebody waits for an entry."""
    with trio.fail_after(LIMIT_S):
        while True:
            (info,) = await gateway.control_pipeline([("INFO", "clients")])
            assert isinstance(info, bytes)
            if b"blocked_clients:1" in info:
                return
