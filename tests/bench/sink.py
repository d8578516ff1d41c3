"""A relay that takes every message and remembers when: far faster than what it measures.

`python -m tests.bench.sink CONTROL_PATH` serves SMTP on a free loopback port (PIPELINING, 8BITMIME, SMTPUTF8, SIZE,
enhanced status codes) and prints the port. One epoll loop in one thread; the answers to one packet leave in one packet.
It takes everybody but recipients that start with `refused`.
The harness talks to it over a unix socket, one line a command, one line of JSON an answer:

    port            the port
    count           messages so far
    arrivals        [[message id, monotonic ns of the final dot], ..] since the last reset
    reset           forgets all of that
    hold, release   from now on no greeting is sent / all of them are
    delay MS        the answer to the final dot waits so long: one relay time
    reach N         answers once N messages have arrived
"""

import heapq
import json
import re
import select
import socket
import sys
import time
from pathlib import Path
from typing import Final

_GREETING: Final = b"220 sink.test ESMTP\r\n"
_EHLO: Final = (
    b"250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-SIZE 104857600\r\n"
    b"250 ENHANCEDSTATUSCODES\r\n"
)
_ANSWERS: Final = {
    b"MAIL": b"250 2.1.0 Sender ok\r\n",
    b"RCPT": b"250 2.1.5 Recipient ok\r\n",
    b"RSET": b"250 2.0.0 Reset\r\n",
    b"NOOP": b"250 2.0.0 Ok\r\n",
    b"EHLO": _EHLO,
    b"HELO": b"250 sink.test\r\n",
}
_GO_AHEAD: Final = b"354 Go ahead\r\n"
_TAKEN: Final = b"250 2.0.0 Taken\r\n"
_REFUSED: Final = b"550 5.1.1 No such reader\r\n"
_NOBODY: Final = b"554 5.5.1 No valid recipients\r\n"
_UNKNOWN: Final = b"500 5.5.2 Unknown command\r\n"
_BYE: Final = b"221 2.0.0 Bye\r\n"
_END: Final = b"\r\n.\r\n"
_MESSAGE_ID: Final = re.compile(rb"^message-id:\s*<([^>]*)>", re.IGNORECASE | re.MULTILINE)
_READ_BYTES: Final = 262_144


class _Client:
    """One SMTP connection: bytes in, answers out."""

    __slots__ = ("buffer", "in_data", "recipients", "socket")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.buffer = b""
        self.in_data = False
        self.recipients = 0  # accepted ones of this message


class _Control:
    """The harness' connection."""

    __slots__ = ("buffer", "reach", "socket")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.buffer = b""
        self.reach: int | None = None  # answer once so many messages have come


class SinkServer:
    """Everything the sink process is. `serve` never returns."""

    def __init__(self, control_path: Path) -> None:
        self._smtp = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._smtp.setblocking(False)
        self.port: int = self._smtp.getsockname()[1]
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._control.bind(str(control_path))
        self._control.listen()
        self._epoll = select.epoll()
        self._epoll.register(self._smtp.fileno(), select.EPOLLIN)
        self._epoll.register(self._control.fileno(), select.EPOLLIN)
        self._clients: dict[int, _Client] = {}
        self._controls: dict[int, _Control] = {}
        self._ids: list[bytes] = []
        self._at_ns: list[int] = []
        self._held: list[_Client] | None = None  # a list: greetings wait in it
        self._delay_ns = 0
        self._delayed: list[tuple[int, int, _Client]] = []  # heap of (due, sequence, whose answer)
        self._delayed_so_far = 0

    def serve(self) -> None:
        while True:
            for fd, _ in self._epoll.poll(self._next_answer_s()):
                if (client := self._clients.get(fd)) is not None:
                    self._smtp_readable(client)
                elif (control := self._controls.get(fd)) is not None:
                    self._control_readable(control)
                elif fd == self._smtp.fileno():
                    self._accept_smtp()
                else:
                    self._accept_control()
            if self._delayed:
                self._send_delayed()
            for control in list(self._controls.values()):
                self._answer_reached(control)

    def _next_answer_s(self) -> float | None:
        if not self._delayed:
            return None
        return max(self._delayed[0][0] - time.monotonic_ns(), 0) / 1e9

    def _send_delayed(self) -> None:
        now_ns = time.monotonic_ns()
        while self._delayed and self._delayed[0][0] <= now_ns:
            client = heapq.heappop(self._delayed)[2]
            if client.socket.fileno() in self._clients:
                self._write(client, _TAKEN)

    def _accept_smtp(self) -> None:
        try:
            sock, _ = self._smtp.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = _Client(sock)
        self._clients[sock.fileno()] = client
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        if self._held is None:
            self._write(client, _GREETING)
        else:
            self._held.append(client)

    def _smtp_readable(self, client: _Client) -> None:
        try:
            data = client.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        client.buffer = client.buffer + data if client.buffer else data
        answers = self._answers(client)
        if answers:
            self._write(client, answers)
            if answers.endswith(_BYE):
                self._drop(client)

    def _answers(self, client: _Client) -> bytes:
        answers: list[bytes] = []
        buffer, start = client.buffer, 0
        while True:
            if client.in_data:
                # The dot of an empty message follows DATA's own line end, which is no longer in the buffer.
                if buffer.startswith(b".\r\n", start):
                    end, after = start, start + 3
                else:
                    end = buffer.find(_END, start)
                    after = end + len(_END)
                if end < 0:
                    break
                client.in_data = False
                self._took(buffer, start, end)
                start = after
                if not self._delay_ns:
                    answers.append(_TAKEN)
                    continue
                self._delayed_so_far += 1
                due_ns = time.monotonic_ns() + self._delay_ns
                heapq.heappush(self._delayed, (due_ns, self._delayed_so_far, client))
                continue
            end = buffer.find(b"\r\n", start)
            if end < 0:
                break
            verb = buffer[start : start + 4].upper()
            if verb == b"RCPT":
                if buffer.find(b"<refused", start, end) < 0:
                    client.recipients += 1
                    answers.append(_ANSWERS[verb])
                else:
                    answers.append(_REFUSED)
            elif verb == b"DATA":
                client.in_data = client.recipients > 0
                client.recipients = 0
                answers.append(_GO_AHEAD if client.in_data else _NOBODY)
            elif verb == b"QUIT":
                answers.append(_BYE)
                start = end + 2
                break
            else:
                if verb in {b"MAIL", b"RSET"}:
                    client.recipients = 0
                answers.append(_ANSWERS.get(verb, _UNKNOWN))
            start = end + 2
        client.buffer = buffer[start:]
        return b"".join(answers)

    def _took(self, buffer: bytes, start: int, end: int) -> None:
        self._at_ns.append(time.monotonic_ns())
        found = buffer.find(b"Message-ID: <", start, end)
        if found >= 0:
            self._ids.append(buffer[found + 13 : buffer.index(b">", found)])
            return
        match = _MESSAGE_ID.search(buffer, start, end)  # spelt or folded otherwise
        self._ids.append(match[1] if match else b"")

    def _write(self, client: _Client, answers: bytes) -> None:
        try:
            client.socket.send(answers)  # far below a socket's buffer: it goes whole
        except OSError:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.socket.fileno(), None) is not None:
            client.socket.close()

    def _accept_control(self) -> None:
        sock, _ = self._control.accept()
        self._controls[sock.fileno()] = _Control(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _control_readable(self, control: _Control) -> None:
        data = control.socket.recv(4096)
        if not data:
            del self._controls[control.socket.fileno()]
            control.socket.close()
            return
        *lines, control.buffer = (control.buffer + data).split(b"\n")
        for line in lines:
            self._command(control, line.decode().split())

    def _command(self, control: _Control, words: list[str]) -> None:
        answer: object = None
        match words:
            case ["port"]:
                answer = self.port
            case ["count"]:
                answer = len(self._at_ns)
            case ["arrivals"]:
                ids = [message_id.decode(errors="replace") for message_id in self._ids]
                answer = list(zip(ids, self._at_ns, strict=True))
            case ["reset"]:
                self._ids.clear()
                self._at_ns.clear()
            case ["hold"]:
                self._held = []
            case ["release"]:
                held, self._held = self._held or [], None
                for client in held:
                    if client.socket.fileno() in self._clients:
                        self._write(client, _GREETING)
            case ["delay", ms]:
                self._delay_ns = round(float(ms) * 1e6)
            case ["reach", number]:
                control.reach = int(number)
                return
            case _:
                answer = f"unknown command {words}"
        control.socket.sendall(json.dumps(answer).encode() + b"\n")

    def _answer_reached(self, control: _Control) -> None:
        if control.reach is not None and len(self._at_ns) >= control.reach:
            control.reach = None
            control.socket.sendall(b"true\n")


if __name__ == "__main__":
    server = SinkServer(Path(sys.argv[1]))
    print(server.port, flush=True)
    server.serve()
