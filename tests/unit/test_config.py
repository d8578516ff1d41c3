"""Environment variables become one Config, or all that is wrong with them."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from galaxy_mail.config import ClientConfig, Config, ConfigError, HostPort, StoreConfig, markdown_table
from galaxy_mail.settings import Settings

LEAST = {"MAIL_REDIS_ADDR": "127.0.0.1:6379"}
SECRET = "S3cretMark"

# The plan's list, with its defaults; `MAIL_TEMPLATE_DIR` alone differs, since the bundled ones ship inside the package.
PLANNED = {
    "MAIL_INTERNAL_HTTP_ADDR": ":8080",
    "MAIL_REDIS_COMMAND_STREAM": "mail:delivery_commands",
    "MAIL_REDIS_ATTEMPT_SCHEDULE_KEY": "mail:attempt_schedule",
    "MAIL_REDIS_DEAD_LETTER_PREFIX": "mail:dead_letters:",
    "MAIL_SMTP_MODE": "stub",
    "MAIL_SMTP_TIMEOUT": "15s",
    "MAIL_ATTEMPT_WORKER_CONCURRENCY": "4",
    "MAIL_STREAM_BLOCK_TIMEOUT": "2s",
    "MAIL_OPERATOR_REQUEST_TIMEOUT": "5s",
    "MAIL_IDEMPOTENCY_TTL": "168h",
    "MAIL_DELIVERY_TTL": "720h",
    "MAIL_ATTEMPT_TTL": "2160h",
    "MAIL_CLAIM_TTL": "30s",
    "MAIL_SHUTDOWN_GRACE": "20s",
    "MAIL_SMTP_FINAL_TIMEOUT": "60s",
    "MAIL_RETRY_DELAYS": "1m,5m,30m",
    "MAIL_STREAM_RETENTION": "24h",
}


def problems(env: dict[str, str], kind: type[Settings] = Config) -> dict[str, str]:
    with pytest.raises(ConfigError) as error:
        kind.from_env(env)
    found = error.value.problems
    assert len({one.variable for one in found}) == len(found), "each variable once"
    assert all(f"{one.variable}: {one.message}" in str(error.value) for one in found)
    return dict(found)


def test_redis_is_all_that_must_be_named() -> None:
    config = Config.from_env(LEAST)
    assert config.redis_addr.hosts == (("127.0.0.1", 6379),)
    assert config.internal_http_addr == HostPort("", 8080)
    assert config.retry_delays_ms == (60_000, 300_000, 1_800_000)
    assert config.claim_ttl_ms == 30_000
    assert config.payload_max_bytes == 10 * 1024 * 1024
    assert config.recipients_max == 50
    assert config.smtp_mode == "stub"
    assert {config.smtp_addr, config.smtp_from_email, config.template_dir, config.stub_outbox} == {None}
    assert config.intake_tokens == config.operator_tokens == ()
    assert config.recipient_allowlist == frozenset()
    assert (config.log_level, config.log_format) == ("info", "json")
    assert problems({}) == {"MAIL_REDIS_ADDR": "is required"}


def test_the_defaults_are_the_plans() -> None:
    defaults = {one.variable: one.default for one in Config.settings()}
    assert defaults | PLANNED == defaults


def test_saying_every_default_changes_nothing() -> None:
    said = {one.variable: one.default for one in Config.settings() if one.default}
    assert Config.from_env(LEAST | said) == Config.from_env(LEAST)


def test_what_is_left_empty_is_left_out() -> None:
    empty = {one.variable: "" for one in Config.settings() if not one.is_gate and one.default is not None}
    assert Config.from_env(LEAST | empty) == Config.from_env(LEAST)
    assert Config.from_env(LEAST | {"MAIL_CLAIM_TTL": " "}) == Config.from_env(LEAST)


@pytest.mark.parametrize(
    "variable", ["MAIL_INTAKE_TOKENS", "MAIL_OPERATOR_TOKENS", "MAIL_RECIPIENT_ALLOWLIST"]
)
@pytest.mark.parametrize("value", ["", " ", ","])
def test_a_gate_that_is_set_to_nothing_is_an_accident(variable: str, value: str) -> None:
    assert "unset the variable" in problems(LEAST | {variable: value})[variable]


def test_every_variable_refuses_what_it_cannot_hold() -> None:
    """All at once, and each by its name."""
    bad = {one.variable: "\x00" for one in Config.settings()}
    found = problems({**bad, "MAIL_STUB_OUTBOX": __file__})
    assert set(found) == {one.variable for one in Config.settings()}


def test_all_problems_come_in_the_order_of_the_settings() -> None:
    found = problems(
        {"MAIL_CLAIM_TTL": "1s", "MAIL_INTERNAL_HTTP_ADDR": "8080", "MAIL_SMTP_MODE": "smtp", "MAIL_X": "1"}
    )
    assert list(found) == [
        "MAIL_REDIS_ADDR",
        "MAIL_INTERNAL_HTTP_ADDR",
        "MAIL_CLAIM_TTL",
        "MAIL_SMTP_ADDR",
        "MAIL_SMTP_FROM_EMAIL",
        "MAIL_X",
    ]


def test_a_problem_repeats_the_value_but_never_a_secret() -> None:
    assert problems(LEAST | {"MAIL_CLAIM_TTL": "soon"})["MAIL_CLAIM_TTL"].startswith(
        "'soon' is not a duration"
    )
    long = problems(LEAST | {"MAIL_CLAIM_TTL": "x" * 500})["MAIL_CLAIM_TTL"]
    assert len(long) < 150
    secrets = [one.variable for one in Config.settings() if one.mask]
    assert len(secrets) == 4
    for variable in secrets:
        assert SECRET not in str(problems(LEAST | {variable: f"redis://u:{SECRET}@h:x\n\x00 {SECRET}"}))
    assert SECRET not in str(problems(LEAST | {"MAIL_SMTP_ADDR": f"smtp://u:{SECRET}@relay:25"}))


def test_an_unknown_variable_is_a_typo() -> None:
    found = problems(LEAST | {"MAIL_SMTP_ADR": "x:1", "MAIL_QQQQQQQQ": "1"})
    assert found == {
        "MAIL_SMTP_ADR": "is not a setting; did you mean MAIL_SMTP_ADDR?",
        "MAIL_QQQQQQQQ": "is not a setting",
    }


def test_other_programs_variables_are_theirs() -> None:
    Config.from_env(
        LEAST | {"MAILER": "1", "OTEL_SERVICE_NAME": "x", "PATH": "/bin", "MAIL_API_URL": "http://h:1"}
    )
    ClientConfig.from_env({"MAIL_HOST": "of-another-program"})
    assert list(problems({"MAIL_API_TOKNE": "x"}, ClientConfig)) == ["MAIL_API_TOKNE"]


@pytest.mark.parametrize(
    ("address", "sender"), list(product(["", "relay.example:25"], ["", "noreply@example.org"]))
)
def test_smtp_needs_a_relay_and_a_sender(address: str, sender: str) -> None:
    env = LEAST | {"MAIL_SMTP_MODE": "smtp", "MAIL_SMTP_ADDR": address, "MAIL_SMTP_FROM_EMAIL": sender}
    missing = {
        name for name, value in [("MAIL_SMTP_ADDR", address), ("MAIL_SMTP_FROM_EMAIL", sender)] if not value
    }
    if missing:
        assert set(problems(env)) == missing
    else:
        config = Config.from_env(env)
        assert config.smtp_addr == HostPort("relay.example", 25)
        assert config.smtp_from_email == "noreply@example.org"
    Config.from_env(env | {"MAIL_SMTP_MODE": "stub"})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"MAIL_SMTP_USERNAME": "u"}, "MAIL_SMTP_PASSWORD"),
        ({"MAIL_SMTP_PASSWORD": "p"}, "MAIL_SMTP_USERNAME"),
        ({"MAIL_TLS_CERT_FILE": __file__}, "MAIL_TLS_KEY_FILE"),
        ({"MAIL_TLS_KEY_FILE": __file__}, "MAIL_TLS_CERT_FILE"),
        ({"MAIL_TLS_CLIENT_CA_FILE": __file__}, "MAIL_TLS_CLIENT_CA_FILE"),
        ({"MAIL_ATTEMPT_TTL": "719h"}, "MAIL_ATTEMPT_TTL"),
        ({"MAIL_REDIS_COMMAND_STREAM": "mail:attempt_schedule"}, "MAIL_REDIS_COMMAND_STREAM"),
        ({"MAIL_REDIS_COMMAND_STREAM": "mail:attempt_schedule:priority"}, "MAIL_REDIS_COMMAND_STREAM"),
        ({"MAIL_REDIS_DEAD_LETTER_PREFIX": "mail:delivery"}, "MAIL_REDIS_DEAD_LETTER_PREFIX"),
        ({"MAIL_REDIS_DEAD_LETTER_PREFIX": "mail:attempt_schedule:"}, "MAIL_REDIS_DEAD_LETTER_PREFIX"),
        ({"MAIL_REDIS_ATTEMPT_SCHEDULE_KEY": "mail:delivery_commands"}, "MAIL_REDIS_COMMAND_STREAM"),
    ],
)
def test_values_that_contradict_each_other_are_named(given: dict[str, str], named: str) -> None:
    assert set(problems(LEAST | given)) == {named}


KEY_NAMES = ["MAIL_REDIS_COMMAND_STREAM", "MAIL_REDIS_ATTEMPT_SCHEDULE_KEY", "MAIL_REDIS_DEAD_LETTER_PREFIX"]
OWN_KEYS = [  # one of every kind in the catalog, section 4 of the specification
    "mail:deliveries:d",
    "mail:payloads:d",
    "mail:attempts:d:1",
    "mail:idempotency:notification:k",
    "mail:malformed_commands:1-0",
    "mail:stream_offsets:s",
    "mail:stream_consumed:s",
    "mail:jobs:j",
    "mail:attempt_claims",
    "mail:claim_sequence",
    "mail:claim_losses",
    "mail:meta",
    "mail:ingress_lease",
    "mail:suppressions",
    "mail:idx:created_at",
    "mail:idx:recipient:a@x.example",
    "mail:idx:of_a_later_release",
]


@pytest.mark.parametrize("kind", [Config, StoreConfig])
@pytest.mark.parametrize("variable", KEY_NAMES)
@pytest.mark.parametrize("own", OWN_KEYS)
def test_no_name_may_be_one_that_the_service_has_for_itself(
    own: str, variable: str, kind: type[Settings]
) -> None:
    [(named, message)] = problems(LEAST | {variable: own}, kind).items()
    assert named == variable
    assert own in message
    assert "conflicts with the service's own mail:" in message


def test_the_priority_lane_and_what_begins_alike_clash_too() -> None:
    """A prefix takes in every key that starts so; the schedule has a second key."""
    assert "mail:payloads:" in problems(LEAST | {"MAIL_REDIS_DEAD_LETTER_PREFIX": "mail:p"})[KEY_NAMES[2]]
    found = problems(LEAST | {"MAIL_REDIS_DEAD_LETTER_PREFIX": "mail:"})
    assert list(found) == [KEY_NAMES[2]], "once, however much it takes in"
    assert list(problems(LEAST | {"MAIL_REDIS_DEAD_LETTER_PREFIX": "d", KEY_NAMES[1]: "d:s"})) == [
        KEY_NAMES[2]
    ]


def test_names_that_are_nobody_elses_are_taken() -> None:
    chosen = {
        "MAIL_REDIS_COMMAND_STREAM": "mail:attempt_schedule",  # free, since the schedule moved
        "MAIL_REDIS_ATTEMPT_SCHEDULE_KEY": "mail:delivery",
        "MAIL_REDIS_DEAD_LETTER_PREFIX": "mail:suppressions:dead:",
    }
    config = Config.from_env(LEAST | chosen)
    assert config.redis_command_stream == "mail:attempt_schedule"
    found = problems(LEAST | chosen | {"MAIL_REDIS_ATTEMPT_SCHEDULE_KEY": "mail:idx"})
    assert "mail:idx:priority" in found["MAIL_REDIS_ATTEMPT_SCHEDULE_KEY"]


def test_no_contradiction_is_reported_with_what_is_not_a_value() -> None:
    env = LEAST | {
        "MAIL_SMTP_MODE": "smtp",
        "MAIL_SMTP_FROM_EMAIL": "not an address",
        "MAIL_SMTP_ADDR": "nowhere",
    }
    assert set(problems(env)) == {"MAIL_SMTP_FROM_EMAIL", "MAIL_SMTP_ADDR"}
    assert set(problems(LEAST | {"MAIL_DELIVERY_TTL": "x", "MAIL_ATTEMPT_TTL": "1s"})) == {
        "MAIL_DELIVERY_TTL"
    }


@pytest.mark.parametrize(
    ("tls", "address", "username"),
    list(product(["auto", "none"], ["relay.example:25", "127.999.1.1:25", "127.0.0.1:25"], ["", "u"])),
)
def test_credentials_never_travel_in_the_clear(tls: str, address: str, username: str) -> None:
    env = LEAST | {"MAIL_SMTP_MODE": "smtp", "MAIL_SMTP_FROM_EMAIL": "a@b.example", "MAIL_SMTP_TLS": tls}
    env |= {"MAIL_SMTP_ADDR": address, "MAIL_SMTP_USERNAME": username}
    env |= {"MAIL_SMTP_PASSWORD": "p"} if username else {}
    if tls == "none" and username and address != "127.0.0.1:25":
        assert set(problems(env)) == {"MAIL_SMTP_TLS"}
    else:
        Config.from_env(env)


def test_a_relay_is_never_left_out_without_a_word() -> None:
    """All mail would be `sent`, and nothing would leave."""
    env = LEAST | {"MAIL_SMTP_ADDR": "relay.example:25"}
    assert set(problems(env)) == {"MAIL_SMTP_MODE"}
    said = Config.from_env(env | {"MAIL_SMTP_MODE": "stub"}).warnings()
    assert sum("nothing is sent to relay.example:25" in warning for warning in said) == 1
    assert len(Config.from_env(LEAST).warnings()) == len(said) - 1


@pytest.mark.parametrize("script", ["{", '{"rules":[{"recipient":"*"}]}', '{"default":["gone"]}'])
def test_a_wrong_stub_script_is_a_problem_of_its_variable(script: str, tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(script)
    found = problems(LEAST | {"MAIL_STUB_SCRIPT": str(path), "MAIL_LOG_LEVEL": "loud"})
    assert set(found) == {"MAIL_STUB_SCRIPT", "MAIL_LOG_LEVEL"}
    assert "is not a stub script" in found["MAIL_STUB_SCRIPT"]


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    password, tokens, redis = tmp_path / "password", tmp_path / "tokens", tmp_path / "redis"
    password.write_text(" pass word \n")
    tokens.write_text("one\ntwo\n")
    redis.write_text(f"redis://u:{SECRET}@redis.example:6380/1\n")
    env = {
        "MAIL_REDIS_ADDR_FILE": str(redis),
        "MAIL_SMTP_USERNAME": "u",
        "MAIL_SMTP_PASSWORD_FILE": str(password),
        "MAIL_OPERATOR_TOKENS_FILE": str(tokens),
    }
    config = Config.from_env(env)
    assert config.redis_addr.password == SECRET
    assert config.smtp_password == " pass word "
    assert config.operator_tokens == ("one", "two")
    origins = {one.variable: (one.shown, one.origin) for one in Config.effective(env)}
    assert origins["MAIL_REDIS_ADDR"] == (
        "redis://u:***@redis.example:6380/1",
        "MAIL_REDIS_ADDR_FILE",
    )
    assert origins["MAIL_SMTP_PASSWORD"] == ("***", "MAIL_SMTP_PASSWORD_FILE")


def test_a_secret_that_stands_in_two_places_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("one")
    env = {"MAIL_INTAKE_TOKENS": "two", "MAIL_INTAKE_TOKENS_FILE": str(tmp_path / "tokens")}
    assert "together with MAIL_INTAKE_TOKENS_FILE" in problems(LEAST | env)["MAIL_INTAKE_TOKENS"]


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", b"x" * 70_000, f"{SECRET} \x00".encode()])
def test_a_file_that_holds_no_secret_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    found = problems(LEAST | {"MAIL_INTAKE_TOKENS_FILE": str(file)})
    assert set(found) == {"MAIL_INTAKE_TOKENS_FILE"}
    assert SECRET not in str(found)


def test_what_is_shown_has_no_secret() -> None:
    env = {
        "MAIL_REDIS_ADDR": f"redis://u:{SECRET}@h:1",
        "MAIL_SMTP_USERNAME": "u",
        "MAIL_SMTP_PASSWORD": SECRET,
        "MAIL_INTAKE_TOKENS": SECRET,
        "MAIL_OPERATOR_TOKENS": f"{SECRET}1,{SECRET}2",
    }
    config = Config.from_env(env)
    shown = Config.effective(env)
    assert SECRET not in repr(config)
    assert SECRET not in repr(shown)
    assert {one.variable for one in shown if "***" in one.shown} == {
        one.variable for one in Config.settings() if one.mask
    }
    assert SECRET not in repr(ClientConfig.from_env({"MAIL_API_TOKEN": SECRET}))


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({}, True),
        ({"MAIL_INTERNAL_HTTP_ADDR": "127.0.0.1:8080"}, False),
        ({"MAIL_INTERNAL_HTTP_ADDR": "[::1]:8080"}, False),
        ({"MAIL_INTERNAL_HTTP_ADDR": "0.0.0.0:8080"}, True),
        ({"MAIL_INTAKE_TOKENS": "t"}, False),
        ({"MAIL_OPERATOR_TOKENS": "t"}, False),
    ],
)
def test_an_api_that_lets_everybody_in_is_warned_of(given: dict[str, str], warned: bool) -> None:
    assert bool(Config.from_env(LEAST | given).warnings()) is warned


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files: an authority's certificate, a certificate with its key, another key, the key with a passphrase, none."""
    folder = tmp_path_factory.mktemp("pems")
    authority = trustme.CA()
    issued, other = authority.issue_cert("mail.test"), authority.issue_cert("other.test")
    key: Any = load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"a passphrase")
    )
    contents = {
        "ca": authority.cert_pem.bytes(),
        "cert": issued.cert_chain_pems[0].bytes(),
        "key": issued.private_key_pem.bytes(),
        "other": other.private_key_pem.bytes(),
        "locked": locked,
        "junk": b"junk\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: str(folder / name) for name in contents}


def test_tls_alone_keeps_nobody_out_and_clients_certificates_do(pems: dict[str, str]) -> None:
    tls = LEAST | {"MAIL_TLS_CERT_FILE": pems["cert"], "MAIL_TLS_KEY_FILE": pems["key"]}
    assert Config.from_env(tls).warnings()
    assert not Config.from_env(tls | {"MAIL_TLS_CLIENT_CA_FILE": pems["ca"]}).warnings()


@pytest.mark.parametrize(
    ("kind", "prefix"), [(Config, "MAIL_TLS"), (ClientConfig, "MAIL_API")], ids=["service", "client"]
)
@pytest.mark.parametrize(
    ("cert", "key"), [("cert", "other"), ("cert", "locked"), ("cert", "junk"), ("junk", "key"), ("ca", "key")]
)
def test_a_certificate_without_its_key_is_told_before_anything_starts(
    pems: dict[str, str], kind: type[Settings], prefix: str, cert: str, key: str
) -> None:
    """Nor is anybody asked for a passphrase, at a terminal where nobody sits."""
    env = LEAST | {f"{prefix}_CERT_FILE": pems[cert], f"{prefix}_KEY_FILE": pems[key]}
    [(variable, message)] = problems(env, kind).items()
    assert variable == f"{prefix}_CERT_FILE"
    assert message.startswith(f"is not a PEM certificate for the key in {prefix}_KEY_FILE: ")


@pytest.mark.parametrize(
    ("variable", "kind"),
    [("MAIL_SMTP_CA_FILE", Config), ("MAIL_TLS_CLIENT_CA_FILE", Config), ("MAIL_API_CA_FILE", ClientConfig)],
)
def test_a_file_of_authorities_without_a_certificate_is_told(
    pems: dict[str, str], variable: str, kind: type[Settings]
) -> None:
    assert problems(LEAST | {variable: pems["junk"]}, kind)[variable].endswith("has no PEM certificates")
    good = LEAST | {variable: pems["ca"]}
    if variable == "MAIL_TLS_CLIENT_CA_FILE":  # which has no effect alone
        good |= {"MAIL_TLS_CERT_FILE": pems["cert"], "MAIL_TLS_KEY_FILE": pems["key"]}
    kind.from_env(good)


def test_a_file_that_the_address_of_redis_names_is_looked_at(pems: dict[str, str], tmp_path: Path) -> None:
    secret = f"rediss://u:{SECRET}@redis.example"
    for names, wrong in (
        (f"ssl_ca_certs={tmp_path}/none", f"{tmp_path}/none"),
        (f"ssl_ca_certs={pems['junk']}", pems["junk"]),
        (f"ssl_certfile={pems['cert']}&ssl_keyfile={pems['other']}", pems["cert"]),
        (f"ssl_certfile={pems['cert']}&ssl_keyfile={pems['locked']}", pems["cert"]),
    ):
        message = problems({"MAIL_REDIS_ADDR": f"{secret}?{names}"})["MAIL_REDIS_ADDR"]
        assert message.startswith(f"names a file: {wrong}")
        assert SECRET not in message
    whole = f"ssl_ca_certs={pems['ca']}&ssl_certfile={pems['cert']}&ssl_keyfile={pems['key']}"
    assert Config.from_env({"MAIL_REDIS_ADDR": f"{secret}?{whole}"}).redis_addr.tls


def test_the_store_needs_nothing_of_the_service() -> None:
    env = LEAST | {"MAIL_SMTP_MODE": "smtp", "MAIL_REDIS_COMMAND_STREAM": "other"}
    assert StoreConfig.from_env(env).redis_command_stream == "other"
    with pytest.raises(ConfigError):
        Config.from_env(env)


def test_the_client_has_its_own_defaults() -> None:
    config = ClientConfig.from_env({})
    assert (config.api_url, config.api_token) == ("http://127.0.0.1:8080", None)


def test_the_table_has_a_row_for_every_variable() -> None:
    rows = markdown_table(Config.settings()).splitlines()
    assert len(rows) == 2 + len(Config.settings())
    assert all(row.count("|") == 4 for row in rows), "no cell breaks the table"
    assert sum("*required*" in row for row in rows) == 1
    assert all(one.meaning in row for one, row in zip(Config.settings(), rows[2:], strict=True))
