"""A provider of either kind, with the far side under the test's control."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

import trio
from trio.testing import wait_all_tasks_blocked

from galaxy_mail.providers.provider import Provider
from galaxy_mail.providers.smtp.provider import SmtpProvider
from galaxy_mail.providers.smtp.settings import SmtpSettings, TlsMode
from galaxy_mail.providers.stub import StubOutcome, StubProvider, StubRule, StubScript
from tests.unit.providers.messages import SENDER


class Rig(Protocol):
    """Outcomes as the stub knows them; the nth message gets the nth, the last one repeats."""

    def make(self, *outcomes: StubOutcome) -> Provider: ...

    def make_slow(self) -> Provider:
        """One whose far side stays silent until the end of the test, before it could have a message."""
        ...

    async def wait_until_silent(self) -> None:
        """Until a message waits for that silence to end."""
        ...

    def mails(self) -> list[bytes]:
        """What the far side took."""
        ...


class StubRig:
    def __init__(self, outbox: Path) -> None:
        self._outbox = outbox

    def make(self, *outcomes: StubOutcome) -> StubProvider:
        return self._stub(StubRule(outcomes=outcomes))

    def make_slow(self) -> StubProvider:
        return self._stub(StubRule(outcomes=(StubOutcome.ACCEPTED,), latency_ms=3_600_000))

    def _stub(self, rule: StubRule) -> StubProvider:
        return StubProvider(outbox=self._outbox, script=StubScript(default=rule), sender=SENDER)

    async def wait_until_silent(self) -> None:
        await wait_all_tasks_blocked()

    def mails(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self._outbox.iterdir())]


class SmtpRig:
    """A relay on a loopback port that offers every extension and answers by script."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._outcomes: tuple[StubOutcome, ...] = ()
        self._slow = False
        self._messages = 0
        self._silent = trio.Event()
        self._mails: list[bytes] = []

    def make(self, *outcomes: StubOutcome) -> SmtpProvider:
        self._outcomes = outcomes
        if StubOutcome.TIMEOUT not in outcomes:
            return self._smtp(timeout_s=30)
        # Waited for in earnest. Where a message has to arrive in that time, too, a slow machine must manage it.
        return self._smtp(timeout_s=0.1 if len(outcomes) == 1 else 2)

    def make_slow(self) -> SmtpProvider:
        self._slow = True
        return self._smtp(timeout_s=30)

    def _smtp(self, *, timeout_s: float) -> SmtpProvider:
        return SmtpProvider(
            SmtpSettings(
                host="127.0.0.1",
                port=self._port,
                from_email=SENDER.email,
                from_name=SENDER.name or "",
                tls=TlsMode.NONE,
                timeout_s=timeout_s,
            )
        )

    async def wait_until_silent(self) -> None:
        await self._silent.wait()

    def mails(self) -> list[bytes]:
        return self._mails

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):  # a client may leave as it likes
                await stream.send_all(b"220 relay.example ESMTP\r\n")
                await self._converse(stream)

    async def _converse(self, stream: trio.SocketStream) -> None:
        lines = Lines(stream)
        outcome = StubOutcome.ACCEPTED
        while (line := await lines.until(b"\r\n")) is not None:
            match line[:4].upper():
                case b"EHLO":
                    answer = b"250-relay.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"
                case b"MAIL":
                    outcome = self._outcome()
                    answer = b"250 2.1.0 ok\r\n"
                case b"RCPT":
                    if self._slow or outcome is StubOutcome.TIMEOUT:
                        self._silent.set()
                        await trio.sleep_forever()
                    if outcome is StubOutcome.DISCONNECT:
                        return
                    answer = RCPT_ANSWERS[outcome]
                case b"DATA" if outcome is not StubOutcome.ACCEPTED:
                    answer = b"503 5.5.1 nobody to send it to\r\n"
                case b"DATA":
                    await stream.send_all(b"354 go ahead\r\n")
                    mail = await lines.until(b"\r\n.\r\n")
                    if mail is None:
                        return
                    self._mails.append((mail + b"\r\n").replace(b"\r\n.", b"\r\n"))
                    answer = b"250 2.0.0 taken\r\n"
                case b"QUIT":
                    await stream.send_all(b"221 2.0.0 bye\r\n")
                    return
                case _:
                    answer = b"250 2.0.0 ok\r\n"
            await stream.send_all(answer)

    def _outcome(self) -> StubOutcome:
        self._messages += 1
        return (
            StubRule(outcomes=self._outcomes).outcome(self._messages)
            if self._outcomes
            else StubOutcome.ACCEPTED
        )


RCPT_ANSWERS: Final = {
    StubOutcome.ACCEPTED: b"250 2.1.5 ok\r\n",
    StubOutcome.TRANSIENT_FAILURE: b"451 4.3.0 later\r\n",
    StubOutcome.PERMANENT_FAILURE: b"550 5.1.1 no such user\r\n",
}


class Lines:
    """What a client sends, up to this or that."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffered = b""

    async def until(self, end: bytes) -> bytes | None:
        """What comes before `end`; None: the client left."""
        while end not in self._buffered:
            data = await self._stream.receive_some()
            if not data:
                return None
            self._buffered += data
        line, _, self._buffered = self._buffered.partition(end)
        return line


@asynccontextmanager
async def smtp_rig() -> AsyncIterator[SmtpRig]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    rig = SmtpRig(listener.socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, rig.serve, [listener])
        yield rig
        nursery.cancel_scope.cancel()
