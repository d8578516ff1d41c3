"""Makes one request durable, all of it or nothing."""

from typing import Final, NamedTuple

from galaxy_mail.storage.operations.answers import accept_answer
from galaxy_mail.storage.operations.operation import Operation


class AcceptKeys(NamedTuple):
    idempotency: str
    delivery: str
    payload: str
    attempt: str
    schedule: str
    suppressions: str
    expires: str
    offset: str
    consumed: str


class AcceptArgs(NamedTuple):
    delivery_id: str
    idempotency_record: bytes
    idempotency_expires_ms: int
    delivery_record: bytes
    content: bytes
    rendered: bytes | None
    attempt_record: bytes | None
    created_at_ms: int
    purge_at_ms: int | None
    backstop_ms: int | None
    replaced: bytes
    touch: str
    entry_id: str | None
    predecessor: str | None


ACCEPT: Final = Operation("accept", AcceptKeys, AcceptArgs, accept_answer)
