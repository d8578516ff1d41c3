"""Takes, keeps or gives up the right to read the stream or to probe a relay."""

from typing import Final, NamedTuple

from galaxy_mail.storage.operations.answers import done
from galaxy_mail.storage.operations.operation import Operation


class LeaseKeys(NamedTuple):
    lease: str


class LeaseArgs(NamedTuple):
    owner: str
    now_ms: int | None
    ttl_ms: int


LEASE: Final = Operation("lease", LeaseKeys, LeaseArgs, done)
