"""Every key of the catalog, by what it begins with: its type, and that it belongs to something which says so too."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from galaxy_mail.domain.records import DeadLetter, IdempotencyRecord, MalformedCommand
from galaxy_mail.domain.resend_job import ResendJob
from galaxy_mail.storage.links.replies import as_bytes, as_int, as_optional_bytes, as_text
from galaxy_mail.storage.operations.identity import entry_number
from galaxy_mail.storage.records.encoding import readable
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import BACKSTOP_MS
from galaxy_mail.storage.verify.delivery import deliveries
from galaxy_mail.storage.verify.reading import GONE, NEVER, Reading
from galaxy_mail.storage.verify.single_keys import claims, holds, meta, schedule, stream, suppressions
from galaxy_mail.storage.verify.violation import Repair, Violation, end_at, put, take_out

Look = Callable[[Reading, Sequence[str]], Awaitable[list[Violation]]]


async def everything(reading: Reading) -> AsyncIterator[Violation]:
    """One pass over the whole store."""
    families = _families(reading)
    single = _single(reading)
    prefixes = [reading.keys.everything]
    if not reading.keys.dead_letters.startswith(reading.keys.everything):
        prefixes.append(reading.keys.dead_letters)
    for prefix in prefixes:
        async for names in reading.scan(prefix):
            for violation in await _keys(reading, families, single, names):
                yield violation
    for key, kind in single.items():
        if not key.startswith(reading.keys.everything):
            for violation in await _wrong_types(reading, {key: kind}):
                yield violation
    for look in (schedule, claims, stream, meta, suppressions, holds):
        async for violation in look(reading):
            yield violation


def _families(reading: Reading) -> dict[str, tuple[str, Look]]:
    """What keys begin with, their type, and what looks at them."""
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
    }


def _single(reading: Reading) -> dict[str, str]:
    """Keys that there is one of, and their types."""
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
    families: Mapping[str, tuple[str, Look]],
    single: Mapping[str, str],
    names: Sequence[str],
) -> list[Violation]:
    found: list[Violation] = []
    kinds = {name: single[name] for name in names if name in single}
    for prefix, (kind, look) in families.items():
        members = [name for name in names if name.startswith(prefix) and name not in single]
        if members:
            kinds |= dict.fromkeys(members, kind)
            found += await look(reading, members)
    return found + await _wrong_types(reading, kinds)


async def _wrong_types(reading: Reading, kinds: Mapping[str, str]) -> list[Violation]:
    types = await reading.run([("TYPE", key) for key in kinds])
    return [
        Violation(where=key, what=f"is a {kind} and should be a {expected}")
        for (key, expected), kind in zip(kinds.items(), map(as_text, types), strict=True)
        if kind not in {expected, "none"}
    ]


# Families


async def _deliveries(reading: Reading, names: Sequence[str]) -> list[Violation]:
    return await deliveries(reading, [name.removeprefix(reading.keys.deliveries) for name in names])


async def _payloads(reading: Reading, names: Sequence[str]) -> list[Violation]:
    ids = [name.removeprefix(reading.keys.payloads) for name in names]
    found = await reading.exist([reading.keys.delivery(delivery_id) for delivery_id in ids])
    return [
        Violation(
            where=delivery_id, what="content without a delivery", repair=Repair("removed", (("DEL", name),))
        )
        for name, delivery_id, exists in zip(names, ids, found, strict=True)
        if not exists
    ]


async def _attempts(reading: Reading, names: Sequence[str]) -> list[Violation]:
    """No number beyond the record's; what outlives its delivery is known to the janitor, and without gaps."""
    parts = [name.removeprefix(reading.keys.attempts).rpartition(":") for name in names]
    found: list[Violation] = []
    records = await reading.records([delivery_id for delivery_id, _, _ in parts])
    left: list[tuple[str, int]] = []
    for name, (delivery_id, _, number) in zip(names, parts, strict=True):
        if not (
            number.isdecimal() and int(number) > 0 and name == reading.keys.attempt(delivery_id, int(number))
        ):
            found.append(Violation(where=name, what="is not named as an attempt is"))
            continue
        record = records[delivery_id]
        if record.data is None:
            left.append((delivery_id, int(number)))
        elif record.delivery is not None and int(number) > record.delivery.attempt_count:
            count = record.delivery.attempt_count
            found.append(
                Violation(where=delivery_id, what=f"has attempt {number}, and its record counts {count}")
            )
    return found + await _attempts_left(reading, left)


async def _attempts_left(reading: Reading, left: Sequence[tuple[str, int]]) -> list[Violation]:
    """These outlived their delivery."""
    found: list[Violation] = []
    forgotten = await reading.scores(reading.keys.expires_index, [delivery_id for delivery_id, _ in left])
    for (delivery_id, number), purge_at_ms in zip(left, forgotten, strict=True):
        own, before = (
            reading.keys.attempt(delivery_id, number),
            reading.keys.attempt(delivery_id, max(number - 1, 1)),
        )
        ends_ms, before_ends_ms = await reading.ends_ms([own, before])
        if ends_ms == GONE:
            continue  # forgotten meanwhile
        if purge_at_ms is None:
            found.append(Violation(where=delivery_id, what="attempts without a delivery"))
            continue
        if ends_ms == NEVER:
            repair = end_at(int(purge_at_ms) + BACKSTOP_MS, own)
            found.append(Violation(where=own, what="is forgotten and has no time to live", repair=repair))
        if before_ends_ms == GONE:
            found.append(Violation(where=delivery_id, what=f"attempt {number - 1} is missing"))
    return found


async def _idempotency(reading: Reading, names: Sequence[str]) -> list[Violation]:
    """Whoever repeats a request is answered from these: what they name must exist, or have been forgotten."""
    found: list[Violation] = []
    values, ends = await reading.values(names), await reading.ends_ms(names)
    read = [readable(data, IdempotencyRecord) for data in values]
    records = await reading.records([record.delivery_id for record in read if record is not None])
    for name, data, ends_ms, record in zip(names, values, ends, read, strict=True):
        if data is None:
            continue
        if record is None:
            found.append(Violation(where=name, what="can't be read"))
            continue
        if 0 <= ends_ms < record.expires_at_ms or ends_ms == NEVER:
            what = "has no time to live" if ends_ms == NEVER else "ends before its time"
            repair = end_at(record.expires_at_ms + BACKSTOP_MS, name)
            found.append(Violation(where=name, what=what, repair=repair))
        named = records[record.delivery_id]
        if named.data is None:
            if reading.now_ms < _kept_until_ms(reading, record):
                found.append(Violation(where=record.delivery_id, what="was promised and does not exist"))
        elif (delivery := named.delivery) is not None and reading.now_ms < record.expires_at_ms:
            key = reading.keys.idempotency(delivery.source, delivery.idempotency_key)
            if key != name:
                found.append(Violation(where=name, what=f"is of {record.delivery_id}, whose key is {key}"))
    return found


def _kept_until_ms(reading: Reading, record: IdempotencyRecord) -> int:
    """So long its delivery exists whatever became of it; one that was sent, longer."""
    accepted_at_ms = record.expires_at_ms - reading.retention.idempotency_ms
    return min(record.expires_at_ms, accepted_at_ms + reading.retention.delivery_ms)


async def _dead_letters(reading: Reading, names: Sequence[str]) -> list[Violation]:
    """They outlive their delivery; `_DeliveryLook` compares them with it while it is there."""
    found: list[Violation] = []
    ids = [name.removeprefix(reading.keys.dead_letters) for name in names]
    values, ends = await reading.values(names), await reading.ends_ms(names)
    indexed = await reading.scores(reading.keys.dead_letters_index, ids)
    forgotten = await reading.scores(reading.keys.expires_index, ids)
    exist = await reading.exist([reading.keys.delivery(delivery_id) for delivery_id in ids])
    for name, i, data, ends_ms, died_ms, known, exists in zip(
        names, ids, values, ends, indexed, forgotten, exist, strict=True
    ):
        if data is None:
            continue
        letter = readable(data, DeadLetter)
        if letter is None:
            found.append(Violation(where=i, what="its dead letter can't be read"))
            continue
        if not exists and known is None:
            found.append(Violation(where=i, what="a dead letter without a delivery"))
        if died_ms != letter.created_at_ms:
            what = f"its dead letter of {letter.created_at_ms} is not in {reading.keys.dead_letters_index}"
            repair = put(name, data, reading.keys.dead_letters_index, i, letter.created_at_ms)
            found.append(Violation(where=i, what=what, repair=repair))
        if ends_ms == NEVER:
            repair = end_at(letter.created_at_ms + reading.retention.attempt_ms + BACKSTOP_MS, name)
            found.append(Violation(where=name, what="has no time to live", repair=repair))
    return found


async def _malformed(reading: Reading, names: Sequence[str]) -> list[Violation]:
    found: list[Violation] = []
    ids = [name.removeprefix(reading.keys.malformed_commands) for name in names]
    values, ends = await reading.values(names), await reading.ends_ms(names)
    indexed = await reading.scores(reading.keys.malformed_index, ids)
    offset = await reading.value(reading.keys.offset)  # after the records
    for name, entry_id, data, ends_ms, recorded_ms in zip(names, ids, values, ends, indexed, strict=True):
        if data is None:
            continue
        record = readable(data, MalformedCommand)
        if record is None:
            found.append(Violation(where=name, what="can't be read"))
            continue
        if record.entry_id != entry_id:
            found.append(Violation(where=name, what=f"is the record of {record.entry_id}"))
        if recorded_ms != record.recorded_at_ms:
            repair = put(name, data, reading.keys.malformed_index, entry_id, record.recorded_at_ms)
            found.append(Violation(where=name, what="is not in its index", repair=repair))
        if ends_ms == NEVER:
            repair = end_at(record.recorded_at_ms + reading.retention.attempt_ms + BACKSTOP_MS, name)
            found.append(Violation(where=name, what="has no time to live", repair=repair))
        if _is_ahead(entry_id, offset):
            found.append(Violation(where=name, what="is ahead of the stream's offset"))
    return found


def _is_ahead(entry_id: str, offset: bytes | None) -> bool:
    try:
        return entry_number(entry_id) > entry_number((offset or b"").decode())
    except ValueError:  # an offset that is none is reported where it stands
        return False


async def _jobs(reading: Reading, names: Sequence[str]) -> list[Violation]:
    found: list[Violation] = []
    ids = [name.removeprefix(reading.keys.jobs) for name in names]
    # In one go: that it stands in its index while it runs is true at each moment, and not from one to the next.
    looks = await reading.run(
        [
            look
            for name, job_id in zip(names, ids, strict=True)
            for look in (
                ("GET", name),
                ("PEXPIRETIME", name),
                ("ZSCORE", reading.keys.jobs_index, job_id),
                ("GET", name),
            )
        ]
    )
    for name, job_id, data, ends_ms, created, again in zip(
        names, ids, looks[::4], looks[1::4], looks[2::4], looks[3::4], strict=True
    ):
        if data is None or data != again:
            continue
        raw = as_bytes(data)
        job = readable(raw, ResendJob)
        if job is None:
            found.append(Violation(where=name, what="can't be read"))
            continue
        found += _job(reading, job, name, job_id, raw, as_int(ends_ms), as_optional_bytes(created))
    return found


def _job(
    reading: Reading, job: ResendJob, name: str, job_id: str, data: bytes, ends_ms: int, created: bytes | None
) -> list[Violation]:
    def wrong(what: str, repair: Repair | None = None) -> None:
        found.append(Violation(where=name, what=what, repair=repair))

    found: list[Violation] = []
    jobs_index = reading.keys.jobs_index
    if job.job_id != job_id:
        wrong(f"is the record of {job.job_id}")
    if job.running is (job.finished_at_ms is not None):
        wrong(f"is {job.status} and its end is {job.finished_at_ms}")
    if not job.running and job.owner is not None:
        wrong(f"is {job.status} and has an owner")
    if (job.reached_at_ms is None) is not (job.reached_id is None):
        wrong("says half of how far it is")
    if job.running and (created is None or float(created) != job.created_at_ms):
        wrong(
            f"is running and not in {jobs_index}",
            put(name, data, jobs_index, job.job_id, job.created_at_ms),
        )
    if job.running and ends_ms != NEVER:
        wrong("is running and its key would expire", Repair("kept", (("PERSIST", name),)))
    if not job.running and created is not None:
        wrong(
            f"is {job.status} and in {jobs_index}",
            take_out(name, data, jobs_index, job_id),
        )
    if not job.running and ends_ms == NEVER:
        wrong("has no time to live", end_at(job.updated_at_ms + reading.retention.delivery_ms, name))
    return found


# Indexes


def _other_indexes(keys: Keys) -> dict[str, Callable[[str], str]]:
    """Whose members are not deliveries, or outlive them, and the key of each member's record."""
    return {
        keys.malformed_index: keys.malformed,
        keys.dead_letters_index: keys.dead_letter,
        keys.jobs_index: keys.job,
    }


async def _indexes(reading: Reading, names: Sequence[str]) -> list[Violation]:
    """Nobody stands in an index where the record does not belong."""
    found: list[Violation] = []
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
                found += await _out_of_place(reading, index, member)
    for index in (name for name in names if name in other_indexes):
        async for members in reading.members([index]):
            keys = [other_indexes[index](member) for _, member, _ in members]
            for (_, member, _), key, exists in zip(members, keys, await reading.exist(keys), strict=True):
                if not exists and await reading.one(("ZSCORE", index, member)) is not None:
                    repair = take_out(key, None, index, member)
                    found.append(
                        Violation(where=member, what=f"stands in {index} and has no record", repair=repair)
                    )
    return found


async def _out_of_place(reading: Reading, index: str, member: str) -> list[Violation]:
    """It seemed so; now all at one moment."""
    key = reading.keys.delivery(member)
    before, at, after = await reading.run([("GET", key), ("ZSCORE", index, member), ("GET", key)])
    if before != after or at is None:
        return []
    record = (await reading.records([member]))[member]
    if record.data != before:
        return []
    repair = take_out(key, record.data, index, member)
    if record.data is None:
        return [Violation(where=member, what=f"stands in {index} and has no record", repair=repair)]
    if record.delivery is None or index in reading.keys.indexes_of(record.delivery):
        return []
    return [Violation(where=member, what=f"is in {index}, where its record does not belong", repair=repair)]
