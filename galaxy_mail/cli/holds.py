"""`galaxy-mail holds`: stops sending, and lets it go on."""

import time
from typing import Any, Final

import click

from galaxy_mail.cli.api import segment, service
from galaxy_mail.cli.options import as_json, by
from galaxy_mail.cli.output import failure_of, moment, print_json, print_table, shortened
from galaxy_mail.settings import kinds


class Duration(click.ParamType):  # type: ignore[type-arg]  # before click 8.4 it takes no parameter
    """How long, as the settings spell it."""

    name = "duration"
    _parse = staticmethod(kinds.duration_ms(at_least="1s", at_most="8760h"))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds."""
        try:
            return value if isinstance(value, int) else self._parse(value)
        except ValueError:
            self.fail(f"{value!r} is not a duration such as 90s, 30m or 2h, at most a year", param, ctx)


DURATION: Final = Duration()


@click.group()
def holds() -> None:
    """Hold mail back: nothing in the scope of a hold begins until the hold ends.

    A SCOPE is all, lane:priority (login codes), lane:normal (other mail) or relay:NAME. Mail is accepted as ever and
    waits. What has begun goes on.
    """


@holds.command("list")
@as_json
def list_holds(*, as_json: bool) -> None:
    """List the holds in force, including those of breakers."""
    with service() as api:
        found = api.get("/holds")
    if as_json:
        print_json(found)
    elif found["items"]:
        print_table(
            ("SCOPE", "CAUSE", "REASON", "FAILURE", "BY", "SINCE", "UNTIL"),
            [
                (
                    one["scope"],
                    one["cause"],
                    shortened(one["reason"], 60),
                    shortened(failure_of(one), 60),
                    one["created_by"],
                    moment(one["since_ms"]),
                    moment(one["until_ms"]),
                )
                for one in found["items"]
            ],
        )
    else:
        click.echo("no holds", err=True)


@holds.command("add")
@click.argument("scope")
@click.option("--reason", required=True, help="The reason of the hold.")
@click.option(
    "--for",
    "lasts_ms",
    type=DURATION,
    help="End the hold by itself after this time, such as 30m or 2h.  [default: only `remove` ends it]",
)
@by("created_by", "the hold")
@as_json
def add(scope: str, *, reason: str, lasts_ms: int | None, created_by: str | None, as_json: bool) -> None:
    """Hold SCOPE. Replaces an operator's hold of this scope. Every process obeys within a second."""
    until_ms = None if lasts_ms is None else int(time.time() * 1000) + lasts_ms
    body = {"reason": reason, "until_ms": until_ms, "created_by": created_by}
    with service() as api:
        status, hold = api.request(
            "PUT",
            f"/holds/{segment(scope)}",
            body={name: value for name, value in body.items() if value is not None},
        )
    if as_json:
        print_json(hold)
        return
    outcome = "is held" if status == 201 else "was held before; the hold is replaced"
    ends = "" if hold["until_ms"] is None else f", until {moment(hold['until_ms'])}"
    click.echo(f"{hold['scope']} {outcome}{ends}")


@holds.command("remove")
@click.argument("scope")
def remove(scope: str) -> None:
    """End an operator's hold of SCOPE: what waited is sent at once. Have the relay of a breaker's hold probed at once.

    A breaker's hold stays if the probe fails.
    """
    with service() as api:
        api.request("DELETE", f"/holds/{segment(scope)}")
    click.echo("removed")
