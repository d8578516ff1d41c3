"""Replies of Redis, checked: each function returns a reply in the type that its command has."""

from collections.abc import Sequence
from typing import NoReturn

from galaxy_mail.storage.links.errors import RedisRefused
from galaxy_mail.storage.links.protocol import Entry, Reply


class UnexpectedReply(AssertionError):
    """A reply has a shape that its command or script does not have: a bug. Names types only, since replies hold secrets."""


def answered(reply: Reply) -> Reply:
    """The reply, whatever its type. Raises RedisRefused, as all functions here do."""
    if isinstance(reply, RedisRefused):
        raise reply
    return reply


def as_int(reply: Reply) -> int:
    return reply if isinstance(reply, int) else _unexpected("an integer", reply)


def as_bytes(reply: Reply) -> bytes:
    return reply if isinstance(reply, bytes) else _unexpected("a string", reply)


def as_text(reply: Reply) -> str:
    return as_bytes(reply).decode()


def as_optional_bytes(reply: Reply) -> bytes | None:
    return reply if reply is None else as_bytes(reply)


def as_list(reply: Reply) -> list[Reply]:
    return reply if isinstance(reply, list) else _unexpected("a list", reply)


def as_bytes_list(reply: Reply) -> list[bytes]:
    return [as_bytes(part) for part in as_list(reply)]


def as_optional_bytes_list(reply: Reply) -> list[bytes | None]:
    return [as_optional_bytes(part) for part in as_list(reply)]


def as_scan(reply: Reply) -> tuple[str, list[bytes]]:
    """A page of SCAN, HSCAN or ZSCAN: the next cursor ("0" after the last page) and a flat list of what was found."""
    cursor, found = as_parts(reply, 2)
    return as_text(cursor), as_bytes_list(found)


def as_parts(reply: Reply, count: int) -> Sequence[Reply]:
    """A list of exactly so many parts."""
    parts = as_list(reply)
    return parts if len(parts) == count else _unexpected(f"a list of {count}", reply)


def as_entries(reply: Reply) -> list[Entry]:
    """Stream entries: [[id, [field, value, ...]], ...]."""
    entries: list[Entry] = []
    for entry in as_list(reply):
        entry_id, flat = as_parts(entry, 2)
        parts = as_bytes_list(flat)
        entries.append((as_text(entry_id), list(zip(parts[::2], parts[1::2], strict=True))))
    return entries


def _unexpected(expected: str, reply: Reply) -> NoReturn:
    if isinstance(reply, RedisRefused):
        raise reply
    size = f" of {len(reply)}" if isinstance(reply, list) else ""
    raise UnexpectedReply(f"expected {expected} from Redis, got {type(reply).__name__}{size}")
