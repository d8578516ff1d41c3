"""The sink has to understand whatever the service may send, or the bench measures misunderstandings."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.relay import Relay

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the bench pins cores and needs epoll")

GROUP = b"MAIL FROM:<a@galaxy.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n"
MESSAGE = b"Message-ID: <d.1@galaxy.test>\r\nSubject: x\r\n\r\n..dot\r\nbody\r\n.\r\n"


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    with Relay(tmp_path, core=min(os.sched_getaffinity(0))) as running:
        yield running


def _connect(relay: Relay) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", relay.port), timeout=10)
    assert _receive(sock, 1).startswith(b"220 ")
    return sock


def _receive(sock: socket.socket, lines: int) -> bytes:
    received = b""
    while received.count(b"\n") < lines:
        data = sock.recv(4096)
        assert data, received
        received += data
    return received


@pytest.mark.parametrize("step", [1, 2, 7, 10_000])
def test_an_exchange_may_be_split_anywhere(relay: Relay, step: int) -> None:
    with _connect(relay) as sock:
        for part in (GROUP, MESSAGE, GROUP, MESSAGE.replace(b"d.1", b"d.2")):
            for at in range(0, len(part), step):
                sock.sendall(part[at : at + step])
            answers = _receive(sock, 3 if part == GROUP else 1)
            codes = [line[:3] for line in answers.splitlines()]
            assert codes == ([b"250", b"250", b"354"] if part == GROUP else [b"250"])
    assert relay.count() == 2
    assert set(relay.arrivals_ns()) == {"d.1", "d.2"}


def test_a_refused_recipient_is_refused_and_its_data_too(relay: Relay) -> None:
    with _connect(relay) as sock:
        sock.sendall(GROUP.replace(b"<b@", b"<refused1@"))
        assert [line[:3] for line in _receive(sock, 3).splitlines()] == [b"250", b"550", b"554"]
        sock.sendall(GROUP + MESSAGE)
        assert [line[:3] for line in _receive(sock, 4).splitlines()] == [b"250", b"250", b"354", b"250"]
    assert relay.count() == 1


def test_a_held_greeting_comes_with_the_release(relay: Relay) -> None:
    relay.hold()
    with socket.create_connection(("127.0.0.1", relay.port)) as sock:
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(100)
        relay.release()
        sock.settimeout(10)
        assert sock.recv(100).startswith(b"220 ")


def test_a_folded_message_id_is_found(relay: Relay) -> None:
    with _connect(relay) as sock:
        sock.sendall(GROUP + b"message-id:\r\n <folded@galaxy.test>\r\n\r\n.\r\n")
        _receive(sock, 4)
    assert set(relay.arrivals_ns()) == {"folded"}


def test_a_delayed_answer_comes_later_than_the_arrival(relay: Relay) -> None:
    relay.delay(50)
    with _connect(relay) as sock:
        sock.sendall(GROUP + MESSAGE)
        _receive(sock, 3)
        relay.wait_count(1, within_s=10)  # it has arrived
        sock.settimeout(10)
        assert _receive(sock, 1).startswith(b"250 ")
