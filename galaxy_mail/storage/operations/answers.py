"""What scripts answer, as values: the first element says what happened, and means the same in all of them."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, cast

from msgspec import Struct

from galaxy_mail.domain.records import IdempotencyRecord, Suppression, decode
from galaxy_mail.storage.links.errors import RedisRefused
from galaxy_mail.storage.links.protocol import Reply
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


class NewlySuppressed(Struct, frozen=True):
    """Recipients are on the suppression list: entry -> reason. Nothing was written."""

    entries: dict[str, str]


class NotNext(Struct, frozen=True):
    """The stream's offset is elsewhere: an earlier entry was refused, or another reader was here. Nothing was written."""

    offset: str


AcceptAnswer = Accepted | Replay | DeliveryExists | NewlySuppressed | NotNext


def answered(reply: Reply) -> Reply:
    """The reply, unless it is Redis' refusal: then that is raised."""
    if isinstance(reply, RedisRefused):
        raise reply
    return reply


def accept_answer(reply: Reply, asked: Sequence[str] = ()) -> AcceptAnswer:
    """What the accept script said. Raises RedisRefused."""
    answer, *rest = cast("list[int | bytes]", answered(reply))
    match answer:
        case Answer.DONE:
            return Accepted()
        case Answer.REPLAY:
            raw = cast("bytes", rest[0])
            return Replay(decode(raw, IdempotencyRecord), raw)
        case Answer.DELIVERY_EXISTS:
            return DeliveryExists()
        case Answer.SUPPRESSED:
            return NewlySuppressed(reasons(asked, cast("list[bytes | None]", rest)))
        case Answer.NOT_NEXT:
            return NotNext(cast("bytes", rest[0]).decode())
        case _:
            raise AssertionError(f"accept answered {answer!r}")


def reasons(asked: Sequence[str], found: Sequence[bytes | None]) -> dict[str, str]:
    # A Lua table ends at its last non-nil element, so the answer may be shorter than the question.
    return {
        entry: suppression_reason(data) for entry, data in zip(asked, found, strict=False) if data is not None
    }


def suppression_reason(data: bytes) -> str:
    """Why an entry of the suppression list is there. One that can't be read suppresses all the same."""
    entry = readable(data, Suppression)
    return UNREADABLE if entry is None else entry.reason
