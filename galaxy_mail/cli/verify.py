"""`galaxy-mail verify-store`: is the store sound?"""

import os
import sys
from typing import Final

import click
import msgspec
import trio

from galaxy_mail.cli.errors import Unreachable
from galaxy_mail.config import StoreConfig
from galaxy_mail.storage.embedded import EmbeddedValkey
from galaxy_mail.storage.links.errors import RedisFailure
from galaxy_mail.storage.links.gateway import Gateway
from galaxy_mail.storage.operations.identity import StoreIdentity
from galaxy_mail.storage.operations.store import Retention, Store
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.verify import Violation, verify
from galaxy_mail.telemetry import logs

CONNECT_WITHIN_S: Final = 10.0


@click.command("verify-store")
@click.option("--repair", is_flag=True, help="Mend what the records prove; say what was done.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def verify_store(*, repair: bool, as_json: bool) -> None:
    """Check every invariant of the store. It may run beside a live service.

    Reads Redis at MAIL_REDIS_ADDR; MAIL_*_TTL must be those of the service. Exit status 0: sound; 1: something is wrong
    and was not mended, each on a line of its own; 3: Redis can't be reached.
    """
    config = StoreConfig.from_env(os.environ)
    click.get_current_context().call_on_close(logs.configure("error", "console", sys.stderr.buffer))
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
    address = config.redis_addr
    if address.embedded_dir is not None:
        address = EmbeddedValkey(address.embedded_dir).address
    gateway = Gateway(address)
    keys = Keys(
        command_stream=config.redis_command_stream,
        schedule=config.redis_attempt_schedule_key,
        dead_letters=config.redis_dead_letter_prefix,
    )
    store = Store(
        gateway,
        keys=keys,
        retention=Retention(
            idempotency_ms=config.idempotency_ttl_ms,
            delivery_ms=config.delivery_ttl_ms,
            attempt_ms=config.attempt_ttl_ms,
        ),
        claim_ttl_ms=0,  # nothing is claimed here
        epoch=StoreIdentity(keys, now_ms=gateway.now_ms, on_verdict=lambda _: None),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.run)
        with trio.move_on_after(CONNECT_WITHIN_S):
            await gateway.wait_connected()
        if not gateway.connected:
            raise Unreachable(f"Redis can't be reached: {gateway.statistics().last_error}")
        try:
            violations = await verify(store, repair=repair)
        except RedisFailure as trouble:  # not 1: nothing was found out about the store
            raise Unreachable(f"Redis was lost on the way: {trouble}") from trouble
        nursery.cancel_scope.cancel()
    return violations


def _summary(violations: list[Violation], left: list[Violation]) -> str:
    if not violations:
        return "the store is sound"
    repaired = len(violations) - len(left)
    return f"{len(left)} wrong" + (f", {repaired} mended" if repaired else "")
