"""The command `galaxy-mail`: the list of its commands, and exit statuses for expected errors.

A command's module is imported only when that command runs, so `--help` and the other commands start fast. A
GalaxyMailError is printed as a message, without a traceback, and sets the exit status.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import click

from galaxy_mail.domain.errors import GalaxyMailError, leaves

# The summary of each command: `--help` shows it without importing the command's module. The command `verify-store` is
# `verify_store` in the module of that name.
COMMANDS: Final[Mapping[str, str]] = {
    "serve": "Run the service.",
    "dev": "Try the service locally: a private Valkey, a stub provider, sample mail.",
    "healthcheck": "Check the health of the service on this host. For probes.",
    "check-config": "Check the configuration and print the effective settings.",
    "templates": "List, check and preview mail templates. Needs no running service.",
    "deliveries": "Find, inspect and resend deliveries.",
    "dead-letters": "List and resend dead letters.",
    "malformed": "Inspect stream commands that were rejected as malformed.",
    "suppressions": "Manage the suppression list.",
    "publish": "Publish commands from a file to the stream.",
    "verify-store": "Check every invariant of the store.",
}

SERVING: Final = frozenset({"serve", "dev"})  # these run until a signal stops them


class LazyGroup(click.Group):
    """A group that imports the commands in COMMANDS on use and turns expected errors into exit statuses."""

    def main(self, args: Sequence[str] | None = None, *others: Any, **named: Any) -> Any:
        """Runs the command line `args`, by default that of the process."""
        if args is None and sys.argv[1:2] and sys.argv[1] in SERVING:
            # Imports take most of the start. A SIGTERM during the imports may exit at once, because no work has begun.
            # The running service installs its own signal handlers.
            signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
        return super().main(args, *others, **named)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"{__name__}.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        result: Any = None
        problems: list[BaseException] = []
        try:
            result = super().invoke(ctx)
        except* GalaxyMailError as group:
            problems = list(leaves(group))
        for problem in problems:
            click.echo(f"galaxy-mail: {problem}", err=True)
        if problems:
            ctx.exit(max(getattr(problem, "exit_status", 1) for problem in problems))
        return result


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="galaxy-mail", prog_name="galaxy-mail")
def main() -> None:
    """Galaxy Mail: accepts, renders, sends, retries and audits a platform's outgoing mail."""
