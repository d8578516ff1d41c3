"""The harness' hand on the sink process: starts it, asks it, ends it."""

import json
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.process import OTHERS_CORE, PinnedProcess


class Relay(PinnedProcess):
    """The sink, running. Its commands are described in `sink.py`."""

    def __init__(self, workdir: Path, *, core: int | None = OTHERS_CORE) -> None:
        control_path = workdir / "sink.sock"
        control_path.unlink(missing_ok=True)  # of the sink before it
        super().__init__(
            "sink",
            [sys.executable, "-m", "tests.bench.sink", str(control_path)],
            core=core,
            log_path=workdir / "sink.log",
        )
        self._socket = _connect(self, control_path)
        self._lines = self._socket.makefile("rb")
        self.port = int(self._ask("port"))

    def stop(self) -> None:
        self._lines.close()
        self._socket.close()
        super().stop()

    def _ask(self, command: str, *, within_s: float = 10.0) -> Any:
        self._socket.settimeout(within_s)
        self._socket.sendall(command.encode() + b"\n")
        return json.loads(self._lines.readline())

    def count(self) -> int:
        """Messages since the last reset."""
        count: int = self._ask("count")
        return count

    def arrivals_ns(self) -> Mapping[str, int]:
        """Delivery id (what stands before the Message-ID's @) -> monotonic ns at which its first copy had arrived."""
        arrivals: dict[str, int] = {}
        for message_id, at_ns in self._ask("arrivals", within_s=60.0):
            arrivals.setdefault(message_id.partition("@")[0], at_ns)
        return arrivals

    def reset(self) -> None:
        self._ask("reset")

    def hold(self) -> None:
        """New connections wait for their greeting from now on."""
        self._ask("hold")

    def release(self) -> None:
        """Who waits is greeted, and so is whoever comes."""
        self._ask("release")

    def delay(self, ms: float) -> None:
        """One relay time from now on: how long the answer to a final dot takes."""
        self._ask(f"delay {ms}")

    def wait_count(self, number: int, *, within_s: float) -> None:
        """Returns once so many messages have arrived. Raises TimeoutError."""
        self._ask(f"reach {number}", within_s=within_s)


def _connect(process: PinnedProcess, path: Path, *, within_s: float = 20.0) -> socket.socket:
    give_up = time.monotonic() + within_s
    while True:
        process.require_running()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)  # the sink is starting
        else:
            return sock
