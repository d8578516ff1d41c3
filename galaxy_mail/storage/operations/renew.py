"""Extends a claim."""

from typing import Final, NamedTuple

from galaxy_mail.storage.operations.answers import done
from galaxy_mail.storage.operations.operation import Operation


class RenewKeys(NamedTuple):
    claims: str
    schedule: str


class RenewArgs(NamedTuple):
    delivery_id: str
    token: str
    now_ms: int | None
    ttl_ms: int


RENEW: Final = Operation("renew", RenewKeys, RenewArgs, done)
