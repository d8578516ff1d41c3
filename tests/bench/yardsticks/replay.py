"""Commands that were packed before, written raw to Redis in pipelines: the floor that Redis sets for the stream's intake.

`python -m tests.bench.yardsticks.replay SOCKET_PATH PIPELINES_PATH` prints commands a second. Raises when an answer is not
that of a first acceptance.
"""

import json
import socket
import sys
import time
from pathlib import Path

import hiredis
from msgspec import msgpack

ACCEPTED = [1]


def replay(path: str, pipelines: list[tuple[int, bytes]]) -> float:
    """Commands a second: one pipeline after another, each (how many commands, their bytes) answered before the next."""
    reader = hiredis.Reader()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as redis:
        redis.connect(path)
        started_s = time.monotonic()
        for number, packed in pipelines:
            redis.sendall(packed)
            missing = number
            while missing:
                if (answer := reader.gets()) is False:
                    reader.feed(redis.recv(262_144))
                    continue
                if answer != ACCEPTED:
                    raise ValueError(f"the replay was answered {answer!r}")
                missing -= 1
        took_s = time.monotonic() - started_s
    return sum(number for number, _ in pipelines) / took_s


if __name__ == "__main__":
    to_send = msgpack.decode(Path(sys.argv[2]).read_bytes(), type=list[tuple[int, bytes]])
    print(json.dumps(replay(sys.argv[1], to_send)))
