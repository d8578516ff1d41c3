"""The intake stream: reading in bounded batches, an offset that passes nothing unsafe, one reader, losses, trimming."""

from collections.abc import AsyncIterator
from typing import Final, cast

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galaxy_mail.domain.records import MalformedCommand, Source, decode
from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisRefused
from galaxy_mail.storage.links.protocol import Call
from galaxy_mail.storage.operations.answers import Accepted, NotNext
from galaxy_mail.storage.operations.command_stream import BATCH_BYTES, BATCH_ENTRIES
from galaxy_mail.storage.operations.identity import StoreReplaced, Verdict
from galaxy_mail.storage.operations.store import StreamPosition
from galaxy_mail.storage.records.retention import BACKSTOP_MS
from tests.deliveries import DAY_MS, acceptance_of, request_of
from tests.keys import k
from tests.servers import ValkeyServer
from tests.storehouse import START_MS, Storehouse, refused

STREAM: Final = "mail:delivery_commands"
OFFSET: Final = "mail:stream_offsets:mail:delivery_commands"
CONSUMED: Final = "mail:stream_consumed:mail:delivery_commands"


@pytest.fixture
async def other(empty_valkey: ValkeyServer, house: Storehouse) -> AsyncIterator[Storehouse]:
    """Another process on the same store, with the same clock."""
    other = Storehouse(empty_valkey.socket, clock=house.clock, owner="other")
    await other.epoch.check(other.link.pipeline)
    yield other
    other.close()


def add(house: Storehouse, *entry_ids: str, size: int = 1) -> None:
    for entry_id in entry_ids:
        house.run("XADD", STREAM, entry_id, "field", "x" * size)


def accepting(house: Storehouse, name: str, entry_id: str, predecessor: str) -> Call:
    return house.store.accept_call(
        acceptance_of(request_of(name), now_ms=house.clock.ms),
        position=StreamPosition(entry_id, predecessor),
    )


def malformed(house: Storehouse, entry_id: str, predecessor: str) -> Call:
    record = MalformedCommand(
        entry_id=entry_id,
        fields={"field": "x"},
        failure_code="missing_field",
        message="m",
        recorded_at_ms=house.clock.ms,
    )
    return house.stream.malformed_call(record, StreamPosition(entry_id, predecessor))


async def consume(house: Storehouse, *entry_ids: str) -> None:
    """Passes these entries as duplicates, from where the offset is."""
    predecessor = await house.stream.offset()
    for entry_id in entry_ids:
        [reply] = await house.stream.apply([house.stream.skip_call(StreamPosition(entry_id, predecessor))])
        assert reply == Accepted()
        predecessor = entry_id


# Reading


async def test_a_new_store_is_read_from_the_first_entry_on(house: Storehouse) -> None:
    add(house, "1-0", "1-1", "2-0")
    assert await house.stream.offset() == ""
    entries, _ = await house.stream.read("")
    assert [entry_id for entry_id, _ in entries] == ["1-0", "1-1", "2-0"]
    assert entries[0][1] == [(b"field", b"x")]


async def test_reading_goes_on_behind_the_offset(house: Storehouse) -> None:
    add(house, "1-0", "1-1", "2-0")
    entries, none_before = await house.stream.read("1-1")
    assert [entry_id for entry_id, _ in entries] == ["2-0"]
    assert not none_before
    assert await house.stream.read("2-0") == ([], False)


async def test_doubled_names_and_bytes_of_any_kind_are_read_as_they_are(house: Storehouse) -> None:
    house.run("XADD", STREAM, "1-0", "a", b"\xff\x00", "a", "", b"\xfe", "z")
    [(_, fields)], _ = await house.stream.read("")
    assert fields == [(b"a", b"\xff\x00"), (b"a", b""), (b"\xfe", b"z")]


async def test_a_batch_is_bounded_by_number(house: Storehouse) -> None:
    add(house, *(f"1-{number}" for number in range(BATCH_ENTRIES + 10)))
    entries, _ = await house.stream.read("")
    assert len(entries) == BATCH_ENTRIES
    entries, _ = await house.stream.read(entries[-1][0])
    assert len(entries) == 10


@pytest.mark.parametrize("small_before", [0, 1, 127, 200])
async def test_a_batch_is_bounded_by_bytes_however_suddenly_entries_grow(
    small_before: int, house: Storehouse
) -> None:
    add(house, *(f"1-{number}" for number in range(small_before)))
    add(house, *(f"2-{number}" for number in range(8)), size=BATCH_BYTES // 2)
    entries, _ = await house.stream.read("")
    assert len(entries) == small_before + 2
    read = sum(len(value) for _, fields in entries for _, value in fields)
    assert read <= 1.5 * BATCH_BYTES


async def test_entries_larger_than_a_batch_come_one_at_a_time(house: Storehouse) -> None:
    add(house, "1-0", "2-0", size=10 * 1024 * 1024)
    entries, _ = await house.stream.read("")
    assert [entry_id for entry_id, _ in entries] == ["1-0"]
    entries, _ = await house.stream.read("1-0")
    assert [entry_id for entry_id, _ in entries] == ["2-0"]


async def test_reading_tells_when_everything_before_may_have_been_trimmed(house: Storehouse) -> None:
    add(house, "1-0", "2-0", "3-0")
    assert (await house.stream.read(""))[1]
    assert not (await house.stream.read("1-0"))[1]
    house.run("XTRIM", STREAM, "MINID", "2-0")
    assert (await house.stream.read("1-0"))[1]
    assert not (await house.stream.read("2-0"))[1]
    house.run("XTRIM", STREAM, "MAXLEN", 0)
    assert await house.stream.read("2-0") == ([], False), "nothing is left that could be behind"
    house.broken = True  # nobody counted what was trimmed unread


async def test_waiting_ends_with_the_next_entry_or_with_its_time(house: Storehouse) -> None:
    add(house, "1-0")
    assert await house.stream.wait_for_more("", block_ms=10)
    assert not await house.stream.wait_for_more("1-0", block_ms=10)


async def test_a_replaced_store_is_not_read(house: Storehouse) -> None:
    house.run("FLUSHALL")
    await house.epoch.check(house.link.pipeline)
    with pytest.raises(StoreReplaced):
        await house.stream.offset()
    with pytest.raises(StoreReplaced):
        await house.stream.apply([accepting(house, "d1", "1-0", "")])
    assert house.dump() == {}


async def test_one_read_tells_a_batch_apart(house: Storehouse) -> None:
    await house.accept(request_of())
    await house.suppress("@x.example", "why")
    house.link.asked.clear()
    known = await house.stream.read_known(
        [
            (Source.NOTIFICATION, "key of d1"),
            (Source.NOTIFICATION, "none"),
            (Source.AUTHSESSION, "key of d1"),
        ],
        ["d2", "d1"],
        ["@x.example", "a@x.example"],
    )
    record = acceptance_of(now_ms=START_MS).idempotency
    assert known.records == {(Source.NOTIFICATION, "key of d1"): record}
    raw = known.raw_records[Source.NOTIFICATION, "key of d1"]
    assert raw == house.run("GET", k.idempotency(Source.NOTIFICATION, "key of d1"))
    assert known.deliveries == {"d1"}
    assert known.suppressed == {"@x.example": "why"}
    assert len(house.link.asked) == 4, "in one pipeline"


async def test_a_batch_of_garbage_needs_no_read(house: Storehouse) -> None:
    house.link.asked.clear()
    known = await house.stream.read_known([], [], [])
    assert (known.records, known.deliveries, known.suppressed) == ({}, frozenset(), {})
    assert house.link.asked == []


# The offset


async def test_the_offset_moves_with_what_makes_each_entry_safe(house: Storehouse) -> None:
    replies = await house.stream.apply(
        [
            accepting(house, "d1", "1-0", ""),
            malformed(house, "2-0", "1-0"),
            house.stream.skip_call(StreamPosition("3-0", "2-0")),
        ]
    )
    assert replies == [Accepted()] * 3
    assert house.run("MGET", OFFSET, CONSUMED) == [b"3-0", b"3"]
    record = decode(cast("bytes", house.run("GET", k.malformed("2-0"))), MalformedCommand)
    assert record.fields == {"field": "x"}
    assert house.score(k.malformed_index, "2-0") == START_MS
    assert house.run("PEXPIRETIME", k.malformed("2-0")) == START_MS + 90 * DAY_MS + BACKSTOP_MS


@pytest.mark.parametrize("kind", ["accept", "skip", "malformed"])
@pytest.mark.parametrize("predecessor", ["", "1-0", "3-0", "02-0"])
async def test_an_entry_that_is_not_next_changes_nothing(
    kind: str, predecessor: str, house: Storehouse
) -> None:
    await consume(house, "1-0", "2-0")
    before = house.dump()
    call = {
        "accept": accepting(house, "d1", "3-0", predecessor),
        "skip": house.stream.skip_call(StreamPosition("3-0", predecessor)),
        "malformed": malformed(house, "3-0", predecessor),
    }[kind]
    [reply] = await house.stream.apply([call])
    assert reply == NotNext("2-0")
    assert house.dump() == before


async def test_a_batch_stops_at_its_first_refusal(house: Storehouse) -> None:
    """Redis becomes full in the middle of it: nothing behind is taken in, not even what a full Redis would take."""
    await house.stream.apply([accepting(house, "d1", "1-0", "")])
    calls = [
        accepting(house, "d2", "2-0", "1-0"),
        house.stream.skip_call(StreamPosition("3-0", "2-0")),
        malformed(house, "4-0", "3-0"),
    ]
    before = house.dump()
    house.run("CONFIG", "SET", "maxmemory", "1")
    replies = await house.stream.apply(calls)
    assert refused(replies[0]) == "OOM"
    assert replies[1] == NotNext("1-0")
    assert refused(replies[2]) == "OOM"
    assert house.dump() == before
    house.run("CONFIG", "SET", "maxmemory", "0")
    assert await house.stream.apply(calls) == [Accepted()] * 3


async def test_a_batch_stops_at_an_entry_that_turns_out_to_be_taken(house: Storehouse) -> None:
    await house.accept(request_of("d2"))
    before = house.dump()
    replies = await house.stream.apply(
        [accepting(house, "d2", "1-0", ""), accepting(house, "d3", "2-0", "1-0")]
    )
    assert replies[1] == NotNext("")
    assert house.dump() == before


async def test_two_readers_of_one_batch_take_it_in_once(house: Storehouse, other: Storehouse) -> None:
    calls = [accepting(house, f"d{number}", f"{number}-0", f"{number - 1}-0") for number in range(2, 6)]
    await consume(house, "1-0")
    await house.stream.apply(calls[:2])
    replies = await other.stream.apply(calls)
    assert replies[:1] == [NotNext("3-0")]
    assert await house.stream.offset() == "5-0", "the other one went on where this one had come to"
    replies = await house.stream.apply(calls[2:])
    assert not any(reply == Accepted() for reply in replies)
    assert house.run("GET", CONSUMED) == b"5"


async def test_a_batch_whose_replies_were_lost_is_not_taken_in_twice(house: Storehouse) -> None:
    calls = [accepting(house, "d1", "1-0", ""), malformed(house, "2-0", "1-0")]
    house.link.fail("accept", "lost_reply")
    with pytest.raises(OutcomeUnknown):
        await house.stream.apply(calls)
    before = house.dump()
    replies = await house.stream.apply(calls)
    assert replies == [NotNext("2-0")] * 2
    assert house.dump() == before


async def test_the_offset_that_was_seen_tells_a_roll_back(house: Storehouse) -> None:
    await consume(house, "1-0", "2-0")
    house.epoch.saw_offset("2-0")
    house.run("SET", OFFSET, "1-0")
    assert await house.epoch.check(house.link.pipeline) is Verdict.ROLLED_BACK
    house.run("SET", OFFSET, "2-0")


# The lease


async def test_one_process_reads_at_a_time(house: Storehouse, other: Storehouse) -> None:
    assert await house.stream.hold_lease(3_000)
    assert not await other.stream.hold_lease(3_000)
    assert await house.stream.hold_lease(3_000)


@pytest.mark.parametrize(("late_ms", "free"), [(-1, False), (0, True), (1, True)])
async def test_a_lease_is_anybodys_once_it_ran_out(
    late_ms: int, free: bool, house: Storehouse, other: Storehouse
) -> None:
    await house.stream.hold_lease(3_000)
    house.clock.ms += 1_000
    await house.stream.hold_lease(3_000)
    house.clock.ms += 3_000 + late_ms
    assert await other.stream.hold_lease(3_000) is free
    assert await house.stream.hold_lease(3_000) is not free


async def test_a_lease_that_is_given_up_is_anybodys_at_once(house: Storehouse, other: Storehouse) -> None:
    await house.stream.hold_lease(3_000)
    await house.stream.give_up_lease()
    assert await other.stream.hold_lease(3_000)


async def test_nobody_gives_up_anothers_lease(house: Storehouse, other: Storehouse) -> None:
    await house.stream.hold_lease(3_000)
    await other.stream.give_up_lease()
    assert not await other.stream.hold_lease(3_000)
    house.clock.ms += 3_000  # and not once it ran out either
    await other.stream.give_up_lease()
    assert house.run("EXISTS", k.ingress_lease) == 1


@pytest.mark.parametrize("value", ["", "garbage", "a b c", "owner notanumber"])
async def test_a_lease_that_nobody_can_read_is_free(value: str, house: Storehouse) -> None:
    house.run("SET", k.ingress_lease, value)
    assert await house.stream.hold_lease(3_000)


async def test_without_a_clock_of_ours_the_lease_runs_on_the_servers(house: Storehouse) -> None:
    house.clock.scripts = lambda: None
    assert await house.stream.hold_lease(60_000)
    holder, _, expiry_ms = cast("bytes", house.run("GET", k.ingress_lease)).partition(b" ")
    seconds, _ = cast("list[bytes]", house.run("TIME"))
    assert holder == b"me"
    assert 0 < int(expiry_ms) - int(seconds) * 1000 <= 62_000


async def test_a_lease_of_another_kind_is_no_lease_and_no_reader(house: Storehouse) -> None:
    house.broken = True
    house.run("HSET", k.ingress_lease, "a", "b")
    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        await house.stream.hold_lease(3_000)


# Losses


async def test_a_stream_that_lost_nothing_says_so(house: Storehouse) -> None:
    state = await house.stream.state()
    assert (state.offset, state.length, state.lag, state.lost, state.restarted) == ("", 0, 0, 0, False)
    add(house, "1-0", "2-0", "3-0")
    state = await house.stream.state()
    assert (state.length, state.last_entry_id, state.lag, state.lost) == (3, "3-0", 3, 0)
    await consume(house, "1-0", "2-0")
    state = await house.stream.state()
    assert (state.offset, state.lag, state.lost, state.consumed) == ("2-0", 1, 0, 2)


async def test_entries_trimmed_before_anybody_read_them_are_counted_once_over_all_processes(
    house: Storehouse, other: Storehouse
) -> None:
    add(house, *(f"{number}-0" for number in range(1, 11)))
    await consume(house, "1-0", "2-0", "3-0")
    house.run("XTRIM", STREAM, "MINID", "8-0")
    state, seen_by_other = await house.stream.state(), await other.stream.state()
    assert (state.lost, seen_by_other.lost) == (4, 4)
    assert await house.stream.note_lost(state)
    assert not await other.stream.note_lost(seen_by_other)
    assert (await house.stream.state()).lost == 0
    assert house.run("HGET", k.meta, "stream_lost") == b"4"
    assert house.run("HGET", k.meta, "stream_lost_at_ms") == str(START_MS).encode()
    await consume(house, "8-0", "9-0", "10-0")
    state = await house.stream.state()
    assert (state.lost, state.lag) == (0, 0)


async def test_what_is_trimmed_behind_the_offset_is_no_loss(house: Storehouse) -> None:
    add(house, *(f"{number}-0" for number in range(1, 6)))
    await consume(house, "1-0", "2-0", "3-0")
    for last in ("2-0", "3-0", "4-0"):
        house.run("XTRIM", STREAM, "MINID", last)
        assert (await house.stream.state()).lost == 0
    await consume(house, "4-0", "5-0")
    house.run("XTRIM", STREAM, "MAXLEN", 0)
    state = await house.stream.state()
    assert (state.lost, state.length, state.lag) == (0, 0, 0)


async def test_what_was_lost_before_the_service_ever_ran_is_counted_too(house: Storehouse) -> None:
    add(house, "1-0", "2-0", "3-0")
    house.run("XTRIM", STREAM, "MAXLEN", 1)
    state = await house.stream.state()
    assert (state.lost, state.lag) == (2, 1)
    assert await house.stream.note_lost(state)


async def test_an_entry_that_was_deleted_unread_is_lost(house: Storehouse) -> None:
    add(house, "1-0", "2-0", "3-0")
    await consume(house, "1-0")
    house.run("XDEL", STREAM, "2-0")
    assert (await house.stream.state()).lost == 0, "not told apart yet: a consumed entry is still there"
    await consume(house, "3-0")
    house.run("XTRIM", STREAM, "MAXLEN", 0)
    state = await house.stream.state()
    assert state.lost == 1
    assert await house.stream.note_lost(state)


async def test_a_stream_made_anew_above_the_offset_is_read_and_counted_from_there(
    house: Storehouse,
) -> None:
    add(house, "1-0", "2-0", "3-0")
    await consume(house, "1-0", "2-0", "3-0")
    house.run("DEL", STREAM)
    state = await house.stream.state()
    assert (state.length, state.lost, state.restarted) == (0, 0, False)
    add(house, "5-0", "6-0")
    state = await house.stream.state()
    assert (state.restarted, state.lost, state.lag) == (False, -3, 2)
    assert not await house.stream.note_lost(state), "nothing is known to be lost"
    assert house.run("HEXISTS", k.meta, "stream_lost") == 0
    assert (await house.stream.state()).lost == 0
    house.run("XTRIM", STREAM, "MAXLEN", 1)
    state = await house.stream.state()
    assert state.lost == 1
    assert await house.stream.note_lost(state)


async def test_a_stream_made_anew_below_the_offset_is_noticed(house: Storehouse) -> None:
    add(house, "10-0")
    await consume(house, "10-0")
    house.run("DEL", STREAM)
    add(house, "5-0", "6-0")
    state = await house.stream.state()
    assert (state.restarted, state.lost, state.lag, state.last_entry_id) == (True, 0, 2, "6-0")
    assert await house.stream.trim(keep_ms=0) == 0, "nobody read them"
    assert (await house.stream.read("10-0"))[0] == []
    house.run("XTRIM", STREAM, "MAXLEN", 0)
    state = await house.stream.state()
    assert (state.restarted, state.lost) == (True, 0), "what can't be read is not counted as if it could"
    add(house, "11-0")
    assert not (await house.stream.state()).restarted
    house.broken = True  # nobody counted what was trimmed unread


async def test_the_state_of_a_stream_of_large_entries_is_small(house: Storehouse) -> None:
    add(house, "1-0", "2-0", size=5 * 1024 * 1024)
    await house.stream.state()
    assert len(repr(house.again("stream_state"))) < 200


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    actions=st.lists(
        st.sampled_from(["add", "add", "add", "read", "trim_one", "trim_all", "delete"]), max_size=40
    )
)
def test_every_entry_ever_added_is_read_or_counted_as_lost_or_still_there(
    actions: list[str], empty_valkey: ValkeyServer
) -> None:
    trio.run(_count, empty_valkey, actions)


async def _count(valkey: ValkeyServer, actions: list[str]) -> None:
    house = Storehouse(valkey.socket)
    house.run("FLUSHALL")
    added = read = 0
    for action in [*actions, "read", "read", "trim_all", "read"]:
        entries, none_before = await house.stream.read(await house.stream.offset())
        match action:
            case "add":
                added += 1
                add(house, f"{added}-0")
            case "read":
                if none_before or not entries:  # as the ingress does
                    await house.stream.note_lost(await house.stream.state())
                if entries:
                    await consume(house, entries[0][0])
                    read += 1
            case "trim_one":
                house.run("XTRIM", STREAM, "MAXLEN", max(0, cast("int", house.run("XLEN", STREAM)) - 1))
            case "trim_all":
                house.run("XTRIM", STREAM, "MAXLEN", 0)
            case "delete" if entries:
                house.run("XDEL", STREAM, entries[-1][0])
            case _:
                pass
    lost = int(cast("bytes | None", house.run("HGET", k.meta, "stream_lost")) or 0)
    house.close()
    assert read + lost == added


# Trimming


async def test_entries_go_when_they_are_old_and_need_no_more_work(house: Storehouse) -> None:
    old, young = START_MS - DAY_MS, START_MS - DAY_MS + 1
    ids = [f"{old - 1}-0", f"{old - 1}-1", f"{old}-0", f"{young}-0"]
    add(house, *ids)
    await consume(house, *ids)
    assert await house.stream.trim(keep_ms=DAY_MS) == 2
    assert [e for e, _ in (await house.stream.read(""))[0]] == ids[2:]
    house.clock.ms += 1
    assert await house.stream.trim(keep_ms=DAY_MS) == 1
    assert await house.stream.trim(keep_ms=DAY_MS) == 0


async def test_nothing_that_still_needs_work_is_ever_trimmed(house: Storehouse) -> None:
    add(house, "1-0", "1-1", "1-2", "2-0")
    assert await house.stream.trim(keep_ms=0) == 0, "nobody has read anything yet"
    await consume(house, "1-0", "1-1")
    assert await house.stream.trim(keep_ms=0) == 2, "the one at the offset goes, too"
    assert [e for e, _ in (await house.stream.read("1-1"))[0]] == ["1-2", "2-0"]
    assert (await house.stream.state()).lost == 0


async def test_trimming_is_exact(house: Storehouse) -> None:
    """An approximate bound would keep whole nodes of a hundred entries."""
    ids = [f"{number}-0" for number in range(1, 31)]
    add(house, *ids)
    await consume(house, *ids[:17])
    assert await house.stream.trim(keep_ms=0) == 17


async def test_a_retention_that_began_before_time_trims_nothing(house: Storehouse) -> None:
    add(house, "1-0")
    await consume(house, "1-0")
    assert await house.stream.trim(keep_ms=START_MS + DAY_MS) == 0
