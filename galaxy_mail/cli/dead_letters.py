"""`galaxy-mail dead-letters`: lists dead letters and resends them, by id or by filter.

A resend by filter first asks the service to count the matches (a dry run) and then starts a resend job. The job
continues when this command, its terminal or the service's process ends; `--job` follows it again.
"""

import sys
import time
from contextlib import nullcontext
from typing import Any, Final

import click

from galaxy_mail.cli.api import ApiClient, NotFound, RequestRefused, new_key, print_list, segment, service
from galaxy_mail.cli.deliveries import resend_one
from galaxy_mail.cli.options import MOMENT, as_json, by, idempotency_key, limited
from galaxy_mail.cli.output import failure_of, moment, print_json, print_members
from galaxy_mail.cli.progress import progress
from galaxy_mail.domain.records import DeliveryStatus, Source

CHECK_EVERY_S: Final = 0.5

Job = dict[str, Any]


@click.group("dead-letters")
def dead_letters() -> None:
    """List and resend dead letters: deliveries that failed after all retries."""


@dead_letters.command("list")
@limited
@as_json
def list_dead_letters(*, limit: int | None, as_json: bool) -> None:
    """List dead letters, newest first."""
    print_list(
        "/dead-letters",
        limit,
        as_json,
        ("DIED", "DELIVERY", "REASON", "ATTEMPTS", "LAST FAILURE"),
        lambda one: (
            moment(one["created_at_ms"]),
            one["delivery_id"],
            one["reason"],
            one["attempt_count"],
            failure_of(one),
        ),
        nothing="no dead letters",
    )


@dead_letters.command("resend")
@click.argument("delivery_ids", nargs=-1, metavar="[DELIVERY_ID]...")
@click.option(
    "--since",
    "created_from_ms",
    type=MOMENT,
    help="Deliveries created at or after this time: a duration ago or a time in UTC, as in 2h, 1d, 2026-01-31T22:00.",
)
@click.option(
    "--until", "created_to_ms", type=MOMENT, help="Deliveries created at or before this time, like --since."
)
@click.option("--template", "template_id", metavar="TEMPLATE_ID", help="Deliveries of this template.")
@click.option(
    "--source", type=click.Choice([source.value for source in Source]), help="Deliveries from this source."
)
@click.option("--recipient", metavar="ADDRESS", help="Deliveries to this address. Case is ignored.")
@click.option("--every", is_flag=True, help="All dead letters. Required if there is no other condition.")
@click.option("--reason", help="The reason, for the audit log. Required with conditions.")
@by("created_by", "the audit log")
@click.option(
    "--per-second", type=click.IntRange(1, 1000), default=20, show_default=True, help="Resends per second."
)
@click.option("--dry-run", is_flag=True, help="Count the matches and resend nothing.")
@click.option("--yes", is_flag=True, help="Resend without confirmation.")
@click.option("--no-wait", is_flag=True, help="Start the job and don't wait for its end.")
@idempotency_key
@click.option("--job", "job_id", metavar="JOB_ID", help="Follow a running job. Resends nothing else.")
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
    """Resend dead letters: those named by DELIVERY_ID, or all that meet the conditions.

    With conditions, the command counts the matches first and asks for confirmation. The exit status is 1 if a dead
    letter could not be resent.
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
            raise click.UsageError("--reason is required: the audit log records it")
        if key is None:
            key = new_key()
            click.echo(f"idempotency key: {key}{_absolute_times(which)}", err=True)
        which = {"status": "dead_letter", **which}
        body: dict[str, Any] = {"filter": which, "reason": reason, "per_second": per_second}
        if created_by is not None:
            body["created_by"] = created_by
        counted = _follow(api, _start(api, {**body, "dry_run": True}, f"{key}-dry"), None)
        if dry_run or counted["status"] != "done" or counted["matched"] == 0:
            _finish(counted, as_json)
            return
        # The job must not resend what was created after the count was confirmed.
        which.setdefault("created_to_ms", counted["created_at_ms"])
        _confirm(counted["matched"], yes=yes)
        job = _start(api, body, key)
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
        raise click.UsageError("pass delivery ids, or conditions (--since, --template, ...), or --every")
    if sum(ways) > 1:
        raise click.UsageError("delivery ids, conditions and --job exclude each other")
    if delivery_ids and dry_run:
        raise click.UsageError("--dry-run needs conditions, not delivery ids")
    if len(delivery_ids) > 1 and key is not None:
        raise click.UsageError("--idempotency-key allows only one delivery id")


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
        except (RequestRefused, NotFound) as refusal:  # go on with the others
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


def _absolute_times(which: dict[str, Any]) -> str:
    """The times that a repeat with the same key must pass: a relative `2h` would mean another time by then."""
    options = (("--since", "created_from_ms"), ("--until", "created_to_ms"))
    times = [f"{option} {MOMENT.encoded(which[name])}" for option, name in options if name in which]
    return f" (with {' '.join(times)})" if times else ""


def _must_be_dead(api: ApiClient, delivery_id: str) -> None:
    """Raises RequestRefused for another status: a mistyped id must not mail a sent delivery again."""
    status = api.get(f"/deliveries/{segment(delivery_id)}")["status"]
    if status != DeliveryStatus.DEAD_LETTER:
        raise RequestRefused(f"it is not a dead letter but {status}; `deliveries resend` can send it again")


def _start(api: ApiClient, body: dict[str, Any], key: str) -> Job:
    _, job = api.request("POST", "/resends", body=body, headers={"Idempotency-Key": key})
    started: Job = job
    return started


def _confirm(matched: int, *, yes: bool) -> None:
    many = f"{matched} dead letter{'s' if matched != 1 else ''}"
    click.echo(f"{many} match", err=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("stdin is not a terminal: pass --yes to resend without confirmation")
    click.confirm(f"Resend {many}?", abort=True, err=True)


def _follow(api: ApiClient, job: Job, expected: int | None) -> Job:
    """Waits for the job's end and shows its progress if `expected` is given. Ctrl-C leaves the job running."""
    if expected is not None:
        click.echo(f"job {job['job_id']}", err=True)
    try:
        with progress(expected, "resending") if expected is not None else nullcontext() as bar:
            while job["status"] == "running":
                time.sleep(CHECK_EVERY_S)
                job = api.get(f"/resends/{segment(job['job_id'])}")
                if bar is not None:
                    bar.update(job["matched"] - bar.pos)
    except KeyboardInterrupt:
        click.echo(f"\nthe job continues; follow it with --job {job['job_id']}", err=True)
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
