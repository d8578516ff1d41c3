"""`galaxy-mail dead-letters`: what was given up, and sending it again, one by one or by a filter.

By a filter, the service first counts what matches (a dry run), and only then resends it, as a job of its own: it goes on
when this command, its terminal or the service's process ends, and `--job` follows it again.
"""

import sys
import time
from typing import Any, Final

import click

from galaxy_mail.cli.api import (
    MOMENT,
    ApiClient,
    ApiRefused,
    NotFound,
    as_json,
    caller,
    everything,
    failure_of,
    how_many,
    moment,
    new_key,
    print_items,
    print_json,
    print_members,
    segment,
    service,
)
from galaxy_mail.cli.deliveries import resend_one
from galaxy_mail.cli.progress import progress
from galaxy_mail.domain.records import DeliveryStatus, Source

CHECK_EVERY_S: Final = 0.5

Job = dict[str, Any]


@click.group("dead-letters")
def dead_letters() -> None:
    """See what was given up, and send it again."""


@dead_letters.command("list")
@how_many
@everything
@as_json
def list_dead_letters(*, limit: int, everything: bool, as_json: bool) -> None:
    """Deliveries that were given up, newest first."""
    with service() as api:
        print_items(
            api.items("/dead-letters", None if everything else limit),
            as_json,
            ("DIED", "DELIVERY", "REASON", "ATTEMPTS", "LAST FAILURE"),
            lambda one: (
                moment(one["created_at_ms"]),
                one["delivery_id"],
                one["reason"],
                one["attempt_count"],
                failure_of(one),
            ),
            nothing="no dead letter",
        )


@dead_letters.command("resend")
@click.argument("delivery_ids", nargs=-1, metavar="[DELIVERY_ID]...")
@click.option(
    "--since", "created_from_ms", type=MOMENT, help="Deliveries created since then: 2h, 1d, 2026-01-31T22:00."
)
@click.option("--until", "created_to_ms", type=MOMENT, help="Deliveries created until then, likewise in UTC.")
@click.option("--template", "template_id", metavar="TEMPLATE_ID")
@click.option("--source", type=click.Choice([source.value for source in Source]))
@click.option("--recipient", metavar="ADDRESS")
@click.option(
    "--every", is_flag=True, help="All dead letters that there are, where no other condition is given."
)
@click.option("--reason", help="Why, for the audit log; needed with conditions.")
@click.option(
    "--by", "created_by", default=caller, metavar="NAME", help="Who.  [default: the user of this shell]"
)
@click.option("--per-second", type=click.IntRange(1, 1000), default=20, show_default=True, help="The pace.")
@click.option("--dry-run", is_flag=True, help="Count what matches, and resend nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--no-wait", is_flag=True, help="Start the job and leave it alone.")
@click.option(
    "--idempotency-key", "key", help="Repeats the resend that had this key.  [default: a new one, printed]"
)
@click.option(
    "--job", "job_id", metavar="JOB_ID", help="Follow a job that was started before, and resend nothing."
)
@as_json
def resend(
    *,
    delivery_ids: tuple[str, ...],
    every: bool,
    reason: str | None,
    created_by: str | None,
    per_second: int,
    dry_run: bool,
    yes: bool,
    no_wait: bool,
    key: str | None,
    job_id: str | None,
    as_json: bool,
    **conditions: Any,
) -> None:
    """Send dead letters again: those named, or all that meet the conditions.

    With conditions, what matches is counted first and the count has to be confirmed. The exit status is 1 where
    something could not be resent.
    """
    which = {name: value for name, value in conditions.items() if value is not None}
    _refuse_contradictions(delivery_ids, which, every=every, job_id=job_id, dry_run=dry_run, key=key)
    with service() as api:
        if job_id is not None:
            _finish(_follow(api, api.get(f"/resends/{segment(job_id)}"), None), as_json)
            return
        if delivery_ids:
            _resend_named(api, delivery_ids, reason=reason, resent_by=created_by, key=key, as_json=as_json)
            return
        if reason is None:
            raise click.UsageError("--reason is needed: it goes into the audit log")
        if key is None:
            key = new_key()
            click.echo(f"idempotency key: {key}{_as_meant(which)}", err=True)
        which = {"status": "dead_letter", **which}
        asked: dict[str, Any] = {"filter": which, "reason": reason, "per_second": per_second}
        if created_by is not None:
            asked["created_by"] = created_by
        counted = _follow(api, _start(api, {**asked, "dry_run": True}, f"{key}-dry"), None)
        if dry_run or counted["status"] != "done" or counted["matched"] == 0:
            _finish(counted, as_json)
            return
        # What is resent is what was counted: nothing that was created since.
        which.setdefault("created_to_ms", counted["created_at_ms"])
        _confirm(counted["matched"], yes=yes)
        job = _start(api, asked, key)
        if no_wait:
            click.echo(f"job {job['job_id']}", err=True)
            if as_json:
                print_json(job)
            return
        _finish(_follow(api, job, counted["matched"]), as_json)


def _refuse_contradictions(
    delivery_ids: tuple[str, ...],
    which: dict[str, Any],
    *,
    every: bool,
    job_id: str | None,
    dry_run: bool,
    key: str | None,
) -> None:
    ways = [bool(delivery_ids), bool(which) or every, job_id is not None]
    if sum(ways) == 0:
        raise click.UsageError(
            "name deliveries, or give conditions (--since, --template, ...), or say --every"
        )
    if sum(ways) > 1:
        raise click.UsageError("deliveries, conditions and --job exclude each other")
    if delivery_ids and dry_run:
        raise click.UsageError("--dry-run counts what meets conditions; here deliveries are named")
    if len(delivery_ids) > 1 and key is not None:
        raise click.UsageError("one idempotency key stands for one delivery")


def _resend_named(
    api: ApiClient,
    delivery_ids: tuple[str, ...],
    *,
    reason: str | None,
    resent_by: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    resent: list[dict[str, Any]] = []
    refused = 0
    for delivery_id in delivery_ids:
        try:
            _must_be_dead(api, delivery_id)
            one = resend_one(api, delivery_id, reason=reason, resent_by=resent_by, key=key)
        except (ApiRefused, NotFound) as refusal:  # the others are still to be sent
            refused += 1
            click.echo(f"{delivery_id}: {refusal}", err=True)
            continue
        resent.append(one)
        if not as_json:
            click.echo(f"{delivery_id} resent as {one['delivery_id']}")
    if as_json:
        print_json({"items": resent})
    if refused:
        sys.exit(1)


def _as_meant(which: dict[str, Any]) -> str:
    """What else a repeat with the same key has to say: `2h` means another time by then."""
    options = (("--since", "created_from_ms"), ("--until", "created_to_ms"))
    times = [f"{option} {MOMENT.encoded(which[name])}" for option, name in options if name in which]
    return f" (with {' '.join(times)})" if times else ""


def _must_be_dead(api: ApiClient, delivery_id: str) -> None:
    """Raises ApiRefused for a delivery of another status: one that was sent would be mailed twice by a mistyped id."""
    status = api.get(f"/deliveries/{segment(delivery_id)}")["status"]
    if status != DeliveryStatus.DEAD_LETTER:
        raise ApiRefused(
            f"it is {status} and no dead letter; `deliveries resend` sends it again all the same"
        )


def _start(api: ApiClient, asked: dict[str, Any], key: str) -> Job:
    _, job = api.ask("POST", "/resends", body=asked, headers={"Idempotency-Key": key})
    started: Job = job
    return started


def _confirm(matched: int, *, yes: bool) -> None:
    many = f"{matched} dead letter{'s' if matched != 1 else ''}"
    click.echo(f"{many} match", err=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("there is nobody to ask; --yes resends without asking")
    click.confirm(f"Resend {many}?", abort=True, err=True)


def _follow(api: ApiClient, job: Job, expected: int | None) -> Job:
    """Shows how far it is until it ends. Ctrl-C leaves it running."""
    try:
        if expected is None:
            while job["status"] == "running":
                time.sleep(CHECK_EVERY_S)
                job = api.get(f"/resends/{segment(job['job_id'])}")
            return job
        click.echo(f"job {job['job_id']}", err=True)
        with progress(expected, "resending") as bar:
            while job["status"] == "running":
                time.sleep(CHECK_EVERY_S)
                job = api.get(f"/resends/{segment(job['job_id'])}")
                bar.update(job["matched"] - bar.pos)
    except KeyboardInterrupt:
        click.echo(f"\nthe job goes on; follow it with --job {job['job_id']}", err=True)
        raise
    return job


def _finish(job: Job, as_json: bool) -> None:
    if as_json:
        print_json(job)
    elif job["dry_run"]:
        click.echo(f"{job['matched']} would be resent")
    else:
        print_members(
            {
                "job": job["job_id"],
                "status": job["status"],
                "resent": job["resent"],
                "skipped": job["skipped"],
                "failure": failure_of(job),
            }
        )
    if job["status"] != "done" or job["skipped"]:
        sys.exit(1)
