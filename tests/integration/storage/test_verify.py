"""The invariants of the store: each is broken on purpose and must be found, and what may be mended must be mended."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import pytest
import trio
from msgspec import Struct
from msgspec.structs import replace
from trio.testing import MockClock

from galaxy_mail.domain.conclusion import RetryPolicy, conclude, conclude_lost_owner
from galaxy_mail.domain.records import DeliveryStatus, MalformedCommand, RenderedContent, Suppression
from galaxy_mail.domain.resend_job import JobStatus, ResendFilter, ResendJobRequest, new_job
from galaxy_mail.storage.operations.store import StreamPosition
from galaxy_mail.storage.verify import Violation
from tests.deliveries import (
    ACCEPTED,
    DAY_MS,
    DEFERRED,
    REFUSED,
    SUPPRESSED,
    UNKNOWN,
    acceptance_of,
    login_code_of,
    request_of,
)
from tests.keys import k
from tests.storehouse import Storehouse

RENDERED: Final = RenderedContent(subject="s", text_body="t", locale_used="en", locale_fallback_used=False)
D1: Final = "mail:deliveries:d1"
Prepare = Callable[[Storehouse], Awaitable[object]]
Command = tuple[str | bytes | int, ...]


# States in which a delivery `d1` may be, each of them sound


async def queued(house: Storehouse) -> None:
    await house.accept(request_of())


async def claimed(house: Storehouse) -> None:
    await queued(house)
    await house.claim()


async def two_claimed(house: Storehouse) -> None:
    await house.accept(request_of("d2"))
    await queued(house)
    assert len((await house.claim()).claims) == 2


async def sending(house: Storehouse) -> None:
    await house.begun(request_of())


async def rendered(house: Storehouse) -> None:
    """A login code, given back after its begin."""
    await house.accept(login_code_of("d1"))
    await house.release(await house.begin(await house.claim_one(), rendered=RENDERED))


async def retried(house: Storehouse) -> None:
    await house.sent(request_of(), DEFERRED)


async def lost(house: Storehouse) -> None:
    await claimed(house)
    house.clock.ms += 30_000
    await house.claim()


async def sent(house: Storehouse) -> None:
    await house.sent(request_of(), ACCEPTED)


async def failed(house: Storehouse) -> None:
    await house.sent(request_of(), REFUSED)


async def suppressed(house: Storehouse) -> None:
    await house.store.accept(acceptance_of(suppressed={"@example.org": "r"}, now_ms=house.clock.ms))


async def suppressed_by_provider(house: Storehouse) -> None:
    await house.sent(request_of(), SUPPRESSED)


async def dead(house: Storehouse) -> None:
    await house.sent(request_of(), UNKNOWN)
    for _ in range(3):
        house.clock.ms += 1_800_000
        await house.finish(await house.begin(await house.claim_one()), DEFERRED)


async def resent(house: Storehouse) -> None:
    await house.sent(request_of("parent"), REFUSED)
    await house.accept(request_of(parent_delivery_id="parent"))


async def orphan_of_its_parent(house: Storehouse) -> None:
    """Its parent was forgotten before it, and with it the list of its children."""
    await house.sent(request_of("parent"), REFUSED)
    house.clock.ms += 29 * DAY_MS
    await house.accept(request_of(parent_delivery_id="parent"))
    house.clock.ms += DAY_MS
    assert await house.upkeep.purge() == 1


async def purged(house: Storehouse) -> None:
    await sent(house)
    house.clock.ms += 30 * DAY_MS
    assert await house.upkeep.purge() == 1


async def purged_altogether(house: Storehouse) -> None:
    await purged(house)
    house.clock.ms += 60 * DAY_MS
    assert await house.upkeep.purge() == 1


async def malformed(house: Storehouse) -> None:
    record = MalformedCommand(
        entry_id="5-0", fields={}, failure_code="c", message="m", recorded_at_ms=house.clock.ms
    )
    await house.stream.apply([house.stream.malformed_call(record, StreamPosition("5-0", ""))])


JOB: Final = "mail:jobs:j"


async def job_runs(house: Storehouse) -> None:
    """A resend job with the id `j`, begun and part of its way."""
    request = ResendJobRequest(filter=ResendFilter(status=DeliveryStatus.FAILED), reason="r")
    job = replace(new_job(request, {}, idempotency_key="k", now_ms=house.clock.ms), job_id="j")
    assert await house.jobs.create(job) is None


async def job_done(house: Storehouse) -> None:
    await job_runs(house)
    jobs = house.jobs
    [saved] = await jobs.unfinished()
    assert await jobs.save(saved.job.finished(JobStatus.DONE, at_ms=house.clock.ms), instead_of=saved)


async def failed_unknown(house: Storehouse) -> None:
    """MAIL_UNKNOWN_OUTCOME=fail."""
    held = await house.begun(request_of())
    policy = RetryPolicy(fail_unknown_outcome=True)
    await house.store.finish(
        held.claim, conclude(held.begun.delivery, held.begun.attempt, UNKNOWN, policy, now_ms=house.clock.ms)
    )


async def taken_over(house: Storehouse) -> None:
    """Its owner was lost after its begin; the second attempt waits."""
    await sending(house)
    house.clock.ms += 30_000
    claim = await house.claim_one()
    lost_one = conclude_lost_owner(
        claim.delivery, claim.attempt, RetryPolicy(), losses=claim.losses, now_ms=house.clock.ms
    )
    assert lost_one is not None
    await house.store.finish(claim, lost_one)


async def partly_suppressed(house: Storehouse) -> None:
    request = request_of(to=("a@example.org", "b@other.example"))
    await house.store.accept(
        acceptance_of(request, suppressed={"@other.example": "r"}, now_ms=house.clock.ms)
    )


async def suppression(house: Storehouse) -> None:
    await house.suppressions.put(Suppression(address="@example.org", reason="r", created_at_ms=1))


async def read_from(house: Storehouse) -> None:
    """A stream of three entries: the first two were recorded as malformed, the first was trimmed since."""
    for entry_id, before in (("5-0", ""), ("6-0", "5-0"), ("7-0", "")):
        house.run("XADD", "mail:delivery_commands", entry_id, "f", "v")
        if entry_id != "7-0":
            record = MalformedCommand(
                entry_id=entry_id, fields={}, failure_code="c", message="m", recorded_at_ms=house.clock.ms
            )
            await house.stream.apply([house.stream.malformed_call(record, StreamPosition(entry_id, before))])
    house.run("XTRIM", "mail:delivery_commands", "MINID", "6-0")
    assert await house.stream.hold_lease(5_000)


async def purged_of_two_attempts(house: Storehouse) -> None:
    await retried(house)
    house.clock.ms += 60_000
    await house.finish(await house.begin(await house.claim_one()), REFUSED)
    house.clock.ms += 30 * DAY_MS
    assert await house.upkeep.purge() == 1


async def dead_and_purged(house: Storehouse) -> None:
    """Its delivery is gone, and its dead letter is not: the attempts' time was made longer since."""
    await dead(house)
    house.run("DEL", D1, "mail:payloads:d1")
    indexes = [
        "mail:idx:created_at",
        "mail:idx:status:dead_letter",
        "mail:idx:source:notification",
        "mail:idx:recipient:d1@example.org",
        "mail:idx:idempotency:notification:key of d1",
    ]
    for index in indexes:
        house.run("ZREM", index, "d1")
    house.clock.ms += 7 * DAY_MS  # nobody is promised anything by its key any more


async def nothing(house: Storehouse) -> None:
    pass


SOUND: Final = [
    queued,
    claimed,
    two_claimed,
    sending,
    rendered,
    retried,
    lost,
    sent,
    failed,
    suppressed,
    suppressed_by_provider,
    dead,
    resent,
    orphan_of_its_parent,
    purged,
    purged_altogether,
    malformed,
    job_runs,
    job_done,
    failed_unknown,
    taken_over,
    partly_suppressed,
    suppression,
    read_from,
    purged_of_two_attempts,
    dead_and_purged,
    nothing,
]


@pytest.mark.parametrize("prepare", SOUND, ids=lambda prepare: prepare.__name__)
async def test_a_sound_store_gives_nothing(prepare: Prepare, house: Storehouse) -> None:
    await prepare(house)
    before = house.dump()
    assert await house.verify() == []
    assert await house.verify(repair=True) == []
    assert house.dump() == before, "it reads only"


# What breaks them

SCHEDULE: Final = "mail:attempt_schedule"
OFFSET: Final = "mail:stream_offsets:mail:delivery_commands"
CONSUMED: Final = "mail:stream_consumed:mail:delivery_commands"


class Broken(Struct, frozen=True):
    """A sound state, what is done to it, and what must be said of it."""

    name: str
    prepare: Prepare
    what: str  # a part of it
    commands: tuple[Command, ...] = ()
    delivery: dict[str, object] = {}  # members of d1's record that are exchanged
    attempt: dict[str, object] = {}  # likewise, of an attempt
    attempt_no: int | None = None  # None: of the newest
    repaired: bool = False
    where: str = "d1"
    job: dict[str, object] = {}  # members of j's record that are exchanged


BROKEN: Final = [
    # Indexes
    Broken(
        "not in its status",
        queued,
        "is not in mail:idx:status:queued",
        (("ZREM", "mail:idx:status:queued", "d1"),),
        repaired=True,
    ),
    Broken(
        "in its status by another time",
        queued,
        "is in mail:idx:status:queued with the score 7, but was created at 4100000000123",
        (("ZADD", "mail:idx:status:queued", 7, "d1"),),
        repaired=True,
    ),
    Broken(
        "in two statuses",
        sent,
        "is in mail:idx:status:sending, but its record does not belong there",
        (("ZADD", "mail:idx:status:sending", 1, "d1"),),
        repaired=True,
    ),
    Broken(
        "not by its time",
        queued,
        "is not in mail:idx:created_at",
        (("ZREM", "mail:idx:created_at", "d1"),),
        repaired=True,
    ),
    Broken(
        "not by its recipient",
        sent,
        "is not in mail:idx:recipient:d1@example.org",
        (("DEL", "mail:idx:recipient:d1@example.org"),),
        repaired=True,
    ),
    Broken(
        "not by its source",
        queued,
        "is not in mail:idx:source:notification",
        (("DEL", "mail:idx:source:notification"),),
        repaired=True,
    ),
    Broken(
        "not by its template",
        rendered,
        "is not in mail:idx:template:auth.login_code",
        (("DEL", "mail:idx:template:auth.login_code"),),
        repaired=True,
    ),
    Broken(
        "not by its key",
        queued,
        "is not in mail:idx:idempotency:notification:key of d1",
        (("DEL", "mail:idx:idempotency:notification:key of d1"),),
        repaired=True,
    ),
    Broken(
        "not among the children",
        resent,
        "is not in mail:idx:children:parent",
        (("DEL", "mail:idx:children:parent"),),
        repaired=True,
    ),
    Broken(
        "an index entry without a record",
        nothing,
        "is in mail:idx:created_at, but has no record",
        (("ZADD", "mail:idx:created_at", 1, "ghost"),),
        repaired=True,
        where="ghost",
    ),
    # The schedule
    Broken(
        "queued, but not scheduled",
        queued,
        "is queued, but not scheduled",
        (("ZREM", SCHEDULE, "d1"),),
        repaired=True,
    ),
    Broken(
        "a retry that is not scheduled",
        retried,
        "is queued, but not scheduled",
        (("ZREM", SCHEDULE, "d1"),),
        repaired=True,
    ),
    Broken(
        "rendered, but not scheduled",
        rendered,
        "is rendered, but not scheduled",
        (("ZREM", SCHEDULE + ":priority", "d1"),),
        repaired=True,
    ),
    Broken(
        "claimed, but not scheduled",
        claimed,
        "would never expire",
        (("ZREM", SCHEDULE, "d1"),),
        repaired=True,
    ),
    Broken(
        "scheduled for another time",
        retried,
        "is scheduled for 5, but its record says",
        (("ZADD", SCHEDULE, 5, "d1"),),
        repaired=True,
    ),
    Broken(
        "scheduled in the wrong lane",
        queued,
        "is scheduled in the wrong lane",
        (("ZADD", SCHEDULE + ":priority", 5, "d1"),),
        repaired=True,
    ),
    Broken(
        "scheduled in the wrong lane alone",
        rendered,
        "is scheduled in the wrong lane",
        (("ZREM", SCHEDULE + ":priority", "d1"), ("ZADD", SCHEDULE, 5, "d1")),
        repaired=True,
    ),
    Broken(
        "claimed in the wrong lane",
        claimed,
        "is scheduled in the wrong lane",
        (("ZREM", SCHEDULE, "d1"), ("ZADD", SCHEDULE + ":priority", 4100000030123, "d1")),
    ),
    Broken("parked", queued, "is quarantined", (("ZADD", SCHEDULE, "+inf", "d1"),)),
    Broken(
        "an end that is scheduled",
        sent,
        "is sent, but scheduled",
        (("ZADD", SCHEDULE, 5, "d1"),),
        repaired=True,
    ),
    Broken(
        "an end that is claimed",
        failed,
        "is failed, but claimed",
        (("HSET", k.claims, "d1", "1-1"), ("ZADD", SCHEDULE, 5, "d1")),
        repaired=True,
    ),
    Broken(
        "an end whose losses are counted",
        sent,
        "is sent, but its lost claims are counted",
        (("HSET", k.claim_losses, "d1", 2),),
        repaired=True,
    ),
    Broken(
        "an end with a next attempt",
        sent,
        "is sent, but has a next attempt",
        delivery={"next_attempt_at_ms": 5},
    ),
    Broken("sent by nobody", sending, "is sending, but not claimed", (("HDEL", k.claims, "d1"),)),
    Broken(
        "being sent and due",
        sending,
        "is sending, but has a next attempt",
        delivery={"next_attempt_at_ms": 5},
    ),
    Broken(
        "scheduled without a record",
        nothing,
        "is scheduled, but has no record",
        (("ZADD", SCHEDULE, 5, "ghost"),),
        where="ghost",
    ),
    # Claims
    Broken(
        "a claim without a token",
        claimed,
        "its claim has no valid token",
        (("HSET", k.claims, "d1", "mine"),),
    ),
    Broken(
        "a token of the future",
        claimed,
        "its token is ahead",
        (("HSET", k.claims, "d1", "1732500000000000-99"),),
    ),
    Broken(
        "losses of nobody",
        nothing,
        "its lost claims are counted, but it has no record",
        (("HSET", k.claim_losses, "ghost", 1),),
        repaired=True,
        where="ghost",
    ),
    # Attempts
    Broken("an attempt is missing", dead, "attempt 2 is missing", (("DEL", "mail:attempts:d1:2"),)),
    Broken(
        "an attempt can't be read", dead, "attempt 2 can't be read", (("SET", "mail:attempts:d1:2", "?"),)
    ),
    Broken(
        "an attempt too many",
        sent,
        "has attempt 2, but its record counts 1",
        (("SET", "mail:attempts:d1:2", "?"),),
    ),
    Broken(
        "another's attempt",
        sent,
        "attempt 1 has the record of another attempt",
        attempt={"delivery_id": "d2"},
    ),
    Broken("another attempt", sent, "attempt 1 has the record of another attempt", attempt={"attempt_no": 2}),
    Broken(
        "two active attempts",
        retried,
        "attempt 1 is in_progress, but a later one exists",
        attempt={"status": "in_progress", "finished_at_ms": None},
        attempt_no=1,
    ),
    Broken(
        "an attempt that goes on after the end",
        sent,
        "is sent, but attempt 1 is in_progress",
        attempt={"status": "in_progress", "finished_at_ms": None},
    ),
    Broken(
        "sent by an attempt that failed",
        sent,
        "is sent, but attempt 1 ended as timed_out (transient_failure)",
        attempt={"status": "timed_out", "result": "transient_failure"},
    ),
    Broken(
        "failed by an attempt that sent it",
        failed,
        "is failed, but attempt 1 ended as provider_accepted",
        attempt={"status": "provider_accepted", "result": "accepted"},
    ),
    Broken(
        "sending and not begun",
        sending,
        "is sending, but attempt 1 is scheduled",
        attempt={"status": "scheduled"},
    ),
    Broken(
        "queued and begun",
        queued,
        "is queued, but attempt 1 is in_progress",
        attempt={"status": "in_progress"},
    ),
    Broken(
        "due at two times",
        retried,
        "attempt 2 is due at 5, but the record says",
        attempt={"scheduled_for_ms": 5},
    ),
    Broken(
        "ended without an end",
        sent,
        "attempt 1 is provider_accepted, but finished_at_ms is None",
        attempt={"finished_at_ms": None},
    ),
    Broken(
        "not ended with an end",
        queued,
        "attempt 1 is scheduled, but finished_at_ms is 5",
        attempt={"finished_at_ms": 5},
    ),
    Broken(
        "no attempt at all",
        queued,
        "is queued without an attempt",
        (("DEL", "mail:attempts:d1:1"),),
        delivery={"attempt_count": 0},
    ),
    Broken(
        "attempts of nobody",
        nothing,
        "attempts without a delivery",
        (("SET", "mail:attempts:ghost:1", "?"),),
        where="ghost",
    ),
    # Content
    Broken("no content", queued, "its content is missing", (("DEL", "mail:payloads:d1"),)),
    Broken(
        "content that can't be read",
        queued,
        "its content can't be read",
        (("HSET", "mail:payloads:d1", "content", "?"),),
    ),
    Broken(
        "nothing was rendered",
        rendered,
        "its rendered content is missing",
        (("HDEL", "mail:payloads:d1", "rendered"),),
    ),
    Broken(
        "rendered content that can't be read",
        rendered,
        "its rendered content can't be read",
        (("HSET", "mail:payloads:d1", "rendered", "?"),),
    ),
    Broken(
        "content of nobody",
        nothing,
        "content without a delivery",
        (("HSET", "mail:payloads:ghost", "content", "{}"),),
        repaired=True,
        where="ghost",
    ),
    # The record
    Broken("a record that can't be read", queued, "its record can't be read", (("SET", D1, "?"),)),
    Broken(
        "a record of a later release", queued, "its record can't be read", delivery={"status": "teleported"}
    ),
    Broken("another's record", queued, "its record is that of d2", delivery={"delivery_id": "d2"}),
    # The end
    Broken(
        "an end without a time",
        sent,
        "is sent, but finished_at_ms is None",
        delivery={"finished_at_ms": None, "updated_at_ms": 5},
    ),
    Broken(
        "a time without an end", queued, "is queued, but finished_at_ms is 5", delivery={"finished_at_ms": 5}
    ),
    Broken(
        "no dead letter", dead, "is dead_letter, but lacks a dead letter", (("DEL", "mail:dead_letters:d1"),)
    ),
    Broken(
        "not among the dead letters",
        dead,
        "is not in mail:idx:dead_letters",
        (("ZREM", k.dead_letters_index, "d1"),),
        repaired=True,
    ),
    Broken(
        "among the dead letters by another time",
        dead,
        "is not in mail:idx:dead_letters",
        (("ZADD", k.dead_letters_index, 7, "d1"),),
        repaired=True,
    ),
    Broken(
        "among the dead letters and alive",
        sent,
        "is in mail:idx:dead_letters, but has no record",
        (("ZADD", k.dead_letters_index, 7, "d1"),),
        repaired=True,
    ),
    Broken(
        "a dead letter that can't be read",
        dead,
        "its dead letter can't be read",
        (("SET", "mail:dead_letters:d1", "?"),),
    ),
    Broken(
        "a dead letter of the living",
        sent,
        "is sent, but has a dead letter",
        (("SET", "mail:dead_letters:d1", "{}"), ("ZADD", k.dead_letters_index, 1, "d1")),
    ),
    Broken(
        "never forgotten",
        sent,
        "is sent, but would never be purged",
        (("ZREM", k.expires_index, "d1"),),
        repaired=True,
    ),
    Broken(
        "forgotten on its way",
        queued,
        "is queued, but would be purged",
        (("ZADD", k.expires_index, 5, "d1"),),
        repaired=True,
    ),
    Broken(
        "a key that lives for ever",
        failed,
        "is failed, but its keys have no time to live",
        (("PERSIST", D1),),
        repaired=True,
    ),
    Broken(
        "content that lives for ever",
        failed,
        "is failed, but its keys have no time to live",
        (("PERSIST", "mail:payloads:d1"),),
        repaired=True,
    ),
    Broken(
        "a key that ends on its way",
        queued,
        "is queued, but its keys would expire",
        (("PEXPIRE", D1, 10**9),),
        repaired=True,
    ),
    Broken(
        "content that ends on its way",
        sending,
        "is sending, but its keys would expire",
        (("PEXPIRE", "mail:payloads:d1", 10**9),),
        repaired=True,
    ),
    # Idempotency
    Broken(
        "no idempotency record",
        queued,
        "its idempotency record is missing",
        (("DEL", "mail:idempotency:notification:key of d1"),),
    ),
    Broken(
        "an idempotency record that can't be read",
        sent,
        "its idempotency record is missing or can't be read",
        (("SET", "mail:idempotency:notification:key of d1", "?"),),
    ),
    Broken(
        "another's idempotency record",
        queued,
        "its idempotency record names d2",
        (("SET", "mail:idempotency:notification:key of d1", '["f","d2","sent",9999999999999]'),),
    ),
    Broken(
        "promised and not stored",
        nothing,
        "an idempotency record names it, but it does not exist",
        (("SET", "mail:idempotency:notification:k", '["f","ghost","sent",4100604800123]'),),
        where="ghost",
    ),
    # Commands
    Broken(
        "a malformed command in no index",
        malformed,
        "is not in its index",
        (("ZREM", k.malformed_index, "5-0"),),
        repaired=True,
        where="mail:malformed_commands:5-0",
    ),
    Broken(
        "a malformed command by another time",
        malformed,
        "is not in its index",
        (("ZADD", k.malformed_index, 7, "5-0"),),
        repaired=True,
        where="mail:malformed_commands:5-0",
    ),
    Broken(
        "a malformed command that can't be read",
        malformed,
        "can't be read",
        (("SET", "mail:malformed_commands:5-0", "?"),),
        where="mail:malformed_commands:5-0",
    ),
    Broken(
        "a malformed command ahead of the offset",
        malformed,
        "is after the stream's offset",
        (("SET", OFFSET, "4-9"),),
        where="mail:malformed_commands:5-0",
    ),
    Broken(
        "a malformed command that is gone",
        malformed,
        "is in mail:idx:malformed_commands, but has no record",
        (("DEL", "mail:malformed_commands:5-0"),),
        repaired=True,
        where="5-0",
    ),
    Broken(
        "an offset that is none",
        malformed,
        "is not a stream entry id",
        (("SET", OFFSET, "five"),),
        where=OFFSET,
    ),
    # Types
    Broken(
        "a delivery of another type",
        queued,
        "is a hash, but must be a string",
        (("DEL", D1), ("HSET", D1, "f", "v")),
        where=D1,
    ),
    Broken(
        "content of another type",
        queued,
        "is a string, but must be a hash",
        (("SET", "mail:payloads:d1", "v"),),
        where="mail:payloads:d1",
    ),
    Broken(
        "an attempt of another type",
        queued,
        "is a hash, but must be a string",
        (("DEL", "mail:attempts:d1:1"), ("HSET", "mail:attempts:d1:1", "f", "v")),
        where="mail:attempts:d1:1",
    ),
    Broken(
        "an index of another type",
        queued,
        "is a string, but must be a zset",
        (("SET", "mail:idx:created_at", "v"),),
        where="mail:idx:created_at",
    ),
    Broken(
        "claims of another type",
        queued,
        "is a string, but must be a hash",
        (("SET", k.claims, "v"),),
        where=k.claims,
    ),
    Broken(
        "a stream of another type",
        queued,
        "is a string, but must be a stream",
        (("SET", "mail:delivery_commands", "v"),),
        where="mail:delivery_commands",
    ),
    # Whose index it is
    Broken(
        "among another's recipients",
        queued,
        "is in mail:idx:recipient:b@example.org, but its record does not belong there",
        (("ZADD", "mail:idx:recipient:b@example.org", 1, "d1"),),
        repaired=True,
    ),
    Broken(
        "among the mail of a template",
        queued,
        "is in mail:idx:template:t, but its record does not belong there",
        (("ZADD", "mail:idx:template:t", 1, "d1"),),
        repaired=True,
    ),
    Broken(
        "by another's key",
        queued,
        "is in mail:idx:idempotency:notification:k, but its record does not belong there",
        (("ZADD", "mail:idx:idempotency:notification:k", 1, "d1"),),
        repaired=True,
    ),
    Broken(
        "from another source",
        queued,
        "is in mail:idx:source:authsession, but its record does not belong there",
        (("ZADD", "mail:idx:source:authsession", 1, "d1"),),
        repaired=True,
    ),
    Broken(
        "another's child",
        resent,
        "is in mail:idx:children:other, but its record does not belong there",
        (("ZADD", "mail:idx:children:other", 1, "d1"),),
        repaired=True,
    ),
    Broken(
        "a status that there is not",
        queued,
        "is in mail:idx:status:lost, but its record does not belong there",
        (("ZADD", "mail:idx:status:lost", 1, "d1"),),
        repaired=True,
    ),
    *(
        Broken(
            f"nobody in {index}",
            nothing,
            f"is in {index}, but has no record",
            (("ZADD", index, 1, "ghost"),),
            repaired=True,
            where="ghost",
        )
        for index in (
            "mail:idx:recipient:a@example.org",
            "mail:idx:template:t",
            "mail:idx:source:notification",
            "mail:idx:status:queued",
            "mail:idx:idempotency:notification:k",
            "mail:idx:children:parent",
            "mail:idx:dead_letters",
            "mail:idx:jobs",
            "mail:idx:malformed_commands",
        )
    ),
    # The record against itself
    Broken(
        "at rest as accepted",
        queued,
        "is accepted, a status that is never stored",
        delivery={"status": "accepted"},
    ),
    Broken(
        "waiting for nothing",
        queued,
        "is queued, but has no next attempt",
        delivery={"next_attempt_at_ms": None},
    ),
    Broken(
        "sent and never rendered",
        sent,
        "is sent, but has no rendered_at_ms",
        delivery={"rendered_at_ms": None},
    ),
    Broken("failed for nothing", failed, "is failed without a failure", delivery={"failure": None}),
    Broken(
        "sent with a failure",
        sent,
        "is sent, but has the failure c",
        delivery={"failure": {"code": "c", "summary": "s"}},
    ),
    Broken("mailed to nobody", queued, "is queued, but has no recipients", delivery={"envelope": {"to": []}}),
    Broken(
        "a login code in the subject",
        rendered,
        "has secret content, but its subject is stored",
        delivery={"subject": "s"},
    ),
    Broken(
        "another's Message-ID",
        queued,
        "its Message-ID d2@mail.example",
        delivery={"message_id": "d2@mail.example"},
    ),
    # Attempts against each other
    Broken(
        "an attempt far ahead",
        sent,
        "has attempt 9, but its record counts 1",
        (("SET", "mail:attempts:d1:9", "?"),),
    ),
    Broken(
        "an attempt without a number",
        sent,
        "is not the name of an attempt's key",
        (("SET", "mail:attempts:d1:one", "?"),),
        where="mail:attempts:d1:one",
    ),
    Broken(
        "an attempt after the end",
        retried,
        "attempt 1 ended as permanent_failure, but a later one exists",
        attempt={"result": "permanent_failure"},
        attempt_no=1,
    ),
    Broken(
        "an end and another answer",
        retried,
        "attempt 1 is timed_out, but its result is accepted",
        attempt={"status": "timed_out", "result": "accepted"},
        attempt_no=1,
    ),
    Broken(
        "an outcome before the end",
        queued,
        "attempt 1 is scheduled, but has an outcome",
        attempt={"result": "accepted"},
    ),
    Broken(
        "begun before its time", queued, "attempt 1 is scheduled, but has begun", attempt={"started_at_ms": 5}
    ),
    Broken(
        "in progress and never begun",
        sending,
        "attempt 1 is in_progress, but never began",
        attempt={"started_at_ms": None},
    ),
    Broken(
        "accepted and unknown",
        sent,
        "attempt 1 ended as accepted, but its outcome is unknown",
        attempt={"outcome_unknown": True},
    ),
    Broken(
        "failed by what can be tried again",
        failed,
        "is failed, but attempt 1 ended as provider_rejected (transient_failure)",
        attempt={"result": "transient_failure"},
    ),
    Broken(
        "failed as unknown by what is known",
        failed_unknown,
        "is failed for an unknown outcome, but the outcome of attempt 1 is known",
        attempt={"outcome_unknown": None},
    ),
    Broken(
        "a retry too many", retried, "used 1 retries, but its record says 2", delivery={"retries_used": 2}
    ),
    Broken(
        "a loss that used a retry",
        taken_over,
        "used 0 retries, but its record says 1",
        delivery={"retries_used": 1},
    ),
    Broken(
        "a loss that is not counted",
        taken_over,
        "lost 1 owners of begun attempts, but its record says 0",
        delivery={"begun_losses": None},
    ),
    Broken(
        "attempts of the forgotten with a gap",
        purged_of_two_attempts,
        "attempt 1 is missing",
        (("DEL", "mail:attempts:d1:1"),),
    ),
    Broken(
        "attempts of the forgotten that nobody forgets",
        purged,
        "attempts without a delivery",
        (("ZREM", k.expires_index, "d1"),),
    ),
    # Claims and losses
    Broken(
        "two claims of one token",
        two_claimed,
        "its token is also that of d1",
        (("HSET", k.claims, "d1", "1-1", "d2", "1-1"),),
        where="d2",
    ),
    Broken(
        "a sequence that is none",
        claimed,
        "is not a number: b'x'",
        (("SET", k.claim_sequence, "x"),),
        where=k.claim_sequence,
    ),
    Broken(
        "losses that are no number",
        lost,
        "its count of lost claims is not a number: b'x'",
        (("HSET", k.claim_losses, "d1", "x"),),
    ),
    # Content
    Broken(
        "content of another template",
        rendered,
        "is template with the template auth.login_code, but its content has other",
        (
            (
                "HSET",
                "mail:payloads:d1",
                "content",
                '{"envelope":{"to":["d1@example.org"]},"template_id":"other"}',
            ),
        ),
    ),
    Broken(
        "content without a text",
        queued,
        "has neither a template nor a text",
        (("HSET", "mail:payloads:d1", "content", '{"envelope":{"to":["d1@example.org"]}}'),),
    ),
    Broken(
        "a recipient who is gone",
        queued,
        "its record and its content have different recipients",
        delivery={"envelope": {"to": ["other@example.org"]}},
    ),
    Broken(
        "a suppressed recipient who is gone",
        partly_suppressed,
        "its record and its content have different recipients",
        delivery={"suppressed_recipients": None},
    ),
    # Dead letters
    Broken(
        "another's dead letter",
        dead,
        "its dead letter contradicts its record",
        (
            (
                "SET",
                "mail:dead_letters:d1",
                '{"attempt_count":4,"created_at_ms":4100001980123,"delivery_id":"d2","reason":"r"}',
                "KEEPTTL",
            ),
        ),
    ),
    Broken(
        "a dead letter that lives for ever",
        dead,
        "has no time to live",
        (("PERSIST", "mail:dead_letters:d1"),),
        repaired=True,
        where="mail:dead_letters:d1",
    ),
    Broken(
        "a dead letter that nobody forgets",
        dead_and_purged,
        "a dead letter without a delivery",
        (("ZREM", k.expires_index, "d1"),),
    ),
    # Times to live
    Broken(
        "forgotten before its end",
        sent,
        "but would be purged at 5",
        (("ZADD", k.expires_index, 5, "d1"),),
        repaired=True,
    ),
    Broken(
        "forgotten at the end of time",
        sent,
        "but would be purged at inf",
        (("ZADD", k.expires_index, "+inf", "d1"),),
        repaired=True,
    ),
    Broken(
        "a key that ends too early",
        sent,
        "is sent, but its keys expire before it is purged",
        (("PEXPIREAT", D1, 4_100_000_000_200),),
        repaired=True,
    ),
    Broken(
        "content that ends too early",
        sent,
        "is sent, but its keys expire before it is purged",
        (("PEXPIREAT", "mail:payloads:d1", 4_100_000_000_200),),
        repaired=True,
    ),
    Broken(
        "an attempt that lives for ever",
        dead,
        "is dead_letter, but attempt 2 has no time to live",
        (("PERSIST", "mail:attempts:d1:2"),),
        repaired=True,
    ),
    Broken(
        "an attempt that ends too early",
        dead,
        "attempt 2 expires before its delivery is purged",
        (("PEXPIREAT", "mail:attempts:d1:2", 4_100_000_000_200),),
        repaired=True,
    ),
    Broken(
        "an attempt that ends on its way",
        retried,
        "is queued, but its keys would expire",
        (("PEXPIRE", "mail:attempts:d1:1", 10**9),),
        repaired=True,
    ),
    Broken(
        "an attempt of the forgotten that lives for ever",
        purged,
        "has no time to live after its delivery",
        (("PERSIST", "mail:attempts:d1:1"),),
        repaired=True,
        where="mail:attempts:d1:1",
    ),
    # Idempotency
    Broken(
        "an idempotency record of another key",
        queued,
        "names d1, whose key is mail:idempotency:notification:key of d1",
        (
            (
                "SET",
                "mail:idempotency:notification:other",
                '["f","d1","sent",4100604800123]',
                "PXAT",
                4100691200123,
            ),
        ),
        where="mail:idempotency:notification:other",
    ),
    Broken(
        "an idempotency record that nobody can read",
        nothing,
        "can't be read",
        (("SET", "mail:idempotency:notification:k", "?"),),
        where="mail:idempotency:notification:k",
    ),
    Broken(
        "an answer that was not given",
        queued,
        "its idempotency record says 'suppressed', but it has 1 attempts",
        (
            (
                "SET",
                "mail:idempotency:notification:key of d1",
                '["f","d1","suppressed",4100604800123]',
                "KEEPTTL",
            ),
        ),
    ),
    Broken(
        "an idempotency record that lives for ever",
        sent,
        "has no time to live",
        (("PERSIST", "mail:idempotency:notification:key of d1"),),
        repaired=True,
        where="mail:idempotency:notification:key of d1",
    ),
    Broken(
        "an idempotency record that ends too early",
        sent,
        "expires too early",
        (("PEXPIREAT", "mail:idempotency:notification:key of d1", 4_100_000_000_200),),
        repaired=True,
        where="mail:idempotency:notification:key of d1",
    ),
    # Malformed commands and the stream
    Broken(
        "a malformed command of another entry",
        malformed,
        "has the record of 4-0",
        (
            (
                "SET",
                "mail:malformed_commands:5-0",
                '{"entry_id":"4-0","failure_code":"c","fields":{},"message":"m","recorded_at_ms":4100000000123}',
                "KEEPTTL",
            ),
        ),
        where="mail:malformed_commands:5-0",
    ),
    Broken(
        "a malformed command that lives for ever",
        malformed,
        "has no time to live",
        (("PERSIST", "mail:malformed_commands:5-0"),),
        repaired=True,
        where="mail:malformed_commands:5-0",
    ),
    Broken(
        "an offset ahead of the stream",
        read_from,
        "is after the stream's last entry, 7-0: no entries are read",
        (("SET", OFFSET, "8-0"),),
        where=OFFSET,
    ),
    Broken(
        "a count that is none", read_from, "is not a number: b'x'", (("SET", CONSUMED, "x"),), where=CONSUMED
    ),
    Broken(
        "entries that were trimmed unread",
        read_from,
        "1 entries were removed unread and not counted",
        (("XTRIM", "mail:delivery_commands", "MAXLEN", 0),),
        repaired=True,
        where=CONSUMED,
    ),
    Broken(
        "a stream that was made anew",
        read_from,
        "2 entries are counted as consumed, but at most 0 can be",
        (("DEL", "mail:delivery_commands"), ("XADD", "mail:delivery_commands", "9-0", "f", "v")),
        repaired=True,
        where=CONSUMED,
    ),
    Broken(
        "more consumed than there were",
        read_from,
        "9 entries are counted as consumed, but only 3 were added",
        (("SET", CONSUMED, 9),),
        where=CONSUMED,
    ),
    Broken(
        "a lease of nobody",
        read_from,
        "has no valid owner and expiry",
        (("SET", k.ingress_lease, "mine"),),
        where=k.ingress_lease,
    ),
    # Resend jobs
    Broken("a job that can't be read", job_runs, "can't be read", (("SET", JOB, "?"),), where=JOB),
    Broken("another's job", job_runs, "has the record of i", job={"job_id": "i"}, where=JOB),
    Broken(
        "a job that nobody works on",
        job_runs,
        "is running, but not in mail:idx:jobs",
        (("ZREM", k.jobs_index, "j"),),
        repaired=True,
        where=JOB,
    ),
    Broken(
        "a job that ends on its way",
        job_runs,
        "is running, but its key would expire",
        (("PEXPIRE", JOB, 10**9),),
        repaired=True,
        where=JOB,
    ),
    Broken(
        "a running job with an end",
        job_runs,
        "is running, but finished_at_ms is 5",
        job={"finished_at_ms": 5},
        where=JOB,
    ),
    Broken(
        "a job half of the way",
        job_runs,
        "has only one of reached_at_ms and reached_id",
        job={"reached_at_ms": 5},
        where=JOB,
    ),
    Broken(
        "a finished job in the list",
        job_done,
        "is done, but in mail:idx:jobs",
        (("ZADD", k.jobs_index, 5, "j"),),
        repaired=True,
        where=JOB,
    ),
    Broken(
        "a finished job that lives for ever",
        job_done,
        "has no time to live",
        (("PERSIST", JOB),),
        repaired=True,
        where=JOB,
    ),
    Broken(
        "a finished job without an end",
        job_done,
        "is done, but finished_at_ms is None",
        job={"finished_at_ms": None},
        where=JOB,
    ),
    Broken(
        "a finished job with an owner",
        job_done,
        "is done, but has an owner",
        job={"owner": "me"},
        where=JOB,
    ),
    # The store and its list
    Broken("a store without an id", queued, "has no id", (("HDEL", k.meta, "id"),), where=k.meta),
    Broken(
        "losses that can't be counted",
        queued,
        "stream_lost is not a number",
        (("HSET", k.meta, "stream_lost", "x"),),
        where=k.meta,
    ),
    Broken(
        "a suppression that can't be read",
        suppression,
        "the entry of @example.org can't be read",
        (("HSET", k.suppressions, "@example.org", "?"),),
        where=k.suppressions,
    ),
    Broken(
        "a suppression of another",
        suppression,
        "the entry of a@example.org has the address b@example.org",
        (
            (
                "HSET",
                k.suppressions,
                "a@example.org",
                '{"address":"b@example.org","created_at_ms":1,"reason":"r"}',
            ),
        ),
        where=k.suppressions,
    ),
]


def break_it(house: Storehouse, broken: Broken) -> None:
    number = broken.attempt_no
    if number is None and broken.attempt:
        number = house.delivery("d1").attempt_count
    records = (
        (D1, broken.delivery),
        (k.attempt("d1", number or 0), broken.attempt),
        (JOB, broken.job),
    )
    for key, changes in records:
        if changes:
            data = house.run("GET", key)
            assert isinstance(data, bytes)
            members = msgspec.json.decode(data) | changes
            kept = {name: value for name, value in members.items() if value is not None}
            house.run("SET", key, msgspec.json.encode(kept), "KEEPTTL")
    for command in broken.commands:
        house.run(*command)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
async def test_what_is_broken_is_found_and_what_may_be_repaired_is(broken: Broken, house: Storehouse) -> None:
    house.broken = True
    await broken.prepare(house)
    assert await house.verify() == [], "sound before"
    break_it(house, broken)
    before = house.dump()
    found = await house.verify()
    assert [v for v in found if v.where == broken.where and broken.what in v.what], list(map(str, found))
    assert house.dump() == before, "looking changes nothing"
    repaired = await house.verify(repair=True)
    assert {(v.where, v.what) for v in repaired} == {(v.where, v.what) for v in found}
    [about] = [v for v in repaired if v.where == broken.where and broken.what in v.what][:1]
    assert about.repaired is broken.repaired
    assert (f"(repaired: {about.did})" in str(about)) is broken.repaired
    left = [v for v in await house.verify() if broken.what in v.what]
    assert bool(left) is not broken.repaired


async def test_what_was_repaired_is_sound(house: Storehouse) -> None:
    """Everything that can be mended, broken at once."""
    house.broken = True
    await house.sent(request_of("d"), ACCEPTED)
    for name in ("a", "b", "c"):
        await house.accept(request_of(name))
    await house.claim(1)
    for index in ("mail:idx:created_at", "mail:idx:status:queued", "mail:idx:source:notification", SCHEDULE):
        house.run("DEL", index)
    house.run("HDEL", k.claims, "a", "b", "c")
    house.run("ZADD", SCHEDULE, 5, "d")
    house.run("ZADD", "mail:idx:status:queued", 5, "d", 6, "ghost")
    house.run("HSET", "mail:payloads:ghost", "content", "{}")
    found = await house.verify(repair=True)
    assert len(found) > 10
    assert all(violation.repaired for violation in found), list(map(str, found))
    assert await house.verify() == []
    claims = (await house.claim()).claims
    assert [claim.delivery_id for claim in claims] == ["a", "b", "c"]


async def test_a_delivery_that_moved_on_meanwhile_is_not_repaired(house: Storehouse) -> None:
    await house.accept(request_of())
    house.run("ZREM", SCHEDULE, "d1")
    [violation] = await house.verify()
    house.run("ZADD", SCHEDULE, house.clock.ms, "d1")
    await house.finish(await house.begin(await house.claim_one()), ACCEPTED)
    before = house.dump()
    assert violation.repair is not None
    await house.link.pipeline(violation.repair.calls)
    assert house.dump() == before


async def test_beside_a_live_service_only_what_stays_wrong_is_reported(
    house: Storehouse, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.accept(request_of("passing"))
    await house.accept(request_of("staying"))
    house.run("ZREM", SCHEDULE, "passing", "staying")
    reports: list[list[Violation]] = []

    async def check() -> None:
        reports.append(await house.verify(passes=3))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(check)
        await trio.sleep(0.25)
        house.run("ZADD", SCHEDULE, house.clock.ms, "passing")
    [report] = reports
    assert [violation.where for violation in report] == ["staying"]
    assert trio.current_time() < 3
    house.broken = True


async def test_what_is_in_flight_while_it_looks_is_no_violation(house: Storehouse) -> None:
    """One pass over the store beside senders: each delivery is judged by one consistent look, or not at all."""
    house.link.steps = 3
    for number in range(10):
        await house.accept(request_of(f"d{number}"))
    found: list[Violation] = []

    async def send() -> None:
        for number in range(10):
            for claim in (await house.claim(1)).claims:
                held = await house.begin(claim)
                await house.finish(held, DEFERRED if claim.delivery_id == "d3" else ACCEPTED)
            await house.accept(request_of(f"later{number}"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        for _ in range(5):
            found += await house.verify()
    assert list(map(str, found)) == []


async def test_a_store_in_motion_is_sound(house: Storehouse, autojump_clock: MockClock) -> None:
    """Everything that moves does, also what the janitor forgets: what a look comes by too late is gone at the next."""
    house.link.steps = 2
    house.clock.ms += 400 * DAY_MS
    over = trio.Event()

    async def work(number: int) -> None:
        """One round: mail of every end, a malformed command, a resend and a job; and what was there is forgotten."""
        name = f"n{number}"
        await house.sent(request_of(f"{name}.sent"), ACCEPTED)
        await house.sent(request_of(f"{name}.failed"), REFUSED)
        await house.accept(request_of(f"{name}.again", parent_delivery_id=f"{name}.failed"))
        await house.store.accept(
            acceptance_of(
                request_of(f"{name}.suppressed"), suppressed={"@example.org": "r"}, now_ms=house.clock.ms
            )
        )
        await house.finish(await house.begin(await house.claim_one()), DEFERRED)
        for _ in range(3):
            house.clock.ms += 1_800_000
            await house.finish(await house.begin(await house.claim_one()), DEFERRED)
        record = MalformedCommand(
            entry_id=f"{number}-1",
            fields={},
            failure_code="c",
            message="m",
            recorded_at_ms=house.clock.ms,
        )
        position = StreamPosition(f"{number}-1", f"{number - 1}-1" if number > 1 else "")
        house.run("XADD", "mail:delivery_commands", f"{number}-1", "f", "v")
        await house.stream.apply([house.stream.malformed_call(record, position)])
        request = ResendJobRequest(filter=ResendFilter(status=DeliveryStatus.FAILED), reason="r")
        jobs = house.jobs
        await jobs.create(new_job(request, {}, idempotency_key=name, now_ms=house.clock.ms))
        [saved] = await jobs.unfinished()
        await jobs.save(saved.job.finished(JobStatus.DONE, at_ms=house.clock.ms), instead_of=saved)
        house.clock.ms += 31 * DAY_MS
        await house.upkeep.purge()
        await house.upkeep.purge_malformed()
        await trio.sleep(0.2)

    async def check() -> None:
        while not over.is_set():
            assert list(map(str, await house.verify(passes=3))) == []
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(check)
        for number in range(1, 12):
            await work(number)
        over.set()
    assert house.run("ZCARD", k.created_at_index) == 2, "dead letters of the last two rounds"
    assert house.run("KEYS", "mail:attempts:*") != []


async def test_many_deliveries_are_looked_at_in_batches(house: Storehouse) -> None:
    for number in range(350):
        await house.accept(request_of(f"d{number}"))
    house.run("ZREM", SCHEDULE, "d349", "d7")
    found = await house.verify()
    assert sorted(violation.where for violation in found) == ["d349", "d7"]
    house.broken = True


def test_the_table_names_each_breakage_once() -> None:
    assert len({broken.name for broken in BROKEN}) == len(BROKEN)
