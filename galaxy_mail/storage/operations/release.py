"""Gives a claimed attempt back to the schedule, its number and its due time unchanged."""

from typing import Final, NamedTuple

from galaxy_mail.storage.operations.answers import done
from galaxy_mail.storage.operations.operation import Operation


class ReleaseKeys(NamedTuple):
    claims: str
    schedule: str
    delivery: str
    attempt: str
    status_from: str
    status_to: str


class ReleaseArgs(NamedTuple):
    delivery_id: str
    token: str
    due_ms: int
    delivery_record: bytes | None
    attempt_record: bytes | None
    created_at_ms: int


RELEASE: Final = Operation("release", ReleaseKeys, ReleaseArgs, done)
