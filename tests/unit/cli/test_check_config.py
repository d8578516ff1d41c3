"""`galaxy-mail check-config`."""

import pytest
from click.testing import CliRunner, Result

from galaxy_mail.cli import main
from galaxy_mail.config import ClientConfig, Config

SECRET = "S3cretMark"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {})


def check(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(main, ["check-config", *arguments], env=env)


def test_it_prints_every_setting_in_effect_and_where_it_is_from() -> None:
    result = check(MAIL_REDIS_ADDR="localhost:1", MAIL_INTERNAL_HTTP_ADDR="127.0.0.1:80")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.partition("=")[0] for line in lines] == [one.variable for one in Config.settings()]
    assert "MAIL_INTERNAL_HTTP_ADDR=127.0.0.1:80" in lines
    [claim] = [line for line in lines if line.startswith("MAIL_CLAIM_TTL=")]
    assert claim.split() == ["MAIL_CLAIM_TTL=30s", "#", "default"]
    assert result.stderr == ""


def test_it_names_every_problem_and_ends_with_status_2() -> None:
    result = check(MAIL_CLAIM_TTL="1s", MAIL_SMTP_TIMEOUT="soon", MAIL_SMTP_PASSWORD=SECRET)
    assert result.exit_code == 2
    assert result.stdout == ""
    for variable in ("MAIL_REDIS_ADDR", "MAIL_CLAIM_TTL", "MAIL_SMTP_TIMEOUT", "MAIL_SMTP_USERNAME"):
        assert f"  {variable}: " in result.stderr
    assert "4 problems" in result.stderr
    assert SECRET not in result.output
    assert "Traceback" not in result.output


def test_it_shows_no_secret() -> None:
    result = check(MAIL_REDIS_ADDR=f"redis://:{SECRET}@h:1", MAIL_OPERATOR_TOKENS=SECRET)
    assert result.exit_code == 0
    assert "MAIL_REDIS_ADDR=redis://:***@h:1\n" in result.stdout
    assert SECRET not in result.output


def test_it_warns_on_standard_error() -> None:
    result = check(MAIL_REDIS_ADDR="localhost:1")
    assert result.exit_code == 0
    assert "without authentication" in result.stderr


def test_the_reference_needs_no_configuration() -> None:
    result = check("--markdown")
    assert result.exit_code == 0
    for one in (*Config.settings(), *ClientConfig.settings()):
        assert f"| `{one.variable}` |" in result.stdout
