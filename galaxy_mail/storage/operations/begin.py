"""Starts an attempt and renews its claim."""

from typing import Final, NamedTuple

from galaxy_mail.storage.links.protocol import Reply
from galaxy_mail.storage.links.replies import UnexpectedReply, as_list, as_optional_bytes
from galaxy_mail.storage.operations.answers import Answer, SuppressionsFound
from galaxy_mail.storage.operations.operation import Operation


class BeginKeys(NamedTuple):
    claims: str
    schedule: str
    suppressions: str
    delivery: str
    payload: str
    attempt: str
    status_from: str
    status_to: str


class BeginArgs(NamedTuple):
    delivery_id: str
    token: str
    now_ms: int | None
    ttl_ms: int
    delivery_record: bytes
    attempt_record: bytes
    rendered: bytes | None
    created_at_ms: int


def _decode(reply: Reply) -> bool | SuppressionsFound:
    """True: the attempt has begun. False: the claim is gone or has expired."""
    answer, *rest = as_list(reply)
    match answer:
        case Answer.DONE:
            return True
        case Answer.STALE | Answer.EXPIRED:
            return False
        case Answer.SUPPRESSED:
            return SuppressionsFound([as_optional_bytes(part) for part in rest])
        case _:
            raise UnexpectedReply(f"begin answered {answer!r}")


BEGIN: Final = Operation("begin", BeginKeys, BeginArgs, _decode)
