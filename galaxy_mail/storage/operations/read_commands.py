"""Reads the next stream entries, bounded by number and by bytes."""

from typing import Final, NamedTuple

from msgspec import Struct

from galaxy_mail.storage.links.protocol import Entry, Reply
from galaxy_mail.storage.links.replies import as_entries, as_list, as_text
from galaxy_mail.storage.operations.operation import Operation


class ReadCommandsKeys(NamedTuple):
    stream: str


class ReadCommandsArgs(NamedTuple):
    after: str
    max_entries: int
    max_bytes: int


class StreamPage(Struct, frozen=True):
    """Entries in order."""

    first_id: str  # of the oldest entry in the stream; "" where there is none
    entries: list[Entry]


def _decode(reply: Reply) -> StreamPage:
    first_id, entries = as_list(reply)
    return StreamPage(as_text(first_id), as_entries(entries))


READ_COMMANDS: Final = Operation("read_commands", ReadCommandsKeys, ReadCommandsArgs, _decode)
