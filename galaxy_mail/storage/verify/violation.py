"""What can be found and what can be done about it."""

from msgspec import Struct

from galaxy_mail.storage.links.protocol import Call, Command
from galaxy_mail.storage.operations.repair import REPAIR, RepairArgs, RepairKeys


class Repair(Struct, frozen=True):
    """What would mend a violation. Where a live service could be in between, a script compares with what was looked at."""

    does: str  # "put there"
    calls: tuple[Call | Command, ...]


class Violation(Struct, frozen=True, kw_only=True):
    """One invariant that does not hold."""

    where: str  # a delivery id, or a key
    what: str
    repair: Repair | None = None  # None: nothing proves what would be right
    repaired: bool = False

    @property
    def did(self) -> str | None:
        """What was done about it."""
        return self.repair.does if self.repair is not None and self.repaired else None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" (mended: {self.did})" if self.repaired else "")


def _repair_call(record_key: str, record: bytes | None, index: str, member: str, score: int | None) -> Call:
    return REPAIR.call(
        RepairKeys(delivery=record_key, repaired_index=index),
        RepairArgs(delivery_id=member, delivery_record=record, score=score),
    )


def put(record_key: str, record: bytes, index: str, member: str, score: int) -> Repair:
    """Into the index, while that record stands at its key."""
    return Repair("put there", (_repair_call(record_key, record, index, member, score),))


def take_out(record_key: str, record: bytes | None, index: str, member: str) -> Repair:
    """Out of the index, while that record stands at its key, or none does."""
    return Repair("taken out", (_repair_call(record_key, record, index, member, None),))


def end_at(ms: int, *keys: str) -> Repair:
    return Repair(f"ends at {ms}", tuple(("PEXPIREAT", key, ms) for key in keys))
