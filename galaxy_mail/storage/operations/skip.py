"""Moves the offset past a stream entry that is a duplicate."""

from typing import Final, NamedTuple

from galaxy_mail.storage.operations.answers import accept_answer
from galaxy_mail.storage.operations.operation import Operation


class SkipKeys(NamedTuple):
    offset: str
    consumed: str


class SkipArgs(NamedTuple):
    entry_id: str
    predecessor: str


SKIP: Final = Operation("skip", SkipKeys, SkipArgs, accept_answer)
