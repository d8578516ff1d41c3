"""The frozen program, run on its own and in a root that holds nothing but what the image does.

In that root it runs as it would in a container: as process 1 of its namespace, as a user without rights who can't gain
any, on a file system that is read-only but for the one folder that the image has for data.
"""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Final, TypeVar

import pytest
import trio

from galaxy_mail.storage.embedded import end_with_parent
from tests.deploy.promtool import ROOT
from tests.service_process import WITHIN_S, ServiceProcess

BINARY: Final = ROOT / "dist" / "galaxy-mail"
IMAGE: Final = ROOT / "dist" / "root"
P = TypeVar("P", bound=ServiceProcess)

USER: Final = 65532
DATA: Final = "/var/lib/galaxy-mail"

# $1: the root, $2: what becomes its data folder, $3: whether it has a folder for temporary files; then the command.
_SETUP: Final = f"""
root=$1 data=$2 temporary=$3
shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
mount -o remount,bind,ro,nosuid,nodev "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o nosuid,noexec,mode=755 tmpfs "$root/dev"
for name in null zero full random urandom; do
    : >"$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
mount --bind "$data" "$root{DATA}"
mount -o remount,bind,rw,nosuid,nodev,noexec "$root{DATA}"
if [ "$temporary" = yes ]; then
    mount -t tmpfs -o nosuid,nodev,mode=1777,size=64m tmpfs "$root/tmp"
fi
cd /
exec setpriv --no-new-privs chroot --userspec={USER}:{USER} "$root" /usr/bin/galaxy-mail "$@"
"""


@cache
def why_not_frozen() -> str | None:
    """Why the frozen program can't be tested now."""
    if not BINARY.exists():
        return "no frozen program: run make binary"
    frozen_at = BINARY.stat().st_mtime
    for folder in ("galaxy_mail", "templates", "packaging"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc" and path.stat().st_mtime > frozen_at:
                return f"the frozen program is older than {path.relative_to(ROOT)}: run make binary"
    return None


@cache
def why_no_namespaces() -> str | None:
    """Why nothing can be run in a root of its own here."""
    missing = [
        tool for tool in ("unshare", "nsenter", "setpriv", "chroot", "mount") if not shutil.which(tool)
    ]
    if missing:
        return f"a bare root needs {', '.join(missing)}"
    if os.geteuid() != 0:
        return "only root can make a root for another user"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "mount", "--make-rprivate", "/"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else None


needs_frozen: Final = pytest.mark.skipif(why_not_frozen() is not None, reason=str(why_not_frozen()))
needs_namespaces: Final = pytest.mark.skipif(why_no_namespaces() is not None, reason=str(why_no_namespaces()))


class Contained(ServiceProcess):
    """The program in a bare root. Signals are for the program, not for what set up its namespaces."""

    @property
    def inner_pid(self) -> int:
        """As it is seen from outside."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        [pid] = map(int, children)
        return pid

    def signal(self, number: Signals) -> None:
        os.kill(self.inner_pid, number)

    async def close(self) -> None:
        with suppress(FileNotFoundError, ValueError, ProcessLookupError):  # it has ended
            self.signal(SIGKILL)
        await super().close()

    async def run(self, *arguments: str, env: Mapping[str, str]) -> "subprocess.CompletedProcess[bytes]":
        """Another command, beside the running one."""
        enter = ["nsenter", "--target", str(self.inner_pid), "--mount", "--pid", "--root", "--wd=/"]
        who = ["--setuid", str(USER), "--setgid", str(USER)]
        with trio.fail_after(WITHIN_S):
            return await trio.run_process(
                [*enter, *who, "/usr/bin/galaxy-mail", *arguments],
                env=env,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )

    def facts(self) -> dict[str, str]:
        """What the kernel says of it."""
        lines = Path(f"/proc/{self.inner_pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def mounts(self) -> dict[str, set[str]]:
        """Its mounts, with their options."""
        lines = Path(f"/proc/{self.inner_pid}/mounts").read_text().splitlines()
        return {where: set(options.split(",")) for _, where, _, options, *_ in map(str.split, lines)}


class Root:
    """A folder that becomes the root of the program, and one for its data."""

    def __init__(self, path: Path, data: Path, *, temporary: bool) -> None:
        self.path = path
        self.data = data
        self._temporary = temporary

    @classmethod
    def of_image(cls, folder: Path) -> "Root":
        """What the image holds."""
        return cls(IMAGE, _data(folder), temporary=False)

    @classmethod
    def of_executable(cls, folder: Path) -> "Root":
        """The same, with the single executable in place of the unpacked program, and a place where it may unpack."""
        path = folder / "root"
        shutil.copytree(IMAGE, path, symlinks=True, ignore=shutil.ignore_patterns("opt", "galaxy-mail"))
        for name in ("usr/bin", DATA.lstrip("/")):
            (path / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(BINARY, path / "usr" / "bin" / "galaxy-mail")
        return cls(path, _data(folder), temporary=True)

    @classmethod
    def copied(cls, folder: Path) -> "Root":
        """What the image holds, to be changed as one likes before it runs."""
        path = folder / "root"
        shutil.copytree(IMAGE, path, symlinks=True)
        return cls(path, _data(folder), temporary=False)

    @asynccontextmanager
    async def running(self, *arguments: str, env: Mapping[str, str]) -> AsyncIterator[Contained]:
        """The program in it; killed at the end where it still runs."""
        spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        inside: list[str | Path] = [
            "sh",
            "-euc",
            _SETUP,
            "sh",
            self.path,
            self.data,
            "yes" if self._temporary else "no",
        ]
        async with started(
            [*spaces, *inside, *arguments], {"PATH": os.environ["PATH"], **env}, Contained
        ) as process:
            yield process


def _data(folder: Path) -> Path:
    data = folder / "data"
    data.mkdir()
    os.chown(data, USER, USER)
    return data


@asynccontextmanager
async def started(command: Sequence[str | Path], env: Mapping[str, str], kind: type[P]) -> AsyncIterator[P]:
    """This command as a service process; killed at the end where it still runs."""
    async with trio.open_nursery() as nursery:
        popen = subprocess.Popen(  # noqa: ASYNC220  # a fork, and done
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            preexec_fn=end_with_parent(),  # noqa: PLW1509  # a killed test run leaves no service behind
        )
        process = kind(popen)
        nursery.start_soon(process.listen)
        try:
            yield process
        finally:
            with trio.CancelScope(shield=True):
                await process.close()
            nursery.cancel_scope.cancel()
