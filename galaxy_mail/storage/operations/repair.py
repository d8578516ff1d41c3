"""Adds a delivery to an index or removes it, if its record is unchanged."""

from typing import Final, NamedTuple

from galaxy_mail.storage.operations.answers import done
from galaxy_mail.storage.operations.operation import Operation


class RepairKeys(NamedTuple):
    delivery: str
    repaired_index: str


class RepairArgs(NamedTuple):
    delivery_id: str
    delivery_record: bytes | None
    score: int | None


REPAIR: Final = Operation("repair", RepairKeys, RepairArgs, done)
