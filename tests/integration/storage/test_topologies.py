"""How Redis may be reached: TCP, TLS, and Sentinel with a primary that changes."""

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme

from galaxy_mail.storage.links.errors import RedisFailure
from galaxy_mail.storage.links.protocol import Call, Reply
from tests.integration.storage.gateways import COUNT, LIMIT_S, running, until, until_refused
from tests.proxy import tls_before
from tests.servers import ValkeyServer, free_port, run_command, valkey_server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_host_and_port_reach_both_links() -> None:
    port = free_port()
    async with valkey_server(port=port), running(f"127.0.0.1:{port}") as gateway:
        assert await gateway.pipeline([Call(COUNT, ("counter",))]) == [1]
        assert await gateway.control_pipeline([Call(COUNT, ("counter",))]) == [2]


async def test_the_reason_for_an_unreachable_host_is_told() -> None:
    async with running(f"127.0.0.1:{free_port()}", connected=False) as gateway:
        await until_refused(gateway.pipeline, "refused")
        await until_refused(gateway.control_pipeline, "111|refused")


async def test_tls_is_verified_against_the_given_authority_on_both_links(
    authority: trustme.CA, ca_file: Path, valkey: ValkeyServer
) -> None:
    run_command(valkey.socket, "CONFIG", "SET", "requirepass", "secret")
    blob = bytes(2**20)
    async with tls_before(valkey.socket, server_context(authority, "127.0.0.1")) as port:
        address = f"rediss://:secret@127.0.0.1:{port}/2?ssl_ca_certs={ca_file}"
        async with running(address) as gateway:
            for pipeline in (gateway.pipeline, gateway.control_pipeline):
                assert await pipeline([("SET", "blob", blob), ("GET", "blob")]) == [b"OK", blob]
            assert await gateway.read_stream("nothing", "0-0", count=1, block_ms=1) == []


@pytest.mark.parametrize(
    ("certificate_for", "trusted"),
    [("127.0.0.2", True), ("127.0.0.1", False)],
    ids=["wrong name", "unknown authority"],
)
async def test_a_certificate_that_does_not_verify_ends_both_links_before_the_password_is_sent(
    certificate_for: str, trusted: bool, authority: trustme.CA, ca_file: Path, valkey: ValkeyServer
) -> None:
    async with tls_before(valkey.socket, server_context(authority, certificate_for)) as port:
        address = f"rediss://:secret@127.0.0.1:{port}" + (f"?ssl_ca_certs={ca_file}" if trusted else "")
        async with running(address, connected=False) as gateway:
            await until_refused(gateway.pipeline, "certificate does not verify")
            await until_refused(gateway.control_pipeline, "(?i)certificate")
    stats = run_command(valkey.socket, "INFO", "commandstats")
    assert isinstance(stats, bytes)
    assert b"cmdstat_auth" not in stats


async def test_a_client_certificate_is_presented_where_one_is_given(
    authority: trustme.CA, ca_file: Path, tmp_path: Path, valkey: ValkeyServer
) -> None:
    context = server_context(authority, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    ours = authority.issue_cert("mailer.test")
    ours.private_key_pem.write_to_path(tmp_path / "key.pem")
    ours.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    async with tls_before(valkey.socket, context) as port:
        address = f"rediss://127.0.0.1:{port}?ssl_ca_certs={ca_file}"
        with_certificate = f"{address}&ssl_certfile={tmp_path}/cert.pem&ssl_keyfile={tmp_path}/key.pem"
        async with running(with_certificate) as gateway:
            assert await gateway.pipeline([("PING",)]) == [b"PONG"]
            assert await gateway.control_pipeline([("PING",)]) == [b"PONG"]
        async with running(address, connected=False) as gateway:
            with trio.fail_after(LIMIT_S), pytest.raises(RedisFailure):
                await gateway.pipeline([("PING",)])


async def test_a_ca_file_that_is_missing_is_named() -> None:
    async with running("rediss://127.0.0.1:1?ssl_ca_certs=/no/such.pem", connected=False) as gateway:
        await until_refused(gateway.pipeline, r"/no/such\.pem")


@asynccontextmanager
async def replicated() -> AsyncIterator[tuple[ValkeyServer, ValkeyServer, ValkeyServer]]:
    """A primary, its replica, and a sentinel that watches them.

    It takes none of them for down by itself: on a busy machine it would do so with one that is only slow.
    """
    primary_port, replica_port, sentinel_port = free_port(), free_port(), free_port()
    async with AsyncExitStack() as stack:
        quick = ("--repl-diskless-sync-delay", "0")
        primary = await stack.enter_async_context(valkey_server(*quick, port=primary_port))
        replica = await stack.enter_async_context(
            valkey_server("--replicaof", f"127.0.0.1 {primary_port}", port=replica_port)
        )
        await until(lambda: b"state=online" in _info(primary, "replication"))
        config = primary.folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor mail 127.0.0.1 {primary_port} 1\n"
            "sentinel down-after-milliseconds mail 600000\n"
            "sentinel failover-timeout mail 60000\n"
        )
        sentinel = ValkeyServer(primary.folder / "sentinel", port=sentinel_port, sentinel_config=config)
        sentinel.folder.mkdir()
        stack.callback(sentinel.kill)
        await sentinel.start()
        yield primary, replica, sentinel


async def test_sentinel_names_the_primary_and_its_successor() -> None:
    async with replicated() as (primary, replica, sentinel):
        nobody = free_port()
        async with running(
            f"redis+sentinel://127.0.0.1:{nobody},127.0.0.1:{sentinel.port}/mail/1"
        ) as gateway:
            written = await gateway.pipeline(
                [("SET", "key", "before"), ("WAIT", 1, round(LIMIT_S * 800))], timeout_s=LIMIT_S
            )
            assert written == [b"OK", 1]
            assert await gateway.control_pipeline([("GET", "key")]) == [b"before"]
            await until(lambda: b"slaves=1" in _info(sentinel, "sentinel"))
            primary.kill()
            # It refuses as long as it has not heard enough of the replica.
            await until(lambda: run_command(sentinel.socket, "SENTINEL", "FAILOVER", "mail") == b"OK")
            answers: list[Reply] = []
            with trio.fail_after(LIMIT_S):
                while not answers:
                    try:
                        answers = await gateway.pipeline([("GET", "key"), ("SET", "key", "after")])
                    except RedisFailure:
                        await trio.sleep(0.05)
            assert answers == [b"before", b"OK"]
            assert run_command(replica.socket, "ROLE")[0] == b"master"  # type: ignore[index]  # ROLE answers a list
            assert await gateway.control_pipeline([("GET", "key")]) == [b"after"]
            assert gateway.statistics().generation == 2


async def test_a_service_that_no_sentinel_knows_is_told() -> None:
    async with (
        replicated() as (_, _, sentinel),
        running(f"redis+sentinel://127.0.0.1:{sentinel.port}/other", connected=False) as gateway,
    ):
        await until_refused(gateway.pipeline, "other")


async def test_a_sentinel_in_the_place_of_a_server_is_told() -> None:
    async with (
        replicated() as (_, _, sentinel),
        running(f"127.0.0.1:{sentinel.port}", connected=False) as gateway,
    ):
        await until_refused(gateway.pipeline, "sentinel")


def _info(server: ValkeyServer, section: str) -> bytes:
    reply = run_command(server.socket, "INFO", section)
    assert isinstance(reply, bytes)
    return reply
