"""Every script on a real server: run twice, fenced, compared with what its caller read, and with Redis full."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

import pytest
from msgspec import Struct

from galaxy_mail.domain.holds import Cause, Hold
from galaxy_mail.domain.records import (
    Content,
    DeliveryStatus,
    Envelope,
    MalformedCommand,
    RenderedContent,
    Suppression,
    encode,
)
from galaxy_mail.domain.resend_job import JobStatus, ResendFilter, ResendJob
from galaxy_mail.storage.links.errors import RedisRefused
from galaxy_mail.storage.links.protocol import Call, Command, Reply
from galaxy_mail.storage.links.script import scripts
from galaxy_mail.storage.operations.repair import REPAIR, RepairArgs, RepairKeys
from galaxy_mail.storage.operations.store import StreamPosition
from galaxy_mail.storage.reader import Filter
from tests.deliveries import ACCEPTED, DAY_MS, DEFERRED, REFUSED, acceptance_of, login_code_of, request_of
from tests.keys import k
from tests.storehouse import Storehouse

RENDERED: Final = RenderedContent(subject="s", text_body="t", locale_used="en", locale_fallback_used=False)


# How each script comes to be called, with the state that it needs


async def accept(house: Storehouse) -> None:
    await house.accept(request_of())


async def accept_suppressed(house: Storehouse) -> None:
    await house.store.accept(acceptance_of(suppressed={"d1@example.org": "bounced"}, now_ms=house.clock.ms))


async def accept_rendered(house: Storehouse) -> None:
    """As a resend does."""
    await house.accept(login_code_of(rendered=RENDERED, parent_delivery_id="parent"))
    house.broken = True  # its parent never was


async def accept_from_stream(house: Storehouse) -> None:
    call = house.store.accept_call(acceptance_of(now_ms=house.clock.ms), position=StreamPosition("5-0", ""))
    await house.stream.apply([call])


async def claim(house: Storehouse) -> None:
    await house.accept(request_of())
    await house.claim()


async def begin(house: Storehouse) -> None:
    await house.accept(login_code_of())
    await house.begin(await house.claim_one(), rendered=RENDERED)


async def finish_sent(house: Storehouse) -> None:
    await house.sent(request_of(), ACCEPTED)


async def finish_deferred(house: Storehouse) -> None:
    await house.sent(request_of(), DEFERRED)


async def finish_dead(house: Storehouse) -> None:
    await house.sent(request_of(), DEFERRED)
    for _ in range(3):
        house.clock.ms += 1_800_000
        await house.finish(await house.begin(await house.claim_one()), DEFERRED)
    assert house.delivery("d1").status is DeliveryStatus.DEAD_LETTER


async def release_unbegun(house: Storehouse) -> None:
    await house.accept(request_of())
    await house.release(await house.claim_one())


async def release_begun(house: Storehouse) -> None:
    await house.release(await house.begun(request_of()))


async def renew(house: Storehouse) -> None:
    await house.store.renew((await house.begun(request_of())).claim)


async def quarantine(house: Storehouse) -> None:
    await house.accept(request_of())
    house.run("SET", k.delivery("d1"), "{")
    house.broken = True
    assert (await house.claim()).parked == ["d1"]


async def purge(house: Storehouse) -> None:
    await house.sent(request_of(), ACCEPTED)
    house.clock.ms += 31 * DAY_MS
    assert await house.upkeep.purge() == 1


async def reschedule(house: Storehouse) -> None:
    await house.accept(request_of())
    house.run("ZREM", house.keys.schedule, "d1")
    assert (await house.upkeep.reconcile()).rescheduled == ("d1",)


async def unschedule(house: Storehouse) -> None:
    await house.sent(request_of(), ACCEPTED)
    house.run("ZADD", house.keys.schedule, house.clock.ms, "d1")
    assert (await house.upkeep.reconcile()).unscheduled == ("d1",)


async def repair(house: Storehouse) -> None:
    await house.accept(request_of())
    data = cast("bytes", house.run("GET", k.delivery("d1")))
    index = k.status_index(DeliveryStatus.QUEUED)
    house.run("ZREM", index, "d1")
    await REPAIR.run(
        house.link,
        RepairKeys(delivery=k.delivery("d1"), repaired_index=index),
        RepairArgs(delivery_id="d1", delivery_record=data, score=house.clock.ms),
    )


async def identify(house: Storehouse) -> None:
    await house.epoch.check(house.link.pipeline)


async def lease(house: Storehouse) -> None:
    assert await house.stream.hold_lease(3_000)


async def give_up_lease(house: Storehouse) -> None:
    await house.stream.hold_lease(3_000)
    await house.stream.give_up_lease()


async def skip(house: Storehouse) -> None:
    await house.stream.apply([house.stream.skip_call(StreamPosition("5-0", ""))])


async def record_malformed(house: Storehouse) -> None:
    record = MalformedCommand(
        entry_id="5-0",
        fields={"a": "b"},
        failure_code="missing_field",
        message="m",
        recorded_at_ms=house.clock.ms,
    )
    await house.stream.apply([house.stream.malformed_call(record, StreamPosition("5-0", ""))])


async def note_lost(house: Storehouse) -> None:
    house.run("XADD", house.keys.command_stream, "MAXLEN", 1, "1-0", "a", "b")
    house.run("XADD", house.keys.command_stream, "MAXLEN", 1, "2-0", "a", "b")
    state = await house.stream.state()
    assert state.lost == 1
    assert await house.stream.note_lost(state)


async def stream_state(house: Storehouse) -> None:
    await note_lost(house)
    await house.stream.state()


async def read_commands(house: Storehouse) -> None:
    house.run("XADD", house.keys.command_stream, "1-0", "a", "b")
    assert await house.stream.read("") == ([("1-0", [(b"a", b"b")])], True)


async def read_claimed(house: Storehouse) -> None:
    await house.accept(login_code_of(rendered=RENDERED))
    await house.accept(
        request_of(content=Content(envelope=Envelope(to=("a@b.c",)), subject="", text_body="x" * 70_000))
    )
    assert len((await house.claim()).claims) == 2


async def page(house: Storehouse) -> None:
    for name in ("a", "b", "c"):
        await house.accept(request_of(name))
    await house.reader.deliveries(Filter(), limit=2)


def job_of(house: Storehouse) -> ResendJob:
    return ResendJob(
        job_id="j",
        fingerprint="f",
        status=JobStatus.RUNNING,
        filter=ResendFilter(status=DeliveryStatus.FAILED),
        reason="r",
        per_second=1,
        created_at_ms=house.clock.ms,
        updated_at_ms=house.clock.ms,
    )


async def save_job(house: Storehouse) -> None:
    assert await house.jobs.create(job_of(house)) is None


HOLD: Final = Hold(scope="all", cause=Cause.OPERATOR, reason="move", since_ms=1)


async def save_hold(house: Storehouse) -> None:
    assert await house.holds.save(HOLD, instead_of=None)


class Twice(Struct, frozen=True):
    """A script, how it is called, and what it answers then and once more."""

    script: str
    prepare: Callable[[Storehouse], Awaitable[None]]
    again: int | None  # the first element of the second answer; None: the same as the first, which is no code


TWICE: Final = [
    Twice("accept", accept, 2),
    Twice("accept", accept_suppressed, 2),
    Twice("accept", accept_rendered, 2),
    Twice("accept", accept_from_stream, 5),
    Twice("begin", begin, 1),
    Twice("finish", finish_sent, 1),
    Twice("finish", finish_deferred, 1),
    Twice("finish", finish_dead, 1),
    Twice("release", release_unbegun, 0),
    Twice("release", release_begun, 0),
    Twice("renew", renew, 1),
    Twice("quarantine", quarantine, 0),
    Twice("purge", purge, 0),
    Twice("reschedule", reschedule, 0),
    Twice("reschedule", unschedule, 0),
    Twice("repair", repair, 1),
    Twice("identify", identify, None),
    Twice("lease", lease, 1),
    Twice("lease", give_up_lease, 1),
    Twice("skip", skip, 5),
    Twice("record_malformed", record_malformed, 5),
    Twice("note_lost", note_lost, 0),
    Twice("stream_state", stream_state, None),
    Twice("read_commands", read_commands, None),
    Twice("page", page, None),
    Twice("read_claimed", read_claimed, None),
    Twice("save_job", save_job, 1),
    Twice("save_hold", save_hold, 1),
]
CLAIMED_TWICE: Final = "claim"  # the second call claims others: see below


def test_every_script_has_its_case() -> None:
    assert {case.script for case in TWICE} | {CLAIMED_TWICE} == {script.name for script in scripts()}


@pytest.mark.parametrize("case", TWICE, ids=lambda case: case.prepare.__name__)
async def test_a_second_run_changes_nothing_and_answers_as_its_header_says(
    case: Twice, house: Storehouse
) -> None:
    await case.prepare(house)
    after_one = house.dump()
    assert after_one, "the first run did something"
    once_more = house.again(case.script)
    assert house.dump() == after_one
    if case.again is None:
        assert once_more == house.again(case.script)
    else:
        assert once_more[0] == case.again


async def test_a_second_claim_claims_others(house: Storehouse) -> None:
    for name in ("a", "b", "c"):
        await house.accept(request_of(name))
        house.clock.ms += 1
    first = await house.claim(2)
    again = house.again("claim")
    assert [claim.delivery_id for claim in first.claims] == ["a", "b"]
    assert [cast("list[bytes]", taken)[0] for taken in again[4:]] == [b"c"]
    assert house.again("claim")[4:] == []


async def test_a_repeat_that_has_to_reach_the_disk_writes_and_changes_nothing(house: Storehouse) -> None:
    await house.accept(request_of())
    before = house.dump()
    changes = _changes(house)
    house.again("accept")
    assert _changes(house) == changes
    house.again("accept", args={12: "1"})
    assert _changes(house) == changes + 1, "so that WAITAOF and WAIT cover the first write"
    assert house.dump() == before, "its time to live included"


# Fencing

FENCED: Final = [
    Twice("begin", begin, 0),
    Twice("finish", finish_sent, 0),
    Twice("finish", finish_deferred, 0),
    Twice("finish", finish_dead, 0),
    Twice("release", release_unbegun, 0),
    Twice("release", release_begun, 0),
    Twice("renew", renew, 0),
    Twice("quarantine", quarantine, 0),
]


def test_every_script_with_a_token_is_among_them() -> None:
    assert {case.script for case in FENCED} == {
        script.name for script in scripts() if "the caller's fencing token" in script.text
    }


def another_owner(token: str) -> str:
    time_us, _, number = token.partition("-")
    return f"{time_us}-{int(number) + 1}"


def after_a_roll_back(token: str) -> str:
    """The counter came to the same number again; the time did not."""
    time_us, _, number = token.partition("-")
    return f"{int(time_us) + 1}-{number}"


def nobody(token: str) -> str:
    return ""


class Snapshot(Exception):
    """Ends a preparation right before the call under test."""


@pytest.mark.parametrize("owner", [another_owner, after_a_roll_back, nobody])
@pytest.mark.parametrize("case", FENCED, ids=lambda case: case.prepare.__name__)
async def test_a_stale_token_changes_nothing(
    case: Twice, owner: Callable[[str], str], house: Storehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _held_back(case, house, monkeypatch)
    with pytest.raises(Snapshot):
        await case.prepare(house)
    call = calls[-1]
    house.broken = True
    token = str(call.args[1])
    if owner is nobody:
        house.run("HDEL", k.claims, str(call.args[0]))
    else:
        house.run("HSET", k.claims, str(call.args[0]), owner(token))
    before = house.dump()
    assert house.raw.run([call]) == [[0]]
    assert house.dump() == before
    house.run("HSET", k.claims, str(call.args[0]), token)
    assert house.raw.run([call]) == [[1]], "with its own token it would have been done"
    assert house.dump() != before


# What is compared with what the caller read

COMPARED: Final = [  # and the ARGV that says what was read
    (Twice("purge", purge, 0), 2),
    (Twice("reschedule", reschedule, 0), 2),
    (Twice("reschedule", unschedule, 0), 2),
    (Twice("repair", repair, 0), 2),
    (Twice("note_lost", note_lost, 0), 1),
    (Twice("save_job", save_job, 2), 2),
    (Twice("save_hold", save_hold, 0), 2),
    (Twice("accept", accept_from_stream, 5), 14),
    (Twice("skip", skip, 5), 2),
    (Twice("record_malformed", record_malformed, 5), 5),
]


@pytest.mark.parametrize(("case", "position"), COMPARED)
async def test_who_read_something_else_changes_nothing(
    case: Twice, position: int, house: Storehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _held_back(case, house, monkeypatch)
    with pytest.raises(Snapshot):
        await case.prepare(house)
    call = calls[-1]
    before = house.dump()
    args = list(call.args)
    args[position - 1] = "17"
    [reply] = house.raw.run([Call(call.script, call.keys, tuple(args))])
    assert cast("list[Reply]", reply)[0] == case.again
    assert house.dump() == before
    house.broken = True
    assert house.raw.run([call]) == [[1]], "with what it read it would have been done"
    assert house.dump() != before


async def test_an_expired_claim_that_nobody_took_does_not_begin_and_can_be_finished(
    house: Storehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _held_back(Twice("begin", begin, None), house, monkeypatch)
    with pytest.raises(Snapshot):
        await begin(house)
    expiry_ms = house.score(house.keys.priority_schedule, "c1")
    assert expiry_ms == house.clock.ms + house.store.claim_ttl_ms
    before = house.dump()
    call = calls[-1]
    for now_ms, answer in ((expiry_ms, 6), (expiry_ms + 1, 6), (expiry_ms - 1, 1)):
        args = (*call.args[:2], now_ms, *call.args[3:])
        assert house.raw.run([Call(call.script, call.keys, args)]) == [[answer]]
        assert (house.dump() == before) is (answer == 6)


async def test_suppression_is_looked_at_before_anything_is_written(
    house: Storehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepts, begins = (
        _held_back(Twice(script, accept, None), house, monkeypatch) for script in ("accept", "begin")
    )
    entry = Suppression(address="x@x.example", reason="r", created_at_ms=1)
    house.run("HSET", k.suppressions, entry.address, encode(entry))
    with pytest.raises(Snapshot):
        await accept(house)
    [call] = accepts
    looking = Call(call.script, call.keys, (*call.args, "a@x.example", entry.address, "@x.example"))
    before = house.dump()
    [reply] = house.raw.run([looking])
    assert reply == [4, None, encode(entry), None]
    assert house.dump() == before
    assert house.raw.run([call]) == [[1]]
    with pytest.raises(Snapshot):
        await house.begin(await house.claim_one())
    call = begins[-1]
    before = house.dump()
    assert house.raw.run([Call(call.script, call.keys, (*call.args, entry.address))]) == [[4, encode(entry)]]
    assert house.dump() == before


# Redis is full


@pytest.mark.parametrize(
    "case",
    [case for case in TWICE if case.script not in {"accept", "record_malformed", "save_job"}],
    ids=lambda case: case.prepare.__name__,
)
async def test_with_redis_full_what_was_accepted_is_still_seen_to_its_end(
    case: Twice, house: Storehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _held_back(case, house, monkeypatch)
    with pytest.raises(Snapshot):
        await case.prepare(house)
    house.run("CONFIG", "SET", "maxmemory", "1")
    [reply] = house.raw.run([calls[-1]])
    assert not isinstance(reply, RedisRefused)
    if case.again is not None:
        assert reply == [1]
    house.broken |= case.script == "stream_state"  # held back before its caller counted what was lost


async def test_with_redis_full_claims_are_made(house: Storehouse) -> None:
    await house.accept(request_of())
    house.run("CONFIG", "SET", "maxmemory", "1")
    held = await house.begin(await house.claim_one())
    await house.store.renew(held.claim)
    await house.release(held)
    await house.finish(await house.begin(await house.claim_one()), REFUSED)
    assert house.delivery("d1").status is DeliveryStatus.FAILED


@pytest.mark.parametrize(
    "case",
    [case for case in TWICE if case.script in {"accept", "record_malformed", "save_job"}],
    ids=lambda case: case.prepare.__name__,
)
async def test_with_redis_full_nothing_new_is_taken_in_and_nothing_half(
    case: Twice, house: Storehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _held_back(case, house, monkeypatch)
    with pytest.raises(Snapshot):
        await case.prepare(house)
    before = house.dump()
    house.run("CONFIG", "SET", "maxmemory", "1")
    [reply] = house.raw.run([calls[-1]])
    assert isinstance(reply, RedisRefused)
    assert reply.code == "OOM"
    assert house.dump() == before
    house.run("CONFIG", "SET", "maxmemory", "0")
    assert house.raw.run([calls[-1]]) == [[1]]


def _held_back(case: "Twice", house: Storehouse, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """From now on the call that is under test is kept here and not run; it ends its preparation."""
    before = 3 if case.prepare is finish_dead else 0  # calls of the same script that lead up to it
    held: list[Call] = []
    real = house.link.pipeline

    async def pipeline(commands: Sequence[Command | Call], *, timeout_s: float | None = None) -> list[Reply]:
        for command in commands:
            if isinstance(command, Call) and command.script.name == case.script:
                held.append(command)
                if len(held) > before:
                    raise Snapshot
        return await real(commands)

    monkeypatch.setattr(house.link, "pipeline", pipeline)
    return held


def _changes(house: Storehouse) -> int:
    info = cast("bytes", house.run("INFO", "persistence")).decode()
    return int(info.partition("rdb_changes_since_last_save:")[2].splitlines()[0])
