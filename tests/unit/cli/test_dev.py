"""`galaxy-mail dev` when it goes wrong: the person at the terminal is told. What it shows when all is well is in e2e."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from click.testing import CliRunner

from galaxy_mail.cli import dev as dev_module
from galaxy_mail.cli import main
from galaxy_mail.service.service import Service

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAIL_REDIS_ADDR", "MAIL_INTERNAL_HTTP_ADDR", "MAIL_STUB_OUTBOX"):
        monkeypatch.delenv(name, raising=False)


def test_a_service_that_does_not_answer_is_reported_with_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts = SimpleNamespace(server=SimpleNamespace(url=NOWHERE), gauges=SimpleNamespace(checks=dict))
    service = cast("Service", SimpleNamespace(parts=parts))
    monkeypatch.setattr(dev_module, "run", lambda _config, beside: trio.run(beside, service))
    result = CliRunner().invoke(main, ["dev", "--dir", str(tmp_path)])
    assert result.exit_code == 1
    assert f"a request to {NOWHERE} failed (ConnectError: " in result.stderr
    assert str(tmp_path / "galaxy-mail.log") in result.stderr


def test_a_defect_is_told_on_the_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And not written to the log file, which is closed by then."""
    hook_before, hook_within = sys.excepthook, None

    def break_down(*_: Any) -> None:
        nonlocal hook_within
        hook_within = sys.excepthook
        raise RuntimeError("a defect")

    monkeypatch.setattr(dev_module, "run", break_down)
    result = CliRunner().invoke(main, ["dev", "--dir", str(tmp_path)])
    assert isinstance(result.exception, RuntimeError)
    assert hook_within is not hook_before, "crashes of threads and finalisers go to the log while it runs"
    assert sys.excepthook is hook_before
