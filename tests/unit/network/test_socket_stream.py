"""A conversation's stream over real sockets: exact writes, reads that wait, ends and cancels that say what they are."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest
import trio
import trio.testing

from galaxy_mail.network.socket_stream import ConversationStream

MUCH = b"x" * 4_000_000  # more than the system takes at once


@pytest.fixture
def ends() -> Iterator[tuple[ConversationStream, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    stream = ConversationStream(ours)
    yield stream, theirs
    theirs.close()
    ours.close()


async def test_what_is_written_arrives_and_what_is_answered_is_read(
    ends: tuple[ConversationStream, socket.socket],
) -> None:
    stream, peer = ends
    await stream.send_all(b"hello")
    assert peer.recv(100) == b"hello"
    peer.send(b"and you")
    assert stream.is_readable()
    assert await stream.receive_some(100) == b"and you"
    assert not stream.is_readable()


async def test_reading_waits_for_a_word(ends: tuple[ConversationStream, socket.socket]) -> None:
    stream, peer = ends
    heard: list[bytes] = []

    async def listen() -> None:
        heard.append(await stream.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        assert heard == []
        peer.send(b"x")
    assert heard == [b"x"]


async def test_more_than_the_system_takes_at_once_is_written_whole(
    ends: tuple[ConversationStream, socket.socket],
) -> None:
    stream, peer = ends
    arrived = bytearray()

    async def drain() -> None:
        while len(arrived) < len(MUCH):
            await trio.lowlevel.wait_readable(peer)
            arrived.extend(peer.recv(65536))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await stream.send_all(MUCH)
    assert bytes(arrived) == MUCH


async def test_a_cancelled_write_was_not_taken_whole(ends: tuple[ConversationStream, socket.socket]) -> None:
    stream, peer = ends
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                await stream.send_all(MUCH)

            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert 0 < len(_all_of(peer)) < len(MUCH)


def _all_of(peer: socket.socket) -> bytes:
    arrived = b""
    with suppress(BlockingIOError):
        while data := peer.recv(65536):
            arrived += data
    return arrived


async def test_a_cancelled_task_writes_nothing(ends: tuple[ConversationStream, socket.socket]) -> None:
    stream, peer = ends
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.send_all(b"never")
    assert _all_of(peer) == b""


async def test_the_end_is_read_as_nothing_and_a_write_after_it_is_broken(
    ends: tuple[ConversationStream, socket.socket],
) -> None:
    stream, peer = ends
    peer.close()
    assert stream.is_readable()
    assert await stream.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")


async def test_a_reader_learns_that_the_stream_was_closed(
    ends: tuple[ConversationStream, socket.socket],
) -> None:
    stream, _ = ends
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()

        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()
    await stream.aclose()
    for call in (stream.receive_some, stream.wait_send_all_might_not_block):
        with pytest.raises(trio.ClosedResourceError):
            await call()
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")


async def test_it_takes_a_socket_over_from_trios_stream() -> None:
    async def echo(peer: trio.SocketStream) -> None:
        async with peer:
            await peer.send_all(await peer.receive_some())

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with ConversationStream.over(await trio.open_tcp_stream("127.0.0.1", port)) as stream:
            assert stream.own_address() == "127.0.0.1"
            await stream.wait_send_all_might_not_block()
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
        nursery.cancel_scope.cancel()
