"""Ready messages sent over trio streams, MAIL, RCPT and DATA in one packet: the floor that SMTP sets.

`python -m tests.bench.yardsticks.plain_sender PORT CONNECTIONS NUMBER` prints messages a second and CPU ms a message.
"""

import json
import sys
import time
from email.policy import SMTP

import trio

from tests.bench.yardsticks.login_mail import build

_GROUP = b"MAIL FROM:<mail@galaxy.test>\r\nRCPT TO:<reader@example.test>\r\nDATA\r\n"


async def _reply_lines(stream: trio.SocketStream, number: int) -> None:
    received = b""
    while received.count(b"\n") < number:
        received += await stream.receive_some()


async def _send(port: int, message: bytes, number: int) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await _reply_lines(stream, 1)
        await stream.send_all(b"HELO bench.test\r\n")
        await _reply_lines(stream, 1)
        for _ in range(number):
            await stream.send_all(_GROUP)
            await _reply_lines(stream, 3)
            await stream.send_all(message)
            await _reply_lines(stream, 1)


async def main(port: int, connections: int, number: int) -> None:
    built = build("plain", "reader@example.test", "en", {"code": "123456"})
    message = built.as_bytes(policy=SMTP).replace(b"\r\n.", b"\r\n..") + b".\r\n"
    cpu_before_s, started_s = time.process_time(), time.monotonic()
    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(_send, port, message, number // connections)
    sent = number // connections * connections
    rate = sent / (time.monotonic() - started_s)
    print(json.dumps({"per_s": rate, "cpu_ms": (time.process_time() - cpu_before_s) / sent * 1000}))


if __name__ == "__main__":
    port, connections, number = map(int, sys.argv[1:])
    trio.run(main, port, connections, number)
