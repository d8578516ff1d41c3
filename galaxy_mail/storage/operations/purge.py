"""Removes a delivery whose retention is over; its attempts stay."""

from typing import Final, NamedTuple

from galaxy_mail.storage.operations.answers import done
from galaxy_mail.storage.operations.operation import Operation


class PurgeKeys(NamedTuple):
    delivery: str
    payload: str
    children: str
    expires: str


class PurgeArgs(NamedTuple):
    delivery_id: str
    delivery_record: bytes
    attempts_purge_at_ms: int


PURGE: Final = Operation("purge", PurgeKeys, PurgeArgs, done)
