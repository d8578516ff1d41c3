"""`galaxy-mail verify-store`: checks the store's invariants."""

import click
import msgspec
import trio

from galaxy_mail.cli.redis_access import RedisUnreachable, connected_gateway, store_config
from galaxy_mail.config import StoreConfig
from galaxy_mail.storage.links.errors import RedisFailure
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import Retention
from galaxy_mail.storage.verify import Violation, verify


@click.command("verify-store")
@click.option(
    "--repair", is_flag=True, help="Repair what can be derived from the records. Prints each repair."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def verify_store(*, repair: bool, as_json: bool) -> None:
    """Check every invariant of the store. Safe while the service runs.

    Reads the Redis at MAIL_REDIS_ADDR. The MAIL_*_TTL variables must have the service's values. Prints each violation
    on a line. Exit status 0: no violation is left; 1: violations are left; 3: Redis can't be reached.
    """
    config = store_config()
    violations = trio.run(_verify, config, repair)
    for violation in violations:
        if as_json:
            line = {
                "where": violation.where,
                "what": violation.what,
                "mended": violation.repaired,
                "did": violation.did,
            }
            click.echo(msgspec.json.encode(line).decode())
        else:
            click.echo(str(violation))
    left = [violation for violation in violations if not violation.repaired]
    if not as_json:
        click.echo(_summary(violations, left), err=bool(left))
    if left:
        raise SystemExit(1)


async def _verify(config: StoreConfig, repair: bool) -> list[Violation]:
    keys = Keys(
        command_stream=config.redis_command_stream,
        schedule=config.redis_attempt_schedule_key,
        dead_letters=config.redis_dead_letter_prefix,
    )
    retention = Retention(
        idempotency_ms=config.idempotency_ttl_ms,
        delivery_ms=config.delivery_ttl_ms,
        attempt_ms=config.attempt_ttl_ms,
    )
    async with connected_gateway(config.redis_addr) as gateway:
        try:
            return await verify(gateway, keys=keys, retention=retention, clock=gateway.clock, repair=repair)
        except RedisFailure as failure:  # not status 1: the check is incomplete
            raise RedisUnreachable(f"the connection to Redis broke during the check: {failure}") from failure


def _summary(violations: list[Violation], left: list[Violation]) -> str:
    if not violations:
        return "the store is sound"
    repaired = f", {done} repaired" if (done := len(violations) - len(left)) else ""
    return f"{len(left)} violation{'s' if len(left) != 1 else ''}{repaired}"
