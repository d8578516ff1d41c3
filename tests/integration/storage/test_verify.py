"""The invariants of the store: each is broken on purpose and must be found, and what may be mended must be mended."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import pytest
import trio
from msgspec import Struct
from trio.testing import MockClock

from galaxy_mail.domain.records import (
    MalformedCommand,
    RenderedContent,
)
from galaxy_mail.storage import keys as k
from galaxy_mail.storage.store import StreamPosition
from galaxy_mail.storage.verify import Violation, verify
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
from tests.storehouse import Storehouse

RENDERED: Final = RenderedContent(subject="s", text_body="t", locale_used="en", locale_fallback_used=False)
Prepare = Callable[[Storehouse], Awaitable[object]]
Command = tuple[str | bytes | int, ...]


# States in which a delivery `d1` may be, each of them sound


async def queued(house: Storehouse) -> None:
    await house.accept(request_of())


async def claimed(house: Storehouse) -> None:
    await queued(house)
    await house.claim()


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
    assert await house.upkeep.forget() == 1


async def forgotten(house: Storehouse) -> None:
    await sent(house)
    house.clock.ms += 30 * DAY_MS
    assert await house.upkeep.forget() == 1


async def forgotten_altogether(house: Storehouse) -> None:
    await forgotten(house)
    house.clock.ms += 60 * DAY_MS
    assert await house.upkeep.forget() == 1


async def malformed(house: Storehouse) -> None:
    record = MalformedCommand(
        entry_id="5-0", fields={}, failure_code="c", message="m", recorded_at_ms=house.clock.ms
    )
    await house.stream.apply([house.stream.malformed_call(record, StreamPosition("5-0", ""))])


async def nothing(house: Storehouse) -> None:
    pass


SOUND: Final = [
    queued,
    claimed,
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
    forgotten,
    forgotten_altogether,
    malformed,
    nothing,
]


@pytest.mark.parametrize("prepare", SOUND, ids=lambda prepare: prepare.__name__)
async def test_a_sound_store_gives_nothing(prepare: Prepare, house: Storehouse) -> None:
    await prepare(house)
    before = house.dump()
    assert await verify(house.store, looks=1) == []
    assert await verify(house.store, repair=True, looks=1) == []
    assert house.dump() == before, "it reads only"


# What breaks them

D1: Final = "mail:deliveries:d1"
SCHEDULE: Final = "mail:attempt_schedule"
OFFSET: Final = "mail:stream_offsets:mail:delivery_commands"


class Broken(Struct, frozen=True):
    """A sound state, what is done to it, and what must be said of it."""

    name: str
    prepare: Prepare
    what: str  # a part of it
    commands: tuple[Command, ...] = ()
    delivery: dict[str, object] = {}  # members of d1's record that are exchanged
    attempt: dict[str, object] = {}  # likewise, of an attempt
    attempt_no: int | None = None  # None: of the newest
    mended: bool = False
    where: str = "d1"


BROKEN: Final = [
    # Indexes
    Broken(
        "not in its status",
        queued,
        "is not in mail:idx:status:queued",
        (("ZREM", "mail:idx:status:queued", "d1"),),
        mended=True,
    ),
    Broken(
        "in its status by another time",
        queued,
        "is not in mail:idx:status:queued",
        (("ZADD", "mail:idx:status:queued", 7, "d1"),),
        mended=True,
    ),
    Broken(
        "in two statuses",
        sent,
        "is in mail:idx:status:sending and its status is sent",
        (("ZADD", "mail:idx:status:sending", 1, "d1"),),
        mended=True,
    ),
    Broken(
        "not by its time",
        queued,
        "is not in mail:idx:created_at",
        (("ZREM", "mail:idx:created_at", "d1"),),
        mended=True,
    ),
    Broken(
        "not by its recipient",
        sent,
        "is not in mail:idx:recipient:d1@example.org",
        (("DEL", "mail:idx:recipient:d1@example.org"),),
        mended=True,
    ),
    Broken(
        "not by its source",
        queued,
        "is not in mail:idx:source:notification",
        (("DEL", "mail:idx:source:notification"),),
        mended=True,
    ),
    Broken(
        "not by its template",
        rendered,
        "is not in mail:idx:template:auth.login_code",
        (("DEL", "mail:idx:template:auth.login_code"),),
        mended=True,
    ),
    Broken(
        "not by its key",
        queued,
        "is not in mail:idx:idempotency:notification:key of d1",
        (("DEL", "mail:idx:idempotency:notification:key of d1"),),
        mended=True,
    ),
    Broken(
        "not among the children",
        resent,
        "is not in mail:idx:children:parent",
        (("DEL", "mail:idx:children:parent"),),
        mended=True,
    ),
    Broken(
        "an index entry without a record",
        nothing,
        "stands in mail:idx:created_at and has no record",
        (("ZADD", "mail:idx:created_at", 1, "ghost"),),
        mended=True,
        where="ghost",
    ),
    # The schedule
    Broken(
        "queued and not scheduled",
        queued,
        "is queued and not scheduled",
        (("ZREM", SCHEDULE, "d1"),),
        mended=True,
    ),
    Broken(
        "a retry that is not scheduled",
        retried,
        "is queued and not scheduled",
        (("ZREM", SCHEDULE, "d1"),),
        mended=True,
    ),
    Broken(
        "rendered and not scheduled",
        rendered,
        "is rendered and not scheduled",
        (("ZREM", SCHEDULE + ":priority", "d1"),),
        mended=True,
    ),
    Broken(
        "claimed and not scheduled", claimed, "would never expire", (("ZREM", SCHEDULE, "d1"),), mended=True
    ),
    Broken("scheduled for another time", retried, "and its record says", (("ZADD", SCHEDULE, 5, "d1"),)),
    Broken(
        "scheduled in the wrong lane",
        queued,
        "is scheduled in the wrong lane",
        (("ZADD", SCHEDULE + ":priority", 5, "d1"),),
    ),
    Broken("parked", queued, "is parked", (("ZADD", SCHEDULE, "+inf", "d1"),)),
    Broken(
        "an end that is scheduled", sent, "is sent and scheduled", (("ZADD", SCHEDULE, 5, "d1"),), mended=True
    ),
    Broken(
        "an end that is claimed",
        failed,
        "is failed and claimed",
        (("HSET", k.CLAIMS, "d1", "1-1"), ("ZADD", SCHEDULE, 5, "d1")),
        mended=True,
    ),
    Broken(
        "an end whose losses are counted",
        sent,
        "is sent and its losses are counted",
        (("HSET", k.CLAIM_LOSSES, "d1", 2),),
        mended=True,
    ),
    Broken(
        "an end with a next attempt",
        sent,
        "is sent and has a next attempt",
        delivery={"next_attempt_at_ms": 5},
    ),
    Broken("sent by nobody", sending, "is sending and not claimed", (("HDEL", k.CLAIMS, "d1"),)),
    Broken(
        "being sent and due", sending, "is sending and has a next attempt", delivery={"next_attempt_at_ms": 5}
    ),
    Broken(
        "scheduled without a record",
        nothing,
        "is scheduled and has no record",
        (("ZADD", SCHEDULE, 5, "ghost"),),
        where="ghost",
    ),
    # Claims
    Broken("a claim without a token", claimed, "its claim has no token", (("HSET", k.CLAIMS, "d1", "mine"),)),
    Broken(
        "a token of the future",
        claimed,
        "its token is ahead",
        (("HSET", k.CLAIMS, "d1", "1732500000000000-99"),),
    ),
    Broken(
        "losses of nobody",
        nothing,
        "its losses are counted and it has no record",
        (("HSET", k.CLAIM_LOSSES, "ghost", 1),),
        mended=True,
        where="ghost",
    ),
    # Attempts
    Broken("an attempt is missing", dead, "attempt 2 is missing", (("DEL", "mail:attempts:d1:2"),)),
    Broken(
        "an attempt can't be read", dead, "attempt 2 can't be read", (("SET", "mail:attempts:d1:2", "?"),)
    ),
    Broken(
        "an attempt too many", sent, "has more attempts than the 1", (("SET", "mail:attempts:d1:2", "?"),)
    ),
    Broken("another's attempt", sent, "attempt 1 has the record of another", attempt={"delivery_id": "d2"}),
    Broken("another attempt", sent, "attempt 1 has the record of another", attempt={"attempt_no": 2}),
    Broken(
        "two active attempts",
        retried,
        "attempt 1 is in_progress and a later one exists",
        attempt={"status": "in_progress", "finished_at_ms": None},
        attempt_no=1,
    ),
    Broken(
        "an attempt that goes on after the end",
        sent,
        "is sent and attempt 1 ended as in_progress",
        attempt={"status": "in_progress", "finished_at_ms": None},
    ),
    Broken(
        "sent by an attempt that failed",
        sent,
        "is sent and attempt 1 ended as timed_out",
        attempt={"status": "timed_out"},
    ),
    Broken(
        "failed by an attempt that sent it",
        failed,
        "is failed and attempt 1 ended as provider_accepted",
        attempt={"status": "provider_accepted"},
    ),
    Broken(
        "sending and not begun",
        sending,
        "is sending and attempt 1 is scheduled",
        attempt={"status": "scheduled"},
    ),
    Broken(
        "queued and begun",
        queued,
        "is queued and attempt 1 is in_progress",
        attempt={"status": "in_progress"},
    ),
    Broken(
        "due at two times",
        retried,
        "attempt 2 is due 5, and the record says",
        attempt={"scheduled_for_ms": 5},
    ),
    Broken(
        "ended without an end",
        sent,
        "attempt 1 is provider_accepted and its end is None",
        attempt={"finished_at_ms": None},
    ),
    Broken(
        "not ended with an end",
        queued,
        "attempt 1 is scheduled and its end is 5",
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
        "what was rendered is missing",
        (("HDEL", "mail:payloads:d1", "rendered"),),
    ),
    Broken(
        "rendered content that can't be read",
        rendered,
        "what was rendered can't be read",
        (("HSET", "mail:payloads:d1", "rendered", "?"),),
    ),
    Broken(
        "content of nobody",
        nothing,
        "content without a delivery",
        (("HSET", "mail:payloads:ghost", "content", "{}"),),
        mended=True,
        where="ghost",
    ),
    # The record
    Broken("a record that can't be read", queued, "its record can't be read", (("SET", D1, "?"),)),
    Broken(
        "a record of a later release", queued, "its record can't be read", delivery={"status": "teleported"}
    ),
    Broken("another's record", queued, "its record is of d2", delivery={"delivery_id": "d2"}),
    # The end
    Broken(
        "an end without a time",
        sent,
        "is sent and its end is None",
        delivery={"finished_at_ms": None, "updated_at_ms": 5},
    ),
    Broken("a time without an end", queued, "is queued and its end is 5", delivery={"finished_at_ms": 5}),
    Broken(
        "no dead letter", dead, "is dead_letter and lacks a dead letter", (("DEL", "mail:dead_letters:d1"),)
    ),
    Broken(
        "not among the dead letters",
        dead,
        "is dead_letter and lacks a dead letter",
        (("ZREM", k.IDX_DEAD_LETTERS, "d1"),),
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
        "is sent and has a dead letter",
        (("SET", "mail:dead_letters:d1", "{}"), ("ZADD", k.IDX_DEAD_LETTERS, 1, "d1")),
    ),
    Broken(
        "never forgotten",
        sent,
        "is sent and would never be forgotten",
        (("ZREM", k.IDX_EXPIRES, "d1"),),
        mended=True,
    ),
    Broken(
        "forgotten on its way",
        queued,
        "is queued and would be forgotten",
        (("ZADD", k.IDX_EXPIRES, 5, "d1"),),
        mended=True,
    ),
    Broken(
        "a key that lives for ever", failed, "is failed and its keys have no time to live", (("PERSIST", D1),)
    ),
    Broken(
        "content that lives for ever",
        failed,
        "is failed and its keys have no time to live",
        (("PERSIST", "mail:payloads:d1"),),
    ),
    Broken(
        "a key that ends on its way",
        queued,
        "is queued and its keys would expire",
        (("PEXPIRE", D1, 10**9),),
        mended=True,
    ),
    Broken(
        "content that ends on its way",
        sending,
        "is sending and its keys would expire",
        (("PEXPIRE", "mail:payloads:d1", 10**9),),
        mended=True,
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
        "its idempotency record is of d2",
        (("SET", "mail:idempotency:notification:key of d1", '["f","d2","sent",9999999999999]'),),
    ),
    Broken(
        "promised and not stored",
        nothing,
        "was promised and does not exist",
        (("SET", "mail:idempotency:notification:k", '["f","ghost","sent",4100604800123]'),),
        where="ghost",
    ),
    # Commands
    Broken(
        "a malformed command in no index",
        malformed,
        "is not in its index",
        (("ZREM", k.IDX_MALFORMED, "5-0"),),
        mended=True,
        where="mail:malformed_commands:5-0",
    ),
    Broken(
        "a malformed command by another time",
        malformed,
        "is not in its index",
        (("ZADD", k.IDX_MALFORMED, 7, "5-0"),),
        mended=True,
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
        "is ahead of the stream's offset",
        (("SET", OFFSET, "4-9"),),
        where="mail:malformed_commands:5-0",
    ),
    Broken(
        "a malformed command that is gone",
        malformed,
        "stands in its index and has no record",
        (("DEL", "mail:malformed_commands:5-0"),),
        mended=True,
        where="mail:malformed_commands:5-0",
    ),
    Broken(
        "an offset that is none", malformed, "is no stream entry id", (("SET", OFFSET, "five"),), where=OFFSET
    ),
]


def break_it(house: Storehouse, broken: Broken) -> None:
    number = broken.attempt_no
    if number is None and broken.attempt:
        number = house.delivery("d1").attempt_count
    for key, changes in ((D1, broken.delivery), (k.attempt("d1", number or 0), broken.attempt)):
        if changes:
            data = house.run("GET", key)
            assert isinstance(data, bytes)
            members = msgspec.json.decode(data) | changes
            kept = {name: value for name, value in members.items() if value is not None}
            house.run("SET", key, msgspec.json.encode(kept), "KEEPTTL")
    for command in broken.commands:
        house.run(*command)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
async def test_what_is_broken_is_found_and_what_may_be_mended_is(broken: Broken, house: Storehouse) -> None:
    house.broken = True
    await broken.prepare(house)
    assert await verify(house.store, looks=1) == [], "sound before"
    break_it(house, broken)
    before = house.dump()
    found = await verify(house.store, looks=1)
    assert [v for v in found if v.where == broken.where and broken.what in v.what], list(map(str, found))
    assert house.dump() == before, "looking changes nothing"
    repaired = await verify(house.store, repair=True, looks=1)
    assert {(v.where, v.what) for v in repaired} == {(v.where, v.what) for v in found}
    [about] = [v for v in repaired if v.where == broken.where and broken.what in v.what][:1]
    assert about.mended is broken.mended
    assert str(about).endswith("(mended)") is broken.mended
    left = [v for v in await verify(house.store, looks=1) if broken.what in v.what]
    assert bool(left) is not broken.mended


async def test_what_was_mended_is_sound(house: Storehouse) -> None:
    """Everything that can be mended, broken at once."""
    house.broken = True
    await house.sent(request_of("d"), ACCEPTED)
    for name in ("a", "b", "c"):
        await house.accept(request_of(name))
    await house.claim(1)
    for index in ("mail:idx:created_at", "mail:idx:status:queued", "mail:idx:source:notification", SCHEDULE):
        house.run("DEL", index)
    house.run("HDEL", k.CLAIMS, "a", "b", "c")
    house.run("ZADD", SCHEDULE, 5, "d")
    house.run("ZADD", "mail:idx:status:queued", 5, "d", 6, "ghost")
    house.run("HSET", "mail:payloads:ghost", "content", "{}")
    found = await verify(house.store, repair=True, looks=1)
    assert len(found) > 10
    assert all(violation.mended for violation in found), list(map(str, found))
    assert await verify(house.store, looks=1) == []
    claims = (await house.claim()).claims
    assert [claim.delivery_id for claim in claims] == ["a", "b", "c"]


async def test_a_delivery_that_moved_on_meanwhile_is_not_mended(house: Storehouse) -> None:
    await house.accept(request_of())
    house.run("ZREM", SCHEDULE, "d1")
    [violation] = await verify(house.store, looks=1)
    house.run("ZADD", SCHEDULE, house.clock.ms, "d1")
    await house.finish(await house.begin(await house.claim_one()), ACCEPTED)
    before = house.dump()
    await house.link.pipeline(violation.mend)
    assert house.dump() == before


async def test_beside_a_live_service_only_what_stays_wrong_is_reported(
    house: Storehouse, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.accept(request_of("passing"))
    await house.accept(request_of("staying"))
    house.run("ZREM", SCHEDULE, "passing", "staying")
    reports: list[list[Violation]] = []

    async def look() -> None:
        reports.append(await verify(house.store))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
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
        for _ in range(10):
            for claim in (await house.claim(1)).claims:
                held = await house.begin(claim)
                await house.finish(held, DEFERRED if claim.delivery_id == "d3" else ACCEPTED)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        for _ in range(5):
            found += await verify(house.store, looks=1)
    assert [
        str(violation) for violation in found if "d" in violation.where and "idx" not in violation.what
    ] == []


async def test_many_deliveries_are_looked_at_in_batches(house: Storehouse) -> None:
    for number in range(350):
        await house.accept(request_of(f"d{number}"))
    house.run("ZREM", SCHEDULE, "d349", "d7")
    found = await verify(house.store, looks=1)
    assert sorted(violation.where for violation in found) == ["d349", "d7"]
    house.broken = True


def test_the_table_names_each_breakage_once() -> None:
    assert len({broken.name for broken in BROKEN}) == len(BROKEN)
