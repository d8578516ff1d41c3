"""The commands that pages show: do they exist, with the options that are shown?"""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Final

import click
from click.testing import CliRunner

from galaxy_mail.cli import main
from tests.docs.pages import REPOSITORY, SPAN, Page

_OURS: Final = re.compile(r"(?:^|[\s(|;&])galaxy-mail((?: +[^\s|;&)#>\\]+)+)", re.MULTILINE)
_MAKE: Final = re.compile(r"(?:^|[\s;&])make((?: +[^\s|;&)#>\\]+)+)", re.MULTILINE)
_MODULE: Final = re.compile(r"python -m ([\w.]+)")
_SHELL: Final = frozenset(
    {SPAN, "sh", "console"}
)  # where commands stand; other blocks hold drawings, records, forms


def problems(page: Page) -> Iterator[str]:
    for fragment in page.code:
        if fragment.language not in _SHELL:
            continue
        text = fragment.text.replace("\\\n", " ")
        where = f"{page.name}:{fragment.line}"
        for match in _OURS.finditer(text):
            yield from (f"{where}: {problem}" for problem in _command_problems(match[1]))
        for match in _MAKE.finditer(text):
            for word in _split(match[1]):
                if "=" not in word and word not in _targets():
                    yield f"{where}: make has no target {word}"
        for match in _MODULE.finditer(text):
            path = REPOSITORY.joinpath(*match[1].split("."))
            if match[1].startswith("tests") and not (path.is_dir() or path.with_suffix(".py").exists()):
                yield f"{where}: there is no module {match[1]}"


def _command_problems(words: str) -> Iterator[str]:
    command: click.Command = main
    path = ["galaxy-mail"]
    arguments = _split(words)
    while arguments:
        word = arguments.pop(0)
        if word.startswith("-") and word != "-":
            option, _, value = word.partition("=")
            found = _option(command, option)
            if found is None:
                yield f"{' '.join(path)} has no option {option}"
                return
            if not (value or found.is_flag or found.is_eager or not arguments):
                arguments.pop(0)
        elif isinstance(command, click.Group):
            context = click.Context(command)
            below = command.get_command(context, word)
            if below is None:
                yield f"{' '.join(path)} has no command {word}"
                return
            command = below
            path.append(word)
        elif not any(isinstance(one, click.Argument) for one in command.params):
            yield f"{' '.join(path)} takes no argument, and {word} is given"
            return
    if not _helps(tuple(path[1:])):
        yield f"{' '.join(path)} --help fails"


def _split(words: str) -> list[str]:
    try:
        return shlex.split(words)
    except ValueError:  # a quotation that goes on in the next line
        return words.split()


def _option(command: click.Command, name: str) -> click.Option | None:
    options = command.get_params(click.Context(command))
    for option in options:
        if isinstance(option, click.Option) and name in (*option.opts, *option.secondary_opts):
            return option
    return None


@cache
def _helps(path: tuple[str, ...]) -> bool:
    ended = CliRunner().invoke(main, [*path, "--help"])
    return ended.exit_code == 0 and ended.output.startswith("Usage: ")


@cache
def _targets() -> frozenset[str]:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
