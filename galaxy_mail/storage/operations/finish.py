"""Records how an attempt ended and what comes next, and drops the claim."""

from typing import Final, NamedTuple

from galaxy_mail.storage.operations.answers import done
from galaxy_mail.storage.operations.operation import Operation


class FinishKeys(NamedTuple):
    claims: str
    schedule: str
    losses: str
    delivery: str
    payload: str
    attempt: str
    next_attempt: str
    status_from: str
    status_to: str
    dead_letter: str
    dead_letters: str
    expires: str


class FinishArgs(NamedTuple):
    delivery_id: str
    token: str
    delivery_record: bytes
    attempt_record: bytes
    next_attempt_record: bytes | None
    due_ms: int | None
    dead_letter_record: bytes | None
    created_at_ms: int
    finished_at_ms: int
    purge_at_ms: int | None
    delivery_backstop_ms: int | None
    attempts_backstop_ms: int | None


FINISH: Final = Operation("finish", FinishKeys, FinishArgs, done)
