"""`galaxy-mail dev`: runs the service locally and sends two sample mails through it."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import httpx
import msgspec
import trio

from galaxy_mail.cli.serve import run
from galaxy_mail.config import Config
from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.http.routes import API
from galaxy_mail.providers.readable import readable
from galaxy_mail.service.service import Service
from galaxy_mail.telemetry import logs

READY_WITHIN_S: Final = 30.0
SENT_WITHIN_S: Final = 30.0
CHECK_EVERY_S: Final = 0.02


class NotSent(GalaxyMailError):
    """A sample mail did not reach `sent`."""


@click.command()
@click.option(
    "--once", is_flag=True, help="Stop after both samples. The exit status is 1 if one was not sent."
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".dev"),
    show_default=True,
    help="The folder of Valkey's data, the outbox and the log.",
)
def dev(*, once: bool, folder: Path) -> None:
    """Try the service locally: a private Valkey, a stub provider, and two sample mails.

    The environment's MAIL_* variables override the defaults, as for `serve`.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    defaults = {
        "MAIL_REDIS_ADDR": f"embedded:{folder / 'valkey'}",
        "MAIL_SMTP_MODE": "stub",
        "MAIL_STUB_OUTBOX": str(folder / "outbox"),
        "MAIL_INTERNAL_HTTP_ADDR": "127.0.0.1:0" if once else "127.0.0.1:8080",
        "MAIL_LOG_FORMAT": "console",
    }
    config = Config.from_env({**defaults, **os.environ})
    log_file = folder / "galaxy-mail.log"
    with log_file.open("ab") as stream:
        undo = logs.configure(config.log_level, config.log_format, stream)
        tour = _Tour(config, log_file=log_file, once=once)
        click.echo(f"Galaxy Mail starts; its log is {log_file}")
        try:
            run(config, tour.show)
        finally:
            undo()  # an unexpected exception is printed on the terminal: the log file is closed by then


class _Tour:
    """Sends two samples through the running service and prints their progress."""

    def __init__(self, config: Config, *, log_file: Path, once: bool) -> None:
        self._config = config
        self._log_file = log_file
        self._once = once

    async def show(self, service: Service) -> None:
        url = await self._ready(service)
        token = self._config.operator_tokens[:1]
        headers = {"Authorization": f"Bearer {token[0]}"} if token else {}
        try:
            async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
                await self._login_code(client)
                await self._command(service, client)
        except httpx.HTTPError as error:
            reason = f"{type(error).__name__}: {error}".rstrip(": ")
            raise NotSent(f"a request to {url} failed ({reason}); see {self._log_file}") from error
        if self._once:
            click.echo("\nBoth samples were sent.")
            service.stop()
            return
        click.echo(
            f"\nThe API listens on {url}; Ctrl-C stops the service. Examples:\n"
            f"  curl -s {url}{API}/deliveries\n"
            f"  curl -s {url}{API}/login-code-deliveries -H 'Idempotency-Key: {secrets.token_hex(4)}' \\\n"
            "       -H 'Content-Type: application/json' \\\n"
            '       -d \'{"email":"you@example.org","code":"424242","locale":"en"}\''
        )

    async def _ready(self, service: Service) -> str:
        with trio.move_on_after(READY_WITHIN_S):
            while service.parts.server is None or any(service.parts.gauges.checks().values()):  # noqa: ASYNC110  # the service has no event for it
                await trio.sleep(CHECK_EVERY_S)
            return service.parts.server.url
        service.cancel()
        wrong = ", ".join(
            f"{name}: {reason}" for name, reason in service.parts.gauges.checks().items() if reason
        )
        raise NotSent(
            f"the service was not ready within {READY_WITHIN_S:g} s ({wrong}); see {self._log_file}"
        )

    async def _login_code(self, client: httpx.AsyncClient) -> None:
        click.echo("\nA login code, as Auth requests it:")
        body = {"email": "ada@example.org", "code": "314159", "locale": "de-AT"}
        token = self._config.intake_tokens[:1]
        answer = await client.post(
            f"{API}/login-code-deliveries",
            json=body,
            headers={
                "Idempotency-Key": f"dev-{secrets.token_hex(8)}",
                **({"Authorization": f"Bearer {token[0]}"} if token else {}),
            },
        )
        click.echo(f"  POST {API}/login-code-deliveries\n  {answer.status_code} {answer.text}")
        answer.raise_for_status()
        await self._follow(client, answer.headers["Delivery-Id"])

    async def _command(self, service: Service, client: httpx.AsyncClient) -> None:
        click.echo("\nA command, as Notification publishes it:")
        delivery_id = f"dev.{secrets.token_hex(8)}"
        payload = {
            "envelope": {"to": ["grace@example.org"], "reply_to": ["crew@example.org"]},
            "subject": "Your fleet has arrived",
            "text_body": "All twelve ships are in orbit around Kepler-442b.\n",
            "html_body": "<p>All <b>twelve</b> ships are in orbit around Kepler-442b.</p>\n",
        }
        fields = {
            "delivery_id": delivery_id,
            "source": "notification",
            "payload_mode": "rendered",
            "idempotency_key": delivery_id,
            "requested_at_ms": str(service.parts.clock.now_ms()),
            "payload_json": msgspec.json.encode(payload).decode(),
        }
        stream = self._config.redis_command_stream
        [entry_id] = await service.parts.gateway.pipeline(
            [("XADD", stream, "*", *(part for pair in fields.items() for part in pair))]
        )
        shown = entry_id.decode() if isinstance(entry_id, bytes) else str(entry_id)
        click.echo(f"  XADD {stream} * delivery_id {delivery_id} ...\n  {shown}")
        await self._follow(client, delivery_id)

    async def _follow(self, client: httpx.AsyncClient, delivery_id: str) -> None:
        """Prints each new status, then the recorded times, then the mail."""
        status = ""
        delivery: Mapping[str, Any] = {}
        with trio.move_on_after(SENT_WITHIN_S):
            while status not in TERMINAL:
                answer = await client.get(f"{API}/deliveries/{delivery_id}")
                if answer.status_code == httpx.codes.OK:
                    delivery = answer.json()
                    if delivery["status"] != status:
                        status = delivery["status"]
                        click.echo(f"  {delivery_id} is {status}")
                await trio.sleep(CHECK_EVERY_S)
        if status != "sent":
            raise NotSent(f"the sample {delivery_id} is {status or 'not accepted'}; see {self._log_file}")
        attempts = (await client.get(f"{API}/deliveries/{delivery_id}/attempts")).json()["items"]
        start_ms = delivery["created_at_ms"]
        click.echo(
            f"    accepted, queued   +0 ms\n"
            f"    rendered, sending  +{attempts[-1]['started_at_ms'] - start_ms} ms"
            f"  (attempt {attempts[-1]['attempt_no']})\n"
            f"    sent               +{delivery['finished_at_ms'] - start_ms} ms"
            f"  ({attempts[-1]['provider']}: {attempts[-1]['provider_code']})"
        )
        self._show_mail(delivery_id, attempts[-1]["attempt_no"])

    def _show_mail(self, delivery_id: str, attempt_no: int) -> None:
        if self._config.stub_outbox is None or self._config.smtp_mode != "stub":
            return
        path = self._config.stub_outbox / f"{delivery_id}.{attempt_no}.eml"
        click.echo(f"  {path}:")
        for line in readable(path.read_bytes()).splitlines():
            click.echo(f"  | {line}".rstrip())
