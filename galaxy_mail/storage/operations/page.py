"""Reads the next ids that are in all of several indexes."""

from typing import Final, NamedTuple

from msgspec import Struct

from galaxy_mail.storage.links.protocol import Reply
from galaxy_mail.storage.links.replies import as_bytes, as_int, as_list, as_text
from galaxy_mail.storage.operations.operation import NoKeys, Operation


class PageArgs(NamedTuple):
    order: str
    limit: int
    scan: int
    from_score: int | str
    to_score: int | str
    after_score: int | None
    after_id: str | None


class IndexPage(Struct, frozen=True):
    """Members of the indexes with their scores, in order."""

    found: list[tuple[str, int]]  # member, score
    last: tuple[str, int] | None  # the last candidate that was looked at; None: no candidate is left


def _decode(reply: Reply) -> IndexPage:
    ended, score, member, *found = as_list(reply)
    return IndexPage(
        [_scored(one, at) for one, at in zip(found[::2], found[1::2], strict=True)],
        None if as_int(ended) == 1 else _scored(member, score),
    )


def _scored(member: Reply, score: Reply) -> tuple[str, int]:
    return as_text(member), int(float(as_bytes(score)))


PAGE: Final = Operation("page", NoKeys, PageArgs, _decode)
