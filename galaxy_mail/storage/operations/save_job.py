"""Writes a resend job, if its record is unchanged."""

from typing import Final, NamedTuple

from msgspec import Struct

from galaxy_mail.storage.links.protocol import Reply
from galaxy_mail.storage.links.replies import UnexpectedReply, as_bytes, as_list
from galaxy_mail.storage.operations.answers import Answer
from galaxy_mail.storage.operations.operation import Operation


class SaveJobKeys(NamedTuple):
    job: str
    unfinished: str


class SaveJobArgs(NamedTuple):
    job_id: str
    expected: bytes | None
    record: bytes
    created_at_ms: int
    purge_at_ms: int | None


class OtherRecord(Struct, frozen=True):
    """Another record than expected is stored; nothing was written."""

    raw: bytes  # b"" where there is none


def _decode(reply: Reply) -> OtherRecord | None:
    """None: saved."""
    answer, *rest = as_list(reply)
    match answer:
        case Answer.DONE:
            return None
        case Answer.REPLAY:
            return OtherRecord(as_bytes(rest[0]))
        case _:
            raise UnexpectedReply(f"save_job answered {answer!r}")


SAVE_JOB: Final = Operation("save_job", SaveJobKeys, SaveJobArgs, _decode)
