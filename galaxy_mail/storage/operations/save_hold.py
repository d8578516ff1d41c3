"""Writes or removes a hold, if its record is unchanged."""

from typing import Final, NamedTuple

from galaxy_mail.storage.operations.answers import done
from galaxy_mail.storage.operations.operation import Operation


class SaveHoldKeys(NamedTuple):
    holds: str


class SaveHoldArgs(NamedTuple):
    field: str
    expected: bytes | None
    record: bytes | None


SAVE_HOLD: Final = Operation("save_hold", SaveHoldKeys, SaveHoldArgs, done)
