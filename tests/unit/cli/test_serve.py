"""`serve` around the service: its warnings at the start, and the deadlines of a stop."""

import signal
import threading
from collections.abc import AsyncIterator
from unittest.mock import MagicMock, call, patch

import structlog.testing

from galaxy_mail.cli import serve
from galaxy_mail.config import Config

GRACE: dict[str, str] = {"MAIL_REDIS_ADDR": "unix:///nowhere", "MAIL_SHUTDOWN_GRACE": "7s"}


def test_the_start_warns_of_settings_that_are_seldom_meant() -> None:
    config = Config.from_env(GRACE)
    with patch("trio.run"), structlog.testing.capture_logs() as logged:
        serve.run(config)
    [warning] = [line for line in logged if line["event"] == "config_warning"]
    assert warning["log_level"] == "warning"
    assert warning["warning"] in config.warnings()
    assert "MAIL_INTAKE_TOKENS" in warning["warning"]


async def test_each_signal_sets_a_deadline_by_which_the_process_is_gone() -> None:
    """The first one's lies behind the grace. The second one has no grace."""
    service = MagicMock(stopping=False, config=Config.from_env(GRACE))
    service.stop.side_effect = lambda: setattr(service, "stopping", True)

    async def signals() -> AsyncIterator[int]:
        yield signal.SIGTERM
        assert service.mock_calls == [call.stop()]
        yield signal.SIGINT

    with patch("galaxy_mail.cli.serve._exit_after") as exit_after, structlog.testing.capture_logs() as logged:
        await serve._stop_on_signals(signals(), service)
    assert exit_after.mock_calls == [call(7 + serve.AFTER_GRACE_S), call(serve.AFTER_GRACE_S)]
    assert service.mock_calls == [call.stop(), call.cancel()]
    assert [line["event"] for line in logged] == ["stopping", "stopping_at_once"]


def test_a_process_whose_tasks_hang_is_ended_at_its_deadline() -> None:
    ended = threading.Event()
    with patch("os._exit", side_effect=lambda _status: ended.set()) as leave:
        with structlog.testing.capture_logs() as logged:
            serve._exit_after(0.01)
            assert ended.wait(timeout=30)
        assert leave.mock_calls == [call(0)]
    assert [(line["event"], line["after_s"]) for line in logged] == [("stop_overdue", 0.01)]
