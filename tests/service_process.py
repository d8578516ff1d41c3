"""`galaxy-mail serve` as a process of its own, as platforms run it: started, asked, signalled, listened to.

Its log lines are read as they are written, so that a test waits for what the service says and not for time to pass.
"""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import trio

from galaxy_mail.storage.embedded import end_with_parent
from tests.http_client import HttpClient

WITHIN_S: Final = 90.0  # generous: what takes longer hangs, even where a start alone may take half a minute
CHECK_EVERY_S: Final = 0.01
API: Final = "/api/v1/internal"
# What is tested: the sources, unless GALAXY_PROGRAM names an executable.
PROGRAM: Final = (
    (program,) if (program := os.environ.get("GALAXY_PROGRAM")) else (sys.executable, "-m", "galaxy_mail")
)
TURNS: Final = frozenset({"listening", "redis_connected", "stopping", "stopped"})  # of a process' life

Line = dict[str, Any]


class ServiceProcess:
    """One process. Made by `Fleet.start`; `lines` has its log, `output` what it wrote besides."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self.lines: list[Line] = []
        self.output = ""
        self.status: int | None = None  # its exit status; the negative of the signal that killed it
        self._popen = popen
        self._news = trio.Event()
        self._client: HttpClient | None = None

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def url(self) -> str:
        """Where its API listens; known once it says so."""
        [url] = {line["url"] for line in self.lines if line["event"] == "listening"}
        return str(url)

    # Its process

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)

    async def wait_ended(self, within_s: float = WITHIN_S) -> int:
        """Its exit status. Fails with its log where it goes on."""
        await self._until(lambda: self.status is not None, "its end", within_s)
        assert self.status is not None
        return self.status

    async def stop(self, within_s: float = WITHIN_S) -> None:
        """Asks for a graceful stop. True afterwards: it has ended, with status 0."""
        self.signal(signal.SIGTERM)
        assert await self.wait_ended(within_s) == 0, self.story()

    # What it says

    async def wait_line(self, event: str, *, within_s: float = WITHIN_S, **fields: object) -> Line:
        """The first line with this event and these fields, at once where it was written before."""

        def found() -> Line | None:
            return next((line for line in self.lines if _has(line, event, fields)), None)

        await self._until(lambda: found() is not None, f"a line {event} {fields or ''}", within_s)
        line = found()
        assert line is not None
        return line

    async def wait_lines(self, event: str, number: int, within_s: float = WITHIN_S) -> None:
        """Returns once so many lines have this event."""
        await self._until(lambda: len(self.events(event)) >= number, f"{number} lines {event}", within_s)

    async def wait_output(self, text: str, within_s: float = WITHIN_S) -> None:
        """Returns once it has written this, other than in its log."""
        await self._until(lambda: text in self.output, f"the words {text!r}", within_s)

    def events(self, event: str, **fields: object) -> list[Line]:
        """All lines so far with this event and these fields."""
        return [line for line in self.lines if _has(line, event, fields)]

    def story(self) -> str:
        """What it wrote, for a test that fails."""
        told = [line for line in self.lines if line["level"] != "info" or line["event"] in TURNS]
        return "\n".join(
            [*(json.dumps(line) for line in [*told[-40:], *self.lines[-10:]]), self.output[-4000:]]
        )

    # Its API

    @property
    def client(self) -> HttpClient:
        if self._client is None:
            self._client = HttpClient(self.url, within_s=WITHIN_S)
        return self._client

    async def wait_listening(self) -> None:
        await self.wait_line("listening")

    async def wait_ready(self) -> None:
        await self.wait_line("redis_connected", link="data")

        async def ready() -> bool:
            return (await self.client.get("/readyz")).status_code == httpx.codes.OK

        await eventually(ready, "it is ready")

    async def ready_checks(self) -> tuple[int, dict[str, str | None]]:
        """The status of `/readyz`, and what it says of each check: None where it is well."""
        answer = await self.client.get("/readyz?verbose")
        checks = {check["name"]: check["detail"] for check in answer.json()["checks"]}
        return answer.status_code, checks

    async def post_login_code(
        self, key: str, *, email: str | None = None, code: str = "424242", locale: str = "en"
    ) -> httpx.Response:
        return await self.client.request(
            "POST",
            f"{API}/login-code-deliveries",
            headers={"Idempotency-Key": key},
            json_body={"email": email or f"{key}@example.org", "code": code, "locale": locale},
        )

    async def get(self, path: str) -> Any:
        """The JSON of an answer with status 200."""
        answer = await self.client.get(f"{API}/{path}")
        assert answer.status_code == httpx.codes.OK, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    async def delivery(self, delivery_id: str) -> Any:
        return await self.get(f"deliveries/{delivery_id}")

    async def attempts(self, delivery_id: str) -> list[Any]:
        items: list[Any] = (await self.get(f"deliveries/{delivery_id}/attempts"))["items"]
        return items

    async def wait_status(self, delivery_id: str, *statuses: str, within_s: float = WITHIN_S) -> Any:
        """The delivery once it is in one of these statuses; it may still have to be accepted."""
        seen: Any = None

        async def reached() -> bool:
            nonlocal seen
            answer = await self.client.get(f"{API}/deliveries/{delivery_id}")
            seen = answer.json()
            return bool(answer.status_code == httpx.codes.OK and seen["status"] in statuses)

        try:
            await eventually(reached, f"{delivery_id} is {' or '.join(statuses)}", within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {seen}\n{self.story()}") from None
        return seen

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels."""
        total = 0.0
        for line in (await self.client.get("/metrics")).text.splitlines():
            series, _, value = line.rpartition(" ")
            given = series.partition("{")[2]
            if series.partition("{")[0] == name and all(f'{k}="{v}"' in given for k, v in labels.items()):
                total += float(value)
        return total

    async def metric_reaches(self, name: str, value: float, **labels: str) -> None:
        """Returns once the sum of a metric's series is at least this."""

        async def reached() -> bool:
            return await self.metric(name, **labels) >= value

        await eventually(reached, f"{name} is {value}")

    # Inside

    async def listen(self) -> None:
        """Reads what it writes until it has ended."""
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_lines, _owned(self._popen.stdout.fileno()))
            nursery.start_soon(self._read_text, _owned(self._popen.stderr.fileno()))
        self.status = await trio.to_thread.run_sync(self._popen.wait, abandon_on_cancel=True)
        self._tell()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
        if self._popen.poll() is None:
            self._popen.kill()  # a stopped process, too
            await trio.to_thread.run_sync(self._popen.wait)
        for pipe in (self._popen.stdout, self._popen.stderr):
            assert pipe is not None
            pipe.close()

    async def _read_lines(self, stream: trio.lowlevel.FdStream) -> None:
        buffer = b""
        async with stream:
            async for data in stream:
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    try:
                        self.lines.append(json.loads(line))
                    except ValueError:
                        self.output += line.decode(errors="replace") + "\n"
                self._tell()
        self.output += buffer.decode(errors="replace")

    async def _read_text(self, stream: trio.lowlevel.FdStream) -> None:
        async with stream:
            async for data in stream:
                self.output += data.decode(errors="replace")
                self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _until(self, condition: Callable[[], bool], what: str, within_s: float) -> None:
        with trio.move_on_after(within_s):
            while not condition():
                if self.status is not None:
                    break
                await self._news.wait()
        assert condition(), f"waited {within_s:g} s for {what}; status {self.status}\n{self.story()}"


class Fleet:
    """Starts service processes and ends them with the test."""

    def __init__(self, nursery: trio.Nursery, env: Mapping[str, str]) -> None:
        self.processes: list[ServiceProcess] = []
        self._nursery = nursery
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MAIL_", "OTEL_"))},
            "MAIL_INTERNAL_HTTP_ADDR": "127.0.0.1:0",
            **env,
        }

    def start(self, *arguments: str, **settings: str | None) -> ServiceProcess:
        """Starts `galaxy-mail serve`, or another command.

        `settings` are variables less MAIL_, in lower case; None takes one away.
        """
        given = dict(self.env)
        for name, value in settings.items():
            variable = f"MAIL_{name.upper()}"
            if value is None:
                given.pop(variable, None)
            else:
                given[variable] = value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork among threads
            popen = subprocess.Popen(
                [*PROGRAM, *(arguments or ("serve",))],
                env=given,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                preexec_fn=end_with_parent(),  # noqa: PLW1509  # a killed test run leaves no service behind
            )
        process = ServiceProcess(popen)
        self.processes.append(process)
        self._nursery.start_soon(process.listen)
        return process

    async def ready(self, **settings: str | None) -> ServiceProcess:
        """A service that is ready."""
        process = self.start(**settings)
        await process.wait_ready()
        return process

    async def several(self, number: int, **settings: str | None) -> list[ServiceProcess]:
        """So many services that are ready, started together."""
        processes = [self.start(**settings) for _ in range(number)]
        for process in processes:
            await process.wait_ready()
        return processes

    async def run(self, *arguments: str, **settings: str | None) -> ServiceProcess:
        """A command that has ended."""
        process = self.start(*arguments, **settings)
        await process.wait_ended()
        return process

    def living(self) -> list[ServiceProcess]:
        return [process for process in self.processes if process.status is None]

    async def stop(self) -> None:
        """Stops what still runs, gracefully."""
        async with trio.open_nursery() as nursery:
            for process in self.living():
                nursery.start_soon(process.stop)


@asynccontextmanager
async def fleet_of(env: Mapping[str, str]) -> AsyncIterator[Fleet]:
    """A fleet whose processes share these variables."""
    async with trio.open_nursery() as nursery:
        fleet = Fleet(nursery, env)
        try:
            yield fleet
        finally:
            with trio.CancelScope(shield=True):
                for process in fleet.processes:
                    await process.close()
            nursery.cancel_scope.cancel()


async def eventually(
    condition: Callable[[], Any], what: str, within_s: float = WITHIN_S, *, every_s: float = CHECK_EVERY_S
) -> None:
    """Returns once the condition, which may be async, holds. For what tells nobody when it comes true."""
    with trio.move_on_after(within_s):
        while True:
            held = condition()
            if not isinstance(held, bool):
                held = await held
            if held:
                return
            await trio.sleep(every_s)
    raise AssertionError(f"not within {within_s:g} s: {what}")


def _owned(descriptor: int) -> trio.lowlevel.FdStream:
    """A stream that may be closed apart from the pipe's file object."""
    return trio.lowlevel.FdStream(os.dup(descriptor))


def _has(line: Line, event: str, fields: Mapping[str, object]) -> bool:
    return line.get("event") == event and all(line.get(name) == value for name, value in fields.items())
