"""`galaxy-mail malformed`: shows stream commands that were rejected as malformed."""

import click

from galaxy_mail.cli.api import print_list, segment, service
from galaxy_mail.cli.options import as_json, limited
from galaxy_mail.cli.output import moment, print_json, print_members, shortened


@click.group()
def malformed() -> None:
    """Inspect stream commands that were rejected as malformed."""


@malformed.command("list")
@limited
@as_json
def list_malformed(*, limit: int | None, as_json: bool) -> None:
    """List malformed commands, newest first."""
    print_list(
        "/malformed-commands",
        limit,
        as_json,
        ("RECORDED", "ENTRY", "FAILURE", "DELIVERY", "MESSAGE"),
        lambda one: (
            moment(one["recorded_at_ms"]),
            one["entry_id"],
            one["failure_code"],
            shortened(one["fields"].get("delivery_id"), 40),
            shortened(one["message"], 80),
        ),
        nothing="no malformed commands",
    )


@malformed.command("show")
@click.argument("entry_id")
@as_json
def show(entry_id: str, *, as_json: bool) -> None:
    """Show the malformed command of the stream entry ENTRY_ID. Secrets are masked."""
    with service() as api:
        command = api.get(f"/malformed-commands/{segment(entry_id)}")
    if as_json:
        print_json(command)
        return
    print_members(
        {
            "entry": command["entry_id"],
            "recorded": moment(command["recorded_at_ms"]),
            "failure": command["failure_code"],
            "message": command["message"],
        }
    )
    click.echo()
    print_members(command["fields"] or {"fields": None})
