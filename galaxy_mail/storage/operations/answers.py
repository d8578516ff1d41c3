"""What scripts answer, as values: the first element says what happened, and means the same in all of them."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from msgspec import Struct

from galaxy_mail.domain.records import IdempotencyRecord, Suppression, decode
from galaxy_mail.storage.links.protocol import Reply
from galaxy_mail.storage.links.replies import (
    UnexpectedReply,
    as_bytes,
    as_list,
    as_optional_bytes,
    as_text,
)
from galaxy_mail.storage.records.encoding import readable

UNREADABLE: Final = "the suppression list's entry can't be read"


class Answer(IntEnum):
    """The first element of what a script returns; the same number means the same in all of them."""

    STALE = 0
    DONE = 1
    REPLAY = 2
    DELIVERY_EXISTS = 3
    SUPPRESSED = 4
    NOT_NEXT = 5
    EXPIRED = 6


class Accepted(Struct, frozen=True):
    """It is durable now."""


class Replay(Struct, frozen=True):
    """The same (source, idempotency key) was accepted before: what its record says."""

    record: IdempotencyRecord
    raw: bytes  # as stored, to be replaced once it is past its time


class DeliveryExists(Struct, frozen=True):
    """Another delivery has this id. Nothing was written."""


class SuppressionsFound(Struct, frozen=True):
    """Recipients are on the suppression list. Nothing was written."""

    found: list[bytes | None]  # the list's entries, in the order in which they were asked for

    def named(self, asked: Sequence[str]) -> "NewlySuppressed":
        return NewlySuppressed(reasons(asked, self.found))


class NewlySuppressed(Struct, frozen=True):
    """Recipients are on the suppression list: entry -> reason. Nothing was written."""

    entries: dict[str, str]


class NotNext(Struct, frozen=True):
    """The stream's offset is elsewhere: an earlier entry was refused, or another reader was here. Nothing was written."""

    offset: str


AcceptReply = Accepted | Replay | DeliveryExists | SuppressionsFound | NotNext
AcceptAnswer = Accepted | Replay | DeliveryExists | NewlySuppressed | NotNext


def done(reply: Reply) -> bool:
    """True: done. False: the claim or the record is not the caller's any more, and nothing was written."""
    [answer] = as_list(reply)
    if answer != Answer.DONE and answer != Answer.STALE:
        raise UnexpectedReply(f"a script answered {answer!r}")
    return answer == Answer.DONE


def accept_answer(reply: Reply) -> AcceptReply:
    """What `accept` answered, or another script that moves the stream's offset: they use the same codes."""
    answer, *rest = as_list(reply)
    match answer:
        case Answer.DONE:
            return Accepted()
        case Answer.REPLAY:
            raw = as_bytes(rest[0])
            return Replay(decode(raw, IdempotencyRecord), raw)
        case Answer.DELIVERY_EXISTS:
            return DeliveryExists()
        case Answer.SUPPRESSED:
            return SuppressionsFound([as_optional_bytes(part) for part in rest])
        case Answer.NOT_NEXT:
            return NotNext(as_text(rest[0]))
        case _:
            raise UnexpectedReply(f"accept answered {answer!r}")


def reasons(asked: Sequence[str], found: Sequence[bytes | None]) -> dict[str, str]:
    # A Lua table ends at its last non-nil element, so the answer may be shorter than the question.
    return {
        entry: suppression_reason(data) for entry, data in zip(asked, found, strict=False) if data is not None
    }


def suppression_reason(data: bytes) -> str:
    """Why an entry of the suppression list is there. One that can't be read suppresses all the same."""
    entry = readable(data, Suppression)
    return UNREADABLE if entry is None else entry.reason
