"""Reads the records of claimed deliveries; large content only on request."""

from typing import Final, NamedTuple

from galaxy_mail.storage.links.protocol import Reply
from galaxy_mail.storage.links.replies import as_bytes, as_int, as_list
from galaxy_mail.storage.operations.operation import NoKeys, Operation


class ReadClaimedArgs(NamedTuple):
    content_max_bytes: int


class StoredRecords(NamedTuple):
    """What is stored of one delivery; b"" for what does not exist, or was not asked for."""

    delivery: bytes
    content_bytes: int  # the content's size; 0 where there is none
    content: bytes
    rendered: bytes


def _decode(reply: Reply) -> list[StoredRecords]:
    return [_records(one) for one in as_list(reply)]


def _records(reply: Reply) -> StoredRecords:
    delivery, content_bytes, content, rendered = as_list(reply)
    return StoredRecords(as_bytes(delivery), as_int(content_bytes), as_bytes(content), as_bytes(rendered))


READ_CLAIMED: Final = Operation("read_claimed", NoKeys, ReadClaimedArgs, _decode)
