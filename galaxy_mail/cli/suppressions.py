"""`galaxy-mail suppressions`: manages the suppression list."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from galaxy_mail.cli.api import ApiClient, print_list, segment, service
from galaxy_mail.cli.options import as_json, by, limited
from galaxy_mail.cli.output import moment, print_json, print_members, shortened
from galaxy_mail.domain.errors import GalaxyMailError


class NotWritten(GalaxyMailError):
    """The output file can't be written."""


@click.group()
def suppressions() -> None:
    """Manage the suppression list: addresses that receive no mail.

    An ADDRESS is an e-mail address, or @domain for all addresses of a domain.
    """


@suppressions.command("list")
@limited
@as_json
def list_suppressions(*, limit: int | None, as_json: bool) -> None:
    """List the suppressions, sorted by address."""
    print_list(
        "/suppressions",
        limit,
        as_json,
        ("ADDRESS", "REASON", "BY", "SINCE"),
        lambda one: (
            one["address"],
            shortened(one["reason"], 60),
            one["created_by"],
            moment(one["created_at_ms"]),
        ),
        nothing="no suppressions",
    )


@suppressions.command("show")
@click.argument("address")
@as_json
def show(address: str, *, as_json: bool) -> None:
    """Show the entry of ADDRESS. The entry of an address's domain is a separate one."""
    with service() as api:
        entry = api.get(f"/suppressions/{segment(address)}")
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


@suppressions.command("add")
@click.argument("address")
@click.option("--reason", required=True, help="The reason of the suppression.")
@by("created_by", "the entry")
@as_json
def add(address: str, *, reason: str, created_by: str | None, as_json: bool) -> None:
    """Suppress ADDRESS. Replaces an entry that exists."""
    body = {"reason": reason} | ({} if created_by is None else {"created_by": created_by})
    with service() as api:
        status, entry = api.request("PUT", f"/suppressions/{segment(address)}", body=body)
    if as_json:
        print_json(entry)
    else:
        outcome = "is suppressed" if status == 201 else "was suppressed before; its entry is replaced"
        click.echo(f"{entry['address']} {outcome}")


@suppressions.command("remove")
@click.argument("address")
def remove(address: str) -> None:
    """Remove the suppression of ADDRESS."""
    with service() as api:
        api.request("DELETE", f"/suppressions/{segment(address)}")
    click.echo("removed")


@suppressions.command("import")
@click.argument("file", type=click.File("rb"))
@as_json
def import_(file: Any, *, as_json: bool) -> None:
    """Add or replace entries from the CSV file FILE. `-` is standard input.

    The columns address and reason are required, created_by and created_at_ms are optional. If a line is invalid,
    nothing is imported.
    """
    with service() as api:
        _, counts = api.request(
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
    help="The file to write.  [default: standard output]",
)
def export(output: Path | None) -> None:
    """Export the whole list as CSV. `import` reads this format."""
    with service() as api:
        if output is None:
            api.download("/suppressions/export", sys.stdout.buffer.write)
            return
        try:
            _export_to(output, api)
        except OSError as error:
            raise NotWritten(f"can't write {output}: {error.strerror or error}") from error


def _export_to(output: Path, api: ApiClient) -> None:
    """Writes a temporary file and renames it, so that a broken export leaves no half of a list."""
    descriptor, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            api.download("/suppressions/export", file.write)
        Path(name).replace(output)
    except BaseException:
        Path(name).unlink()
        raise
