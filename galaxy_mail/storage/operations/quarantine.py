"""Takes a claimed id whose record cannot be read out of the schedule, without deleting anything."""

from typing import Final, NamedTuple

from galaxy_mail.storage.operations.answers import done
from galaxy_mail.storage.operations.operation import Operation


class QuarantineKeys(NamedTuple):
    claims: str
    schedule: str


class QuarantineArgs(NamedTuple):
    delivery_id: str
    token: str


QUARANTINE: Final = Operation("quarantine", QuarantineKeys, QuarantineArgs, done)
