"""Every invariant of the store, checked: what the scripts keep true is written down here once more, independently.

Reads only, unless it is asked to mend, and then only what a record proves. It may run beside a live service: what looks
broken is looked at again, and only what stays so is reported.
"""

from collections.abc import Sequence
from typing import Final

import trio
from msgspec.structs import replace

from galaxy_mail.storage.links.replies import answered
from galaxy_mail.storage.operations.store import Store
from galaxy_mail.storage.verify.keyspace import everything
from galaxy_mail.storage.verify.reading import is_wrong_type
from galaxy_mail.storage.verify.violation import Violation

LOOKS: Final = 3
PAUSE_S: Final = 0.5

__all__ = ["Violation", "verify"]


async def verify(store: Store, *, repair: bool = False, looks: int = LOOKS) -> list[Violation]:
    """Everything that is wrong with the store, nothing for a sound one. Raises RedisTrouble.

    `looks`: how often what seems wrong is looked at before it is reported; 1 while nothing else writes.
    """
    suspects = await _check_batch(store)
    for _ in range(looks - 1):
        if not suspects:
            break
        await trio.sleep(PAUSE_S)
        again = await _check_batch(store)
        suspects = {about: again[about] for about in suspects if about in again}
    found = list(suspects.values())
    return await _repaired(store, found) if repair else found


async def _check_batch(store: Store) -> dict[tuple[str, str], Violation]:
    """Once each, though a scan may come by a key twice."""
    return {(v.where, v.what): v async for v in everything(store)}


async def _repaired(store: Store, found: Sequence[Violation]) -> list[Violation]:
    """What can be mended is, one after the other; it counts as mended if another look does not find it any more."""
    if not any(violation.repair for violation in found):
        return list(found)
    for violation in found:
        if violation.repair is not None:
            for reply in await store.link.pipeline(violation.repair.calls):
                if not is_wrong_type(reply):  # then it is not mended, and said so
                    answered(reply)
    left = await _check_batch(store)
    return [
        replace(v, repaired=True) if v.repair is not None and (v.where, v.what) not in left else v
        for v in found
    ]
