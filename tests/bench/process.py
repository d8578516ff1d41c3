"""A child process on a core of its own, and what it costs: CPU, memory.

Linux only: affinity and /proc are what the figures rest on.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, Self

SERVICE_CORE: Final = 0  # the one under test, or its yardstick
OTHERS_CORE: Final = 1  # sink, Redis and whoever makes the load
ALL_CORES: Final = (
    frozenset(os.sched_getaffinity(0)) if sys.platform == "linux" else frozenset()
)  # before any pinning

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_STOP_WITHIN_S: Final = 40.0


class ProcessEnded(Exception):
    """A child ended although it was needed. Carries the end of what it wrote."""


class PinnedProcess:
    """One child, on one core; on any where `core` is None. Use as a context manager: it is stopped on the way out."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        core: int | None,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self.started_ns = time.monotonic_ns()
        self._stop_signal = stop_signal
        self._log: IO[bytes] = log_path.open("wb")
        with on_core(core):
            self._child = subprocess.Popen(
                argv,
                env=None if env is None else dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._child.pid

    def require_running(self) -> None:
        """Raises ProcessEnded with the end of its output when it has ended."""
        status = self._child.poll()
        if status is not None:
            tail = self.log_path.read_bytes()[-4000:].decode(errors="replace")
            raise ProcessEnded(f"{self.name} ended with status {status}:\n{tail}")

    def signal(self, number: int) -> None:
        self._child.send_signal(number)

    def wait(self, *, within_s: float) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired when it goes on."""
        return self._child.wait(within_s)

    def stop(self) -> None:
        """Asks it to end, and ends it when it does not. True afterwards: it is gone."""
        if self._child.poll() is None:
            self._child.send_signal(self._stop_signal)
            try:
                self._child.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._log.close()

    def cpu_s(self) -> float:
        """CPU seconds of it and its living children, user and system."""
        return sum(_cpu_s(pid) for pid in family(self.pid))

    def rss_bytes(self) -> int:
        """Resident memory now, of it and its living children."""
        return sum(_status_bytes(pid, "VmRSS") for pid in family(self.pid))

    def peak_rss_bytes(self) -> int:
        """The most resident memory it had since its start or the last `reset_peak`. Without children."""
        return _status_bytes(self.pid, "VmHWM")

    def reset_peak(self) -> None:
        """The next `peak_rss_bytes` counts from now on (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


def family(pid: int) -> Iterator[int]:
    """`pid` and all its descendants that live."""
    yield pid
    with contextlib.suppress(FileNotFoundError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        for child in children.split():
            yield from family(int(child))


def _cpu_s(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return 0.0
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces
    user, system = int(fields[11]), int(fields[12])
    return (user + system) / _TICKS_PER_S


def _status_bytes(pid: int, name: str) -> int:
    with contextlib.suppress(FileNotFoundError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def idle_s(core: int | None = None) -> float:
    """Seconds that a core, or all cores together, had nothing to do since the system started."""
    wanted = "cpu" if core is None else f"cpu{core}"
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == wanted:
            return (int(ticks[3]) + int(ticks[4])) / _TICKS_PER_S  # idle, and idle while a disk was busy
    raise ValueError(f"no core {core}")


class Disturbance:
    """What processes that are no part of the bench took of the machine, from its making on."""

    def __init__(self) -> None:
        self._started_s, self._idle_s, self._own_s = time.monotonic(), idle_s(), _own_cpu_s()

    def share(self) -> float:
        """Of all cores' time; the kernel's own work counts for others too. Children that run still are left out."""
        whole_s = (time.monotonic() - self._started_s) * (os.cpu_count() or 1)
        others_s = whole_s - (idle_s() - self._idle_s) - (_own_cpu_s() - self._own_s)
        return max(others_s / whole_s, 0.0)


def _own_cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def pin_self(core: int) -> None:
    """The calling process stays on this core from now on."""
    os.sched_setaffinity(0, {core})


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """What is started inside runs there (None: anywhere), and so do its threads and children: affinity is inherited."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, ALL_CORES if core is None else {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def run_json(module: str, *arguments: str, within_s: float = 300.0) -> bytes:
    """What a yardstick's program printed, run where the service would run."""
    with on_core(SERVICE_CORE):
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            check=True,
            timeout=within_s,
        )
    return done.stdout
