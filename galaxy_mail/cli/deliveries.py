"""`galaxy-mail deliveries`: finds, shows and resends deliveries."""

from typing import Any

import click

from galaxy_mail.cli.api import ApiClient, new_key, print_list, segment, service
from galaxy_mail.cli.options import MOMENT, as_json, by, idempotency_key, limited
from galaxy_mail.cli.output import (
    failure_of,
    first_of,
    moment,
    print_json,
    print_members,
    print_table,
    shortened,
)
from galaxy_mail.domain.records import DeliveryStatus, Source


@click.group()
def deliveries() -> None:
    """Find, inspect and resend deliveries."""


@deliveries.command("list")
@click.option(
    "--recipient",
    metavar="ADDRESS",
    help="To, cc, bcc or a suppressed recipient is this address. Case is ignored.",
)
@click.option(
    "--status",
    type=click.Choice([status.value for status in DeliveryStatus]),
    help="The delivery has this status.",
)
@click.option(
    "--source", type=click.Choice([source.value for source in Source]), help="It came from this source."
)
@click.option("--template", "template_id", metavar="TEMPLATE_ID", help="It uses this template.")
@click.option("--key", "idempotency_key", metavar="IDEMPOTENCY_KEY", help="It has this idempotency key.")
@click.option(
    "--since",
    "created_from_ms",
    type=MOMENT,
    help="Created at or after this time: a duration ago or a time in UTC, as in 2h, 1d, 2026-01-31T22:00.",
)
@click.option("--until", "created_to_ms", type=MOMENT, help="Created at or before this time, like --since.")
@limited
@as_json
def list_deliveries(*, limit: int | None, as_json: bool, **conditions: object) -> None:
    """List the deliveries that meet all conditions, newest first."""
    print_list(
        "/deliveries",
        limit,
        as_json,
        ("CREATED", "DELIVERY", "STATUS", "SOURCE", "TO", "TEMPLATE OR SUBJECT", "ATTEMPTS", "FAILURE"),
        lambda one: (
            moment(one["created_at_ms"]),
            one["delivery_id"],
            one["status"],
            one["source"],
            first_of(_everyone(one)),
            shortened(one["template_id"] or one["subject"], 30),
            one["attempt_count"],
            one["failure"] and one["failure"]["code"],
        ),
        nothing="no deliveries",
        **conditions,
    )


@deliveries.command("show")
@click.argument("delivery_id")
@as_json
def show(delivery_id: str, *, as_json: bool) -> None:
    """Show the delivery DELIVERY_ID and its attempts. With --json: only the delivery."""
    with service() as api:
        delivery = api.get(f"/deliveries/{segment(delivery_id)}")
        if as_json:
            print_json(delivery)
            return
        print_members(_members(delivery))
        click.echo()
        _print_attempts(api, delivery_id)


@deliveries.command("attempts")
@click.argument("delivery_id")
@as_json
def attempts(delivery_id: str, *, as_json: bool) -> None:
    """List the attempts of DELIVERY_ID, oldest first. Attempts may be kept longer than their delivery."""
    with service() as api:
        if as_json:
            print_json(api.get(f"/deliveries/{segment(delivery_id)}/attempts"))
        else:
            _print_attempts(api, delivery_id)


@deliveries.command("resend")
@click.argument("delivery_id")
@click.option("--reason", help="The reason, for the audit log.")
@by("resent_by", "the audit log")
@idempotency_key
@as_json
def resend(
    delivery_id: str, *, reason: str | None, resent_by: str | None, key: str | None, as_json: bool
) -> None:
    """Resend the finished delivery DELIVERY_ID as a new delivery."""
    with service() as api:
        resent = resend_one(api, delivery_id, reason=reason, resent_by=resent_by, key=key)
    if as_json:
        print_json(resent)
    elif resent["replayed"]:
        click.echo(f"already resent with this key: {resent['delivery_id']}")
    else:
        click.echo(f"resent as {resent['delivery_id']}")


def resend_one(
    api: ApiClient, delivery_id: str, *, reason: str | None, resent_by: str | None, key: str | None
) -> dict[str, Any]:
    """The new delivery. Prints a generated key before the request: a repeat after a lost answer needs it.

    Raises ApiError.
    """
    if key is None:
        key = new_key()
        click.echo(f"idempotency key: {key}", err=True)
    body = {
        name: value for name, value in (("reason", reason), ("resent_by", resent_by)) if value is not None
    }
    status, resent = api.request(
        "POST",
        f"/deliveries/{segment(delivery_id)}/resend",
        body=body,
        headers={"Idempotency-Key": key},
    )
    return {**resent, "idempotency_key": key, "replayed": status == 200}


def _everyone(delivery: dict[str, Any]) -> list[str]:
    envelope = delivery["envelope"]
    dropped = [one["address"] for one in delivery["suppressed_recipients"]]
    return [*envelope["to"], *envelope["cc"], *envelope["bcc"], *dropped]


def _members(delivery: dict[str, Any]) -> dict[str, object]:
    """The members of a delivery for an operator, without empty ones."""
    envelope = delivery["envelope"]
    locale = delivery["locale_used"]
    members: dict[str, object] = {
        "delivery": delivery["delivery_id"],
        "status": delivery["status"],
        "failure": failure_of(delivery),
        "next attempt": moment(delivery["next_attempt_at_ms"]),
        "to": envelope["to"],
        "cc": envelope["cc"],
        "bcc": envelope["bcc"],
        "reply to": envelope["reply_to"],
        "suppressed": [f"{one['address']} ({one['reason']})" for one in delivery["suppressed_recipients"]],
        "subject": delivery["subject"],
        "source": delivery["source"],
        "template": delivery["template_id"],
        "locale": f"{locale} instead of {delivery['locale']}"
        if delivery["locale_fallback_used"]
        else locale or delivery["locale"],
        "resend of": delivery["parent_delivery_id"],
        "resent as": delivery["resent_as"],
        "idempotency key": delivery["idempotency_key"],
        "message id": delivery["message_id"],
        "request": delivery["request_id"],
        "trace": delivery["trace_id"],
        "created": moment(delivery["created_at_ms"]),
        "rendered": moment(delivery["rendered_at_ms"]),
        "updated": moment(delivery["updated_at_ms"]),
        "finished": moment(delivery["finished_at_ms"]),
    }
    return {name: value for name, value in members.items() if value not in (None, [])}


def _print_attempts(api: ApiClient, delivery_id: str) -> None:
    items = api.get(f"/deliveries/{segment(delivery_id)}/attempts")["items"]
    if not items:
        click.echo("no attempts", err=True)
        return
    print_table(
        ("ATTEMPT", "DUE", "STARTED", "TOOK", "STATUS", "PROVIDER", "ANSWER", "FAILURE"),
        [
            (
                one["attempt_no"],
                moment(one["scheduled_for_ms"]),
                moment(one["started_at_ms"]),
                _took(one),
                one["status"] + (" (outcome unknown)" if one["outcome_unknown"] else ""),
                one["provider"],
                one["provider_code"],
                failure_of(one),
            )
            for one in items
        ],
    )
    for one in items:
        for refused in one["refused_recipients"]:
            answer = f"{refused['provider_code']} {refused['summary']}"
            click.echo(f"attempt {one['attempt_no']}: {refused['address']} was refused: {answer}")


def _took(attempt: dict[str, Any]) -> str | None:
    started_ms, finished_ms = attempt["started_at_ms"], attempt["finished_at_ms"]
    if started_ms is None or finished_ms is None:
        return None
    return f"{(finished_ms - started_ms) / 1000:.3f} s"
