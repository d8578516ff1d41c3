"""The frame of the command line: what is imported when, and what becomes of errors."""

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from galaxy_mail import cli
from galaxy_mail.cli import COMMANDS, main
from galaxy_mail.config import ConfigError
from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.settings import SettingProblem


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_where_the_list_of_commands_says(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help


def walked(command: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    """The command and all commands below it, by what one types."""
    yield " ".join(path), command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            yield from walked(below, *path, name)


@pytest.mark.parametrize(("path", "command"), list(walked(main, "galaxy-mail")))
def test_every_option_and_argument_has_a_help_text(path: str, command: click.Command) -> None:
    """An option has its own; click has none for arguments, so the command's text names them."""
    assert command.help, path
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, (path, parameter.name)
        else:
            assert parameter.name is not None
            assert parameter.name.upper().removesuffix("S") in command.help, (path, parameter.name)


def test_help_lists_every_command_and_imports_none() -> None:
    script = (
        "import sys; from galaxy_mail.cli import main; main(['--help'], standalone_mode=False);"
        "print('MODULES', *(m for m in sys.modules if m.startswith('galaxy_mail.') or m in ('trio', 'msgspec', 'quart')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=50
    )
    shown, _, modules = done.stdout.partition("MODULES")
    assert set(modules.split()) == {"galaxy_mail.cli", "galaxy_mail.domain", "galaxy_mail.domain.errors"}
    assert all(f"  {name} " in shown for name in COMMANDS)


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "galaxy_mail", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert done.stdout.startswith("galaxy-mail, version ")


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["no-such-command"])
    assert result.exit_code == 2
    assert "No such command" in result.output


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (GalaxyMailError("Redis is away"), 1, ["Redis is away"]),
        (ConfigError((SettingProblem("MAIL_X", "is wrong"),)), 2, ["MAIL_X: is wrong"]),
        (
            ExceptionGroup(
                "nursery", [GalaxyMailError("one"), ExceptionGroup("inner", [GalaxyMailError("two")])]
            ),
            1,
            ["one", "two"],
        ),
    ],
)
def test_an_expected_error_is_a_message_and_a_status(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, shown: list[str]
) -> None:
    result = run_command_that_raises(monkeypatch, error)
    assert result.exit_code == status
    assert all(f"galaxy-mail: {text}" in result.stderr or f"  {text}" in result.stderr for text in shown)
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("bug"), ExceptionGroup("nursery", [GalaxyMailError("one"), ZeroDivisionError("bug")])],
)
def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    raised = run_command_that_raises(monkeypatch, error).exception
    assert raised is error or (
        isinstance(raised, ExceptionGroup)
        and str(raised.exceptions[0]) == "bug"
        and len(raised.exceptions) == 1
    )


def run_command_that_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> "click.testing.Result":
    @click.command("check-config")
    def fails() -> None:
        raise error

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_args: fails)
    return CliRunner().invoke(main, ["check-config"])
