"""Counts stream entries that were trimmed or deleted unread."""

from typing import Final, NamedTuple

from galaxy_mail.storage.operations.answers import done
from galaxy_mail.storage.operations.operation import Operation


class NoteLostKeys(NamedTuple):
    consumed: str
    meta: str


class NoteLostArgs(NamedTuple):
    seen: int
    lost: int
    now_ms: int


NOTE_LOST: Final = Operation("note_lost", NoteLostKeys, NoteLostArgs, done)
