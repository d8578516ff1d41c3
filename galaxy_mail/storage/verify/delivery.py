"""Checks one delivery: its record against everything else that is stored about it at the same moment."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

from msgspec import DecodeError, Struct

from galaxy_mail.domain.acceptance import OUTCOME_SENT, OUTCOME_SUPPRESSED
from galaxy_mail.domain.records import (
    Content,
    DeadLetter,
    Delivery,
    DeliveryStatus,
    IdempotencyRecord,
    Lane,
    PayloadMode,
    RenderedContent,
)
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.storage.links.protocol import Call, Command
from galaxy_mail.storage.links.replies import as_int, as_optional_bytes, as_optional_bytes_list
from galaxy_mail.storage.operations.reschedule import reschedule_call
from galaxy_mail.storage.records.encoding import decode_delivery, readable, readable_attempt
from galaxy_mail.storage.records.retention import BACKSTOP_MS
from galaxy_mail.storage.verify.history import check_attempts, check_record
from galaxy_mail.storage.verify.reading import NEVER, Reading, score
from galaxy_mail.storage.verify.violation import Repair, Violation, add, expire_at, remove

QUARANTINED: Final = float("inf")


async def deliveries(reading: Reading, ids: Sequence[str]) -> AsyncIterator[Violation]:
    """The violations of these deliveries. One that changes during the check is left out."""
    for delivery_id, data in zip(ids, await reading.values([*map(reading.keys.delivery, ids)]), strict=True):
        if data is None:
            continue  # purged meanwhile
        try:
            delivery = decode_delivery(data, delivery_id)
        except DecodeError as error:
            yield Violation(where=delivery_id, what=f"its record can't be read: {error}")
            continue
        if delivery.delivery_id != delivery_id:
            yield Violation(where=delivery_id, what=f"its record is that of {delivery.delivery_id}")
            continue
        facts = await _facts(reading, data, delivery)
        if facts is not None:
            for violation in _DeliveryCheck(reading, data, delivery, facts).violations():
                yield violation


class _Facts(Struct, frozen=True, kw_only=True):
    """What Redis stores about one delivery besides its record."""

    scheduled_ms: float | None
    other_lane_ms: float | None
    token: bytes | None
    losses: bytes | None
    content: bytes | None
    rendered: bytes | None
    attempts: list[bytes | None]
    attempt_ends_ms: list[int]
    dead_letter: bytes | None
    expires_ms: float | None
    idempotency: bytes | None
    ends_ms: int
    payload_ends_ms: int
    indexes: dict[str, float | None]


async def _facts(reading: Reading, data: bytes, delivery: Delivery) -> _Facts | None:
    """None: the record changed meanwhile."""
    delivery_id, keys = delivery.delivery_id, reading.keys
    indexes = [reading.keys.status_index(delivery.status), *reading.keys.fixed_indexes(delivery)]
    parent = delivery.parent_delivery_id
    # The index of a parent's resends is purged with the parent.
    if parent is not None and (await reading.exist([reading.keys.delivery(parent)]))[0]:
        indexes.append(reading.keys.children_index(parent))
    attempts = [reading.keys.attempt(delivery_id, number) for number in range(1, delivery.attempt_count + 1)]
    commands: list[Command | Call] = [
        ("ZSCORE", keys.lane(delivery.lane), delivery_id),
        ("ZSCORE", keys.lane(_other(delivery.lane)), delivery_id),
        ("HGET", reading.keys.claims, delivery_id),
        ("HGET", reading.keys.claim_losses, delivery_id),
        ("HMGET", reading.keys.payload(delivery_id), "content", "rendered"),
        ("GET", keys.dead_letter(delivery_id)),
        ("ZSCORE", reading.keys.expires_index, delivery_id),
        ("GET", reading.keys.idempotency(delivery.source, delivery.idempotency_key)),
        ("PEXPIRETIME", reading.keys.delivery(delivery_id)),
        ("PEXPIRETIME", reading.keys.payload(delivery_id)),
        *(("GET", attempt) for attempt in attempts),
        *(("PEXPIRETIME", attempt) for attempt in attempts),
        *(("ZSCORE", index, delivery_id) for index in indexes),
        ("GET", reading.keys.delivery(delivery_id)),
    ]
    replies = await reading.run(commands)
    if replies[-1] != data:
        return None
    scheduled, other, token, losses, payload, dead_letter, expires, idempotency, ends, payload_ends, *rest = (
        replies
    )
    content, rendered = as_optional_bytes_list(payload or [None, None])
    n = len(attempts)
    return _Facts(
        scheduled_ms=score(scheduled),
        other_lane_ms=score(other),
        token=as_optional_bytes(token),
        losses=as_optional_bytes(losses),
        content=content,
        rendered=rendered,
        attempts=[as_optional_bytes(reply) for reply in rest[:n]],
        attempt_ends_ms=[as_int(reply) for reply in rest[n : 2 * n]],
        dead_letter=as_optional_bytes(dead_letter),
        expires_ms=score(expires),
        idempotency=as_optional_bytes(idempotency),
        ends_ms=as_int(ends),
        payload_ends_ms=as_int(payload_ends),
        indexes={index: score(reply) for index, reply in zip(indexes, rest[2 * n :], strict=False)},
    )


class _DeliveryCheck:
    def __init__(self, reading: Reading, data: bytes, delivery: Delivery, facts: _Facts) -> None:
        self.reading = reading
        self.keys = reading.keys
        self.delivery_id = delivery.delivery_id
        self.key = reading.keys.delivery(delivery.delivery_id)
        self.payload_key = reading.keys.payload(delivery.delivery_id)
        self.data = data
        self.delivery = delivery
        self.facts = facts

    def violations(self) -> Iterator[Violation]:
        for what in check_record(self.delivery):
            yield self._wrong(what)
        yield from self._attempts()
        yield from self._indexes()
        if self.delivery.status in TERMINAL:
            yield from self._not_scheduled()
            yield from self._expires()
        else:
            yield from self._scheduled()
            yield from self._does_not_expire()
        yield from self._content()
        yield from self._dead_letter()
        yield from self._idempotency()

    def _wrong(self, what: str, repair: Repair | None = None) -> Violation:
        return Violation(where=self.delivery_id, what=what, repair=repair)

    def _add(self, index: str, at: int) -> Repair:
        return add(self.key, self.data, index, self.delivery_id, at)

    # Attempts and indexes

    def _attempts(self) -> Iterator[Violation]:
        found = [
            readable_attempt(data, self.delivery_id, number)
            for number, data in enumerate(self.facts.attempts, start=1)
        ]
        attempts = [attempt for attempt in found if attempt is not None]
        if len(attempts) == len(found):
            for what in check_attempts(self.delivery, attempts):
                yield self._wrong(what)
        for number, (data, attempt) in enumerate(zip(self.facts.attempts, found, strict=True), start=1):
            if attempt is None:
                yield self._wrong(f"attempt {number} " + ("is missing" if data is None else "can't be read"))
            elif (attempt.delivery_id, attempt.attempt_no) != (self.delivery_id, number):
                yield self._wrong(f"attempt {number} has the record of another attempt")

    def _indexes(self) -> Iterator[Violation]:
        created_at_ms = self.delivery.created_at_ms
        for index, found in self.facts.indexes.items():
            if found is None:
                yield self._wrong(f"is not in {index}", self._add(index, created_at_ms))
            elif found != created_at_ms:
                what = f"is in {index} with the score {found:.0f}, but was created at {created_at_ms}"
                yield self._wrong(what, self._add(index, created_at_ms))

    # The schedule

    def _reschedule(self, due_ms: int | None) -> Call:
        """Schedules it unless a lane has it. None: removes it from the lanes and drops its claim."""
        return reschedule_call(self.keys, self.delivery_id, self.data, self.delivery.lane, due_ms)

    def _not_scheduled(self) -> Iterator[Violation]:
        status, facts = self.delivery.status, self.facts
        removed = Repair("removed from the schedule", (self._reschedule(None),))
        if facts.scheduled_ms is not None or facts.other_lane_ms is not None:
            yield self._wrong(f"is {status}, but scheduled", removed)
        if facts.token is not None:
            yield self._wrong(f"is {status}, but claimed", removed)
        if facts.losses is not None:
            gone = Repair("count removed", (("HDEL", self.keys.claim_losses, self.delivery_id),))
            yield self._wrong(f"is {status}, but its lost claims are counted", gone)

    def _scheduled(self) -> Iterator[Violation]:
        delivery, facts = self.delivery, self.facts
        due_ms = delivery.next_attempt_at_ms
        # Removed first: an owner that claimed it meanwhile loses its claim and drops the attempt.
        rescheduled = (
            Repair(f"scheduled for {due_ms}", (self._reschedule(None), self._reschedule(due_ms)))
            if facts.token is None and due_ms is not None
            else None
        )
        if facts.other_lane_ms is not None:
            yield self._wrong("is scheduled in the wrong lane", rescheduled)
        elif facts.scheduled_ms is None:
            at_ms = self.reading.now_ms if due_ms is None else due_ms
            scheduled = Repair(f"scheduled for {at_ms}", (self._reschedule(at_ms),))
            yield self._wrong(f"is {delivery.status}, but not scheduled", scheduled)
        elif facts.scheduled_ms == QUARANTINED:
            yield self._wrong("is quarantined: its records could not be read when it was due")
        elif delivery.status is DeliveryStatus.SENDING:
            if facts.token is None:
                yield self._wrong("is sending, but not claimed")
        elif facts.token is None and facts.scheduled_ms != due_ms:
            yield self._wrong(
                f"is scheduled for {facts.scheduled_ms:.0f}, but its record says {due_ms}", rescheduled
            )
        losses = facts.losses or b"0"
        if not losses.isdigit():
            yield self._wrong(f"its count of lost claims is not a number: {losses!r}")

    # Expiry

    def _expires(self) -> Iterator[Violation]:
        """It is purged on time, and its keys expire after that."""
        delivery, facts, status = self.delivery, self.facts, self.delivery.status
        purge_at_ms = self.reading.retention.purge_at_ms(delivery)
        finished_at_ms = delivery.finished_at_ms or delivery.updated_at_ms
        expires_ms = facts.expires_ms
        if expires_ms is None:
            repair = self._add(self.keys.expires_index, purge_at_ms)
            yield self._wrong(f"is {status}, but would never be purged", repair)
        elif not finished_at_ms <= expires_ms < QUARANTINED:
            repair = self._add(self.keys.expires_index, purge_at_ms)
            what = f"is {status} since {finished_at_ms}, but would be purged at {expires_ms:.0f}"
            yield self._wrong(what, repair)
        kept_ms = purge_at_ms if expires_ms is None or expires_ms == QUARANTINED else int(expires_ms)
        own = expire_at(max(kept_ms, purge_at_ms) + BACKSTOP_MS, self.key, self.payload_key)
        ends = [facts.ends_ms, *([facts.payload_ends_ms] if facts.content is not None else [])]
        if NEVER in ends:
            yield self._wrong(f"is {status}, but its keys have no time to live", own)
        elif min(ends) < kept_ms:
            yield self._wrong(f"is {status}, but its keys expire before it is purged", own)
        attempts_end_ms = finished_at_ms + self.reading.retention.attempt_ms
        for number, ends_ms in enumerate(facts.attempt_ends_ms, start=1):
            key = self.keys.attempt(self.delivery_id, number)
            repair = expire_at(max(attempts_end_ms, kept_ms) + BACKSTOP_MS, key)
            if ends_ms == NEVER:
                yield self._wrong(f"is {status}, but attempt {number} has no time to live", repair)
            elif 0 <= ends_ms < kept_ms:
                yield self._wrong(f"attempt {number} expires before its delivery is purged", repair)

    def _does_not_expire(self) -> Iterator[Violation]:
        """Before it is terminal, none of its keys has a time to live."""
        facts, status = self.facts, self.delivery.status
        if facts.expires_ms is not None:
            out = remove(self.key, self.data, self.keys.expires_index, self.delivery_id)
            yield self._wrong(f"is {status}, but would be purged", out)
        keys = {
            self.key: facts.ends_ms,
            self.payload_key: facts.payload_ends_ms,
            **{
                self.keys.attempt(self.delivery_id, n): end
                for n, end in enumerate(facts.attempt_ends_ms, start=1)
            },
        }
        ending = [key for key, ends_ms in keys.items() if ends_ms >= 0]
        if ending:
            kept = Repair("time to live removed", tuple(("PERSIST", key) for key in ending))
            yield self._wrong(f"is {status}, but its keys would expire", kept)

    # Content, dead letter, idempotency

    def _content(self) -> Iterator[Violation]:
        delivery, facts = self.delivery, self.facts
        content = readable(facts.content, Content)
        if content is None:
            yield self._wrong("its content " + ("is missing" if facts.content is None else "can't be read"))
        else:
            by_template = delivery.payload_mode is PayloadMode.TEMPLATE
            if content.template_id != delivery.template_id or by_template is (content.template_id is None):
                yield self._wrong(
                    f"is {delivery.payload_mode} with the template {delivery.template_id}, "
                    f"but its content has {content.template_id}"
                )
            if not by_template and content.rendered() is None:
                yield self._wrong("has neither a template nor a text")
            requested = set(content.envelope.recipients())
            recorded = {*delivery.envelope.recipients(), *(s.address for s in delivery.suppressed_recipients)}
            if requested != recorded:
                yield self._wrong("its record and its content have different recipients")
        fixed_apart = delivery.payload_mode is PayloadMode.TEMPLATE and delivery.rendered_at_ms is not None
        if fixed_apart and facts.rendered is None:
            yield self._wrong("was rendered, but its rendered content is missing")
        if facts.rendered is not None and readable(facts.rendered, RenderedContent) is None:
            yield self._wrong("its rendered content can't be read")

    def _dead_letter(self) -> Iterator[Violation]:
        delivery, facts = self.delivery, self.facts
        dead = delivery.status is DeliveryStatus.DEAD_LETTER
        if dead is (facts.dead_letter is None):
            yield self._wrong(f"is {delivery.status}, but {'lacks' if dead else 'has'} a dead letter")
        letter = readable(facts.dead_letter, DeadLetter)
        if not dead or letter is None:
            return  # the pass over the dead letters reports one that can't be read
        said = (letter.delivery_id, letter.attempt_count, letter.created_at_ms, letter.failure)
        if said != (self.delivery_id, delivery.attempt_count, delivery.finished_at_ms, delivery.failure):
            yield self._wrong("its dead letter contradicts its record")

    def _idempotency(self) -> Iterator[Violation]:
        delivery = self.delivery
        if delivery.created_at_ms + self.reading.retention.idempotency_ms <= self.reading.now_ms:
            return
        record = readable(self.facts.idempotency, IdempotencyRecord)
        if record is None:
            yield self._wrong("its idempotency record is missing or can't be read")
        elif record.delivery_id != self.delivery_id:
            yield self._wrong(f"its idempotency record names {record.delivery_id}")
        elif record.outcome != (OUTCOME_SENT if delivery.attempt_count else OUTCOME_SUPPRESSED):
            yield self._wrong(
                f"its idempotency record says {record.outcome!r}, but it has {delivery.attempt_count} attempts"
            )


def _other(lane: Lane) -> Lane:
    return Lane.NORMAL if lane is Lane.PRIORITY else Lane.PRIORITY
