"""The service under test, as it is run in earnest: its own process, its own core, logs and metrics on.

What its store holds is read from Redis directly, so that no figure rests on what the service says of itself.
"""

import math
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.bench.http_load import Address, ask_once, free_port, pack_request, wait_status
from tests.bench.process import SERVICE_CORE, PinnedProcess
from tests.bench.relay import Relay
from tests.bench.settings import REPOSITORY
from tests.bench.valkey import Valkey

STREAM: Final = "mail:delivery_commands"
OFFSET: Final = f"mail:stream_offsets:{STREAM}"
SCHEDULES: Final = ("mail:attempt_schedule", "mail:attempt_schedule:priority")
CLAIMS: Final = "mail:attempt_claims"

_LOOK_EVERY_S: Final = 0.005


class Service(PinnedProcess):
    """`galaxy-mail serve`, ready unless told not to wait.

    `profile_path` is where a sampling profile of it goes (`profiled.py`). `checkout` is the folder whose code runs.
    """

    def __init__(
        self,
        workdir: Path,
        valkey: Valkey,
        relay: Relay,
        *,
        slots: int = 4,
        core: int | None = SERVICE_CORE,
        redis_url: str | None = None,
        wait_ready: bool = True,
        profile_path: Path | None = None,
        checkout: Path = REPOSITORY,
    ) -> None:
        self.address: Address = ("127.0.0.1", free_port())
        self._valkey = valkey
        module = "galaxy_mail" if profile_path is None else "tests.bench.profiled"
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MAIL_")},
            "MAIL_REDIS_ADDR": redis_url or valkey.url,
            "MAIL_INTERNAL_HTTP_ADDR": f"127.0.0.1:{self.address[1]}",
            "MAIL_SMTP_MODE": "smtp",
            "MAIL_SMTP_ADDR": f"127.0.0.1:{relay.port}",
            "MAIL_SMTP_TLS": "none",
            "MAIL_SMTP_FROM_EMAIL": "mail@galaxy.test",
            "MAIL_SMTP_FROM_NAME": "Galaxy Mail",
            # The sink holds its greeting while a backlog grows, so that it is drained from a known moment on.
            "MAIL_SMTP_TIMEOUT": "10m",
            "MAIL_ATTEMPT_WORKER_CONCURRENCY": str(slots),
            "MAIL_LOG_FORMAT": "json",
            "MAIL_LOG_LEVEL": "info",
        }
        if profile_path is not None:
            env["BENCH_PROFILE"] = str(profile_path)
        super().__init__(
            "galaxy-mail serve",
            [sys.executable, "-m", module, "serve"],
            core=core,
            log_path=workdir / f"service-{self.address[1]}.log",
            env=env,
            cwd=checkout,  # `python -m` looks for modules there first
        )
        self.start_ms = math.nan
        if wait_ready:
            try:
                self.wait_ready()
            except BaseException:
                self.stop()
                raise

    def wait_ready(self) -> None:
        """Returns once it says that it is ready. True afterwards: `start_ms` is how long that took from its start."""
        ready_ns = wait_status(self.address, "/readyz", 200, unless=self.require_running)
        self.start_ms = (ready_ns - self.started_ns) / 1e6

    def scheduled(self) -> int:
        """Deliveries that wait to be sent or are being sent."""
        return sum(int(self._valkey.connection.call("ZCARD", key)) for key in SCHEDULES)

    def wait_scheduled(self, number: int, *, within_s: float = 300.0) -> None:
        """Returns once so many deliveries wait. Raises TimeoutError."""
        self._wait(lambda: self.scheduled() >= number, f"{number} deliveries scheduled", within_s)

    def wait_drained(self, *, within_s: float = 300.0) -> int:
        """The monotonic ns at which every delivery was found recorded as ended. Raises TimeoutError."""
        self._wait(lambda: self.scheduled() == 0, "an empty schedule", within_s)
        return time.monotonic_ns()

    def wait_consumed(self, entry_id: bytes, *, within_s: float = 300.0) -> None:
        """Returns once the stream's offset is at this entry. Raises TimeoutError."""
        connection = self._valkey.connection
        self._wait(
            lambda: bool(connection.call("GET", OFFSET) == entry_id), "the offset at the end", within_s
        )

    def wait_busy(self, slots: int, *, within_s: float = 60.0) -> None:
        """Returns once so many of its slots have an attempt in hand. Raises TimeoutError."""
        request = pack_request("GET", "/metrics", headers={"Connection": "close"})
        busy = re.compile(rb"^galaxy_mail_busy_sender_slots ([0-9]+)", re.MULTILINE)

        def are_busy() -> bool:
            found = busy.search(ask_once(self.address, request).body)
            return found is not None and int(found[1]) >= slots

        self._wait(are_busy, f"{slots} busy slots", within_s)

    def _wait(self, condition: Callable[[], bool], what: str, within_s: float) -> None:
        give_up = time.monotonic() + within_s
        while not condition():
            self.require_running()
            if time.monotonic() > give_up:
                raise TimeoutError(f"{what}: not within {within_s} s")
            time.sleep(_LOOK_EVERY_S)
