"""What the store needs in the long run: forgetting in time and in whole, mending both ways, counting."""

from typing import Final, cast

import pytest

from galaxy_mail.domain.records import DeliveryStatus, Lane, MalformedCommand
from galaxy_mail.storage.operations.store import StreamPosition
from galaxy_mail.storage.operations.upkeep import BATCH
from galaxy_mail.storage.records.encoding import encode_delivery
from galaxy_mail.storage.records.retention import BACKSTOP_MS, Retention
from tests.deliveries import ACCEPTED, DAY_MS, DEFERRED, REFUSED, acceptance_of, login_code_of, request_of
from tests.keys import k
from tests.servers import ValkeyServer
from tests.storehouse import START_MS, TTL_MS, Storehouse

S = DeliveryStatus
# What stands in the store for as long as it exists.
LASTING: Final = {k.meta, k.claim_sequence}


async def dead(house: Storehouse, name: str) -> None:
    await house.sent(request_of(name), DEFERRED)
    for _ in range(3):
        house.clock.ms += 1_800_000
        await house.finish(await house.begin(await house.claim_one()), DEFERRED)


def left(house: Storehouse) -> set[str]:
    """The keys that are left, but for idempotency records, which end by themselves."""
    return {key for key in house.dump() if not key.startswith(k.idempotency_records)} - LASTING


# Counting


async def test_depths_are_those_of_the_schedule(house: Storehouse) -> None:
    empty = await house.upkeep.depths()
    assert empty.scheduled == {Lane.PRIORITY: 0, Lane.NORMAL: 0}
    assert empty.oldest_due_ms == {Lane.PRIORITY: None, Lane.NORMAL: None}
    await house.accept(request_of("a"))
    house.clock.ms += 500
    await house.accept(request_of("b"))
    await house.accept(login_code_of())
    await house.claim(1)
    depths = await house.upkeep.depths()
    assert depths.scheduled == {Lane.PRIORITY: 1, Lane.NORMAL: 2}
    assert depths.oldest_due_ms == {Lane.PRIORITY: None, Lane.NORMAL: START_MS + 500}, "claimed is not due"
    assert depths.claims == 2


async def test_what_is_due_later_is_not_overdue(house: Storehouse) -> None:
    await house.sent(request_of(), DEFERRED)
    assert (await house.upkeep.depths()).oldest_due_ms[Lane.NORMAL] is None
    house.clock.ms += 60_000
    assert (await house.upkeep.depths()).oldest_due_ms[Lane.NORMAL] == START_MS + 60_000


# Forgetting


@pytest.mark.parametrize(("late_ms", "gone"), [(-1, 0), (0, 1), (10 * DAY_MS, 1)])
async def test_a_delivery_is_purged_thirty_days_after_its_end(
    late_ms: int, gone: int, house: Storehouse
) -> None:
    held = await house.begun(request_of())
    house.clock.ms += 12_345
    await house.finish(held, REFUSED)
    house.clock.ms += 30 * DAY_MS + late_ms
    assert await house.upkeep.purge() == gone
    assert (house.run("EXISTS", k.delivery("d1")) == 0) is bool(gone)


async def test_of_a_purged_delivery_its_attempts_alone_are_left_and_readable(house: Storehouse) -> None:
    await house.sent(request_of(to=("a@x.example", "b@y.example")), DEFERRED)
    house.clock.ms += 60_000
    await house.finish(await house.begin(await house.claim_one()), ACCEPTED)
    house.clock.ms += 30 * DAY_MS
    await house.upkeep.purge()
    assert left(house) == {"mail:attempts:d1:1", "mail:attempts:d1:2", k.expires_index}
    attempts = await house.reader.attempts("d1")
    assert attempts is not None
    assert [attempt.attempt_no for attempt in attempts] == [1, 2]


async def test_ninety_days_after_its_end_nothing_of_a_delivery_is_left(house: Storehouse) -> None:
    await house.sent(request_of(), ACCEPTED)
    house.clock.ms += 30 * DAY_MS
    assert await house.upkeep.purge() == 1
    house.clock.ms += 60 * DAY_MS - 1
    assert await house.upkeep.purge() == 0
    house.clock.ms += 1
    assert await house.upkeep.purge() == 1
    assert left(house) == set()
    assert await house.upkeep.purge() == 0


async def test_a_dead_letter_is_kept_whole_for_ninety_days(house: Storehouse) -> None:
    """It can be sent again for as long as it is shown."""
    await dead(house, "d1")
    house.clock.ms += 90 * DAY_MS - 1
    assert await house.upkeep.purge() == 0
    claimable = await house.reader.with_content("d1")
    assert claimable is not None
    assert claimable.content is not None
    house.clock.ms += 1
    assert await house.upkeep.purge() == 1
    assert await house.upkeep.purge() == 1
    assert left(house) == set()


async def test_mail_that_nobody_might_get_is_purged_too(house: Storehouse) -> None:
    await house.store.accept(acceptance_of(suppressed={"@example.org": "r"}, now_ms=house.clock.ms))
    house.clock.ms += 30 * DAY_MS
    assert await house.upkeep.purge() == 1
    house.clock.ms += 60 * DAY_MS
    assert await house.upkeep.purge() == 1
    assert left(house) == set()


async def test_a_parent_is_purged_before_its_resend_and_both_in_whole(house: Storehouse) -> None:
    await house.sent(request_of("parent"), REFUSED)
    house.clock.ms += DAY_MS
    await house.sent(request_of("child", parent_delivery_id="parent"), ACCEPTED)
    assert house.score(k.children_index("parent"), "child") == house.clock.ms
    house.clock.ms += 29 * DAY_MS
    assert await house.upkeep.purge() == 1
    assert house.run("EXISTS", k.children_index("parent")) == 0
    house.clock.ms += DAY_MS
    assert await house.upkeep.purge() == 1
    house.clock.ms += 60 * DAY_MS
    assert await house.upkeep.purge() == 2
    assert left(house) == set()


async def test_one_sweep_is_bounded_and_the_next_one_goes_on(house: Storehouse) -> None:
    for number in range(BATCH + 5):
        await house.store.accept(
            acceptance_of(request_of(f"d{number}"), suppressed={"@example.org": "r"}, now_ms=house.clock.ms)
        )
    house.clock.ms += 30 * DAY_MS
    assert await house.upkeep.purge() == BATCH
    assert await house.upkeep.purge() == 5
    assert await house.upkeep.purge() == 0


async def test_what_is_not_understood_is_kept_and_holds_up_nothing_else(house: Storehouse) -> None:
    """A newer release wrote it, perhaps: it is not this one's to forget."""
    for number in range(BATCH + 1):
        await house.store.accept(
            acceptance_of(request_of(f"d{number}"), suppressed={"@example.org": "r"}, now_ms=house.clock.ms)
        )
        house.run("SET", k.delivery(f"d{number}"), '{"status":"teleported"}')
        house.clock.ms += 1
    house.broken = True
    await house.sent(request_of("readable"), ACCEPTED)
    house.clock.ms += 30 * DAY_MS
    for _ in range(4):
        await house.upkeep.purge()
    assert house.run("EXISTS", k.delivery("readable")) == 0
    assert house.run("EXISTS", k.delivery("d0"), k.delivery(f"d{BATCH}")) == 2


async def test_what_has_not_ended_is_never_purged(house: Storehouse) -> None:
    await house.accept(request_of())
    house.run("ZADD", k.expires_index, house.clock.ms, "d1")
    house.clock.ms += 400 * DAY_MS
    before = house.dump()
    assert await house.upkeep.purge() == 0
    assert house.dump() == before
    house.broken = True


async def test_while_its_time_has_not_come_an_early_entry_of_the_index_does_nothing(
    house: Storehouse,
) -> None:
    await house.sent(request_of(), ACCEPTED)
    house.run("ZADD", k.expires_index, house.clock.ms, "d1")
    house.clock.ms += 30 * DAY_MS - 1
    assert await house.upkeep.purge() == 0
    house.clock.ms += 1
    assert await house.upkeep.purge() == 1


async def test_attempts_are_kept_in_full_where_the_record_ended_by_its_time_to_live(
    house: Storehouse,
) -> None:
    """The service stood still for longer than the janitor's margin."""
    await house.sent(request_of(), ACCEPTED)
    house.clock.ms += 40 * DAY_MS
    house.run("DEL", k.delivery("d1"), k.payload("d1"))
    house.broken = True  # its index entries are for `verify-store --repair`
    assert await house.upkeep.purge() == 0
    assert house.attempt("d1", 1).attempt_no == 1
    house.clock.ms += 50 * DAY_MS - 1
    assert await house.upkeep.purge() == 0
    house.clock.ms += 1
    assert await house.upkeep.purge() == 1
    assert house.run("EXISTS", k.attempt("d1", 1)) == 0
    assert house.score(k.expires_index, "d1") is None


async def test_many_attempts_are_purged_together(house: Storehouse) -> None:
    await house.sent(request_of(), ACCEPTED)
    for number in range(2, 40):
        house.run("SET", k.attempt("d1", number), "x")
    house.run("DEL", k.delivery("d1"))
    house.broken = True
    house.clock.ms += 90 * DAY_MS
    assert await house.upkeep.purge() == 1
    assert [key for key in house.dump() if key.startswith(k.attempts)] == []


@pytest.mark.parametrize(
    ("delivery_days", "attempt_days"), [(30, 5), (5, 30), (7, 7)], ids=["shorter", "longer", "equal"]
)
async def test_other_retentions_are_kept_to(
    delivery_days: int, attempt_days: int, empty_valkey: ValkeyServer, house: Storehouse
) -> None:
    retention = Retention(delivery_ms=delivery_days * DAY_MS, attempt_ms=attempt_days * DAY_MS)
    other = Storehouse(empty_valkey.socket, clock=house.clock, retention=retention)
    await other.epoch.check(other.link.pipeline)
    await other.sent(request_of(), ACCEPTED)
    await dead(other, "d2")
    house.broken = True  # as the default retention sees it
    other.clock.ms += max(delivery_days, attempt_days) * DAY_MS
    for _ in range(3):
        await other.upkeep.purge()
    assert left(other) == set()
    other.close()


async def test_malformed_commands_are_purged_after_ninety_days(house: Storehouse) -> None:
    predecessor = ""
    for number in range(1, 4):
        record = MalformedCommand(
            entry_id=f"{number}-0", fields={}, failure_code="c", message="m", recorded_at_ms=house.clock.ms
        )
        await house.stream.apply(
            [house.stream.malformed_call(record, StreamPosition(f"{number}-0", predecessor))]
        )
        predecessor = f"{number}-0"
        house.clock.ms += 1
    house.clock.ms = START_MS + 90 * DAY_MS + 1
    assert await house.upkeep.purge_malformed() == 2
    assert {key for key in house.dump() if "malformed" in key} == {
        "mail:malformed_commands:3-0",
        k.malformed_index,
    }
    assert await house.upkeep.purge_malformed() == 0
    house.clock.ms += 1
    assert await house.upkeep.purge_malformed() == 1
    assert not [key for key in house.dump() if "malformed" in key]


# Mending


async def test_a_sound_store_is_left_as_it_is(house: Storehouse) -> None:
    await house.accept(request_of("queued"))
    await house.accept(login_code_of("code"))
    await house.claim(1)
    await house.sent(request_of("sent"), ACCEPTED)
    before = house.dump()
    repaired = await house.upkeep.reconcile()
    assert (repaired.rescheduled, repaired.unscheduled, repaired.not_understood) == ((), (), ())
    assert house.dump() == before


@pytest.mark.parametrize("lane", Lane)
async def test_what_waits_and_is_in_no_lane_comes_back_into_its_own(lane: Lane, house: Storehouse) -> None:
    await house.accept(request_of("d1", lane=lane))
    house.clock.ms += 5_000
    house.run("ZREM", house.keys.lane(lane), "d1")
    assert (await house.upkeep.reconcile()).rescheduled == ("d1",)
    assert house.score(house.keys.lane(lane), "d1") == START_MS, "due when it was"


async def test_a_retry_comes_back_for_its_own_time(house: Storehouse) -> None:
    await house.sent(request_of(), DEFERRED)
    house.run("ZREM", house.keys.schedule, "d1")
    assert (await house.upkeep.reconcile()).rescheduled == ("d1",)
    assert house.score(house.keys.schedule, "d1") == START_MS + 60_000


async def test_what_was_being_sent_comes_back_as_lost(house: Storehouse) -> None:
    """Its owner may be alive: what it says is stale, as if it had lost its claim."""
    held = await house.begun(request_of())
    house.run("ZREM", house.keys.schedule, "d1")
    assert (await house.upkeep.reconcile()).rescheduled == ("d1",)
    assert house.run("HEXISTS", k.claims, "d1") == 0
    house.broken = True  # it is sending and nobody's, until it is claimed
    claim = await house.claim_one()
    assert claim.delivery.status is S.SENDING
    assert claim.token != held.claim.token


async def test_what_has_ended_is_taken_out_of_the_schedule(house: Storehouse) -> None:
    await house.sent(request_of(), ACCEPTED)
    house.run("ZADD", house.keys.schedule, house.clock.ms, "d1")
    house.run("HSET", k.claims, "d1", "1-1")
    assert (await house.upkeep.reconcile()).unscheduled == ("d1",)
    assert house.score(house.keys.schedule, "d1") is None
    assert house.run("HEXISTS", k.claims, "d1") == 0


@pytest.mark.parametrize("record", [None, b"?", b'{"status":"teleported"}'])
async def test_what_is_not_understood_is_told_and_left_alone(record: bytes | None, house: Storehouse) -> None:
    await house.accept(request_of())
    if record is None:
        house.run("DEL", k.delivery("d1"))
    else:
        house.run("SET", k.delivery("d1"), record)
    house.broken = True
    before = house.dump()
    repaired = await house.upkeep.reconcile()
    assert (repaired.rescheduled, repaired.unscheduled, repaired.not_understood) == ((), (), ("d1",))
    assert house.dump() == before


async def test_what_is_not_understood_and_not_scheduled_is_left_alone_too(house: Storehouse) -> None:
    await house.accept(request_of())
    house.run("SET", k.delivery("d1"), "?")
    house.run("ZREM", house.keys.schedule, "d1")
    house.broken = True
    before = house.dump()
    assert (await house.upkeep.reconcile()).rescheduled == ()
    assert house.dump() == before


async def test_sweeps_go_on_where_the_last_one_ended(house: Storehouse) -> None:
    for number in range(BATCH + 10):
        await house.accept(request_of(f"d{number:03}"))
        house.clock.ms += 1
    house.run("ZREM", house.keys.schedule, "d000", f"d{BATCH + 9:03}")
    assert (await house.upkeep.reconcile()).rescheduled == ("d000",)
    assert (await house.upkeep.reconcile()).rescheduled == (f"d{BATCH + 9:03}",)
    house.run("ZREM", house.keys.schedule, "d001")
    assert (await house.upkeep.reconcile()).rescheduled == ("d001",), "and begin again"


async def test_a_decision_from_an_old_read_changes_nothing(house: Storehouse) -> None:
    """Between the janitor's look and its script the delivery ended."""
    await house.accept(request_of())
    held = await house.begin(await house.claim_one())
    house.run("ZREM", house.keys.schedule, "d1")
    stored = cast("bytes", house.run("GET", k.delivery("d1")))
    await house.finish(held, ACCEPTED)
    before = house.dump()
    assert not await house.upkeep._reschedule("d1", stored, Lane.NORMAL, house.clock.ms)
    assert (
        house.upkeep._purge_call("d1", encode_delivery(held.begun.delivery), house.clock.ms + 10**12) is None
    )
    assert house.dump() == before


async def test_claimed_work_is_not_the_janitors(house: Storehouse) -> None:
    held = await house.begun(request_of())
    house.clock.ms += 10 * TTL_MS
    before = house.dump()
    await house.upkeep.reconcile()
    assert house.dump() == before
    await house.finish(held, ACCEPTED)


def test_the_backstop_is_later_than_any_sweep() -> None:
    assert BACKSTOP_MS >= DAY_MS
