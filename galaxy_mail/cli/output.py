"""How commands print JSON, tables and records."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click
import msgspec

Json = Any
Row = Sequence[object]


def print_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Row]) -> None:
    cells = [[shown(value) for value in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(columns, *cells, strict=True)]
    for number, line in enumerate([list(columns), *cells]):
        text = "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)
        )
        click.echo(text.rstrip() if number else click.style(text.rstrip(), bold=True))


def print_members(members: Mapping[str, object]) -> None:
    """Prints one record, a line for each member."""
    width = max(map(len, members))
    for name, value in members.items():
        click.echo(f"{click.style(f'{name:<{width}}', bold=True)}  {shown(value)}".rstrip())


def shown(value: object) -> str:
    """`value` as text without terminal control characters; an absent value is a dash."""
    match value:
        case None | "" | [] | ():
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(shown, value))
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def moment(at_ms: int | None) -> str | None:
    """A time in UTC, to the second, in the format of the logs."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def shortened(text: str | None, longest: int) -> str | None:
    return text if text is None or len(text) <= longest else text[: longest - 1] + "…"


def failure_of(item: Mapping[str, Any]) -> str | None:
    failure = item["failure"]
    return None if failure is None else f"{failure['code']}: {failure['summary']}"


def first_of(values: Sequence[str]) -> str | None:
    """The first value and the number of the others."""
    if not values:
        return None
    others = f" +{len(values) - 1}" if len(values) > 1 else ""
    return f"{shortened(values[0], 40)}{others}"


_WIDE: Final = frozenset("WF")
_ZERO: Final = re.compile(r"[\u0300-\u036f\u200b-\u200d\ufe00-\ufe0f]")


def _width(text: str) -> int:
    """The number of terminal columns that `text` takes."""
    if text.isascii():
        return len(text)
    return sum(1 + (unicodedata.east_asian_width(char) in _WIDE) for char in _ZERO.sub("", text))
