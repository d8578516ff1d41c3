"""`galaxy-mail suppressions`: whom nobody mails."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from galaxy_mail.cli.api import (
    ApiClient,
    as_json,
    caller,
    everything,
    how_many,
    moment,
    print_items,
    print_json,
    print_members,
    segment,
    service,
    shortened,
)
from galaxy_mail.domain.errors import GalaxyMailError


class NotWritten(GalaxyMailError):
    """The file that was asked for can't be written."""


@click.group()
def suppressions() -> None:
    """Manage the addresses that are never mailed. An ADDRESS is one, or @domain for everybody there."""


@suppressions.command("list")
@how_many
@everything
@as_json
def list_suppressions(*, limit: int, everything: bool, as_json: bool) -> None:
    """The list, by address."""
    with service() as api:
        print_items(
            api.items("/suppressions", None if everything else limit),
            as_json,
            ("ADDRESS", "REASON", "BY", "SINCE"),
            lambda one: (
                one["address"],
                shortened(one["reason"], 60),
                one["created_by"],
                moment(one["created_at_ms"]),
            ),
            nothing="nobody is suppressed",
        )


@suppressions.command("show")
@click.argument("address")
@as_json
def show(address: str, *, as_json: bool) -> None:
    """One entry. An address may be suppressed by its domain's entry, too, which does not show here."""
    with service() as api:
        entry = api.get(f"/suppressions/{segment(address)}")
    _print_entry(entry, as_json)


@suppressions.command("add")
@click.argument("address")
@click.option("--reason", required=True, help="Why nobody mails there.")
@click.option(
    "--by", "created_by", default=caller, metavar="NAME", help="Who.  [default: the user of this shell]"
)
@as_json
def add(address: str, *, reason: str, created_by: str | None, as_json: bool) -> None:
    """Suppress an address or a domain, or change the entry."""
    body = {"reason": reason} | ({} if created_by is None else {"created_by": created_by})
    with service() as api:
        status, entry = api.ask("PUT", f"/suppressions/{segment(address)}", body=body)
    if as_json:
        print_json(entry)
    else:
        outcome = "is suppressed" if status == 201 else "was suppressed before; the entry is replaced"
        click.echo(f"{entry['address']} {outcome}")


@suppressions.command("remove")
@click.argument("address")
def remove(address: str) -> None:
    """Let an address or a domain be mailed again."""
    with service() as api:
        api.ask("DELETE", f"/suppressions/{segment(address)}")
    click.echo("removed")


@suppressions.command("import")
@click.argument("file", type=click.File("rb"))
@as_json
def import_(file: Any, *, as_json: bool) -> None:
    """Add or replace entries from a CSV file with the columns address and reason; `-` is standard input.

    created_by and created_at_ms are optional columns. One bad line refuses the whole file.
    """
    with service() as api:
        _, counts = api.ask(
            "POST", "/suppressions/import", content=file.read(), headers={"Content-Type": "text/csv"}
        )
    if as_json:
        print_json(counts)
    else:
        click.echo(f"{counts['added']} added, {counts['replaced']} replaced")


@suppressions.command("export")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file.  [default: standard output]",
)
def export(output: Path | None) -> None:
    """The whole list as CSV, which `import` takes."""
    with service() as api:
        if output is None:
            api.download("/suppressions/export", sys.stdout.buffer.write)
            return
        try:
            _export_to(output, api)
        except OSError as error:
            raise NotWritten(f"{output} can't be written: {error.strerror or error}") from error


def _export_to(output: Path, api: ApiClient) -> None:
    """Whole or not at all: half a list must not be taken for one."""
    descriptor, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            api.download("/suppressions/export", file.write)
        Path(name).replace(output)
    except BaseException:
        Path(name).unlink()
        raise


def _print_entry(entry: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(entry)
        return
    print_members(
        {
            "address": entry["address"],
            "reason": entry["reason"],
            "by": entry["created_by"],
            "since": moment(entry["created_at_ms"]),
        }
    )
