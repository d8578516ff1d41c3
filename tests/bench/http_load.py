"""HTTP requests from plain sockets in one thread: as fast as they are answered, or at a set rate.

Requests are packed before the clock runs, so that the generator costs little beside what it measures.
"""

import selectors
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Final

from msgspec import Struct

from tests.bench.figures import MS_PER_S, NS_PER_MS

Address = tuple[str, int]

_HEAD_END: Final = b"\r\n\r\n"


class Answer(Struct, frozen=True):
    """One answered request."""

    asked_ns: int  # monotonic; at a set rate when it was due, so that a stall counts for all it delays
    answered_ns: int
    status: int
    head: bytes
    body: bytes

    @property
    def latency_ms(self) -> float:
        return (self.answered_ns - self.asked_ns) / NS_PER_MS

    def header(self, name: str) -> str | None:
        """A header's value, whatever the case of its name."""
        wanted = name.lower().encode()
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == wanted:
                return value.strip().decode()
        return None


class UnexpectedAnswer(Exception):
    """A status that the bench can't count as work done."""


def pack_request(
    method: str, path: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> bytes:
    """A request as it goes over the wire, on a connection that stays open."""
    fields = {"Host": "bench.test", **(headers or {})}
    if body:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


class HttpConnection:
    """One open connection with at most one request on its way."""

    def __init__(self, address: Address) -> None:
        self.socket = socket.create_connection(address, timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.asked_ns: int | None = None  # None: idle
        self._buffer = b""

    def ask(self, request: bytes, *, asked_ns: int) -> None:
        self.asked_ns = asked_ns
        self.socket.sendall(request)

    def receive_some(self) -> Answer | None:
        """The answer once it is whole."""
        assert self.asked_ns is not None
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionError("the server closed the connection instead of answering")
        self._buffer += data
        head_end = self._buffer.find(_HEAD_END)
        if head_end < 0:
            return None
        head = self._buffer[:head_end]
        body_start = head_end + len(_HEAD_END)
        body_end = body_start + _content_length(head)
        if len(self._buffer) < body_end:
            return None
        answer = Answer(
            self.asked_ns, time.monotonic_ns(), int(head[9:12]), head, self._buffer[body_start:body_end]
        )
        self._buffer = self._buffer[body_end:]
        self.asked_ns = None
        return answer


def _content_length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    if at < 0:
        raise UnexpectedAnswer(f"an answer without content-length: {head!r}")
    return int(head[at + 15 :].partition(b"\r\n")[0])


def ask_once(address: Address, request: bytes) -> Answer:
    """One request on a connection of its own."""
    connection = HttpConnection(address)
    with connection.socket:
        connection.ask(request, asked_ns=time.monotonic_ns())
        while (answer := connection.receive_some()) is None:
            pass
    return answer


def at_full_speed(
    address: Address, requests: Iterator[bytes], *, connections: int, number: int
) -> tuple[list[Answer], float]:
    """`number` answers, each connection asking again once it was answered, and the seconds that took."""
    answers: list[Answer] = []
    with _Connections(address, connections) as pool:
        started_ns = time.monotonic_ns()
        asked = 0
        for connection in pool.all[:number]:
            connection.ask(next(requests), asked_ns=time.monotonic_ns())
            asked += 1
        while len(answers) < number:
            for connection, answer in pool.wait_answers(1.0):
                answers.append(answer)
                if asked < number:
                    connection.ask(next(requests), asked_ns=time.monotonic_ns())
                    asked += 1
    return answers, (answers[-1].answered_ns - started_ns) / (NS_PER_MS * MS_PER_S)


def at_rate(
    address: Address, requests: Iterator[bytes], *, number: int, per_s: float, connections: int = 8
) -> list[Answer]:
    """`number` answers to requests at a set rate, whether or not the ones before were answered.

    Latency counts from when a request was due.
    """
    answers: list[Answer] = []
    with _Connections(address, connections) as pool:
        first_ns = time.monotonic_ns() + 10 * NS_PER_MS
        gap_ns = 1e9 / per_s
        asked = 0
        while len(answers) < number:
            now_ns = time.monotonic_ns()
            due_ns = first_ns + round(asked * gap_ns)
            if asked < number and now_ns >= due_ns and (idle := pool.idle()) is not None:
                idle.ask(next(requests), asked_ns=due_ns)
                asked += 1
                continue
            wait_s = 0.5 if asked == number else max(due_ns - now_ns, 0) / 1e9
            answers += [answer for _, answer in pool.wait_answers(wait_s or 0.001)]
    return answers


class _Connections:
    def __init__(self, address: Address, number: int) -> None:
        self._selector = selectors.DefaultSelector()
        self.all = [HttpConnection(address) for _ in range(number)]
        for connection in self.all:
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._in_turn = cycle(self.all)

    def __enter__(self) -> "_Connections":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._selector.close()
        for connection in self.all:
            connection.socket.close()

    def idle(self) -> HttpConnection | None:
        """The next connection in turn that waits for no answer."""
        for _ in self.all:
            connection = next(self._in_turn)
            if connection.asked_ns is None:
                return connection
        return None

    def wait_answers(self, within_s: float) -> list[tuple[HttpConnection, Answer]]:
        """What was answered until something was, or the time is over."""
        found: list[tuple[HttpConnection, Answer]] = []
        for key, _ in self._selector.select(within_s):
            connection: HttpConnection = key.data
            if (answer := connection.receive_some()) is not None:
                found.append((connection, answer))
        return found


def free_port() -> int:
    """A loopback port that nobody had a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_status(
    address: Address, path: str, status: int, *, unless: Callable[[], None], within_s: float = 30.0
) -> int:
    """The monotonic ns at which `path` first answered so. `unless` raises when waiting has become pointless."""
    request = pack_request("GET", path, headers={"Connection": "close"})
    give_up = time.monotonic() + within_s
    seen = "no answer"
    while time.monotonic() < give_up:
        unless()
        try:
            answer = ask_once(address, request)
        except ConnectionError as error:
            seen = str(error)
        else:
            if answer.status == status:
                return answer.answered_ns
            seen = f"{answer.status} {answer.body[:300]!r}"
        time.sleep(0.005)
    raise TimeoutError(f"{path} did not answer {status} within {within_s} s, but: {seen}")


def require_status(answers: Sequence[Answer], *expected: int) -> None:
    """Raises UnexpectedAnswer naming the first answer with another status: a refusal is fast and no work."""
    for answer in answers:
        if answer.status not in expected:
            raise UnexpectedAnswer(f"status {answer.status}: {answer.body[:300]!r}")
