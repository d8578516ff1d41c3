"""Starts relays that we did not write, each in a root of its own made of Debian's files (`fetch` brings them).

Every one takes mail for anybody on a loopback port and passes it on, unchanged but for its trace fields, to the next
hop that the test listens on.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import pytest

KEEP = Path(__file__).parents[2] / ".relays"
ROOT = KEEP / "root"
START_WITHIN_S = 30.0
USERNAME, PASSWORD = "galaxy", "swordfish-5813"


class Unavailable(Exception):
    """This relay can't be started here; the text says why."""


def skip_without(name: str, why: Unavailable) -> NoReturn:
    """Skips what needs this relay, unless `.ci/run` has fetched it: then a skip would hide that it failed."""
    if os.environ.get("CI") and os.geteuid() == 0:
        raise why
    pytest.skip(f"{name}: {why}")


@dataclass(frozen=True)
class Certificates:
    """For `localhost` and 127.0.0.1, PEM."""

    ca: bytes
    chain: bytes
    key: bytes


@dataclass(frozen=True)
class Ports:
    plain: int  # STARTTLS offered
    implicit: int | None  # TLS from the first byte
    next_hop: int
    demanding: int  # in clear, and mail is refused without TLS or a login


class Recipe(Protocol):
    """How one relay is set up and run inside its root."""

    name: str
    has_implicit_tls: bool

    def lay_out(self, root: "Root", ports: Ports) -> None: ...

    def command(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Root:
    """A folder that becomes `/` for the relay."""

    path: Path

    def write(self, name: str, content: str | bytes, *, mode: int = 0o644) -> None:
        path = self.path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # it may be a link to the file that all roots share
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)

    def folder(self, name: str, *, uid: int = 0, gid: int = 0, mode: int = 0o755) -> None:
        path = self.path / name.lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, uid, gid)
        path.chmod(mode)

    def accounts(self, accounts: Mapping[str, int]) -> None:
        """The relay's users, each with a group of the same name and number."""
        everybody = {"root": 0, "nobody": 65_534, **accounts}
        self.write("/etc/passwd", "".join(f"{n}:x:{i}:{i}::/:/bin/false\n" for n, i in everybody.items()))
        self.write("/etc/group", "".join(f"{n}:x:{i}:\n" for n, i in everybody.items()))
        self.write("/etc/hosts", "127.0.0.1 localhost\n")
        self.write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")

    def devices(self) -> None:
        self.folder("/dev")
        for name, minor in (("null", 3), ("urandom", 9), ("random", 8)):
            path = self.path / "dev" / name
            if not path.exists():
                os.mknod(path, 0o020666, os.makedev(1, minor))
                path.chmod(0o666)


@dataclass(frozen=True)
class Relay:
    """A relay that runs."""

    name: str
    ports: Ports
    log: Path


@contextmanager
def running(recipe: Recipe, certificates: Certificates, next_hop: int) -> Iterator[Relay]:
    """The relay, ready for connections; gone afterwards. Raises Unavailable."""
    _require_possible()
    with ExitStack() as stack:
        (KEEP / "run").mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{recipe.name}-", dir=KEEP / "run"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        path = folder / "root"
        shutil.copytree(ROOT, path, symlinks=True, copy_function=os.link)
        path.chmod(0o755)
        root = Root(path)
        root.devices()
        root.folder("/tmp", mode=0o1777)
        root.write("/etc/tls/chain.pem", certificates.chain)
        root.write("/etc/tls/key.pem", certificates.key, mode=0o600)
        ports = Ports(free_port(), free_port() if recipe.has_implicit_tls else None, next_hop, free_port())
        recipe.lay_out(root, ports)
        command = (_chroot(), str(path), *recipe.command())
        yield stack.enter_context(_started(recipe.name, command, ports, folder / "log"))


@contextmanager
def running_outside(name: str, command: Sequence[str], ports: Ports, folder: Path) -> Iterator[Relay]:
    """A relay that needs no root of its own, ready for connections; gone afterwards."""
    with _started(name, command, ports, folder / f"{name}.log") as relay:
        yield relay


@contextmanager
def _started(name: str, command: Sequence[str], ports: Ports, log: Path) -> Iterator[Relay]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            start_new_session=True,
        )
    try:
        _wait_ready(name, process, ports.plain, log)
        yield Relay(name, ports, log)
    finally:
        _end(process)


def _require_possible() -> None:
    if not (ROOT / ".complete").exists():
        raise Unavailable("not fetched: run tests/relays/fetch")
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Unavailable("needs root on Linux, because it starts in a root of its own and changes users")


def _chroot() -> str:
    found = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        raise Unavailable("no chroot command")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _wait_ready(name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up_s = time.monotonic() + START_WITHIN_S
    while True:
        if process.poll() is not None or time.monotonic() > give_up_s:
            raise RuntimeError(f"{name} did not start:\n{log.read_text(errors='replace')}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5.0) as probe:
                if probe.recv(3) == b"220":
                    probe.sendall(b"QUIT\r\n")
                    return
        except OSError:
            pass
        time.sleep(0.02)  # it is starting, and tells nobody when it has


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            continue
