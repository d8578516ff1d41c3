"""Nothing secret leaves: marked secrets go through every path, then all that the service ever wrote is searched."""

import json
from pathlib import Path
from typing import Any

import httpx
import trio

from tests.collector import collector_running
from tests.servers import run_commands, valkey_server
from tests.service_process import API, ServiceProcess, eventually, fleet_of

CODE = "mark-code-73913"
PASSWORD = "mark-password-55021"
TOKEN = "mark-token-90210"
VARIABLE = "mark-variable-11877"
SMTP_PASSWORD = "mark-smtp-38411"
INTAKE = "mark-intake-20467-aaaaaaaaaaaaaaaa"
OPERATOR = "mark-operator-66120-bbbbbbbbbbbbbbbb"
BODY = "mark-body-44210"
MARK = "mark-"

SECRETS = {"code": VARIABLE, "password": PASSWORD, "nested": {"token": TOKEN, "SECRET": VARIABLE}}
LISTS = ("deliveries", "dead-letters", "malformed-commands", "suppressions", "templates")


def command(number: int, **changes: str) -> tuple[str, ...]:
    payload = {
        "envelope": {"to": ["grace@example.org"]},
        "template_id": "auth.login_code",
        "locale": "en",
        "variables": SECRETS,
    }
    fields = {
        "delivery_id": f"redact.{number}",
        "source": "notification",
        "payload_mode": "template",
        "idempotency_key": f"redact-{number}",
        "requested_at_ms": "1732500000000",
        "payload_json": json.dumps(payload),
        **changes,
    }
    return ("XADD", "mail:delivery_commands", "*", *(part for pair in fields.items() for part in pair))


class Listener:
    """Keeps what callers and operators were answered."""

    def __init__(self, service: ServiceProcess) -> None:
        self.service = service
        self.heard: list[str] = []

    async def ask(self, method: str, path: str, token: str, **more: Any) -> int:
        headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
        async with httpx.AsyncClient(base_url=self.service.url, trust_env=False) as client:
            answer = await client.request(method, path, headers=headers, **more)
        self.heard.append(f"{method} {path} {answer.status_code} {dict(answer.headers)} {answer.text}")
        return answer.status_code


async def test_no_secret_is_in_anything_that_the_service_wrote(tmp_path: Path) -> None:
    script = tmp_path / "stub.json"
    script.write_text(json.dumps({"rules": [{"recipient": "dead@*", "outcomes": ["transient_failure"]}]}))
    written: list[str] = []
    with collector_running() as collector:
        async with (
            valkey_server("--appendonly", "yes") as valkey,
            fleet_of(
                {
                    "MAIL_REDIS_ADDR": valkey.url,
                    "MAIL_STUB_SCRIPT": str(script),
                    "MAIL_RETRY_DELAYS": "none",
                    "MAIL_LOG_LEVEL": "debug",
                    "MAIL_SMTP_USERNAME": "galaxy",
                    "MAIL_SMTP_PASSWORD": SMTP_PASSWORD,
                    "MAIL_INTAKE_TOKENS": INTAKE,
                    "MAIL_OPERATOR_TOKENS": OPERATOR,
                    "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                    "OTEL_BSP_SCHEDULE_DELAY": "20",
                }
            ) as fleet,
        ):
            service = await fleet.ready()
            listener = Listener(service)
            await _through_auth(listener)
            await _through_the_stream(valkey.socket, service)
            await _through_operators(listener)
            written.append(await trio.Path(f"/proc/{service.pid}/cmdline").read_text())
            checked = await fleet.run("check-config")
            refused = await fleet.run("check-config", smtp_username=None)
            assert refused.status == 2
            await service.stop()
            written += [*map(json.dumps, service.lines), service.output, *listener.heard]
            written += [checked.output, refused.output, *map(json.dumps, checked.lines + refused.lines)]
        assert len(collector.spans("accept")) >= 3
        written.append(str(collector.requests))
    assert [text for text in written if MARK in text] == []


async def _through_auth(listener: Listener) -> None:
    """Accepted, dead, repeated, in conflict, and refused in each way that a body can be."""
    path = f"{API}/login-code-deliveries"

    async def post(key: str, body: Any, **more: Any) -> int:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        return await listener.ask("POST", path, INTAKE, headers=headers, content=content, **more)

    good = {"email": "ann@example.org", "code": CODE, "locale": "en"}
    assert await post("a", good) == 200
    assert await post("a", good) == 200
    assert await post("a", good | {"code": CODE + "x"}) == 422
    assert await post("dead", good | {"email": "dead@example.org"}) == 200
    assert await post("b", good | {"email": CODE}) == 400
    assert await post("b", good | {"code": [CODE]}) == 400
    assert await post("b", f'{{"code": "{CODE}"'.encode()) == 400
    assert await post("b", good | {"code": CODE * 2000}) == 413
    assert await listener.ask("POST", path, OPERATOR, json=good) == 403
    assert await listener.ask("POST", path, INTAKE + "x", json=good) == 401


async def _through_the_stream(socket: str, service: ServiceProcess) -> None:
    """Accepted with secrets in variables and body, and malformed in ways that keep the payload."""
    rendered = {
        "envelope": {"to": ["dead@example.org"]},
        "subject": "s",
        "text_body": BODY,
        "html_body": BODY,
    }
    run_commands(
        socket,
        [
            command(1),
            command(2, payload_mode="rendered", payload_json=json.dumps(rendered)),
            command(3, nonsense="1"),
            command(4, payload_json=json.dumps({"variables": SECRETS})),
            command(5, payload_json=f'{{"password": "{PASSWORD}'),
            command(6, source=""),
            command(1, idempotency_key="another"),
        ],
    )

    async def all_read() -> bool:
        return await service.metric("galaxy_mail_malformed_commands_total") == 5

    await eventually(all_read, "the malformed commands are recorded")
    await service.wait_line("attempt_finished", delivery_id="redact.1")
    await service.wait_line("attempt_finished", delivery_id="redact.2")


async def _through_operators(listener: Listener) -> None:
    """Every list, and every single thing that a list names."""
    for name in LISTS:
        assert await listener.ask("GET", f"{API}/{name}", OPERATOR) == 200
    items = json.loads(listener.heard[-len(LISTS)].partition("} ")[2])["items"]
    assert len(items) == 4
    for item in items:
        one = f"{API}/deliveries/{item['delivery_id']}"
        assert await listener.ask("GET", one, OPERATOR) == 200
        assert await listener.ask("GET", f"{one}/attempts", OPERATOR) == 200
        headers = {"Idempotency-Key": f"again-{item['delivery_id']}"}
        assert await listener.ask("POST", f"{one}/resend", OPERATOR, headers=headers) == 201
    malformed = json.loads(listener.heard[-(3 * len(items) + 3)].partition("} ")[2])["items"]
    assert len(malformed) == 5
    for item in malformed:
        assert await listener.ask("GET", f"{API}/malformed-commands/{item['entry_id']}", OPERATOR) == 200
    for path in (
        "/metrics",
        "/livez?verbose",
        "/readyz?verbose",
        "/api/v1/openapi.json",
        f"{API}/{CODE[5:]}",
    ):
        await listener.ask("GET", path, OPERATOR)
    bad = {"locale": "en", "variables": {"other": CODE}}
    assert await listener.ask("POST", f"{API}/templates/auth.login_code/preview", OPERATOR, json=bad) == 422
