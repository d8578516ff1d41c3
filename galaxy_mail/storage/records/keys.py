"""The catalog of every key in Redis: its type, its meaning, its name. No other module spells `mail:`."""

from typing import ClassVar

from msgspec import Struct

from galaxy_mail.domain.records import Delivery, DeliveryStatus, Lane, Source


class Keys(Struct, frozen=True, kw_only=True):
    """The names of all keys. Three of them can be configured. A name that ends with a colon is a prefix."""

    command_stream: str = "mail:delivery_commands"  # stream: the intake
    schedule: str = "mail:attempt_schedule"  # zset: delivery id by the ms at which it may be claimed
    dead_letters: str = "mail:dead_letters:"  # string per delivery: canonical JSON

    everything: ClassVar[str] = "mail:"  # every key begins so, unless it is configured otherwise

    deliveries: ClassVar[str] = "mail:deliveries:"  # string per delivery: canonical JSON of its metadata
    # hash per delivery: `content` (written once), `rendered` (set once, at the first begin)
    payloads: ClassVar[str] = "mail:payloads:"
    attempts: ClassVar[str] = "mail:attempts:"  # string per attempt: canonical JSON
    # string per (source, idempotency key): fingerprint, delivery id, outcome
    idempotency_records: ClassVar[str] = "mail:idempotency:"
    malformed_commands: ClassVar[str] = "mail:malformed_commands:"  # string per stream entry: canonical JSON
    jobs: ClassVar[str] = "mail:jobs:"  # string per resend job: canonical JSON

    claims: ClassVar[str] = "mail:attempt_claims"  # hash: delivery id -> fencing token, while claimed
    claim_sequence: ClassVar[str] = "mail:claim_sequence"  # string: the counter in every token
    # hash: delivery id -> lost owners so far; removed at the terminal state
    claim_losses: ClassVar[str] = "mail:claim_losses"
    # hash: `id`, `created_at_ms` of this store; `stream_lost`, `stream_lost_at_ms`
    meta: ClassVar[str] = "mail:meta"
    ingress_lease: ClassVar[str] = "mail:ingress_lease"  # string: "<owner> <expiry ms>": who reads the stream
    # string per stream: the last entry that needs no more work
    stream_offsets: ClassVar[str] = "mail:stream_offsets:"
    stream_consumed: ClassVar[str] = "mail:stream_consumed:"  # string per stream: entries behind the offset
    suppressions: ClassVar[str] = "mail:suppressions"  # hash: address or "@domain" -> canonical JSON
    probe_leases: ClassVar[str] = "mail:probe:"  # string: "<owner> <expiry ms>": who probes this relay
    holds: ClassVar[str] = "mail:holds"  # hash: "<cause>:<scope>" -> canonical JSON

    # Indexes: zsets of delivery ids, scored by created_at_ms unless the comment says otherwise.
    indexes: ClassVar[str] = "mail:idx:"  # every index begins so
    recipient_indexes: ClassVar[str] = "mail:idx:recipient:"
    status_indexes: ClassVar[str] = "mail:idx:status:"
    source_indexes: ClassVar[str] = "mail:idx:source:"
    template_indexes: ClassVar[str] = "mail:idx:template:"
    idempotency_indexes: ClassVar[str] = "mail:idx:idempotency:"
    children_indexes: ClassVar[str] = "mail:idx:children:"  # resends of a delivery
    created_at_index: ClassVar[str] = "mail:idx:created_at"
    dead_letters_index: ClassVar[str] = "mail:idx:dead_letters"  # by the ms at which it died
    malformed_index: ClassVar[str] = "mail:idx:malformed_commands"  # stream entry ids by recorded_at_ms
    expires_index: ClassVar[str] = "mail:idx:expires"  # by the ms at which the janitor purges it
    jobs_index: ClassVar[str] = "mail:idx:jobs"  # resend job ids by created_at_ms

    # All names that are not configured.
    fixed: ClassVar[tuple[str, ...]] = (
        deliveries,
        payloads,
        attempts,
        idempotency_records,
        malformed_commands,
        jobs,
        claims,
        claim_sequence,
        claim_losses,
        meta,
        ingress_lease,
        stream_offsets,
        stream_consumed,
        suppressions,
        holds,
        probe_leases,
        recipient_indexes,
        status_indexes,
        source_indexes,
        template_indexes,
        idempotency_indexes,
        children_indexes,
        created_at_index,
        dead_letters_index,
        malformed_index,
        expires_index,
        jobs_index,
    )

    # The schedule and the stream

    @property
    def priority_schedule(self) -> str:
        return self.schedule + ":priority"

    def lane(self, lane: Lane) -> str:
        """The zset that says when a delivery of this lane may be claimed: its due time, or its claim's expiry."""
        return self.priority_schedule if lane is Lane.PRIORITY else self.schedule

    @property
    def offset(self) -> str:
        return self.stream_offsets + self.command_stream

    @property
    def consumed(self) -> str:
        return self.stream_consumed + self.command_stream

    def probe_lease(self, relay: str) -> str:
        return self.probe_leases + relay

    # Records

    def delivery(self, delivery_id: str) -> str:
        return self.deliveries + delivery_id

    def payload(self, delivery_id: str) -> str:
        return self.payloads + delivery_id

    def attempt(self, delivery_id: str, attempt_no: int) -> str:
        return f"{self.attempts}{delivery_id}:{attempt_no}"

    def dead_letter(self, delivery_id: str) -> str:
        return self.dead_letters + delivery_id

    def idempotency(self, source: Source, key: str) -> str:
        return f"{self.idempotency_records}{source}:{key}"

    def malformed(self, entry_id: str) -> str:
        return self.malformed_commands + entry_id

    def job(self, job_id: str) -> str:
        return self.jobs + job_id

    # Indexes

    def status_index(self, status: DeliveryStatus) -> str:
        return self.status_indexes + status

    def source_index(self, source: Source) -> str:
        return self.source_indexes + source

    def template_index(self, template_id: str) -> str:
        return self.template_indexes + template_id

    def idempotency_index(self, source: Source, key: str) -> str:
        return f"{self.idempotency_indexes}{source}:{key}"

    def recipient_index(self, address: str) -> str:
        """The case of an address does not count when operators search for it."""
        return self.recipient_indexes + address.lower()

    def children_index(self, delivery_id: str) -> str:
        return self.children_indexes + delivery_id

    def fixed_indexes(self, delivery: Delivery) -> list[str]:
        """Every index of the delivery's own properties that stays the same from acceptance until it is purged."""
        indexes = [
            self.created_at_index,
            self.source_index(delivery.source),
            self.idempotency_index(delivery.source, delivery.idempotency_key),
        ]
        if delivery.template_id is not None:
            indexes.append(self.template_index(delivery.template_id))
        everyone = (*delivery.envelope.recipients(), *(s.address for s in delivery.suppressed_recipients))
        indexes += dict.fromkeys(map(self.recipient_index, everyone))
        return indexes

    def indexes_of(self, delivery: Delivery) -> list[str]:
        """Every index that has the delivery by its creation: `fixed_indexes`, that of its status, its parent's resends."""
        indexes = [self.status_index(delivery.status), *self.fixed_indexes(delivery)]
        if delivery.parent_delivery_id is not None:
            indexes.append(self.children_index(delivery.parent_delivery_id))
        return indexes
