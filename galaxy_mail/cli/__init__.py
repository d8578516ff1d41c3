"""The command `galaxy-mail`: its frame.

A command's module is imported when that command is used, and not for `--help`, so that each pays for its own imports
alone. What the product raises on purpose becomes its message and an exit status here, and no traceback.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

import click

from galaxy_mail.domain.errors import GalaxyMailError, leaves


class Lazy(NamedTuple):
    """Where a command is, and its line in the list of commands, which is shown without a look there."""

    module: str
    attribute: str
    summary: str


COMMANDS: Final[Mapping[str, Lazy]] = {
    "serve": Lazy("serve", "serve", "Run the service."),
    "dev": Lazy("dev", "dev", "Try it all on this machine: a private Valkey, a stub relay, sample mail."),
    "healthcheck": Lazy("healthcheck", "healthcheck", "Ask the service on this host how it is, as a probe."),
    "check-config": Lazy(
        "check_config", "check_config", "Check the configuration and print what is in effect."
    ),
    "templates": Lazy(
        "templates", "templates", "List, check and preview mail templates, without a running service."
    ),
    "deliveries": Lazy("deliveries", "deliveries", "Find deliveries, see what happened, send them again."),
    "dead-letters": Lazy("dead_letters", "dead_letters", "See what was given up, and send it again."),
    "malformed": Lazy("malformed", "malformed", "See stream commands that could not be accepted."),
    "suppressions": Lazy("suppressions", "suppressions", "Manage the addresses that are never mailed."),
    "publish": Lazy("publish", "publish", "Put commands from a file on the stream."),
    "verify-store": Lazy("verify", "verify_store", "Check every invariant of the store."),
}


SERVING: Final = frozenset({"serve", "dev"})  # these run until they are asked to stop


class LazyGroup(click.Group):
    """A group whose commands are named in COMMANDS, and which turns expected errors into exit statuses."""

    def main(self, args: Sequence[str] | None = None, *others: Any, **named: Any) -> Any:
        """The whole command line; without `args` it is the process' own."""
        if args is None and sys.argv[1:2] and sys.argv[1] in SERVING:
            # Imports take most of a start, and a stop may come meanwhile. Nothing is begun yet, so nothing is left
            # undone; once the service runs, it listens to signals itself.
            signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
        return super().main(args, *others, **named)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return [name for name, lazy in COMMANDS.items() if find_spec(f"{__name__}.{lazy.module}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        lazy = COMMANDS.get(cmd_name)
        if lazy is None or find_spec(f"{__name__}.{lazy.module}") is None:
            return None
        command: click.Command = getattr(import_module(f"{__name__}.{lazy.module}"), lazy.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].summary) for name in self.list_commands(ctx)])

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
