"""Checks every invariant of the store, independently of the scripts that maintain them.

Repairs, if asked to, only what can be derived from the records; otherwise it writes nothing. It may run beside a live
service: what seems wrong is checked again, and only what stays wrong is reported.
"""

from collections.abc import Sequence
from typing import Final

import trio
from msgspec.structs import replace

from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.links.protocol import RedisLink
from galaxy_mail.storage.links.replies import answered
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import Retention
from galaxy_mail.storage.verify.keyspace import everything
from galaxy_mail.storage.verify.reading import Reading, is_wrong_type
from galaxy_mail.storage.verify.violation import Violation

PASSES: Final = 3
PAUSE_S: Final = 0.5

__all__ = ["Violation", "verify"]


async def verify(
    link: RedisLink,
    *,
    keys: Keys,
    retention: Retention,
    clock: Clock,
    repair: bool = False,
    passes: int = PASSES,
) -> list[Violation]:
    """All violations in the store. Raises RedisFailure.

    `passes`: a violation is reported if this many passes find it; 1 is enough while nothing else writes.
    """

    async def check() -> dict[tuple[str, str], Violation]:
        """Each violation once, even if the scan finds a key twice."""
        reading = Reading(link, keys, retention, clock.now_ms())
        return {(v.where, v.what): v async for v in everything(reading)}

    suspects = await check()
    for _ in range(passes - 1):
        if not suspects:
            break
        await trio.sleep(PAUSE_S)
        again = await check()
        suspects = {about: again[about] for about in suspects if about in again}
    found = list(suspects.values())
    if not repair or not any(violation.repair for violation in found):
        return found
    await _repair(link, found)
    left = await check()
    return [
        replace(v, repaired=True) if v.repair is not None and (v.where, v.what) not in left else v
        for v in found
    ]


async def _repair(link: RedisLink, found: Sequence[Violation]) -> None:
    """Runs the repairs, one after the other. The next check shows which of them worked."""
    for violation in found:
        if violation.repair is not None:
            for reply in await link.pipeline(violation.repair.calls):
                if not is_wrong_type(reply):  # the violation stays, and is reported
                    answered(reply)
