"""Reads which store this is and how far it has come; names a store that has no id."""

from typing import Final, NamedTuple

from msgspec import Struct

from galaxy_mail.storage.links.protocol import Reply
from galaxy_mail.storage.links.replies import as_bytes_list
from galaxy_mail.storage.operations.operation import Operation


class IdentifyKeys(NamedTuple):
    meta: str
    sequence: str
    offset: str


class IdentifyArgs(NamedTuple):
    id: str | None
    created_at_ms: int


class Identity(Struct, frozen=True):
    """A store's id and how far it has come."""

    store_id: str  # "" for a store without one
    sequence: int  # of claims
    offset: str  # in the stream; "" before the first entry


def _decode(reply: Reply) -> Identity:
    store_id, sequence, offset = as_bytes_list(reply)
    return Identity(store_id.decode(), int(sequence), offset.decode())


IDENTIFY: Final = Operation("identify", IdentifyKeys, IdentifyArgs, _decode)
