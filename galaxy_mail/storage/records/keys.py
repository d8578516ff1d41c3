"""The catalog of every key in Redis: type, meaning, spelling. Nobody else writes `mail:`."""

from typing import Final

from msgspec import Struct

from galaxy_mail.domain.records import Delivery, DeliveryStatus, Lane, Source

DELIVERIES: Final = "mail:deliveries:"  # string per delivery: canonical JSON of its metadata
PAYLOADS: Final = (
    "mail:payloads:"  # hash per delivery: `content` (written once), `rendered` (set once, at the first begin)
)
ATTEMPTS: Final = "mail:attempts:"  # string per attempt: canonical JSON
IDEMPOTENCY: Final = "mail:idempotency:"  # string per (source, key): fingerprint, delivery id, outcome
MALFORMED: Final = "mail:malformed_commands:"  # string per stream entry: canonical JSON
JOBS: Final = "mail:jobs:"  # string per resend job: canonical JSON

CLAIMS: Final = "mail:attempt_claims"  # hash: delivery id -> fencing token, while claimed
CLAIM_SEQUENCE: Final = "mail:claim_sequence"  # string: the counter in every token
CLAIM_LOSSES: Final = (
    "mail:claim_losses"  # hash: delivery id -> lost owners so far; gone at the terminal state
)
META: Final = "mail:meta"  # hash: `id`, `created_at_ms` of this store; `stream_lost`, `stream_lost_at_ms`
INGRESS_LEASE: Final = "mail:ingress_lease"  # string: "<owner> <expiry ms>": who reads the stream
STREAM_OFFSETS: Final = "mail:stream_offsets:"  # string per stream: the last entry that needs no more work
STREAM_CONSUMED: Final = "mail:stream_consumed:"  # string per stream: entries that the offset has passed
SUPPRESSIONS: Final = "mail:suppressions"  # hash: address or "@domain" -> canonical JSON

# Indexes: zsets of delivery ids, scored by created_at_ms where nothing else is said.
IDX_RECIPIENT: Final = "mail:idx:recipient:"
IDX_STATUS: Final = "mail:idx:status:"
IDX_SOURCE: Final = "mail:idx:source:"
IDX_TEMPLATE: Final = "mail:idx:template:"
IDX_IDEMPOTENCY: Final = "mail:idx:idempotency:"
IDX_CREATED_AT: Final = "mail:idx:created_at"
IDX_DEAD_LETTERS: Final = "mail:idx:dead_letters"  # by the ms at which it died
IDX_MALFORMED: Final = "mail:idx:malformed_commands"  # stream entry ids by recorded_at_ms
IDX_CHILDREN: Final = "mail:idx:children:"  # resends of a delivery
IDX_EXPIRES: Final = "mail:idx:expires"  # by the ms at which the janitor forgets it
IDX_JOBS: Final = "mail:idx:jobs"  # resend job ids by created_at_ms


class Keys(Struct, frozen=True, kw_only=True):
    """The key names; three of them can be configured."""

    command_stream: str = "mail:delivery_commands"  # stream: the intake
    schedule: str = "mail:attempt_schedule"  # zset: delivery id by the ms at which it may be claimed
    dead_letters: str = "mail:dead_letters:"  # string per delivery: canonical JSON

    @property
    def priority_schedule(self) -> str:
        return self.schedule + ":priority"

    def lane(self, lane: Lane) -> str:
        """The zset that says when a delivery of this lane may be claimed: its due time, or its claim's expiry."""
        return self.priority_schedule if lane is Lane.PRIORITY else self.schedule

    @property
    def offset(self) -> str:
        return STREAM_OFFSETS + self.command_stream

    @property
    def consumed(self) -> str:
        return STREAM_CONSUMED + self.command_stream

    def dead_letter(self, delivery_id: str) -> str:
        return self.dead_letters + delivery_id


def delivery(delivery_id: str) -> str:
    return DELIVERIES + delivery_id


def payload(delivery_id: str) -> str:
    return PAYLOADS + delivery_id


def attempt(delivery_id: str, attempt_no: int) -> str:
    return f"{ATTEMPTS}{delivery_id}:{attempt_no}"


def idempotency(source: Source, key: str) -> str:
    return f"{IDEMPOTENCY}{source}:{key}"


def idempotency_index(source: Source, key: str) -> str:
    return f"{IDX_IDEMPOTENCY}{source}:{key}"


def status_index(status: DeliveryStatus) -> str:
    return IDX_STATUS + status


def recipient_index(address: str) -> str:
    """Case of an address does not count when operators look for it."""
    return IDX_RECIPIENT + address.lower()


def children_index(delivery_id: str) -> str:
    return IDX_CHILDREN + delivery_id


def malformed(entry_id: str) -> str:
    return MALFORMED + entry_id


def job(job_id: str) -> str:
    return JOBS + job_id


def fixed_indexes(record: Delivery) -> list[str]:
    """Every index, but the status', in which a delivery stands from its acceptance until it is forgotten."""
    indexes = [
        IDX_CREATED_AT,
        IDX_SOURCE + record.source,
        idempotency_index(record.source, record.idempotency_key),
    ]
    if record.template_id is not None:
        indexes.append(IDX_TEMPLATE + record.template_id)
    everyone = (*record.envelope.recipients(), *(s.address for s in record.suppressed_recipients))
    indexes += dict.fromkeys(map(recipient_index, everyone))
    return indexes
