"""Checks every key by its prefix: its type, and that it belongs to an existing record."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

from galaxy_mail.domain.records import DeadLetter, IdempotencyRecord, MalformedCommand
from galaxy_mail.domain.resend_job import ResendJob
from galaxy_mail.storage.links.replies import as_bytes, as_int, as_optional_bytes, as_text
from galaxy_mail.storage.operations.identity import entry_number
from galaxy_mail.storage.records.encoding import readable
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import BACKSTOP_MS
from galaxy_mail.storage.verify.delivery import deliveries
from galaxy_mail.storage.verify.reading import GONE, NEVER, Reading
from galaxy_mail.storage.verify.single_keys import (
    claims,
    holds,
    meta,
    probe_leases,
    schedule,
    stream,
    suppressions,
)
from galaxy_mail.storage.verify.violation import Repair, Violation, add, expire_at, remove

Check = Callable[[Reading, Sequence[str]], AsyncIterator[Violation]]


async def everything(reading: Reading) -> AsyncIterator[Violation]:
    """One pass over the whole store."""
    families = _families(reading)
    single = _single(reading)
    prefixes = [reading.keys.everything]
    if not reading.keys.dead_letters.startswith(reading.keys.everything):
        prefixes.append(reading.keys.dead_letters)
    for prefix in prefixes:
        async for names in reading.scan(prefix):
            async for violation in _keys(reading, families, single, names):
                yield violation
    elsewhere = {key: kind for key, kind in single.items() if not key.startswith(reading.keys.everything)}
    async for violation in _wrong_types(reading, elsewhere):
        yield violation
    for check in (schedule, claims, stream, meta, suppressions, holds):
        async for violation in check(reading):
            yield violation


def _families(reading: Reading) -> dict[str, tuple[str, Check]]:
    """Prefix -> the type of its keys, and their check."""
    keys = reading.keys
    return {
        keys.deliveries: ("string", _deliveries),
        keys.payloads: ("hash", _payloads),
        keys.attempts: ("string", _attempts),
        keys.idempotency_records: ("string", _idempotency),
        keys.dead_letters: ("string", _dead_letters),
        keys.malformed_commands: ("string", _malformed),
        keys.jobs: ("string", _jobs),
        keys.indexes: ("zset", _indexes),
        keys.probe_leases: ("string", probe_leases),
    }


def _single(reading: Reading) -> dict[str, str]:
    """The single keys and their types."""
    keys = reading.keys
    return {
        keys.command_stream: "stream",
        keys.offset: "string",
        keys.consumed: "string",
        keys.schedule: "zset",
        keys.priority_schedule: "zset",
        keys.claims: "hash",
        keys.claim_sequence: "string",
        keys.claim_losses: "hash",
        keys.meta: "hash",
        keys.ingress_lease: "string",
        keys.suppressions: "hash",
        keys.holds: "hash",
    }


async def _keys(
    reading: Reading,
    families: Mapping[str, tuple[str, Check]],
    single: Mapping[str, str],
    names: Sequence[str],
) -> AsyncIterator[Violation]:
    kinds = {name: single[name] for name in names if name in single}
    for prefix, (kind, check) in families.items():
        members = [name for name in names if name.startswith(prefix) and name not in single]
        if members:
            kinds |= dict.fromkeys(members, kind)
            async for violation in check(reading, members):
                yield violation
    async for violation in _wrong_types(reading, kinds):
        yield violation


async def _wrong_types(reading: Reading, kinds: Mapping[str, str]) -> AsyncIterator[Violation]:
    types = await reading.run([("TYPE", key) for key in kinds])
    for (key, expected), kind in zip(kinds.items(), map(as_text, types), strict=True):
        if kind not in {expected, "none"}:
            yield Violation(where=key, what=f"is a {kind}, but must be a {expected}")


# Families


def _deliveries(reading: Reading, names: Sequence[str]) -> AsyncIterator[Violation]:
    return deliveries(reading, [name.removeprefix(reading.keys.deliveries) for name in names])


async def _payloads(reading: Reading, names: Sequence[str]) -> AsyncIterator[Violation]:
    ids = [name.removeprefix(reading.keys.payloads) for name in names]
    found = await reading.exist([reading.keys.delivery(delivery_id) for delivery_id in ids])
    for name, delivery_id, exists in zip(names, ids, found, strict=True):
        if not exists:
            removed = Repair("removed", (("DEL", name),))
            yield Violation(where=delivery_id, what="content without a delivery", repair=removed)


async def _attempts(reading: Reading, names: Sequence[str]) -> AsyncIterator[Violation]:
    """No attempt's number is larger than its delivery's count. Attempts without a delivery wait for their purge."""
    parts = [name.removeprefix(reading.keys.attempts).rpartition(":") for name in names]
    records = await reading.records([delivery_id for delivery_id, _, _ in parts])
    left: list[tuple[str, int]] = []
    for name, (delivery_id, _, number) in zip(names, parts, strict=True):
        if not (
            number.isdecimal() and int(number) > 0 and name == reading.keys.attempt(delivery_id, int(number))
        ):
            yield Violation(where=name, what="is not the name of an attempt's key")
            continue
        record = records[delivery_id]
        if record.data is None:
            left.append((delivery_id, int(number)))
        elif record.delivery is not None and int(number) > record.delivery.attempt_count:
            count = record.delivery.attempt_count
            yield Violation(where=delivery_id, what=f"has attempt {number}, but its record counts {count}")
    async for violation in _attempts_left(reading, left):
        yield violation


async def _attempts_left(reading: Reading, left: Sequence[tuple[str, int]]) -> AsyncIterator[Violation]:
    """Attempts that outlived their delivery: they have no gaps and will be purged."""
    purges = await reading.scores(reading.keys.expires_index, [delivery_id for delivery_id, _ in left])
    for (delivery_id, number), purge_at_ms in zip(left, purges, strict=True):
        own, before = (
            reading.keys.attempt(delivery_id, number),
            reading.keys.attempt(delivery_id, max(number - 1, 1)),
        )
        ends_ms, before_ends_ms = await reading.ends_ms([own, before])
        if ends_ms == GONE:
            continue  # purged meanwhile
        if purge_at_ms is None:
            yield Violation(where=delivery_id, what="attempts without a delivery")
            continue
        if ends_ms == NEVER:
            repair = expire_at(int(purge_at_ms) + BACKSTOP_MS, own)
            yield Violation(where=own, what="has no time to live after its delivery", repair=repair)
        if before_ends_ms == GONE:
            yield Violation(where=delivery_id, what=f"attempt {number - 1} is missing")


async def _idempotency(reading: Reading, names: Sequence[str]) -> AsyncIterator[Violation]:
    """An idempotency record names a delivery that exists or was purged."""
    values, ends = await reading.values(names), await reading.ends_ms(names)
    read = [readable(data, IdempotencyRecord) for data in values]
    records = await reading.records([record.delivery_id for record in read if record is not None])
    for name, data, ends_ms, record in zip(names, values, ends, read, strict=True):
        if data is None:
            continue
        if record is None:
            yield Violation(where=name, what="can't be read")
            continue
        if 0 <= ends_ms < record.expires_at_ms or ends_ms == NEVER:
            what = "has no time to live" if ends_ms == NEVER else "expires too early"
            repair = expire_at(record.expires_at_ms + BACKSTOP_MS, name)
            yield Violation(where=name, what=what, repair=repair)
        named = records[record.delivery_id]
        if named.data is None:
            if reading.now_ms < _kept_until_ms(reading, record):
                yield Violation(
                    where=record.delivery_id, what="an idempotency record names it, but it does not exist"
                )
        elif (delivery := named.delivery) is not None and reading.now_ms < record.expires_at_ms:
            key = reading.keys.idempotency(delivery.source, delivery.idempotency_key)
            if key != name:
                yield Violation(where=name, what=f"names {record.delivery_id}, whose key is {key}")


def _kept_until_ms(reading: Reading, record: IdempotencyRecord) -> int:
    """Until then its delivery exists, however it ended."""
    accepted_at_ms = record.expires_at_ms - reading.retention.idempotency_ms
    return min(record.expires_at_ms, accepted_at_ms + reading.retention.delivery_ms)


async def _dead_letters(reading: Reading, names: Sequence[str]) -> AsyncIterator[Violation]:
    """Dead letters outlive their delivery. `_DeliveryCheck` compares the two while both exist."""
    ids = [name.removeprefix(reading.keys.dead_letters) for name in names]
    values, ends = await reading.values(names), await reading.ends_ms(names)
    indexed = await reading.scores(reading.keys.dead_letters_index, ids)
    purges = await reading.scores(reading.keys.expires_index, ids)
    exist = await reading.exist([reading.keys.delivery(delivery_id) for delivery_id in ids])
    for name, i, data, ends_ms, died_ms, known, exists in zip(
        names, ids, values, ends, indexed, purges, exist, strict=True
    ):
        if data is None:
            continue
        letter = readable(data, DeadLetter)
        if letter is None:
            yield Violation(where=i, what="its dead letter can't be read")
            continue
        if not exists and known is None:
            yield Violation(where=i, what="a dead letter without a delivery")
        if died_ms != letter.created_at_ms:
            what = f"its dead letter of {letter.created_at_ms} is not in {reading.keys.dead_letters_index}"
            repair = add(name, data, reading.keys.dead_letters_index, i, letter.created_at_ms)
            yield Violation(where=i, what=what, repair=repair)
        if ends_ms == NEVER:
            repair = expire_at(letter.created_at_ms + reading.retention.attempt_ms + BACKSTOP_MS, name)
            yield Violation(where=name, what="has no time to live", repair=repair)


async def _malformed(reading: Reading, names: Sequence[str]) -> AsyncIterator[Violation]:
    ids = [name.removeprefix(reading.keys.malformed_commands) for name in names]
    values, ends = await reading.values(names), await reading.ends_ms(names)
    indexed = await reading.scores(reading.keys.malformed_index, ids)
    offset = await reading.value(reading.keys.offset)  # after the records
    for name, entry_id, data, ends_ms, recorded_ms in zip(names, ids, values, ends, indexed, strict=True):
        if data is None:
            continue
        record = readable(data, MalformedCommand)
        if record is None:
            yield Violation(where=name, what="can't be read")
            continue
        if record.entry_id != entry_id:
            yield Violation(where=name, what=f"has the record of {record.entry_id}")
        if recorded_ms != record.recorded_at_ms:
            repair = add(name, data, reading.keys.malformed_index, entry_id, record.recorded_at_ms)
            yield Violation(where=name, what="is not in its index", repair=repair)
        if ends_ms == NEVER:
            repair = expire_at(record.recorded_at_ms + reading.retention.attempt_ms + BACKSTOP_MS, name)
            yield Violation(where=name, what="has no time to live", repair=repair)
        if _is_ahead(entry_id, offset):
            yield Violation(where=name, what="is after the stream's offset")


def _is_ahead(entry_id: str, offset: bytes | None) -> bool:
    try:
        return entry_number(entry_id) > entry_number((offset or b"").decode())
    except ValueError:  # `stream` reports a bad offset
        return False


async def _jobs(reading: Reading, names: Sequence[str]) -> AsyncIterator[Violation]:
    ids = [name.removeprefix(reading.keys.jobs) for name in names]
    # In one pipeline with the record twice: record and index change together, so both must be of one moment.
    replies = await reading.run(
        [
            command
            for name, job_id in zip(names, ids, strict=True)
            for command in (
                ("GET", name),
                ("PEXPIRETIME", name),
                ("ZSCORE", reading.keys.jobs_index, job_id),
                ("GET", name),
            )
        ]
    )
    for name, job_id, data, ends_ms, created, again in zip(
        names, ids, replies[::4], replies[1::4], replies[2::4], replies[3::4], strict=True
    ):
        if data is None or data != again:
            continue
        raw = as_bytes(data)
        job = readable(raw, ResendJob)
        if job is None:
            yield Violation(where=name, what="can't be read")
            continue
        for violation in _job(reading, job, name, job_id, raw, as_int(ends_ms), as_optional_bytes(created)):
            yield violation


def _job(
    reading: Reading, job: ResendJob, name: str, job_id: str, data: bytes, ends_ms: int, created: bytes | None
) -> Iterator[Violation]:
    def wrong(what: str, repair: Repair | None = None) -> Violation:
        return Violation(where=name, what=what, repair=repair)

    jobs_index = reading.keys.jobs_index
    if job.job_id != job_id:
        yield wrong(f"has the record of {job.job_id}")
    if job.running is (job.finished_at_ms is not None):
        yield wrong(f"is {job.status}, but finished_at_ms is {job.finished_at_ms}")
    if not job.running and job.owner is not None:
        yield wrong(f"is {job.status}, but has an owner")
    if (job.reached_at_ms is None) is not (job.reached_id is None):
        yield wrong("has only one of reached_at_ms and reached_id")
    if job.running and (created is None or float(created) != job.created_at_ms):
        yield wrong(
            f"is running, but not in {jobs_index}", add(name, data, jobs_index, job.job_id, job.created_at_ms)
        )
    if job.running and ends_ms != NEVER:
        yield wrong(
            "is running, but its key would expire", Repair("time to live removed", (("PERSIST", name),))
        )
    if not job.running and created is not None:
        yield wrong(f"is {job.status}, but in {jobs_index}", remove(name, data, jobs_index, job_id))
    if not job.running and ends_ms == NEVER:
        yield wrong("has no time to live", expire_at(job.updated_at_ms + reading.retention.delivery_ms, name))


# Indexes


def _other_indexes(keys: Keys) -> dict[str, Callable[[str], str]]:
    """Indexes whose members are not deliveries or outlive them -> the key of a member's record."""
    return {
        keys.malformed_index: keys.malformed,
        keys.dead_letters_index: keys.dead_letter,
        keys.jobs_index: keys.job,
    }


async def _indexes(reading: Reading, names: Sequence[str]) -> AsyncIterator[Violation]:
    """Every index entry belongs to a record that says so."""
    other_indexes = _other_indexes(reading.keys)
    of_deliveries = [
        name for name in names if name not in other_indexes and name != reading.keys.expires_index
    ]
    async for members in reading.members(of_deliveries):
        records = await reading.records([member for _, member, _ in members])
        for index, member, _ in members:
            record = records[member]
            if record.data is None or (
                record.delivery is not None and index not in reading.keys.indexes_of(record.delivery)
            ):
                violation = await _out_of_place(reading, index, member)
                if violation is not None:
                    yield violation
    for index in (name for name in names if name in other_indexes):
        async for members in reading.members([index]):
            keys = [other_indexes[index](member) for _, member, _ in members]
            for (_, member, _), key, exists in zip(members, keys, await reading.exist(keys), strict=True):
                if not exists and await reading.one(("ZSCORE", index, member)) is not None:
                    yield _without_record(member, index, remove(key, None, index, member))


async def _out_of_place(reading: Reading, index: str, member: str) -> Violation | None:
    """Checks a suspect entry again, with record and index of one moment."""
    key = reading.keys.delivery(member)
    before, at, after = await reading.run([("GET", key), ("ZSCORE", index, member), ("GET", key)])
    if before != after or at is None:
        return None
    record = (await reading.records([member]))[member]
    if record.data != before:
        return None
    repair = remove(key, record.data, index, member)
    if record.data is None:
        return _without_record(member, index, repair)
    if record.delivery is None or index in reading.keys.indexes_of(record.delivery):
        return None
    what = f"is in {index}, but its record does not belong there"
    return Violation(where=member, what=what, repair=repair)


def _without_record(member: str, index: str, repair: Repair) -> Violation:
    return Violation(where=member, what=f"is in {index}, but has no record", repair=repair)
