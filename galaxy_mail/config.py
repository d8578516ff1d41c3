"""Which settings there are: environment variables become one frozen, valid Config.

A variable is one line, `field = setting(...)`: its parsing, its masking, `check-config` and the table in the docs come
from that line. What is wrong between two variables is in `conflicts`.
"""
# ruff: noqa: RUF009  # `setting` makes a dataclass field, which is what this rule can't know

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final, Literal, NamedTuple

from galaxy_mail.settings import ConfigError, Settings, gate, kinds, markdown_table, setting
from galaxy_mail.settings.kinds import HostPort
from galaxy_mail.settings.redis_address import RedisAddress
from galaxy_mail.storage.records.keys import Keys

__all__ = ["ClientConfig", "Config", "ConfigError", "HostPort", "StoreConfig", "markdown_table"]


@dataclass(frozen=True, kw_only=True)
class StoreConfig(Settings):
    """What `publish` and `verify-store` need: where the store is, how its keys are named, what is kept, what is taken in."""

    accepts = "MAIL_"

    redis_addr: RedisAddress = setting(
        "MAIL_REDIS_ADDR",
        kinds.redis_address,
        None,
        "Redis or Valkey: `host:port`, `redis://`, `rediss://`, `unix://`, `redis+sentinel://`, or `embedded:FOLDER` "
        "for a private one",
        mask=kinds.hidden_credentials,
    )
    redis_command_stream: str = setting(
        "MAIL_REDIS_COMMAND_STREAM",
        kinds.redis_name,
        "mail:delivery_commands",
        "the stream that commands are read from",
    )
    redis_attempt_schedule_key: str = setting(
        "MAIL_REDIS_ATTEMPT_SCHEDULE_KEY",
        kinds.redis_name,
        "mail:attempt_schedule",
        "the schedule's key; the priority lane's is this with `:priority` behind it",
    )
    redis_dead_letter_prefix: str = setting(
        "MAIL_REDIS_DEAD_LETTER_PREFIX",
        kinds.redis_name,
        "mail:dead_letters:",
        "what a dead letter's key starts with",
    )

    idempotency_ttl_ms: int = setting(
        "MAIL_IDEMPOTENCY_TTL",
        kinds.duration_ms(at_least="1s", at_most="87600h"),
        "168h",
        "how long a repeat is recognised, from acceptance",
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
        told: set[str] = set()  # one clash of a name is enough
        for variable, name in chosen:
            for own in _OWN_NAMES:
                if variable not in told and name.overlaps(own):
                    told.add(variable)
                    yield (variable,), f"{name} clashes with the service's own {own}"
        for (one, name), (other, others) in combinations(chosen, 2):
            if one != other and name.overlaps(others):
                # A prefix that takes a key in is named; of two keys, the first.
                here, there = (other, one) if others.is_prefix else (one, other)
                if here not in told:
                    told.add(here)
                    yield (here, there), f"clashes with {there}, {name if there == one else others}"


class _Name(NamedTuple):
    """One key's name, or what the names of many start with."""

    text: str
    is_prefix: bool

    def overlaps(self, other: "_Name") -> bool:
        """Whether some key has both."""
        if self.is_prefix and other.text.startswith(self.text):
            return True
        return self.text.startswith(other.text) if other.is_prefix else self.text == other.text

    def __str__(self) -> str:
        return f"{self.text}…" if self.is_prefix else self.text


_OWN_NAMES: Final = tuple(_Name(text, text.endswith(":")) for text in (*Keys.fixed, Keys.indexes))


@dataclass(frozen=True, kw_only=True)
class Config(StoreConfig):
    """Every setting of the service. Parts are given the values that they need, never this."""

    redis_durability: Literal["server", "fsync", "replica"] = setting(
        "MAIL_REDIS_DURABILITY",
        kinds.choice("server", "fsync", "replica"),
        "server",
        "what is waited for before mail counts as accepted: Redis' own policy, its disk, or a replica",
    )
    internal_http_addr: HostPort = setting(
        "MAIL_INTERNAL_HTTP_ADDR",
        kinds.listener,
        ":8080",
        "where the API listens; no host means every interface",
    )
    intake_tokens: tuple[str, ...] = gate(
        "MAIL_INTAKE_TOKENS",
        kinds.tokens,
        (),
        "bearer tokens that open the auth route, separated by commas",
        mask=kinds.hidden,
    )
    operator_tokens: tuple[str, ...] = gate(
        "MAIL_OPERATOR_TOKENS",
        kinds.tokens,
        (),
        "bearer tokens that open the operator routes, separated by commas",
        mask=kinds.hidden,
    )
    tls_cert_file: Path | None = setting(
        "MAIL_TLS_CERT_FILE", kinds.optional(kinds.existing_file), "", "the API's certificate chain, PEM"
    )
    tls_key_file: Path | None = setting(
        "MAIL_TLS_KEY_FILE", kinds.optional(kinds.existing_file), "", "its private key, PEM"
    )
    tls_client_ca_file: Path | None = setting(
        "MAIL_TLS_CLIENT_CA_FILE",
        kinds.optional(kinds.certificates),
        "",
        "CA that callers' certificates must come from, PEM",
    )
    operator_request_timeout_ms: int = setting(
        "MAIL_OPERATOR_REQUEST_TIMEOUT",
        kinds.duration_ms(at_least="50ms", at_most="5m"),
        "5s",
        "an API request is answered within this, with 503 where Redis isn't",
    )
    recipient_allowlist: frozenset[str] = gate(
        "MAIL_RECIPIENT_ALLOWLIST",
        kinds.allowlist,
        frozenset(),
        "addresses and `@domains` that may be mailed, everyone else is suppressed; for non-production",
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
        "consumed stream entries are trimmed when they are older",
    )
    attempt_worker_concurrency: int = setting(
        "MAIL_ATTEMPT_WORKER_CONCURRENCY",
        kinds.whole_number(at_least=1, at_most=1024),
        "4",
        "sender slots: attempts, and provider connections, at a time",
    )
    claim_ttl_ms: int = setting(
        "MAIL_CLAIM_TTL",
        kinds.duration_ms(at_least="2s", at_most="1h"),
        "30s",
        "a claim lives this long unless renewed; a lost owner's work is taken over after it",
    )
    retry_delays_ms: tuple[int, ...] = setting(
        "MAIL_RETRY_DELAYS",
        kinds.retry_delays_ms,
        "1m,5m,30m",
        "how long each retry waits after a transient failure; `none` for no retry",
    )
    unknown_outcome: Literal["retry", "fail"] = setting(
        "MAIL_UNKNOWN_OUTCOME",
        kinds.choice("retry", "fail"),
        "retry",
        "what follows when nobody knows whether a message left: perhaps a second copy, or perhaps none",
    )
    smtp_mode: Literal["stub", "smtp"] = setting(
        "MAIL_SMTP_MODE", kinds.choice("stub", "smtp"), "stub", "`smtp` sends; `stub` only acts as if"
    )
    smtp_addr: HostPort | None = setting(
        "MAIL_SMTP_ADDR", kinds.optional(kinds.server), "", "the relay, `host:port`; required by `smtp`"
    )
    smtp_tls: Literal["auto", "starttls", "implicit", "none"] = setting(
        "MAIL_SMTP_TLS",
        kinds.choice("auto", "starttls", "implicit", "none"),
        "auto",
        "`auto` is implicit on port 465, else STARTTLS where offered, required with credentials",
    )
    smtp_ca_file: Path | None = setting(
        "MAIL_SMTP_CA_FILE",
        kinds.optional(kinds.certificates),
        "",
        "CA that the relay's certificate must come from, PEM; else the system's",
    )
    smtp_username: str = setting("MAIL_SMTP_USERNAME", kinds.text, "", "for AUTH")
    smtp_password: str = setting("MAIL_SMTP_PASSWORD", kinds.text, "", "for AUTH", mask=kinds.hidden)
    smtp_from_email: str | None = setting(
        "MAIL_SMTP_FROM_EMAIL", kinds.optional(kinds.address), "", "the sender's address; required by `smtp`"
    )
    smtp_from_name: str = setting(
        "MAIL_SMTP_FROM_NAME", kinds.text, "", "the sender's name as readers see it"
    )
    smtp_timeout_ms: int = setting(
        "MAIL_SMTP_TIMEOUT",
        kinds.duration_ms(at_least="50ms", at_most="10m"),
        "15s",
        "for connecting with TLS and AUTH, for the envelope, and for a body without progress, each",
    )
    smtp_final_timeout_ms: int = setting(
        "MAIL_SMTP_FINAL_TIMEOUT",
        kinds.duration_ms(at_least="50ms", at_most="30m"),
        "60s",
        "for the answer to the final dot; giving up there makes duplicates",
    )
    stub_outbox: Path | None = setting(
        "MAIL_STUB_OUTBOX",
        kinds.optional(kinds.folder),
        "",
        "folder where the stub keeps what it would have sent",
    )
    stub_script: Path | None = setting(
        "MAIL_STUB_SCRIPT",
        kinds.optional(kinds.existing_file),
        "",
        "JSON file that tells the stub what to answer",
    )
    template_dir: Path | None = setting(
        "MAIL_TEMPLATE_DIR",
        kinds.optional(kinds.existing_folder),
        "",
        "folder of templates; else the bundled ones",
    )
    shutdown_grace_ms: int = setting(
        "MAIL_SHUTDOWN_GRACE",
        kinds.duration_ms(at_least="0s", at_most="1h"),
        "20s",
        "how long a stop lets attempts in hand end",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "MAIL_LOG_LEVEL",
        kinds.choice("debug", "info", "warning", "error"),
        "info",
        "the least severe lines that are written",
    )
    log_format: Literal["json", "console"] = setting(
        "MAIL_LOG_FORMAT", kinds.choice("json", "console"), "json", "`console` is for people"
    )

    def warnings(self) -> tuple[str, ...]:
        """What is allowed and yet seldom meant; the service logs it at its start."""
        open_to_all = not (self.intake_tokens or self.operator_tokens or self.tls_client_ca_file)
        if open_to_all and not self.internal_http_addr.is_loopback:
            warning = (
                f"the API listens on {self.internal_http_addr}, beyond loopback, and lets everybody in: set "
                "MAIL_INTAKE_TOKENS and MAIL_OPERATOR_TOKENS, or MAIL_TLS_CLIENT_CA_FILE"
            )
            return (warning,)
        return ()

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        yield from super().conflicts()
        if self.smtp_mode == "smtp":
            if self.smtp_addr is None:
                yield ("MAIL_SMTP_ADDR", "MAIL_SMTP_MODE"), "is required by MAIL_SMTP_MODE=smtp"
            if self.smtp_from_email is None:
                yield ("MAIL_SMTP_FROM_EMAIL", "MAIL_SMTP_MODE"), "is required by MAIL_SMTP_MODE=smtp"
        if bool(self.smtp_username) != bool(self.smtp_password):
            here, there = "MAIL_SMTP_PASSWORD", "MAIL_SMTP_USERNAME"
            if not self.smtp_username:
                here, there = there, here
            yield (here, there), f"is needed too when {there} is set"
        if (
            self.smtp_tls == "none"
            and self.smtp_username
            and self.smtp_addr
            and not self.smtp_addr.is_loopback
        ):
            yield (
                ("MAIL_SMTP_TLS", "MAIL_SMTP_USERNAME", "MAIL_SMTP_ADDR"),
                "may not be none with credentials for a relay beyond loopback: they would travel in the clear",
            )
        cert, key, ca = "MAIL_TLS_CERT_FILE", "MAIL_TLS_KEY_FILE", "MAIL_TLS_CLIENT_CA_FILE"
        yield from _no_pair((cert, self.tls_cert_file), (key, self.tls_key_file))
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            yield (ca, cert), f"has no effect without {cert} and {key}"
        if self.attempt_ttl_ms < self.delivery_ttl_ms:
            yield (
                ("MAIL_ATTEMPT_TTL", "MAIL_DELIVERY_TTL"),
                "is shorter than MAIL_DELIVERY_TTL, but attempts outlive their delivery",
            )


@dataclass(frozen=True, kw_only=True)
class ClientConfig(Settings):
    """The settings of the commands that talk to a running service."""

    # Not "MAIL_": an operator's shell may hold the variables of other programs.
    accepts = "MAIL_API_"

    api_url: str = setting(
        "MAIL_API_URL", kinds.http_url, "http://127.0.0.1:8080", "where the service's API is"
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
        "CA that the service's certificate must come from, PEM; else the system's",
    )
    api_cert_file: Path | None = setting(
        "MAIL_API_CERT_FILE",
        kinds.optional(kinds.existing_file),
        "",
        "this client's certificate chain, PEM, for a service that asks for one",
    )
    api_key_file: Path | None = setting(
        "MAIL_API_KEY_FILE", kinds.optional(kinds.existing_file), "", "its private key, PEM"
    )

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        cert, key = "MAIL_API_CERT_FILE", "MAIL_API_KEY_FILE"
        yield from _no_pair((cert, self.api_cert_file), (key, self.api_key_file))


def _no_pair(
    cert: tuple[str, Path | None], key: tuple[str, Path | None]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """What prevents a certificate and a private key, each with its variable, from being used together."""
    names = (cert[0], key[0])
    if cert[1] is not None and key[1] is not None:
        if problem := kinds.pair_problem(cert[1], key[1]):
            yield names, f"is no certificate (PEM) with {key[0]} as its key: {problem}"
    elif cert[1] is not None:
        yield names[::-1], f"is needed too when {cert[0]} is set"
    elif key[1] is not None:
        yield names, f"is needed too when {key[0]} is set"
