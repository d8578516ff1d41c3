"""All settings. Config reads them from environment variables, validates them and is frozen.

Each variable is one `field = setting(...)`. Parsing, masking, `check-config` and the table in the docs come from it.
`conflicts` checks variables against each other.
"""
# ruff: noqa: RUF009  # `setting` returns a dataclass field, which the rule can't know

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final, Literal, NamedTuple

from galaxy_mail.providers.stub import StubScript
from galaxy_mail.settings import ConfigError, Settings, gate, kinds, markdown_table, setting
from galaxy_mail.settings.kinds import HostPort
from galaxy_mail.settings.redis_address import RedisAddress
from galaxy_mail.storage.records.keys import Keys

__all__ = ["ClientConfig", "Config", "ConfigError", "HostPort", "StoreConfig", "markdown_table"]


@dataclass(frozen=True, kw_only=True)
class StoreConfig(Settings):
    """The settings of `publish` and `verify-store`: address, key names, retention and limits of the store."""

    accepts = "MAIL_"

    redis_addr: RedisAddress = setting(
        "MAIL_REDIS_ADDR",
        kinds.redis_address,
        None,
        "Redis or Valkey: `host:port`, `redis://`, `rediss://`, `unix://`, `redis+sentinel://`, or `embedded:FOLDER` "
        "for an embedded one",
        mask=kinds.hidden_credentials,
    )
    redis_command_stream: str = setting(
        "MAIL_REDIS_COMMAND_STREAM",
        kinds.redis_name,
        "mail:delivery_commands",
        "the stream from which commands are read",
    )
    redis_attempt_schedule_key: str = setting(
        "MAIL_REDIS_ATTEMPT_SCHEDULE_KEY",
        kinds.redis_name,
        "mail:attempt_schedule",
        "the schedule's key; the priority lane's key is this plus `:priority`",
    )
    redis_dead_letter_prefix: str = setting(
        "MAIL_REDIS_DEAD_LETTER_PREFIX",
        kinds.redis_name,
        "mail:dead_letters:",
        "prefix of a dead letter's key",
    )

    idempotency_ttl_ms: int = setting(
        "MAIL_IDEMPOTENCY_TTL",
        kinds.duration_ms(at_least="1s", at_most="87600h"),
        "168h",
        "how long a repeated request is recognised, from acceptance",
    )
    delivery_ttl_ms: int = setting(
        "MAIL_DELIVERY_TTL",
        kinds.duration_ms(at_least="1s", at_most="87600h"),
        "720h",
        "how long a delivery and its content are kept, from its end",
    )
    attempt_ttl_ms: int = setting(
        "MAIL_ATTEMPT_TTL",
        kinds.duration_ms(at_least="1s", at_most="87600h"),
        "2160h",
        "how long attempts, dead letters and malformed commands are kept",
    )

    payload_max_bytes: int = setting(
        "MAIL_PAYLOAD_MAX_BYTES",
        kinds.size_bytes(at_least=1024, at_most=256 * 1024**2),
        "10485760",
        "the largest `payload_json` of a command",
    )
    recipients_max: int = setting(
        "MAIL_RECIPIENTS_MAX",
        kinds.whole_number(at_least=1, at_most=1000),
        "50",
        "how many recipients a delivery may have",
    )

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        stream, schedule, dead = (
            "MAIL_REDIS_COMMAND_STREAM",
            "MAIL_REDIS_ATTEMPT_SCHEDULE_KEY",
            "MAIL_REDIS_DEAD_LETTER_PREFIX",
        )
        priority = self.redis_attempt_schedule_key + ":priority"
        chosen = (
            (stream, _Name(self.redis_command_stream, False)),
            (schedule, _Name(self.redis_attempt_schedule_key, False)),
            (schedule, _Name(priority, False)),
            (dead, _Name(self.redis_dead_letter_prefix, True)),
        )
        reported: set[str] = set()  # one conflict per variable is enough
        for variable, name in chosen:
            for own in _OWN_NAMES:
                if variable not in reported and name.overlaps(own):
                    reported.add(variable)
                    yield (variable,), f"{name} conflicts with the service's own {own}"
        for (one, name), (other, others) in combinations(chosen, 2):
            if one != other and name.overlaps(others):
                # Of a prefix and a key, the prefix is reported; of two keys, the first.
                here, there = (other, one) if others.is_prefix else (one, other)
                if here not in reported:
                    reported.add(here)
                    yield (here, there), f"conflicts with {there}, {name if there == one else others}"


class _Name(NamedTuple):
    """The name of one key, or the prefix of many."""

    text: str
    is_prefix: bool

    def overlaps(self, other: "_Name") -> bool:
        """Whether a key could have both."""
        if self.is_prefix and other.text.startswith(self.text):
            return True
        return self.text.startswith(other.text) if other.is_prefix else self.text == other.text

    def __str__(self) -> str:
        return f"{self.text}…" if self.is_prefix else self.text


_OWN_NAMES: Final = tuple(_Name(text, text.endswith(":")) for text in (*Keys.fixed, Keys.indexes))


@dataclass(frozen=True, kw_only=True)
class Config(StoreConfig):
    """Every setting of the service. The service's parts get the values that they need, not the Config."""

    redis_durability: Literal["server", "fsync", "replica"] = setting(
        "MAIL_REDIS_DURABILITY",
        kinds.choice("server", "fsync", "replica"),
        "server",
        "when a request counts as accepted: by Redis' own policy, once it is on disk, or once a replica has it",
    )
    internal_http_addr: HostPort = setting(
        "MAIL_INTERNAL_HTTP_ADDR",
        kinds.listener,
        ":8080",
        "where the API listens; without a host, on every interface",
    )
    intake_tokens: tuple[str, ...] = gate(
        "MAIL_INTAKE_TOKENS",
        kinds.tokens,
        (),
        "bearer tokens for the auth route, separated by commas",
        mask=kinds.hidden,
    )
    operator_tokens: tuple[str, ...] = gate(
        "MAIL_OPERATOR_TOKENS",
        kinds.tokens,
        (),
        "bearer tokens for the operator routes, separated by commas",
        mask=kinds.hidden,
    )
    tls_cert_file: Path | None = setting(
        "MAIL_TLS_CERT_FILE", kinds.optional(kinds.existing_file), "", "the API's certificate chain, PEM"
    )
    tls_key_file: Path | None = setting(
        "MAIL_TLS_KEY_FILE", kinds.optional(kinds.existing_file), "", "the API's private key, PEM"
    )
    tls_client_ca_file: Path | None = setting(
        "MAIL_TLS_CLIENT_CA_FILE",
        kinds.optional(kinds.certificates),
        "",
        "CA that must have issued the callers' certificates, PEM",
    )
    operator_request_timeout_ms: int = setting(
        "MAIL_OPERATOR_REQUEST_TIMEOUT",
        kinds.duration_ms(at_least="50ms", at_most="5m"),
        "5s",
        "time limit of an API request; if Redis doesn't answer in time, the response is 503",
    )
    recipient_allowlist: frozenset[str] = gate(
        "MAIL_RECIPIENT_ALLOWLIST",
        kinds.allowlist,
        frozenset(),
        "addresses and `@domains` that may receive mail, all others are suppressed; for non-production",
    )
    stream_block_timeout_ms: int = setting(
        "MAIL_STREAM_BLOCK_TIMEOUT",
        kinds.duration_ms(at_least="10ms", at_most="10s"),
        "2s",
        "how long one read of the stream waits for commands",
    )
    stream_retention_ms: int = setting(
        "MAIL_STREAM_RETENTION",
        kinds.duration_ms(at_least="1s", at_most="8760h"),
        "24h",
        "consumed stream entries older than this are trimmed",
    )
    attempt_worker_concurrency: int = setting(
        "MAIL_ATTEMPT_WORKER_CONCURRENCY",
        kinds.whole_number(at_least=1, at_most=1024),
        "4",
        "sender slots: how many attempts and provider connections at the same time",
    )
    claim_ttl_ms: int = setting(
        "MAIL_CLAIM_TTL",
        kinds.duration_ms(at_least="2s", at_most="1h"),
        "30s",
        "a claim expires after this time unless renewed; then another process takes over the work of a lost owner",
    )
    retry_delays_ms: tuple[int, ...] = setting(
        "MAIL_RETRY_DELAYS",
        kinds.retry_delays_ms,
        "1m,5m,30m",
        "delays before the retries after transient failures; `none` for no retry",
    )
    unknown_outcome: Literal["retry", "fail"] = setting(
        "MAIL_UNKNOWN_OUTCOME",
        kinds.choice("retry", "fail"),
        "retry",
        "what follows if it is unknown whether a message was sent: `retry` may send it twice, `fail` may not send it",
    )
    smtp_mode: Literal["stub", "smtp"] = setting(
        "MAIL_SMTP_MODE",
        kinds.choice("stub", "smtp"),
        "stub",
        "`smtp` sends mail; `stub` discards it and reports success, for development only",
    )
    smtp_addr: HostPort | None = setting(
        "MAIL_SMTP_ADDR", kinds.optional(kinds.server), "", "the relay, `host:port`; required by `smtp`"
    )
    smtp_tls: Literal["auto", "starttls", "implicit", "none"] = setting(
        "MAIL_SMTP_TLS",
        kinds.choice("auto", "starttls", "implicit", "none"),
        "auto",
        "`auto`: implicit on port 465, else STARTTLS if offered; required with credentials",
    )
    smtp_ca_file: Path | None = setting(
        "MAIL_SMTP_CA_FILE",
        kinds.optional(kinds.certificates),
        "",
        "CA that must have issued the relay's certificate, PEM; else the system's CAs",
    )
    smtp_username: str = setting("MAIL_SMTP_USERNAME", kinds.text, "", "user name for AUTH; empty: no AUTH")
    smtp_password: str = setting("MAIL_SMTP_PASSWORD", kinds.text, "", "password for AUTH", mask=kinds.hidden)
    smtp_from_email: str | None = setting(
        "MAIL_SMTP_FROM_EMAIL", kinds.optional(kinds.address), "", "the sender's address; required by `smtp`"
    )
    smtp_from_name: str = setting("MAIL_SMTP_FROM_NAME", kinds.text, "", "the sender's display name")
    smtp_timeout_ms: int = setting(
        "MAIL_SMTP_TIMEOUT",
        kinds.duration_ms(at_least="50ms", at_most="10m"),
        "15s",
        "time limit each for connecting with TLS and AUTH, for the envelope, and for a body without progress",
    )
    smtp_final_timeout_ms: int = setting(
        "MAIL_SMTP_FINAL_TIMEOUT",
        kinds.duration_ms(at_least="50ms", at_most="30m"),
        "60s",
        "time limit for the reply to the final dot; after a time-out the message may be sent twice",
    )
    stub_outbox: Path | None = setting(
        "MAIL_STUB_OUTBOX",
        kinds.optional(kinds.folder),
        "",
        "folder to which the stub writes mail instead of sending it",
    )
    stub_script: StubScript | None = setting(
        "MAIL_STUB_SCRIPT",
        kinds.optional(StubScript.read),
        "",
        "JSON file with the stub's results",
    )
    template_dir: Path | None = setting(
        "MAIL_TEMPLATE_DIR",
        kinds.optional(kinds.existing_folder),
        "",
        "folder of templates; else the bundled templates",
    )
    shutdown_grace_ms: int = setting(
        "MAIL_SHUTDOWN_GRACE",
        kinds.duration_ms(at_least="0s", at_most="1h"),
        "20s",
        "how long a stop waits for running attempts",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "MAIL_LOG_LEVEL",
        kinds.choice("debug", "info", "warning", "error"),
        "info",
        "the lowest level of lines that are written",
    )
    log_format: Literal["json", "console"] = setting(
        "MAIL_LOG_FORMAT",
        kinds.choice("json", "console"),
        "json",
        "`json` for machines, `console` for people",
    )

    def warnings(self) -> tuple[str, ...]:
        """Settings that are allowed, but rarely intended. The service logs them when it starts."""
        warnings: list[str] = []
        if self.smtp_mode == "stub" and self.smtp_addr is not None:
            warnings.append(f"MAIL_SMTP_MODE=stub discards all mail: nothing is sent to {self.smtp_addr}")
        open_to_all = not (self.intake_tokens or self.operator_tokens or self.tls_client_ca_file)
        if open_to_all and not self.internal_http_addr.is_loopback:
            warnings.append(
                f"the API listens on {self.internal_http_addr}, beyond loopback, without authentication: set "
                "MAIL_INTAKE_TOKENS and MAIL_OPERATOR_TOKENS, or MAIL_TLS_CLIENT_CA_FILE"
            )
        return tuple(warnings)

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        yield from super().conflicts()
        if self.smtp_addr is not None and "MAIL_SMTP_MODE" not in self.given:
            yield (
                ("MAIL_SMTP_MODE", "MAIL_SMTP_ADDR"),
                "is required if MAIL_SMTP_ADDR is set: smtp sends mail, stub discards it",
            )
        if self.smtp_mode == "smtp":
            if self.smtp_addr is None:
                yield ("MAIL_SMTP_ADDR", "MAIL_SMTP_MODE"), "is required by MAIL_SMTP_MODE=smtp"
            if self.smtp_from_email is None:
                yield ("MAIL_SMTP_FROM_EMAIL", "MAIL_SMTP_MODE"), "is required by MAIL_SMTP_MODE=smtp"
        if bool(self.smtp_username) != bool(self.smtp_password):
            here, there = "MAIL_SMTP_PASSWORD", "MAIL_SMTP_USERNAME"
            if not self.smtp_username:
                here, there = there, here
            yield (here, there), f"is required if {there} is set"
        if (
            self.smtp_tls == "none"
            and self.smtp_username
            and self.smtp_addr
            and not self.smtp_addr.is_loopback
        ):
            yield (
                ("MAIL_SMTP_TLS", "MAIL_SMTP_USERNAME", "MAIL_SMTP_ADDR"),
                "may not be none with credentials for a relay beyond loopback: they would be sent in clear text",
            )
        cert, key, ca = "MAIL_TLS_CERT_FILE", "MAIL_TLS_KEY_FILE", "MAIL_TLS_CLIENT_CA_FILE"
        yield from _key_pair_problems((cert, self.tls_cert_file), (key, self.tls_key_file))
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            yield (ca, cert), f"has no effect without {cert} and {key}"
        if self.attempt_ttl_ms < self.delivery_ttl_ms:
            yield (
                ("MAIL_ATTEMPT_TTL", "MAIL_DELIVERY_TTL"),
                "is shorter than MAIL_DELIVERY_TTL, but attempts must outlive their delivery",
            )


@dataclass(frozen=True, kw_only=True)
class ClientConfig(Settings):
    """The settings of the commands that talk to a running service."""

    # Not "MAIL_": an operator's shell may have variables of other programs.
    accepts = "MAIL_API_"

    api_url: str = setting(
        "MAIL_API_URL", kinds.http_url, "http://127.0.0.1:8080", "URL of the service's API"
    )
    api_token: str | None = setting(
        "MAIL_API_TOKEN",
        kinds.optional(kinds.token),
        "",
        "a bearer token, one of MAIL_OPERATOR_TOKENS",
        mask=kinds.hidden,
    )
    api_ca_file: Path | None = setting(
        "MAIL_API_CA_FILE",
        kinds.optional(kinds.certificates),
        "",
        "CA that must have issued the service's certificate, PEM; else the system's CAs",
    )
    api_cert_file: Path | None = setting(
        "MAIL_API_CERT_FILE",
        kinds.optional(kinds.existing_file),
        "",
        "the client's certificate chain, PEM, if the service requires one",
    )
    api_key_file: Path | None = setting(
        "MAIL_API_KEY_FILE", kinds.optional(kinds.existing_file), "", "the client's private key, PEM"
    )

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        cert, key = "MAIL_API_CERT_FILE", "MAIL_API_KEY_FILE"
        yield from _key_pair_problems((cert, self.api_cert_file), (key, self.api_key_file))


def _key_pair_problems(
    cert: tuple[str, Path | None], key: tuple[str, Path | None]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Problems of a certificate and its private key. Each argument is a variable and its value."""
    names = (cert[0], key[0])
    if cert[1] is not None and key[1] is not None:
        if problem := kinds.pair_problem(cert[1], key[1]):
            yield names, f"is not a PEM certificate for the key in {key[0]}: {problem}"
    elif cert[1] is not None:
        yield names[::-1], f"is required if {cert[0]} is set"
    elif key[1] is not None:
        yield names, f"is required if {key[0]} is set"
