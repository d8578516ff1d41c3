"""Every invariant of the store, checked: what the scripts keep true is written down here once more, independently.

Reads only, unless it is asked to mend, and then only what a record proves. It may run beside a live service: what looks
broken is looked at again, and only what stays so is reported.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final, TypeVar, cast

import trio
from msgspec import DecodeError, Struct

from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Content,
    DeadLetter,
    Delivery,
    DeliveryStatus,
    IdempotencyRecord,
    Lane,
    MalformedCommand,
    PayloadMode,
    RenderedContent,
    decode,
)
from galaxy_mail.domain.states import FINISHED, TERMINAL
from galaxy_mail.storage import keys as k
from galaxy_mail.storage.commands import Call, Command, Reply
from galaxy_mail.storage.epoch import entry_number
from galaxy_mail.storage.store import Store, answered
from galaxy_mail.storage.stored import read_delivery, readable_attempt
from galaxy_mail.storage.upkeep import MEND, RESCHEDULE

BATCH: Final = 100
LOOKS: Final = 3
PAUSE_S: Final = 0.5
ATTEMPT_MARGIN: Final = 1  # so many attempts beyond the newest are looked for: there must be none
MATCHING: Final = {  # how a terminal delivery's last attempt may have ended
    DeliveryStatus.SENT: {AttemptStatus.PROVIDER_ACCEPTED},
    DeliveryStatus.SUPPRESSED: {AttemptStatus.PROVIDER_REJECTED},
    DeliveryStatus.FAILED: {
        AttemptStatus.PROVIDER_REJECTED,
        AttemptStatus.TIMED_OUT,
        AttemptStatus.TRANSPORT_FAILED,
    },
    DeliveryStatus.DEAD_LETTER: {
        AttemptStatus.PROVIDER_REJECTED,
        AttemptStatus.TIMED_OUT,
        AttemptStatus.TRANSPORT_FAILED,
    },
}

R = TypeVar("R", bound=Struct)


class Violation(Struct, frozen=True, kw_only=True):
    """One invariant that does not hold, and the calls that would mend it, if any can safely."""

    where: str  # a delivery id, or a key
    what: str
    mend: tuple[Call | Command, ...] = ()
    mended: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (" (mended)" if self.mended else "")


async def verify(store: Store, *, repair: bool = False, looks: int = LOOKS) -> list[Violation]:
    """Everything that is wrong with the store, nothing for a sound one. Raises RedisTrouble.

    `looks`: how often what seems wrong is looked at before it is reported; 1 while nothing else writes.
    """
    suspects = [violation async for violation in _Look(store).everything()]
    for _ in range(looks - 1):
        if not suspects:
            break
        await trio.sleep(PAUSE_S)
        again = {(v.where, v.what): v async for v in _Look(store).everything()}
        suspects = [again[v.where, v.what] for v in suspects if (v.where, v.what) in again]
    if not repair:
        return suspects
    return [await _mend(store, violation) for violation in suspects]


async def _mend(store: Store, violation: Violation) -> Violation:
    if not violation.mend:
        return violation
    for reply in await store.link.pipeline(violation.mend):
        answered(reply)
    return Violation(where=violation.where, what=violation.what, mend=violation.mend, mended=True)


class _Look:
    """One pass over the whole store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.keys = store.keys
        self.now_ms = store.now_ms()

    async def everything(self) -> AsyncIterator[Violation]:
        async for batch in self._scan(k.DELIVERIES):
            for violation in await self._deliveries([key.removeprefix(k.DELIVERIES) for key in batch]):
                yield violation
        async for violation in self._orphans():
            yield violation
        async for violation in self._claims():
            yield violation
        async for violation in self._commands():
            yield violation

    # Deliveries

    async def _deliveries(self, ids: Sequence[str]) -> list[Violation]:
        [reply] = await self._run([("MGET", *map(k.delivery, ids))])
        found: list[Violation] = []
        for delivery_id, data in zip(ids, cast("list[bytes | None]", reply), strict=True):
            if data is None:
                continue  # forgotten meanwhile
            try:
                delivery = read_delivery(data, delivery_id)
            except DecodeError as error:
                found.append(Violation(where=delivery_id, what=f"its record can't be read: {error}"))
                continue
            found += await self._delivery(delivery_id, data, delivery)
        return found

    async def _delivery(self, delivery_id: str, data: bytes, delivery: Delivery) -> list[Violation]:
        indexes = k.fixed_indexes(delivery)
        parent = delivery.parent_delivery_id
        if parent is not None and (await self._exist([parent]))[0][1]:  # its index is kept as long as it is
            indexes.append(k.children_index(parent))
        numbers = range(1, delivery.attempt_count + 1 + ATTEMPT_MARGIN)
        commands: list[Command | Call] = [
            ("ZSCORE", self.keys.lane(delivery.lane), delivery_id),
            ("ZSCORE", self.keys.lane(_other(delivery.lane)), delivery_id),
            ("HGET", k.CLAIMS, delivery_id),
            ("HGET", k.CLAIM_LOSSES, delivery_id),
            ("HMGET", k.payload(delivery_id), "content", "rendered"),
            ("MGET", *(k.attempt(delivery_id, number) for number in numbers)),
            ("GET", self.keys.dead_letter(delivery_id)),
            ("ZSCORE", k.IDX_DEAD_LETTERS, delivery_id),
            ("ZSCORE", k.IDX_EXPIRES, delivery_id),
            ("GET", k.idempotency(delivery.source, delivery.idempotency_key)),
            ("PTTL", k.delivery(delivery_id)),
            ("PTTL", k.payload(delivery_id)),
            *(("ZSCORE", k.status_index(status), delivery_id) for status in DeliveryStatus),
            *(("ZSCORE", index, delivery_id) for index in indexes),
            ("GET", k.delivery(delivery_id)),
        ]
        replies = await self._run(commands)
        if replies[-1] != data:
            return []  # it moved on while we looked
        facts = _Facts.of(replies, indexes)
        look = _DeliveryLook(self, delivery_id, data, delivery, facts)
        return list(look.violations())

    # What belongs to no delivery

    async def _orphans(self) -> AsyncIterator[Violation]:
        for lane in Lane:
            async for violation in self._index_orphans(self.keys.lane(lane), "is scheduled", mend=False):
                yield violation
        async for batch in self._scan("mail:idx:"):
            for index in batch:
                if index in {k.IDX_MALFORMED, k.IDX_EXPIRES, k.IDX_DEAD_LETTERS, k.IDX_JOBS}:
                    continue  # the first has entry ids; attempts and dead letters outlive their delivery
                async for violation in self._index_orphans(index, f"stands in {index}", mend=True):
                    yield violation
        async for batch in self._scan(k.PAYLOADS):
            for key, exists in await self._exist([key.removeprefix(k.PAYLOADS) for key in batch]):
                if not exists:
                    yield Violation(
                        where=key, what="content without a delivery", mend=(("DEL", k.payload(key)),)
                    )
        async for batch in self._scan(k.ATTEMPTS):
            ids = list(dict.fromkeys(key.removeprefix(k.ATTEMPTS).rpartition(":")[0] for key in batch))
            for delivery_id, exists in await self._exist(ids):
                if not exists and not await self._forgotten(delivery_id):
                    yield Violation(where=delivery_id, what="attempts without a delivery")
        async for batch in self._scan(k.IDEMPOTENCY):
            async for violation in self._promises(batch):
                yield violation

    async def _promises(self, names: Sequence[str]) -> AsyncIterator[Violation]:
        """Whoever repeats a request is answered from these records: what they name must exist, or have been forgotten."""
        retention = self.store.retention
        [reply] = await self._run([("MGET", *names)])
        records = [_decoded(data, IdempotencyRecord) for data in cast("list[bytes | None]", reply)]
        for record, (delivery_id, exists) in zip(
            records, await self._exist([r.delivery_id if r else "" for r in records]), strict=True
        ):
            if record is None or exists:
                continue
            accepted_at_ms = record.expires_at_ms - retention.idempotency_ms
            if self.now_ms < min(record.expires_at_ms, accepted_at_ms + retention.delivery_ms):
                yield Violation(where=delivery_id, what="was promised and does not exist")

    async def _index_orphans(self, index: str, what: str, *, mend: bool) -> AsyncIterator[Violation]:
        async for members in self._members(index):
            for member, exists in await self._exist(members):
                if exists:
                    continue
                call = Call(MEND, (k.delivery(member), index), (member, b"", ""))
                yield Violation(where=member, what=f"{what} and has no record", mend=(call,) if mend else ())

    async def _forgotten(self, delivery_id: str) -> bool:
        [reply] = await self._run([("ZSCORE", k.IDX_EXPIRES, delivery_id)])
        return reply is not None

    async def _exist(self, ids: Sequence[str]) -> list[tuple[str, bool]]:
        replies = await self._run([("EXISTS", k.delivery(delivery_id)) for delivery_id in ids])
        return [(delivery_id, reply == 1) for delivery_id, reply in zip(ids, replies, strict=True)]

    # Claims

    async def _claims(self) -> AsyncIterator[Violation]:
        claims_reply, sequence_reply, losses_reply = await self._run(
            [("HGETALL", k.CLAIMS), ("GET", k.CLAIM_SEQUENCE), ("HKEYS", k.CLAIM_LOSSES)]
        )
        flat = [part.decode() for part in cast("list[bytes]", claims_reply)]
        sequence = int(cast("bytes | None", sequence_reply) or 0)
        for delivery_id, token in zip(flat[::2], flat[1::2], strict=True):
            time_us, _, number = token.partition("-")
            if not (time_us.isdecimal() and number.isdecimal()):
                yield Violation(where=delivery_id, what=f"its claim has no token but {token!r}")
            elif int(number) > sequence:
                yield Violation(where=delivery_id, what="its token is ahead of the claim sequence")
            scheduled = await self._run(
                [("ZSCORE", self.keys.lane(lane), delivery_id) for lane in Lane]
                + [("HGET", k.CLAIMS, delivery_id)]
            )
            if scheduled[-1] == token.encode() and scheduled[:-1] == [None, None]:
                yield Violation(
                    where=delivery_id,
                    what="is claimed and not scheduled: its claim would never expire",
                    mend=(("HDEL", k.CLAIMS, delivery_id),),
                )
        lost = [part.decode() for part in cast("list[bytes]", losses_reply)]
        for delivery_id, exists in await self._exist(lost):
            if not exists:
                yield Violation(
                    where=delivery_id,
                    what="its losses are counted and it has no record",
                    mend=(("HDEL", k.CLAIM_LOSSES, delivery_id),),
                )

    # Commands

    async def _commands(self) -> AsyncIterator[Violation]:
        [offset_reply] = await self._run([("GET", self.keys.offset)])
        offset = cast("bytes | None", offset_reply)
        try:
            reached = entry_number((offset or b"").decode())
        except ValueError:
            yield Violation(where=self.keys.offset, what="is no stream entry id")
            return
        async for batch in self._scan(k.MALFORMED):
            entry_ids = [key.removeprefix(k.MALFORMED) for key in batch]
            replies = await self._run(
                [("MGET", *map(k.malformed, entry_ids)), ("ZMSCORE", k.IDX_MALFORMED, *entry_ids)]
            )
            records, scores = (cast("list[bytes | None]", reply) for reply in replies)
            for entry_id, data, score in zip(entry_ids, records, scores, strict=True):
                record = _decoded(data, MalformedCommand)
                if data is not None and record is None:
                    yield Violation(where=k.malformed(entry_id), what="can't be read")
                elif record is not None and (score is None or int(float(score)) != record.recorded_at_ms):
                    yield Violation(
                        where=k.malformed(entry_id),
                        what="is not in its index",
                        mend=(("ZADD", k.IDX_MALFORMED, record.recorded_at_ms, entry_id),),
                    )
                if entry_number(entry_id) > reached:
                    yield Violation(where=k.malformed(entry_id), what="is ahead of the stream's offset")
        async for entry_ids in self._members(k.IDX_MALFORMED):
            replies = await self._run([("EXISTS", k.malformed(entry_id)) for entry_id in entry_ids])
            for entry_id, exists in zip(entry_ids, replies, strict=True):
                if exists == 0:
                    yield Violation(
                        where=k.malformed(entry_id),
                        what="stands in its index and has no record",
                        mend=(("ZREM", k.IDX_MALFORMED, entry_id),),
                    )

    # Redis

    async def _run(self, commands: Sequence[Command | Call]) -> list[Reply]:
        if not commands:
            return []
        return [answered(reply) for reply in await self.store.link.pipeline(commands)]

    async def _members(self, index: str) -> AsyncIterator[list[str]]:
        cursor = "0"
        while True:
            [reply] = await self._run([("ZSCAN", index, cursor, "COUNT", BATCH)])
            following, flat = cast("tuple[bytes, list[bytes]]", reply)
            yield [member.decode() for member in flat[::2]]
            cursor = following.decode()
            if cursor == "0":
                return

    async def _scan(self, prefix: str) -> AsyncIterator[list[str]]:
        cursor = "0"
        while True:
            [reply] = await self._run(
                [("SCAN", cursor, "MATCH", f"{_escaped(prefix)}*", "COUNT", BATCH * 10)]
            )
            following, found = cast("tuple[bytes, list[bytes]]", reply)
            names = [key.decode() for key in found]
            for start in range(0, len(names), BATCH):
                yield names[start : start + BATCH]
            cursor = following.decode()
            if cursor == "0":
                return


class _Facts(Struct, frozen=True, kw_only=True):
    """What Redis holds of one delivery besides its record."""

    scheduled_ms: float | None
    other_lane_ms: float | None
    token: bytes | None
    losses: bytes | None
    content: bytes | None
    rendered: bytes | None
    attempts: list[bytes | None]
    dead_letter: bytes | None
    dead_letter_ms: float | None
    expires_ms: float | None
    idempotency: bytes | None
    delivery_ttl_ms: int
    payload_ttl_ms: int
    statuses: dict[DeliveryStatus, float | None]
    indexes: dict[str, float | None]

    @classmethod
    def of(cls, replies: Sequence[Reply], indexes: Sequence[str]) -> "_Facts":
        (
            scheduled,
            other,
            token,
            losses,
            payload,
            attempts,
            dead_letter,
            dead_letter_ms,
            expires,
            idempotency,
            delivery_ttl,
            payload_ttl,
            *rest,
        ) = replies
        content, rendered = cast("list[bytes | None]", payload)
        scores = [_score(reply) for reply in rest[: len(DeliveryStatus)]]
        return cls(
            scheduled_ms=_score(scheduled),
            other_lane_ms=_score(other),
            token=cast("bytes | None", token),
            losses=cast("bytes | None", losses),
            content=content,
            rendered=rendered,
            attempts=cast("list[bytes | None]", attempts),
            dead_letter=cast("bytes | None", dead_letter),
            dead_letter_ms=_score(dead_letter_ms),
            expires_ms=_score(expires),
            idempotency=cast("bytes | None", idempotency),
            delivery_ttl_ms=cast("int", delivery_ttl),
            payload_ttl_ms=cast("int", payload_ttl),
            statuses=dict(zip(DeliveryStatus, scores, strict=True)),
            indexes={
                index: _score(reply)
                for index, reply in zip(indexes, rest[len(DeliveryStatus) :], strict=False)
            },
        )


class _DeliveryLook:
    """The invariants of one delivery."""

    def __init__(self, look: _Look, delivery_id: str, data: bytes, delivery: Delivery, facts: _Facts) -> None:
        self.look = look
        self.store = look.store
        self.delivery_id = delivery_id
        self.data = data
        self.delivery = delivery
        self.facts = facts

    def violations(self) -> Iterable[Violation]:
        if self.delivery.delivery_id != self.delivery_id:
            yield self._wrong(f"its record is of {self.delivery.delivery_id}")
            return
        yield from self._indexes()
        yield from self._schedule()
        yield from self._attempts()
        yield from self._content()
        yield from self._end()
        yield from self._idempotency()

    def _wrong(self, what: str, *mend: Call | Command) -> Violation:
        return Violation(where=self.delivery_id, what=what, mend=mend)

    def _index(self, index: str, score: int | None) -> Call:
        return Call(
            MEND,
            (k.delivery(self.delivery_id), index),
            (self.delivery_id, self.data, "" if score is None else score),
        )

    def _indexes(self) -> Iterable[Violation]:
        created = self.delivery.created_at_ms
        for status, score in self.facts.statuses.items():
            index = k.status_index(status)
            if status is self.delivery.status and score != created:
                yield self._wrong(f"is not in {index}", self._index(index, created))
            if status is not self.delivery.status and score is not None:
                yield self._wrong(
                    f"is in {index} and its status is {self.delivery.status}", self._index(index, None)
                )
        for index, score in self.facts.indexes.items():
            if score != created:
                yield self._wrong(f"is not in {index}", self._index(index, created))

    def _schedule(self) -> Iterable[Violation]:
        delivery, facts = self.delivery, self.facts
        keys = self.store.keys
        lanes = (keys.lane(delivery.lane), keys.lane(_other(delivery.lane)))

        def reschedule(due_ms: int | str) -> Call:
            return Call(
                RESCHEDULE,
                (k.delivery(self.delivery_id), k.CLAIMS, *lanes),
                (self.delivery_id, self.data, due_ms),
            )

        if facts.other_lane_ms is not None:
            yield self._wrong("is scheduled in the wrong lane")
        if delivery.status in TERMINAL:
            if facts.scheduled_ms is not None:
                yield self._wrong(f"is {delivery.status} and scheduled", reschedule(""))
            if facts.token is not None:
                yield self._wrong(f"is {delivery.status} and claimed", reschedule(""))
            if facts.losses is not None:
                yield self._wrong(
                    f"is {delivery.status} and its losses are counted",
                    ("HDEL", k.CLAIM_LOSSES, self.delivery_id),
                )
            if delivery.next_attempt_at_ms is not None:
                yield self._wrong(f"is {delivery.status} and has a next attempt")
            return
        if facts.scheduled_ms is None:
            due_ms = delivery.next_attempt_at_ms or self.store.now_ms()
            yield self._wrong(f"is {delivery.status} and not scheduled", reschedule(due_ms))
        elif facts.scheduled_ms == float("inf"):
            yield self._wrong("is parked: its records could not be read when it was due")
        elif delivery.status is DeliveryStatus.SENDING:
            if facts.token is None:
                yield self._wrong("is sending and not claimed")
            if delivery.next_attempt_at_ms is not None:
                yield self._wrong("is sending and has a next attempt")
        elif facts.token is None and facts.scheduled_ms != delivery.next_attempt_at_ms:
            yield self._wrong(
                f"is scheduled for {facts.scheduled_ms:.0f}, and its record says {delivery.next_attempt_at_ms}"
            )

    def _attempts(self) -> Iterable[Violation]:
        delivery = self.delivery
        records = self.facts.attempts
        if any(data is not None for data in records[delivery.attempt_count :]):
            yield self._wrong(f"has more attempts than the {delivery.attempt_count} that its record counts")
        for number, data in enumerate(records[: delivery.attempt_count], start=1):
            attempt = readable_attempt(data, self.delivery_id, number)
            if attempt is None:
                yield self._wrong(f"attempt {number} " + ("is missing" if data is None else "can't be read"))
                continue
            if (attempt.delivery_id, attempt.attempt_no) != (self.delivery_id, number):
                yield self._wrong(f"attempt {number} has the record of another")
            last = number == delivery.attempt_count
            yield from self._attempt(attempt, last=last)
        if delivery.attempt_count == 0 and delivery.status is not DeliveryStatus.SUPPRESSED:
            yield self._wrong(f"is {delivery.status} without an attempt")

    def _attempt(self, attempt: Attempt, *, last: bool) -> Iterable[Violation]:
        delivery, number = self.delivery, attempt.attempt_no
        finished = attempt.status in FINISHED
        if finished is (attempt.finished_at_ms is None):
            yield self._wrong(f"attempt {number} is {attempt.status} and its end is {attempt.finished_at_ms}")
        if not last:
            if not finished:
                yield self._wrong(f"attempt {number} is {attempt.status} and a later one exists")
            return
        expected = MATCHING.get(delivery.status)
        if expected is None:
            active = (
                AttemptStatus.IN_PROGRESS
                if delivery.status is DeliveryStatus.SENDING
                else AttemptStatus.SCHEDULED
            )
            if attempt.status is not active:
                yield self._wrong(f"is {delivery.status} and attempt {number} is {attempt.status}")
            elif (
                active is AttemptStatus.SCHEDULED and attempt.scheduled_for_ms != delivery.next_attempt_at_ms
            ):
                yield self._wrong(
                    f"attempt {number} is due {attempt.scheduled_for_ms}, "
                    f"and the record says {delivery.next_attempt_at_ms}"
                )
        elif attempt.status not in expected:
            yield self._wrong(f"is {delivery.status} and attempt {number} ended as {attempt.status}")

    def _content(self) -> Iterable[Violation]:
        delivery, facts = self.delivery, self.facts
        if _decoded(facts.content, Content) is None:
            yield self._wrong("its content " + ("is missing" if facts.content is None else "can't be read"))
        fixed_apart = delivery.payload_mode is PayloadMode.TEMPLATE and delivery.rendered_at_ms is not None
        if fixed_apart and facts.rendered is None:
            yield self._wrong("was rendered and what was rendered is missing")
        if facts.rendered is not None and _decoded(facts.rendered, RenderedContent) is None:
            yield self._wrong("what was rendered can't be read")

    def _end(self) -> Iterable[Violation]:
        delivery, facts = self.delivery, self.facts
        terminal = delivery.status in TERMINAL
        if terminal is (delivery.finished_at_ms is None):
            yield self._wrong(f"is {delivery.status} and its end is {delivery.finished_at_ms}")
        dead = delivery.status is DeliveryStatus.DEAD_LETTER
        if dead is (facts.dead_letter is None) or dead is (facts.dead_letter_ms is None):
            yield self._wrong(
                f"is {delivery.status} and {'lacks' if dead else 'has'} a dead letter or its index entry"
            )
        elif dead and _decoded(facts.dead_letter, DeadLetter) is None:
            yield self._wrong("its dead letter can't be read")
        if terminal:
            forget_at_ms = self.store.forget_at_ms(delivery)
            if facts.expires_ms is None:
                yield self._wrong(
                    f"is {delivery.status} and would never be forgotten",
                    self._index(k.IDX_EXPIRES, forget_at_ms),
                )
            if facts.delivery_ttl_ms < 0 or facts.payload_ttl_ms < 0:
                yield self._wrong(f"is {delivery.status} and its keys have no time to live")
        else:
            if facts.expires_ms is not None:
                yield self._wrong(
                    f"is {delivery.status} and would be forgotten", self._index(k.IDX_EXPIRES, None)
                )
            if facts.delivery_ttl_ms != -1 or facts.payload_ttl_ms != -1:
                yield self._wrong(
                    f"is {delivery.status} and its keys would expire",
                    ("PERSIST", k.delivery(self.delivery_id)),
                    ("PERSIST", k.payload(self.delivery_id)),
                )

    def _idempotency(self) -> Iterable[Violation]:
        delivery, facts = self.delivery, self.facts
        record = _decoded(facts.idempotency, IdempotencyRecord)
        kept_until_ms = delivery.created_at_ms + self.store.retention.idempotency_ms
        if record is None:
            if kept_until_ms > self.look.now_ms:
                yield self._wrong("its idempotency record is missing or can't be read")
        elif record.delivery_id != self.delivery_id and kept_until_ms > self.look.now_ms:
            yield self._wrong(f"its idempotency record is of {record.delivery_id}")


def _other(lane: Lane) -> Lane:
    return Lane.NORMAL if lane is Lane.PRIORITY else Lane.PRIORITY


def _score(reply: Reply) -> float | None:
    return None if reply is None else float(cast("bytes", reply))


def _decoded(data: bytes | None, kind: type[R]) -> R | None:
    if data is None:
        return None
    try:
        return decode(data, kind)
    except DecodeError:
        return None


def _escaped(prefix: str) -> str:
    """A prefix in which SCAN's pattern characters stand for themselves."""
    return "".join(f"\\{char}" if char in "*?[]\\^" else char for char in prefix)
