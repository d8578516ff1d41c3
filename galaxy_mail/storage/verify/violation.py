"""Violations and their repairs."""

from msgspec import Struct

from galaxy_mail.storage.links.protocol import Call, Command
from galaxy_mail.storage.operations.repair import REPAIR, RepairArgs, RepairKeys


class Repair(Struct, frozen=True):
    """How a violation can be repaired. If a live service could interfere, a script compares the record first."""

    does: str  # such as "added to the index"
    calls: tuple[Call | Command, ...]


class Violation(Struct, frozen=True, kw_only=True):
    """One broken invariant."""

    where: str  # a delivery id, or a key
    what: str
    repair: Repair | None = None  # None: the correct state can't be derived from the records
    repaired: bool = False

    @property
    def did(self) -> str | None:
        """What the repair did. None: not repaired."""
        return self.repair.does if self.repair is not None and self.repaired else None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" (repaired: {self.did})" if self.repaired else "")


def _repair_call(record_key: str, record: bytes | None, index: str, member: str, score: int | None) -> Call:
    return REPAIR.call(
        RepairKeys(delivery=record_key, repaired_index=index),
        RepairArgs(delivery_id=member, delivery_record=record, score=score),
    )


def add(record_key: str, record: bytes, index: str, member: str, score: int) -> Repair:
    """Adds the member to the index, unless the record has changed."""
    return Repair("added to the index", (_repair_call(record_key, record, index, member, score),))


def remove(record_key: str, record: bytes | None, index: str, member: str) -> Repair:
    """Removes the member from the index, unless the record has changed. None: there must be no record."""
    return Repair("removed from the index", (_repair_call(record_key, record, index, member, None),))


def expire_at(ms: int, *keys: str) -> Repair:
    return Repair(f"expires at {ms}", tuple(("PEXPIREAT", key, ms) for key in keys))
