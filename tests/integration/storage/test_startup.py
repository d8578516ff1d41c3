"""The start-up checks against servers that are right, wrong, and silent about it."""

import pytest

from galaxy_mail.storage.links.durability import Durability
from galaxy_mail.storage.links.errors import UnfitRedis
from galaxy_mail.storage.links.gateway import Gateway
from galaxy_mail.storage.links.startup_checks import check_redis
from tests.integration.storage.gateways import running
from tests.servers import ValkeyServer, free_port, run_command, valkey_server


@pytest.mark.parametrize("durability", [Durability.SERVER, Durability.FSYNC])
async def test_a_server_with_an_append_only_file_passes_without_a_word(
    gateway: Gateway, durability: Durability
) -> None:
    assert await check_redis(gateway.control_pipeline, durability=durability) == ()
    assert await check_redis(gateway.pipeline, durability=durability) == ()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
async def test_a_policy_that_evicts_is_refused(policy: str, gateway: Gateway, valkey: ValkeyServer) -> None:
    run_command(valkey.socket, "CONFIG", "SET", "maxmemory-policy", policy)
    with pytest.raises(UnfitRedis, match=policy):
        await check_redis(gateway.pipeline)


async def test_cluster_mode_is_refused() -> None:
    cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    async with (
        valkey_server(*cluster, port=free_port()) as server,
        running(server.url) as gateway,
    ):
        with pytest.raises(UnfitRedis, match="cluster mode"):
            await check_redis(gateway.pipeline)


async def test_a_replica_is_refused() -> None:
    async with valkey_server() as server, running(server.url) as gateway:
        run_command(server.socket, "REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(UnfitRedis, match="replica"):
            await check_redis(gateway.control_pipeline)


async def test_a_server_without_an_append_only_file_is_warned_of_and_refused_for_fsync() -> None:
    async with valkey_server() as server, running(server.url) as gateway:
        (warning,) = await check_redis(gateway.pipeline)
        assert "append-only file is off" in warning
        with pytest.raises(UnfitRedis, match="MAIL_REDIS_DURABILITY=fsync needs"):
            await check_redis(gateway.pipeline, durability=Durability.FSYNC)


async def test_appendfsync_no_and_a_missing_replica_are_warned_of(
    gateway: Gateway, valkey: ValkeyServer
) -> None:
    run_command(valkey.socket, "CONFIG", "SET", "appendfsync", "no")
    warnings = await check_redis(gateway.pipeline, durability=Durability.REPLICA)
    assert ["appendfsync" in warnings[0], "no replica" in warnings[1]] == [True, True]


async def test_a_user_who_may_not_ask_is_warned_of_what_can_not_be_known(valkey: ValkeyServer) -> None:
    run_command(valkey.socket, "ACL", "SETUSER", "mailer", "on", ">secret", "~*", "+@all", "-@dangerous")
    async with running(f"unix://mailer:secret@{valkey.socket}") as gateway:
        for pipeline in (gateway.pipeline, gateway.control_pipeline):
            warnings = await check_redis(pipeline, durability=Durability.FSYNC)
            assert ["maxmemory-policy can't be read" in warnings[0], "INFO can't be read" in warnings[1]] == [
                True,
                True,
            ]


async def test_without_config_the_policy_is_read_from_info(valkey: ValkeyServer) -> None:
    run_command(valkey.socket, "ACL", "SETUSER", "mailer", "on", ">secret", "~*", "+@all", "-config")
    async with running(f"unix://mailer:secret@{valkey.socket}") as gateway:
        assert await check_redis(gateway.pipeline) == ()
        run_command(valkey.socket, "CONFIG", "SET", "maxmemory-policy", "volatile-lru")
        with pytest.raises(UnfitRedis, match="volatile-lru"):
            await check_redis(gateway.pipeline)


async def test_a_user_who_may_not_run_scripts_is_refused_with_everything_else_that_is_wrong(
    valkey: ValkeyServer,
) -> None:
    run_command(
        valkey.socket, "ACL", "SETUSER", "mailer", "on", ">secret", "~*", "+@all", "-evalsha", "-waitaof"
    )
    run_command(valkey.socket, "CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
    async with running(f"unix://mailer:secret@{valkey.socket}") as gateway:
        with pytest.raises(UnfitRedis) as unfit:
            await check_redis(gateway.pipeline, durability=Durability.FSYNC)
    assert len(unfit.value.reasons) == 3
    for word in ("allkeys-lfu", "may not run scripts", "WAITAOF"):
        assert word in str(unfit.value)
