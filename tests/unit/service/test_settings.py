"""Every setting is set off its default here, and looked for in each part of the built service that has to follow it.

A new setting needs a row: `test_every_setting_has_a_row` fails until there is one.
"""

import shutil
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from unittest.mock import AsyncMock, MagicMock, patch

import pytest
import trio
import trustme
from click.testing import CliRunner

from galaxy_mail.actors.ingress import Ingress
from galaxy_mail.actors.janitor import Janitor
from galaxy_mail.actors.scheduler import Scheduler
from galaxy_mail.actors.sender import Sender
from galaxy_mail.actors.supervisor import Child, Heartbeat
from galaxy_mail.cli import main
from galaxy_mail.cli.api import ApiClient
from galaxy_mail.config import ClientConfig, Config
from galaxy_mail.domain.commands import CommandLimits
from galaxy_mail.http.app import App
from galaxy_mail.http.server import HttpServer
from galaxy_mail.http.tokens import Forbidden, Role, Unauthorized
from galaxy_mail.providers.smtp.provider import SmtpProvider
from galaxy_mail.providers.smtp.settings import SmtpSettings, TlsMode
from galaxy_mail.providers.stub import StubOutcome, StubProvider
from galaxy_mail.rendering.bundled import bundled_templates
from galaxy_mail.service.parts import Parts
from galaxy_mail.settings import Settings
from galaxy_mail.storage.links.durability import Durability
from galaxy_mail.storage.links.gateway import Gateway
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import Retention
from galaxy_mail.telemetry import logs
from tests.servers import free_port

STUB: Final = {"MAIL_REDIS_ADDR": "unix:///nowhere", "MAIL_INTERNAL_HTTP_ADDR": "127.0.0.1:0"}
SMTP: Final = STUB | {
    "MAIL_SMTP_MODE": "smtp",
    "MAIL_SMTP_ADDR": "relay.example:25",
    "MAIL_SMTP_FROM_EMAIL": "mail@galaxy.example",
}
TOKEN: Final = "a-token-of-its-own"
HOUR_MS: Final = 60 * 60 * 1000
T = TypeVar("T")


class Built:
    """The service with these settings, and an actor of each kind. Nothing runs."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        config = Config.from_env(env)
        with patch.object(ssl.SSLContext, "load_cert_chain") as load:
            self.parts = parts = Parts(config, on_unfit=lambda _: None)
        self.certificates = [call.args for call in load.call_args_list]
        self.slots = [_actor(slot, Sender) for slot in parts.slots]
        self.janitor = _actor(parts.janitor, Janitor)
        self.scheduler = _actor(parts.scheduler, Scheduler)
        self.ingress = _actor(parts.ingress, Ingress)
        self.server = _actor(parts.http, HttpServer)

    @property
    def gateway(self) -> Gateway:
        assert isinstance(self.parts.gateway, Gateway)
        return self.parts.gateway

    @property
    def app(self) -> App:
        assert isinstance(self.server._app, App)
        return self.server._app

    @property
    def relay(self) -> SmtpSettings:
        return self.smtp._settings

    @property
    def smtp(self) -> SmtpProvider:
        assert isinstance(self.slots[-1].provider, SmtpProvider)
        return self.slots[-1].provider

    @property
    def stub(self) -> StubProvider:
        assert isinstance(self.slots[-1].provider, StubProvider)
        return self.slots[-1].provider

    def key_names(self) -> list[Keys]:
        """As each part has them that reads or writes under names that can be chosen."""
        parts = self.parts
        stores = (parts.store, parts.stream, parts.store_identity, parts.reader, self.janitor.upkeep)
        return [self.verified()[0], *(store._keys for store in stores)]

    def retentions(self) -> list[Retention]:
        jobs = self.parts.resend_job_runner._jobs
        stores = (self.parts.store, self.parts.reader, jobs, self.janitor.upkeep)
        return [self.verified()[1], *(store._retention for store in stores)]

    def opened_by(self, token: str) -> set[Role]:
        """The roles that the API gives to this token, where it asks for one."""
        tokens, opened = self.app._tokens, set()
        for role in (Role.INTAKE, Role.OPERATOR) if tokens.asked_for else ():
            try:
                tokens.admit(role, [f"Bearer {token}"])
            except (Unauthorized, Forbidden):
                continue
            opened.add(role)
        return opened

    def limits(self) -> list[CommandLimits]:
        """Of the intake, and of `publish`, which checks a file as the intake would."""
        with (
            patch("galaxy_mail.cli.publish.read", return_value=[]),
            patch("galaxy_mail.cli.publish.check") as check,
            patch("galaxy_mail.cli.publish._publish", return_value=[]),
        ):
            assert CliRunner().invoke(main, ["publish", "-"], env=dict(self.env)).exit_code == 0
        return [self.parts.commands._limits, check.call_args.args[1]]

    def published_to(self) -> object:
        """The stream that `publish` adds to."""
        gateway = MagicMock(pipeline=AsyncMock(return_value=[b"1-0"]))
        with patch("galaxy_mail.cli.publish.connected_gateway") as connected:
            connected.return_value.__aenter__.return_value = gateway
            publish = ["publish", "--no-check", "-"]
            assert CliRunner().invoke(main, publish, env=dict(self.env), input="{}").exit_code == 0
        [[command]] = gateway.pipeline.call_args.args
        return command[1]

    def verified(self) -> tuple[Keys, Retention]:
        """What `verify-store` takes for the store's."""
        with (
            patch("galaxy_mail.cli.verify_store.connected_gateway", MagicMock()),
            patch("galaxy_mail.cli.verify_store.verify", AsyncMock(return_value=[])) as verify,
        ):
            assert CliRunner().invoke(main, ["verify-store"], env=dict(self.env)).exit_code == 0
        return verify.call_args.kwargs["keys"], verify.call_args.kwargs["retention"]

    def log(self) -> logs._Output:
        """As `serve` sets it up."""
        undo = logs.configure(stream=BytesIO())
        try:
            with patch("galaxy_mail.cli.serve.run"):
                assert CliRunner().invoke(main, ["serve"], env=dict(self.env)).exit_code == 0
            output = logs._Output()
            vars(output).update(vars(logs._OUT))
            return output
        finally:
            undo()


def _actor(child: Child | None, kind: type[T]) -> T:
    assert child is not None
    actor = child.build(Heartbeat())
    assert isinstance(actor, kind)
    return actor


class Row(NamedTuple):
    """A setting off its default, and a place that has to follow it; "{files}" and "{port}" are filled in."""

    variable: str
    value: str
    place: str
    read: Callable[[Built], object]
    expected: object
    base: Mapping[str, str] = STUB
    beside: Mapping[str, str] = {}  # what the setting can't be without


CERTIFICATE: Final = {
    "MAIL_TLS_CERT_FILE": "{files}/certificate.pem",
    "MAIL_TLS_KEY_FILE": "{files}/key.pem",
}
CREDENTIALS: Final = {"MAIL_SMTP_USERNAME": "galaxy", "MAIL_SMTP_PASSWORD": "hunter2"}
API_CERTIFICATE: Final = {
    "MAIL_API_CERT_FILE": "{files}/certificate.pem",
    "MAIL_API_KEY_FILE": "{files}/key.pem",
}

ROWS: Final = [
    # Redis
    Row(
        "MAIL_REDIS_ADDR",
        "valkey.example:7000",
        "gateway",
        lambda built: built.gateway._control._address.hosts,
        (("valkey.example", 7000),),
    ),
    Row(
        "MAIL_REDIS_ADDR",
        "embedded:{files}/valkey",
        "embedded valkey",
        lambda built: built.parts._valkey and str(built.parts._valkey._folder),
        "{files}/valkey",
    ),
    Row(
        "MAIL_REDIS_DURABILITY",
        "replica",
        "gateway",
        lambda built: built.gateway._accept._durability,
        Durability.REPLICA,
    ),
    Row(
        "MAIL_REDIS_DURABILITY",
        "fsync",
        "start-up checks",
        lambda built: built.parts._durability,
        Durability.FSYNC,
    ),
    Row("MAIL_REDIS_DURABILITY", "fsync", "store", lambda built: built.parts.store.durable, True),
    Row("MAIL_REDIS_DURABILITY", "replica", "intake", lambda built: built.parts.intake.durable, True),
    Row(
        "MAIL_REDIS_COMMAND_STREAM",
        "commands",
        "all keys",
        lambda built: {keys.command_stream for keys in built.key_names()},
        {"commands"},
    ),
    Row(
        "MAIL_REDIS_COMMAND_STREAM",
        "commands",
        "publish",
        lambda built: built.published_to(),
        "commands",
    ),
    Row(
        "MAIL_REDIS_ATTEMPT_SCHEDULE_KEY",
        "schedule",
        "all keys",
        lambda built: {keys.schedule for keys in built.key_names()},
        {"schedule"},
    ),
    Row(
        "MAIL_REDIS_DEAD_LETTER_PREFIX",
        "dead:",
        "all keys",
        lambda built: {keys.dead_letters for keys in built.key_names()},
        {"dead:"},
    ),
    # What is kept, and for how long
    Row(
        "MAIL_IDEMPOTENCY_TTL",
        "2h",
        "all retentions",
        lambda built: {retention.idempotency_ms for retention in built.retentions()},
        {2 * HOUR_MS},
    ),
    Row(
        "MAIL_IDEMPOTENCY_TTL",
        "2h",
        "intake",
        lambda built: built.parts.intake._idempotency_ttl_ms,
        2 * HOUR_MS,
    ),
    Row(
        "MAIL_DELIVERY_TTL",
        "2h",
        "all retentions",
        lambda built: {retention.delivery_ms for retention in built.retentions()},
        {2 * HOUR_MS},
    ),
    Row(
        "MAIL_ATTEMPT_TTL",
        "1000h",
        "all retentions",
        lambda built: {retention.attempt_ms for retention in built.retentions()},
        {1000 * HOUR_MS},
    ),
    Row(
        "MAIL_ATTEMPT_TTL",
        "1000h",
        "malformed commands",
        lambda built: built.parts.stream._malformed_kept_ms,
        1000 * HOUR_MS,
    ),
    Row(
        "MAIL_STREAM_RETENTION",
        "2h",
        "janitor",
        lambda built: built.janitor.stream_kept_ms,
        2 * HOUR_MS,
    ),
    # Intake
    Row(
        "MAIL_PAYLOAD_MAX_BYTES",
        "2048",
        "intake and publish",
        lambda built: {limits.payload_max_bytes for limits in built.limits()},
        {2048},
    ),
    Row(
        "MAIL_RECIPIENTS_MAX",
        "7",
        "intake and publish",
        lambda built: {limits.recipients_max for limits in built.limits()},
        {7},
    ),
    Row(
        "MAIL_RECIPIENT_ALLOWLIST",
        "@x.example",
        "intake",
        lambda built: built.parts.intake._allowlist,
        {"@x.example"},
    ),
    Row(
        "MAIL_RECIPIENT_ALLOWLIST",
        "@x.example",
        "every sender",
        lambda built: [slot.allowlist for slot in built.slots],
        [{"@x.example"}] * 4,
    ),
    Row(
        "MAIL_STREAM_BLOCK_TIMEOUT",
        "300ms",
        "ingress",
        lambda built: built.ingress.block_ms,
        300,
    ),
    # The API
    Row(
        "MAIL_INTERNAL_HTTP_ADDR",
        "127.0.0.1:{port}",
        "listener",
        lambda built: "{}:{}".format(*built.server.address),
        "127.0.0.1:{port}",
    ),
    Row(
        "MAIL_INTAKE_TOKENS",
        f"{TOKEN},another-token-of-its-own",
        "API",
        lambda built: built.opened_by(TOKEN),
        {Role.INTAKE},
    ),
    Row(
        "MAIL_OPERATOR_TOKENS",
        f"another-token-of-its-own,{TOKEN}",
        "API",
        lambda built: built.opened_by(TOKEN),
        {Role.OPERATOR},
    ),
    Row(
        "MAIL_TLS_CERT_FILE",
        "{files}/certificate.pem",
        "server",
        lambda built: [str(certificate) for certificate, _ in built.certificates],
        ["{files}/certificate.pem"],
        beside=CERTIFICATE,
    ),
    Row(
        "MAIL_TLS_KEY_FILE",
        "{files}/key.pem",
        "server",
        lambda built: [str(key) for _, key in built.certificates],
        ["{files}/key.pem"],
        beside=CERTIFICATE,
    ),
    Row(
        "MAIL_TLS_CERT_FILE",
        "{files}/certificate.pem",
        "server's address",
        lambda built: built.server.url.partition(":")[0],
        "https",
        beside=CERTIFICATE,
    ),
    Row(
        "MAIL_TLS_CLIENT_CA_FILE",
        "{files}/ca.pem",
        "server",
        lambda built: (
            built.server._tls is not None
            and built.server._tls.verify_mode is ssl.CERT_REQUIRED
            and _trusts_ours(built.server._tls)
        ),
        True,
        beside=CERTIFICATE,
    ),
    Row(
        "MAIL_OPERATOR_REQUEST_TIMEOUT",
        "2s",
        "API",
        lambda built: built.app._timeout_s,
        2.0,
    ),
    Row(
        "MAIL_OPERATOR_REQUEST_TIMEOUT",
        "2s",
        "gateway",
        lambda built: {built.gateway._control._timeout_s, built.gateway._data._timeout_s},
        {1.2},
    ),
    # Sending
    Row("MAIL_ATTEMPT_WORKER_CONCURRENCY", "7", "slots", lambda built: len(built.slots), 7),
    Row("MAIL_ATTEMPT_WORKER_CONCURRENCY", "7", "lanes", lambda built: built.parts.lanes.slots, 7),
    Row(
        "MAIL_ATTEMPT_WORKER_CONCURRENCY",
        "1",
        "slot of the priority lane",
        lambda built: [slot.priority_only for slot in built.slots],
        [False],
    ),
    Row("MAIL_CLAIM_TTL", "7s", "store", lambda built: built.parts.store.claim_ttl_ms, 7000),
    Row("MAIL_CLAIM_TTL", "7s", "scheduler", lambda built: built.scheduler._may_wait_s, 3.5),
    Row(
        "MAIL_RETRY_DELAYS",
        "1s,2s",
        "every sender",
        lambda built: [slot.policy.delays_ms for slot in built.slots],
        [(1000, 2000)] * 4,
    ),
    Row(
        "MAIL_RETRY_DELAYS",
        "1s,2s",
        "scheduler",
        lambda built: built.scheduler.policy.delays_ms,
        (1000, 2000),
    ),
    Row(
        "MAIL_UNKNOWN_OUTCOME",
        "fail",
        "every sender",
        lambda built: [slot.policy.fail_unknown_outcome for slot in built.slots],
        [True] * 4,
    ),
    Row(
        "MAIL_UNKNOWN_OUTCOME",
        "fail",
        "scheduler",
        lambda built: built.scheduler.policy.fail_unknown_outcome,
        True,
    ),
    Row(
        "MAIL_SMTP_MODE",
        "smtp",
        "every sender",
        lambda built: [slot.provider.name for slot in built.slots],
        ["smtp"] * 4,
        beside=SMTP,
    ),
    Row(
        "MAIL_SMTP_ADDR",
        "other.example:26",
        "relay",
        lambda built: (built.relay.host, built.relay.port),
        ("other.example", 26),
        SMTP,
    ),
    Row("MAIL_SMTP_TLS", "starttls", "relay", lambda built: built.relay.tls, TlsMode.STARTTLS, SMTP),
    Row("MAIL_SMTP_TLS", "none", "relay's context", lambda built: built.smtp._tls, None, SMTP),
    Row(
        "MAIL_SMTP_CA_FILE",
        "{files}/ca.pem",
        "relay's context",
        lambda built: built.smtp._tls is not None and _trusts_ours(built.smtp._tls.context),
        True,
        SMTP,
    ),
    Row(
        "MAIL_SMTP_USERNAME",
        "galaxy",
        "relay",
        lambda built: built.relay.username,
        "galaxy",
        SMTP,
        CREDENTIALS,
    ),
    Row(
        "MAIL_SMTP_PASSWORD",
        "hunter2",
        "relay",
        lambda built: built.relay.password,
        "hunter2",
        SMTP,
        CREDENTIALS,
    ),
    Row(
        "MAIL_SMTP_FROM_EMAIL",
        "news@other.example",
        "relay",
        lambda built: built.smtp._sender.email,
        "news@other.example",
        SMTP,
    ),
    Row(
        "MAIL_SMTP_FROM_EMAIL",
        "news@other.example",
        "stub",
        lambda built: built.stub._sender.email,
        "news@other.example",
    ),
    Row(
        "MAIL_SMTP_FROM_EMAIL",
        "news@other.example",
        "domain of Message-ID",
        lambda built: built.parts.intake._message_domain,
        "other.example",
    ),
    Row("MAIL_SMTP_FROM_NAME", "Galaxy", "relay", lambda built: built.smtp._sender.name, "Galaxy", SMTP),
    Row("MAIL_SMTP_FROM_NAME", "Galaxy", "stub", lambda built: built.stub._sender.name, "Galaxy"),
    Row("MAIL_SMTP_TIMEOUT", "7s", "relay", lambda built: built.relay.timeout_s, 7.0, SMTP),
    Row(
        "MAIL_SMTP_TIMEOUT",
        "10m",
        "every sender",
        lambda built: [slot.send_within_s for slot in built.slots],
        [6 * 600.0 + 60] * 4,
    ),
    Row("MAIL_SMTP_FINAL_TIMEOUT", "7s", "relay", lambda built: built.relay.final_timeout_s, 7.0, SMTP),
    Row(
        "MAIL_SMTP_FINAL_TIMEOUT",
        "30m",
        "every sender",
        lambda built: [slot.send_within_s for slot in built.slots],
        [6 * 15.0 + 1800] * 4,
    ),
    Row(
        "MAIL_STUB_OUTBOX", "{files}/outbox", "stub", lambda built: str(built.stub._outbox), "{files}/outbox"
    ),
    Row(
        "MAIL_STUB_SCRIPT",
        "{files}/stub.json",
        "stub",
        lambda built: built.stub._script.default.outcomes,
        (StubOutcome.SUPPRESSED,),
    ),
    Row(
        "MAIL_TEMPLATE_DIR",
        "{files}/templates",
        "every sender",
        lambda built: {template_id for slot in built.slots for template_id in slot.catalog._templates},
        {"auth.login_code", "welcome"},
    ),
    # The process
    Row("MAIL_SHUTDOWN_GRACE", "1s", "server", lambda built: built.server._grace_s, 1.0),
    Row("MAIL_LOG_LEVEL", "warning", "serve", lambda built: built.log().level, logs.LEVELS["warning"]),
    Row("MAIL_LOG_FORMAT", "console", "serve", lambda built: built.log().render, logs._console),
]


def _trusts_ours(context: ssl.SSLContext | None) -> bool:
    """Whether it trusts the CA of these tests and nobody else."""
    authorities = [] if context is None else context.get_ca_certs()
    return ["CA of these tests" in str(authority["subject"]) for authority in authorities] == [True]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for each setting that names one."""
    folder = tmp_path_factory.mktemp("files")
    ca = trustme.CA(organization_unit_name="CA of these tests")
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = ca.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    (folder / "stub.json").write_text('{"default": ["suppressed"]}')
    shutil.copytree(bundled_templates(), folder / "templates")
    for part in ("subject", "text"):
        path = folder / "templates" / "welcome" / "en" / f"{part}.tmpl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("Hello")
    return folder


@contextmanager
def built(env: Mapping[str, str]) -> Iterator[Built]:
    async def build() -> Built:
        return Built(env)

    made = trio.run(build)
    try:
        yield made
    finally:
        made.parts.close()


class ClientRow(NamedTuple):
    """A setting of the commands that talk to a service, and what their client makes of it."""

    variable: str
    value: str
    read: Callable[["BuiltClient"], object]
    expected: object
    beside: Mapping[str, str] = {}


class BuiltClient:
    """The client of these variables, and what it has its TLS from."""

    def __init__(self, env: Mapping[str, str]) -> None:
        config = ClientConfig.from_env(env)
        with (
            patch.object(ssl.SSLContext, "load_cert_chain") as load,
            patch("httpx.Client", autospec=True) as client,
        ):
            ApiClient(config)
        self.certificates = [call.args for call in load.call_args_list]
        self.made = client.call_args.kwargs

    @property
    def tls(self) -> ssl.SSLContext | None:
        """None: as the system has it."""
        context = self.made["verify"]
        return context if isinstance(context, ssl.SSLContext) else None


CLIENT_ROWS: Final = [
    ClientRow(
        "MAIL_API_URL",
        "https://galaxy.example:8443",
        lambda built: built.made["base_url"],
        "https://galaxy.example:8443",
    ),
    ClientRow(
        "MAIL_API_TOKEN",
        TOKEN,
        lambda built: built.made["headers"].get("Authorization"),
        f"Bearer {TOKEN}",
    ),
    ClientRow("MAIL_API_CA_FILE", "{files}/ca.pem", lambda built: _trusts_ours(built.tls), True),
    ClientRow(
        "MAIL_API_CERT_FILE",
        "{files}/certificate.pem",
        lambda built: [str(certificate) for certificate, _ in built.certificates],
        ["{files}/certificate.pem"],
        API_CERTIFICATE,
    ),
    ClientRow(
        "MAIL_API_KEY_FILE",
        "{files}/key.pem",
        lambda built: [str(key) for _, key in built.certificates],
        ["{files}/key.pem"],
        API_CERTIFICATE,
    ),
]


def _filled(expected: object, filled: Mapping[str, str]) -> object:
    """With the placeholders filled in, in a text or in a list of texts."""
    if isinstance(expected, list):
        return [_filled(one, filled) for one in expected]
    return _text(expected, filled) if isinstance(expected, str) else expected


def _text(text: str, filled: Mapping[str, str]) -> str:
    for placeholder, value in filled.items():
        text = text.replace(placeholder, value)
    return text


@pytest.fixture(scope="module")
def by_default() -> Iterator[tuple[Built, Built]]:
    """With the stub, and with a relay."""
    with built(STUB) as stub, built(SMTP) as relay:
        yield stub, relay


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.variable} in {row.place}")
def test_a_setting_arrives(row: Row, files: Path, by_default: tuple[Built, Built]) -> None:
    filled = {"{files}": str(files), "{port}": str(free_port())}
    env = {**row.base, **row.beside, row.variable: row.value}
    expected = _filled(row.expected, filled)
    assert row.read(by_default[row.base is SMTP]) != expected, "this row would not notice a lost setting"
    with built({name: _text(value, filled) for name, value in env.items()}) as changed:
        assert row.read(changed) == expected


@pytest.mark.parametrize("row", CLIENT_ROWS, ids=lambda row: row.variable)
def test_a_setting_of_the_client_arrives(row: ClientRow, files: Path) -> None:
    filled = {"{files}": str(files)}
    env = {**row.beside, row.variable: row.value}
    expected = _filled(row.expected, filled)
    assert row.read(BuiltClient({})) != expected, "this row would not notice a lost setting"
    changed = BuiltClient({name: _text(value, filled) for name, value in env.items()})
    assert row.read(changed) == expected


@pytest.mark.parametrize(("kind", "rows"), [(Config, ROWS), (ClientConfig, CLIENT_ROWS)])
def test_every_setting_has_a_row(kind: type[Settings], rows: list[Row | ClientRow]) -> None:
    assert {row.variable for row in rows} == {setting.variable for setting in kind.settings()}
