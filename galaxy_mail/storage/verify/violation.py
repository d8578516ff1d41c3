"""What can be found and what can be done about it. Never: a look or a change."""

from msgspec import Struct

from galaxy_mail.storage.commands import Call, Command
from galaxy_mail.storage.upkeep import MEND


class Mend(Struct, frozen=True):
    """What would mend a violation. Where a live service could be in between, a script compares with what was looked at."""

    does: str  # "put there"
    calls: tuple[Call | Command, ...]


class Violation(Struct, frozen=True, kw_only=True):
    """One invariant that does not hold."""

    where: str  # a delivery id, or a key
    what: str
    mend: Mend | None = None  # None: nothing proves what would be right
    mended: bool = False

    @property
    def did(self) -> str | None:
        """What was done about it."""
        return self.mend.does if self.mend is not None and self.mended else None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" (mended: {self.did})" if self.mended else "")


def put(record_key: str, record: bytes, index: str, member: str, score: int) -> Mend:
    """Into the index, while that record stands at its key."""
    return Mend("put there", (Call(MEND, (record_key, index), (member, record, score)),))


def take_out(record_key: str, record: bytes | None, index: str, member: str) -> Mend:
    """Out of the index, while that record stands at its key, or none does."""
    return Mend("taken out", (Call(MEND, (record_key, index), (member, record or b"", "")),))


def end_at(ms: int, *keys: str) -> Mend:
    return Mend(f"ends at {ms}", tuple(("PEXPIREAT", key, ms) for key in keys))
