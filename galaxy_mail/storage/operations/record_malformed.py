"""Records a stream entry that cannot be accepted and moves the offset past it."""

from typing import Final, NamedTuple

from galaxy_mail.storage.operations.answers import accept_answer
from galaxy_mail.storage.operations.operation import Operation


class RecordMalformedKeys(NamedTuple):
    malformed: str
    malformed_index: str
    offset: str
    consumed: str


class RecordMalformedArgs(NamedTuple):
    record: bytes
    recorded_at_ms: int
    backstop_ms: int
    entry_id: str
    predecessor: str


RECORD_MALFORMED: Final = Operation(
    "record_malformed", RecordMalformedKeys, RecordMalformedArgs, accept_answer
)
