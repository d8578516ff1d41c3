"""Real servers for tests: started on a unix socket or a free loopback port, ended with the test."""

import os
import signal
import socket
import subprocess
import tempfile
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from galaxy_mail.storage.embedded import end_with_parent, find_valkey

START_WITHIN_S: Final = 20.0
_MEMORY: Final = Path("/dev/shm")  # where Linux keeps files in memory
_ROOM: Final = 2**30  # bytes that have to be free there; a container may have much less


def servers_folder() -> str | None:
    """Where the folders of servers belong: in memory, where there is room, and otherwise wherever temporary files do.

    While others keep the disk busy, a server that writes its append-only file there may stand still, even for many seconds.
    """
    try:
        room = os.statvfs(_MEMORY)
    except OSError:
        return None
    return str(_MEMORY) if room.f_bavail * room.f_frsize > _ROOM and os.access(_MEMORY, os.W_OK) else None


def free_port() -> int:
    """A loopback port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ValkeyServer:
    """One valkey-server. Its folder outlives `kill`, so that `start` finds the data of an append-only file again."""

    def __init__(
        self, folder: Path, *options: str, port: int = 0, sentinel_config: Path | None = None
    ) -> None:
        self.folder = folder
        self.options = options
        self.port = port
        self.sentinel_config = sentinel_config  # it is a sentinel then, and rewrites this file
        self.socket = str(folder / "valkey.sock")
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Returns once it answers; a server that is loading its data answers, too."""
        arguments: list[str | Path] = [find_valkey()]
        if self.sentinel_config is None:
            arguments += ["--save", "", "--enable-debug-command", "yes"]
        else:
            arguments += [self.sentinel_config, "--sentinel"]
        arguments += ["--dir", self.folder, "--unixsocket", self.socket]
        arguments += ["--bind", "127.0.0.1", "--port", str(self.port), *self.options]
        with (self.folder / "valkey.log").open("ab") as output, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork among threads
            self._process = subprocess.Popen(  # noqa: ASYNC220  # a fork, and done: the wait is below
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_parent(),  # noqa: PLW1509  # a killed test run leaves no server behind
            )
        with trio.fail_after(START_WITHIN_S):
            while not await self._answers():
                if self._process.poll() is not None:
                    raise RuntimeError((self.folder / "valkey.log").read_text())
                await trio.sleep(0.005)  # a process that starts tells nobody when it listens

    def kill(self) -> None:
        """kill -9, and nothing of it is left but its folder."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: the connections stay, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def _answers(self) -> bool:
        try:
            stream = await trio.open_unix_socket(self.socket)
        except OSError:
            return False
        async with stream:
            await stream.send_all(b"PING\r\n")
            return bool(await stream.receive_some(100))


@asynccontextmanager
async def valkey_server(*options: str, port: int = 0) -> AsyncIterator[ValkeyServer]:
    """A server of one's own, in a folder of its own: a socket's path has to be shorter than pytest's are."""
    with tempfile.TemporaryDirectory(
        prefix="valkey-", dir=servers_folder(), ignore_cleanup_errors=True
    ) as folder:
        server = ValkeyServer(Path(folder), *options, port=port)
        try:
            await server.start()
            yield server
        finally:
            server.kill()


def run_command(socket_path: str, *command: str | bytes | int) -> object:
    """One command on a connection of its own, for a look at a server from outside of what is tested."""
    return run_commands(socket_path, [command])[0]


def run_commands(socket_path: str, commands: Sequence[tuple[str | bytes | int, ...]]) -> list[object]:
    import hiredis

    reader = hiredis.Reader(notEnoughData=run_commands)
    replies: list[object] = []
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(START_WITHIN_S)
        link.connect(socket_path)
        link.sendall(b"".join(hiredis.pack_command(command) for command in commands))  # type: ignore[arg-type]  # its stub allows one argument only
        while len(replies) < len(commands):
            reader.feed(link.recv(65536))
            while (reply := reader.gets()) is not run_commands:
                replies.append(reply)
    return replies
