"""What PIPELINING is worth: one slot and a relay that is 30 ms away."""

import time
from functools import partial
from typing import Final

import trio

from galaxy_mail.domain.records import Envelope, RenderedContent, Result
from galaxy_mail.providers.provider import Message
from galaxy_mail.providers.smtp.provider import SmtpProvider
from galaxy_mail.providers.smtp.settings import SmtpSettings, TlsMode
from tests.relays.hostile.server import OFFERS, Server

ROUND_TRIP_MS: Final = 30.0
MESSAGES: Final = 30
_LOGIN: Final = Message(
    delivery_id="bench.1",
    attempt_no=1,
    envelope=Envelope(to=("pilot@galaxy.example",)),
    content=RenderedContent(subject="Your login code", text_body="Your login code is 123456.\n" * 20),
    attachments=(),
    message_id="bench.1@galaxy.example",
    date_ms=1_751_364_000_000,
)


def measure() -> dict[str, float]:
    """Messages a second of one slot whose relay offers PIPELINING, and of one whose relay does not."""
    pipelined = trio.run(_rate, OFFERS)
    in_turns = trio.run(_rate, tuple(offer for offer in OFFERS if offer != "PIPELINING"))
    return {
        "smtp.away.pipelined_rate": pipelined,
        "smtp.away.in_turns_rate": in_turns,
        "smtp.away.times_faster": pipelined / in_turns,
    }


class _FarAway(trio.abc.Stream):
    """The relay's end of a connection: what is written to it takes one round-trip time to come in."""

    def __init__(self, near: trio.SocketStream) -> None:
        self._near = near

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._near.receive_some(max_bytes)
        await trio.sleep(ROUND_TRIP_MS / 1_000)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._near.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._near.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._near.aclose()


async def _rate(offers: tuple[str, ...]) -> float:
    server = Server(offers=offers)

    async def serve(near: trio.SocketStream) -> None:
        await server.handle(_FarAway(near))

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        settings = SmtpSettings(host="127.0.0.1", port=port, from_email="a@galaxy.example", tls=TlsMode.NONE)
        async with SmtpProvider(settings) as provider:
            await _send(provider)  # connects
            begun_s = time.perf_counter()
            for _ in range(MESSAGES):
                await _send(provider)
            took_s = time.perf_counter() - begun_s
        nursery.cancel_scope.cancel()
    assert len(server.messages) == MESSAGES + 1
    return MESSAGES / took_s


async def _send(provider: SmtpProvider) -> None:
    result = await provider.send(_LOGIN, may_finish=lambda: True)
    if result.result is not Result.ACCEPTED:
        raise RuntimeError(f"the relay did not take it: {result.failure}")


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:45} {value:12.2f}")
