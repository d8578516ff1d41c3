"""A unix socket between the service and Redis that keeps what the service says.

`python -m tests.bench.recorder LISTEN_PATH SERVER_PATH RECORD_PREFIX` writes each connection's bytes to a file of its own,
so that the very same commands can be replayed (`sections/ingest.py`).
"""

import contextlib
import itertools
import selectors
import socket
import sys
from pathlib import Path


def serve(listen_path: Path, server_path: Path, record_prefix: str) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(listen_path))
    listener.listen()
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    other: dict[socket.socket, socket.socket] = {}
    record: dict[socket.socket, Path] = {}
    numbers = itertools.count()

    while True:
        for key, _ in selector.select():
            here = key.fileobj
            assert isinstance(here, socket.socket)
            if here is listener:
                client, _ = listener.accept()
                server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                server.connect(str(server_path))
                other[client], other[server] = server, client
                record[client] = Path(f"{record_prefix}{next(numbers)}")
                for end in (client, server):
                    selector.register(end, selectors.EVENT_READ)
                continue
            if here not in other:
                continue  # its other end hung up in this turn
            data = b""
            with contextlib.suppress(ConnectionError):
                data = here.recv(1_048_576)
            if data:
                if here in record:
                    with record[here].open("ab") as file:
                        file.write(data)
                with contextlib.suppress(ConnectionError):
                    other[here].sendall(data)
                continue
            there = other.pop(here)
            del other[there]
            for end in (here, there):
                record.pop(end, None)
                selector.unregister(end)
                end.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
