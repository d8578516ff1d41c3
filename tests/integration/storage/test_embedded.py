"""The embedded Valkey: its data, its lock, its end, and what it leaves behind."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from galaxy_mail.storage import embedded
from galaxy_mail.storage.embedded import EmbeddedValkey, EmbeddedValkeyError
from galaxy_mail.storage.links.gateway import Gateway
from galaxy_mail.storage.links.startup_checks import check_redis
from tests.integration.storage.gateways import LIMIT_S, running


@asynccontextmanager
async def embedded_valkey(folder: Path) -> AsyncIterator[EmbeddedValkey]:
    valkey = EmbeddedValkey(folder)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(valkey.run)
        yield valkey
        nursery.cancel_scope.cancel()


async def pid_of(gateway: Gateway) -> int:
    (info,) = await gateway.pipeline([("INFO", "server")])
    assert isinstance(info, bytes)
    return int(info.partition(b"process_id:")[2].split()[0])


async def wait_gone(pid: int) -> None:
    """Until that process, which need not be our child, has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(LIMIT_S):
            await trio.lowlevel.wait_readable(handle)
    finally:
        os.close(handle)


async def test_it_serves_a_fit_server_on_a_private_socket_and_no_port(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    async with embedded_valkey(folder) as valkey, running(str(valkey.address)) as gateway:
        assert await check_redis(gateway.pipeline) == ()
        assert await gateway.pipeline([("CONFIG", "GET", "port")]) == [[b"port", b"0"]]
        assert await gateway.pipeline([("CONFIG", "GET", "appendfsync")]) == [[b"appendfsync", b"everysec"]]
        assert (folder / "valkey.sock").stat().st_mode & 0o077 == 0
        assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_its_process_gets_none_of_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_SMTP_PASSWORD", "s3cret")
    async with embedded_valkey(tmp_path) as valkey, running(str(valkey.address)) as gateway:
        assert b"s3cret" not in await trio.Path(f"/proc/{await pid_of(gateway)}/environ").read_bytes()


async def test_a_stop_ends_it_by_itself_and_the_data_is_there_again(tmp_path: Path) -> None:
    for expected in (None, b"kept"):
        async with embedded_valkey(tmp_path) as valkey, running(str(valkey.address)) as gateway:
            assert await gateway.pipeline([("GET", "key")]) == [expected]
            await gateway.pipeline([("SET", "key", "kept")])
            pid = await pid_of(gateway)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)  # no zombie either
    assert "SIGTERM" in (tmp_path / "valkey.log").read_text()


async def test_its_crash_is_noticed_and_the_next_run_has_its_data(tmp_path: Path) -> None:
    valkey = EmbeddedValkey(tmp_path)
    async with running(str(valkey.address), connected=False) as gateway:
        for run in (1, 2, 3):
            with pytest.RaisesGroup(pytest.RaisesExc(EmbeddedValkeyError, match="ended with status -9")):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(valkey.run)
                    with trio.fail_after(LIMIT_S):
                        await gateway.wait_connected()
                    assert await gateway.pipeline([("INCR", "runs")]) == [run]
                    os.kill(await pid_of(gateway), signal.SIGKILL)


async def test_a_folder_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOCK_WITHIN_S", 0.2)
    async with embedded_valkey(tmp_path) as valkey, running(str(valkey.address)) as gateway:
        with trio.fail_after(LIMIT_S), pytest.raises(EmbeddedValkeyError, match="another process uses"):
            await EmbeddedValkey(tmp_path).run()
        assert await gateway.pipeline([("PING",)]) == [b"PONG"]


async def test_a_folder_is_waited_for_while_its_last_server_ends(tmp_path: Path) -> None:
    async with trio.open_nursery() as second:
        async with embedded_valkey(tmp_path) as valkey, running(str(valkey.address)):
            second.start_soon(EmbeddedValkey(tmp_path).run)
            await trio.testing.wait_all_tasks_blocked(0.01)
        async with running(str(valkey.address)) as gateway:
            assert await gateway.pipeline([("PING",)]) == [b"PONG"]
        second.cancel_scope.cancel()


async def test_a_folder_with_a_long_path_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    async with embedded_valkey(folder) as valkey, running(str(valkey.address)) as gateway:
        assert await gateway.pipeline([("CONFIG", "GET", "dir")]) == [[b"dir", str(folder).encode()]]
        assert valkey.address.unix_path is not None
        socket = Path(valkey.address.unix_path)
        assert socket.parent.stat().st_mode & 0o077 == 0
        assert EmbeddedValkey(folder).address == valkey.address
        assert EmbeddedValkey(tmp_path / ("other" * 30)).address != valkey.address
    assert not socket.parent.exists()


async def test_a_place_for_the_socket_that_others_could_use_is_refused(tmp_path: Path) -> None:
    valkey = EmbeddedValkey(tmp_path / ("long" * 30))
    assert valkey.address.unix_path is not None
    place = Path(valkey.address.unix_path).parent
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    try:
        with pytest.raises(EmbeddedValkeyError, match="another user owns it"):
            await valkey.run()
    finally:
        place.rmdir()


async def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EmbeddedValkeyError, match=r"file/data can't be used: Not a directory"):
        await EmbeddedValkey(tmp_path / "file" / "data").run()


async def test_a_server_that_can_not_start_says_why(tmp_path: Path) -> None:
    async with embedded_valkey(tmp_path) as valkey, running(str(valkey.address)) as gateway:
        await gateway.pipeline([("SET", "key", 1)])
    for part in (tmp_path / "appendonlydir").glob("*.base.rdb"):
        part.write_bytes(b"not what it was")
    with trio.fail_after(LIMIT_S), pytest.raises(EmbeddedValkeyError, match=r"(?i)format|rdb|aof"):
        await EmbeddedValkey(tmp_path).run()


async def test_a_server_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "STOP_WITHIN_S", 0.1)
    async with embedded_valkey(tmp_path) as valkey, running(str(valkey.address)) as gateway:
        pid = await pid_of(gateway)
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


PARENT = """
import sys, trio
from galaxy_mail.storage import embedded
if sys.argv[2] == "outlived":
    embedded.end_with_parent = lambda: None
trio.run(embedded.EmbeddedValkey(sys.argv[1]).run)
"""


async def server_of_a_killed_parent(folder: Path, kind: str) -> int:
    """The process id of a server whose parent was killed without a chance to stop it."""
    parent = subprocess.Popen(  # noqa: ASYNC220  # a fork, no wait
        [sys.executable, "-c", PARENT, folder, kind], stdout=subprocess.DEVNULL
    )
    try:
        async with running(str(EmbeddedValkey(folder).address)) as gateway:
            await gateway.pipeline([("SET", "key", "kept")])
            return await pid_of(gateway)
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
async def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    await wait_gone(await server_of_a_killed_parent(tmp_path, "usual"))
    async with embedded_valkey(tmp_path) as valkey, running(str(valkey.address)) as gateway:
        assert await gateway.pipeline([("GET", "key")]) == [b"kept"]


@pytest.mark.skipif(sys.platform != "linux", reason="waits for another's child by its pidfd")
async def test_a_server_that_outlived_its_parent_keeps_its_folder_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = await server_of_a_killed_parent(tmp_path, "outlived")
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "LOCK_WITHIN_S", 0)
        with pytest.raises(EmbeddedValkeyError, match="another process uses"):
            await EmbeddedValkey(tmp_path).run()
    os.kill(pid, signal.SIGKILL)
    await wait_gone(pid)
    async with embedded_valkey(tmp_path) as valkey, running(str(valkey.address)) as gateway:
        assert await gateway.pipeline([("GET", "key")]) == [b"kept"]
