"""aiosmtpd as a relay, in a process of its own: 8BITMIME, SMTPUTF8, SIZE, STARTTLS with AUTH; no PIPELINING.

`python -m tests.relays.aiosmtpd_relay PORT DEMANDING_PORT NEXT_HOP CHAIN KEY` serves until it is ended.
"""

import asyncio
import smtplib
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.relays.real import PASSWORD, USERNAME, Certificates, Ports, Relay, free_port, running_outside

ANSWERS = {
    "refused@example.org": "550 5.1.1 No such reader",
    "later@example.org": "450 4.2.1 Not now",
}


@contextmanager
def aiosmtpd_running(certificates: Certificates, next_hop: int, folder: Path) -> Iterator[Relay]:
    """The relay, ready for connections; gone afterwards."""
    (folder / "chain.pem").write_bytes(certificates.chain)
    (folder / "key.pem").write_bytes(certificates.key)
    ports = Ports(free_port(), None, next_hop, free_port())
    files = [str(folder / "chain.pem"), str(folder / "key.pem")]
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); import runpy; "
    program += "runpy.run_module('tests.relays.aiosmtpd_relay', run_name='__main__')"
    command = [sys.executable, "-c", program, *map(str, (ports.plain, ports.demanding, next_hop)), *files]
    with running_outside("aiosmtpd", command, ports, folder) as relay:
        yield relay


class PassesOn:
    """aiosmtpd's handler: everything goes to the next hop as it came, but for a trace field."""

    def __init__(self, next_hop: int) -> None:
        self.next_hop = next_hop

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in ANSWERS:
            return ANSWERS[address]
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - likewise
        await asyncio.to_thread(self._pass_on, envelope)
        return "250 2.0.0 passed on"

    def _pass_on(self, envelope: Envelope) -> None:
        content = envelope.original_content
        assert content is not None
        with smtplib.SMTP("127.0.0.1", self.next_hop) as onward:
            onward.sendmail(
                envelope.mail_from or "",
                envelope.rcpt_tos,
                b"Received: from somewhere by aiosmtpd\r\n" + content,
                [option for option in envelope.mail_options if not option.startswith("SIZE")],
            )


def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    right = isinstance(data, LoginPassword) and data == LoginPassword(USERNAME.encode(), PASSWORD.encode())
    return AuthResult(success=right, handled=False)


async def serve(port: int, demanding: int, next_hop: int, chain: str, key: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)

    def smtp(*, auth_required: bool) -> SMTP:
        return SMTP(
            PassesOn(next_hop),
            hostname="aiosmtpd.test",
            enable_SMTPUTF8=True,
            tls_context=context,
            authenticator=authenticate,
            auth_require_tls=True,
            auth_required=auth_required,
        )

    loop = asyncio.get_running_loop()
    await loop.create_server(partial(smtp, auth_required=True), "127.0.0.1", demanding)
    server = await loop.create_server(partial(smtp, auth_required=False), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    port, demanding, next_hop = map(int, sys.argv[1:4])
    asyncio.run(serve(port, demanding, next_hop, *sys.argv[4:6]))
