"""What only real sockets do: full windows, connections lost unseen, resets, names that lead nowhere."""

import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from galaxy_mail.domain.records import AttemptStatus, Result, SendResult
from galaxy_mail.providers.smtp.outcomes import Exchange
from galaxy_mail.providers.smtp.provider import SmtpProvider
from galaxy_mail.providers.smtp.settings import SmtpSettings, TlsMode
from tests.relays.hostile.hangs_up import HangsUp
from tests.relays.hostile.interrupts import Interrupts, Then
from tests.relays.hostile.leaves_idle import LeavesIdle
from tests.relays.hostile.moody import Moody
from tests.relays.hostile.server import Server, Talk
from tests.unit.providers.smtp.wire import Authority, may_finish, message

AUTHORITY = Authority()
MORE_THAN_ANY_WINDOW = "x" * 70 + "\n"
MORE_THAN_ANY_WINDOW *= 16 * 1_048_576 // len(MORE_THAN_ANY_WINDOW)


@asynccontextmanager
async def listening(server: Server) -> AsyncIterator[int]:
    """The server on a loopback port."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, server.handle, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def provider(port: int, **changes: object) -> SmtpProvider:
    given = {"host": "127.0.0.1", "port": port, "from_email": "a@example.com", "tls": TlsMode.NONE, **changes}
    return SmtpProvider(SmtpSettings(**given), tls=AUTHORITY.client)  # type: ignore[arg-type] # the test's own values


def code_of(result: SendResult) -> str | None:
    return result.failure.code if result.failure else None


@pytest.mark.parametrize("mode", [TlsMode.NONE, TlsMode.STARTTLS, TlsMode.IMPLICIT])
async def test_mail_goes_out(mode: TlsMode) -> None:
    server = Server(tls=AUTHORITY.server, implicit_tls=mode is TlsMode.IMPLICIT)
    async with listening(server) as port, provider(port, tls=mode) as sender:
        for _ in range(3):
            assert (await sender.send(message(), may_finish=may_finish)).result is Result.ACCEPTED
    assert len(server.messages) == 3
    assert len(server.talks) == 1
    assert server.talks[0].lines[-1] == b"QUIT"


@pytest.mark.parametrize("mode", [TlsMode.NONE, TlsMode.STARTTLS])
@pytest.mark.parametrize("says", [b"", b"421 4.4.2 idle too long"])
async def test_a_connection_that_the_relay_left_while_idle_is_noticed_before_it_is_used(
    says: bytes, mode: TlsMode
) -> None:
    server = LeavesIdle(says=says, at_once=True, tls=AUTHORITY.server)
    async with listening(server) as port, provider(port, tls=mode) as sender:
        await sender.send(message(), may_finish=may_finish)
        session = sender._session
        assert session is not None
        assert session.conversation.socket is not None
        with trio.fail_after(10):
            await session.conversation.socket.wait_readable()
        assert not session.is_reusable()
        assert (await sender.send(message(), may_finish=may_finish)).result is Result.ACCEPTED
    assert len(server.messages) == len(server.talks) == 2
    assert server.talks[0].lines[-1] == b"DATA"  # nothing more was said to the one that had left


async def test_a_reset_in_the_middle_of_the_envelope_is_a_disconnect() -> None:
    class Resets(HangsUp):
        async def misbehave(self, talk: Talk, said: bytes) -> None:
            assert isinstance(talk.stream, trio.SocketStream)
            talk.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await super().misbehave(talk, said)

    for at, unknown in ((Exchange.MAIL, False), (Exchange.FINAL, True)):
        async with listening(Resets(at)) as port, provider(port) as sender:
            result = await sender.send(message(), may_finish=may_finish)
        assert (code_of(result), result.outcome_unknown) == ("disconnected", unknown)


@pytest.mark.parametrize("then", list(Then))
@pytest.mark.parametrize("mode", [TlsMode.NONE, TlsMode.STARTTLS])
async def test_what_a_relay_says_in_the_middle_of_a_long_message_decides(then: Then, mode: TlsMode) -> None:
    server = Interrupts(b"552 5.3.4 too big for us", then, offers=["PIPELINING"], tls=AUTHORITY.server)
    async with listening(server) as port, provider(port, tls=mode, timeout_s=10) as sender:
        result = await sender.send(message(text=MORE_THAN_ANY_WINDOW), may_finish=may_finish)
        if then is Then.HANGS_UP and code_of(result) == "disconnected":
            # Data of ours that the relay left unread makes its system send a reset, which may overtake its words.
            assert not result.outcome_unknown
        else:
            assert (code_of(result), result.provider_code) == ("message_refused", "552 5.3.4")
        assert (await sender.send(message(), may_finish=may_finish)).result is Result.ACCEPTED
    assert len(server.messages) == 1


@pytest.mark.parametrize("ends", ["cancelled", "timed out"])
@pytest.mark.parametrize("mode", [TlsMode.NONE, TlsMode.STARTTLS])
async def test_a_message_that_was_stuck_in_a_full_window_never_arrives(ends: str, mode: TlsMode) -> None:
    """The relay stops reading, and only once the attempt is over it reads all that the kernels still hold."""
    stuck, over, read_out = trio.Event(), trio.Event(), trio.Event()

    class StopsReading(Server):
        async def handle(self, stream: trio.abc.Stream) -> None:
            await super().handle(stream)
            read_out.set()

        async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
            if exchange is Exchange.BODY:
                stuck.set()
                await over.wait()
            await self.behave(talk, exchange, said)

    server = StopsReading(offers=["PIPELINING"], tls=AUTHORITY.server)
    results: list[SendResult] = []
    async with listening(server) as port, provider(port, tls=mode, timeout_s=0.5) as sender:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def send() -> None:
                    results.append(
                        await sender.send(message(text=MORE_THAN_ANY_WINDOW), may_finish=may_finish)
                    )

                await stuck.wait()
                if ends == "cancelled":
                    scope.cancel()
        over.set()
        with trio.fail_after(20):
            await read_out.wait()
    assert server.messages == []
    if ends == "cancelled":
        assert scope.cancelled_caught
        assert results == []
    else:
        assert [code_of(result) for result in results] == ["body_timed_out"]
        assert not results[0].outcome_unknown


@pytest.mark.parametrize("tls", [False, True])
async def test_a_cancelled_write_has_left_its_end_behind(tls: bool) -> None:
    """What `session.py` builds on: trio's `send_all` either returns, or the kernel did not get the last byte."""
    for after_s in (0.0, 0.05):
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        client: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        server: trio.abc.Stream = await listener.accept()
        if tls:
            inner = trio.SSLStream(
                client, AUTHORITY.client, server_hostname="127.0.0.1", https_compatible=True
            )
            outer = trio.SSLStream(server, AUTHORITY.server, server_side=True, https_compatible=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(inner.do_handshake)
                nursery.start_soon(outer.do_handshake)
            client, server = inner, outer
        with trio.move_on_after(after_s) as scope:
            await client.send_all(b"x" * 32_000_000 + b"END")
        assert scope.cancelled_caught
        await trio.aclose_forcefully(client)
        received = bytearray()
        with suppress(trio.BrokenResourceError):  # TLS that was cut off
            while data := await server.receive_some():
                received += data
        assert not received.endswith(b"END")
        assert len(received) < 32_000_000
        await trio.aclose_forcefully(server)
        await listener.aclose()


async def test_a_port_where_nobody_listens_is_reported_in_the_systems_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    async with provider(port) as sender:
        result = await sender.send(message(), may_finish=may_finish)
    assert (result.status, code_of(result)) == (AttemptStatus.TRANSPORT_FAILED, "connect_failed")
    assert result.failure is not None
    assert result.failure.summary == "connect: Connection refused"


@pytest.mark.parametrize("host", ["no-such-relay.invalid", "a" * 70 + ".invalid", "..", "a b"])
async def test_a_name_without_an_address_is_not_resolved(host: str) -> None:
    async with provider(25, host=host) as sender:
        result = await sender.send(message(), may_finish=may_finish)
    assert (result.status, code_of(result)) == (AttemptStatus.TRANSPORT_FAILED, "name_not_resolved")


@pytest.mark.parametrize("greets", [b"421 4.3.2 not now", b"554 5.7.1 no mail from there", b"garbage", None])
async def test_the_second_address_of_a_name_is_tried_after_a_bad_greeting(greets: bytes | None) -> None:
    """And first by the connections after it."""
    bad, good = Moody(), Server()
    bad.mood = {Exchange.GREETING: greets}
    with trio.socket.socket() as reserved:
        await reserved.bind(("127.0.0.2", 0))
        port = reserved.getsockname()[1]
    trio.socket.set_custom_hostname_resolver(TwoAddresses(("127.0.0.1", "127.0.0.2")))
    async with trio.open_nursery() as nursery:
        for host, server in (("127.0.0.1", bad), ("127.0.0.2", good)):
            listeners = await trio.open_tcp_listeners(port, host=host)
            nursery.start_soon(trio.serve_listeners, server.handle, listeners)
        async with provider(port, host="relay.test", timeout_s=3, messages_max=1) as sender:
            for _ in range(2):
                assert (await sender.send(message(), may_finish=may_finish)).result is Result.ACCEPTED
        nursery.cancel_scope.cancel()
    assert (len(bad.talks), len(good.talks), len(good.messages)) == (1, 2, 2)


class TwoAddresses(trio.abc.HostnameResolver):
    """Every name has these."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self.addresses = addresses

    async def getaddrinfo(  # type: ignore[override]  # less than the system's
        self, host: bytes | None, port: int, *_: int
    ) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        raise AssertionError("nobody asks for the name of an address")


async def test_ehlo_names_this_end_by_name_or_literal() -> None:
    server = Server()
    async with listening(server) as port, provider(port) as sender:
        await sender.send(message(), may_finish=may_finish)
    name = server.talks[0].lines[0].split(b" ")[1].decode()
    assert name == "[127.0.0.1]" or "." in name


def test_the_tests_certificates_are_checked_as_in_production() -> None:
    assert AUTHORITY.client.verify_mode is ssl.CERT_REQUIRED
    assert AUTHORITY.client.check_hostname
