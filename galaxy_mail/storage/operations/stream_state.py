"""Reads the stream, its offset and its count at one moment."""

from typing import Final, NamedTuple

from msgspec import Struct

from galaxy_mail.storage.links.protocol import Reply
from galaxy_mail.storage.links.replies import as_bytes, as_int, as_list, as_text
from galaxy_mail.storage.operations.operation import NoArgs, Operation


class StreamStateKeys(NamedTuple):
    stream: str
    offset: str
    consumed: str


class StreamFacts(Struct, frozen=True, kw_only=True):
    """What Redis knows of a stream that exists."""

    length: int
    added: int  # entries ever added
    last_id: str
    first_id: str  # "" where the stream is empty


class RawStreamState(Struct, frozen=True):
    """As stored: `verify-store` also reads figures that are not numbers."""

    offset: bytes  # b"" before the first entry
    consumed: bytes
    stream: StreamFacts | None  # None: there is no stream


def _decode(reply: Reply) -> RawStreamState:
    offset, consumed, *facts = as_list(reply)
    stream = None
    if facts:
        length, added, last_id, first_id = facts
        stream = StreamFacts(
            length=as_int(length), added=as_int(added), last_id=as_text(last_id), first_id=as_text(first_id)
        )
    return RawStreamState(as_bytes(offset), as_bytes(consumed), stream)


STREAM_STATE: Final = Operation("stream_state", StreamStateKeys, NoArgs, _decode)
