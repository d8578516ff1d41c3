"""What an acceptance waits for before it is answered, and what is said when that doesn't come."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from galaxy_mail.storage.links.durability import Durability
from galaxy_mail.storage.links.errors import NotDurable
from galaxy_mail.storage.links.protocol import Call
from tests.integration.storage.gateways import COUNT, LIMIT_S, running
from tests.servers import ValkeyServer, free_port, run_command, run_commands, valkey_server


async def test_without_a_wish_acceptances_share_the_connection_of_all_else(valkey: ValkeyServer) -> None:
    async with running(valkey.url) as gateway:
        assert await gateway.accept_pipeline([("SET", "key", 1)]) == [b"OK"]
        assert gateway.statistics().generation == 1


async def test_fsync_is_answered_once_the_append_only_file_is_on_the_disk(valkey: ValkeyServer) -> None:
    """Only acceptances wait for it, and they have a connection of their own."""
    async with running(valkey.url, durability=Durability.FSYNC, load=(COUNT,)) as gateway:
        assert gateway.statistics().generation == 2
        assert await gateway.accept_pipeline([Call(COUNT, ("counter",)), ("GET", "counter")]) == [1, b"1"]
        assert b"aof_pending_bio_fsync:0" in _info(valkey, "persistence")
        assert _calls(valkey, "waitaof") == 1
        await gateway.pipeline([Call(COUNT, ("counter",))])
        assert _calls(valkey, "waitaof") == 1


async def test_a_hundred_acceptances_at_once_wait_for_few_fsyncs(valkey: ValkeyServer) -> None:
    async with running(valkey.url, durability=Durability.FSYNC, load=(COUNT,)) as gateway:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(gateway.accept_pipeline, [Call(COUNT, ("counter",))])
        assert await gateway.pipeline([("GET", "counter")]) == [b"100"]
    assert _calls(valkey, "waitaof") <= 6


async def test_what_the_disk_does_not_confirm_is_executed_and_not_durable(valkey: ValkeyServer) -> None:
    async with running(valkey.url, durability=Durability.FSYNC, timeout_s=2) as gateway:
        run_command(valkey.socket, "CONFIG", "SET", "appendfsync", "no")
        with trio.fail_after(LIMIT_S), pytest.raises(NotDurable, match="no disk confirmed"):
            await gateway.accept_pipeline([("INCR", "counter")], timeout_s=LIMIT_S)
        assert await gateway.pipeline([("GET", "counter")]) == [b"1"]
        run_command(valkey.socket, "CONFIG", "SET", "appendonly", "no")
        with trio.fail_after(LIMIT_S), pytest.raises(NotDurable, match="appendonly is disabled"):
            await gateway.accept_pipeline([("INCR", "counter")], timeout_s=LIMIT_S)
        assert gateway.statistics().connected


@asynccontextmanager
async def with_replica() -> AsyncIterator[tuple[ValkeyServer, ValkeyServer]]:
    port = free_port()
    async with (
        valkey_server("--repl-diskless-sync-delay", "0", port=port) as primary,
        valkey_server("--replicaof", f"127.0.0.1 {port}") as replica,
    ):
        # A replica that has just come up confirms nothing in its first second.
        assert run_commands(primary.socket, [("SET", "warm", 1), ("WAIT", 1, 20_000)]) == [b"OK", 1]
        yield primary, replica


async def test_replica_is_answered_once_a_replica_has_it_and_refused_when_none_does() -> None:
    async with with_replica() as (primary, replica):
        async with running(primary.url, durability=Durability.REPLICA, timeout_s=LIMIT_S) as gateway:
            for number in range(1, 20):
                assert await gateway.accept_pipeline([("INCR", "counter")]) == [number]
                assert run_command(replica.socket, "GET", "counter") == str(number).encode()
        async with running(primary.url, durability=Durability.REPLICA, timeout_s=2) as gateway:
            replica.pause()
            with trio.fail_after(LIMIT_S), pytest.raises(NotDurable, match="no replica confirmed"):
                await gateway.accept_pipeline([("INCR", "counter")], timeout_s=LIMIT_S)
            assert await gateway.pipeline([("GET", "counter")]) == [b"20"]
            replica.resume()


def _info(server: ValkeyServer, section: str) -> bytes:
    reply = run_command(server.socket, "INFO", section)
    assert isinstance(reply, bytes)
    return reply


def _calls(server: ValkeyServer, command: str) -> int:
    """How often the server ran this command."""
    for line in _info(server, "commandstats").decode().splitlines():
        if line.startswith(f"cmdstat_{command}:"):
            return int(line.partition("calls=")[2].partition(",")[0])
    return 0
