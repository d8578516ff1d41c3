"""The janitor under load: it forgets as fast as mail comes in, and asks Redis seldom."""

from typing import Final

import trio
from trio.testing import MockClock

from galaxy_mail.actors.janitor import PURGE_FOR_S, Janitor
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.records import DeliveryStatus, Source
from galaxy_mail.storage.operations.upkeep import BATCH
from tests.deliveries import ACCEPTED, DAY_MS, acceptance_of, request_of
from tests.keys import k
from tests.storehouse import Storehouse

MANY: Final = 5 * BATCH


def janitor_of(house: Storehouse) -> Janitor:
    return Janitor(
        upkeep=house.upkeep,
        stream=house.stream,
        stream_kept_ms=DAY_MS,
        on_sample=lambda depths, lag: None,
        heartbeat=Heartbeat(),
    )


async def suppressed(house: Storehouse, count: int) -> None:
    for number in range(count):
        await house.store.accept(
            acceptance_of(request_of(f"s{number}"), suppressed={"@example.org": "r"}, now_ms=house.clock.ms)
        )


async def test_all_that_is_past_its_time_goes_in_one_go(house: Storehouse, autojump_clock: MockClock) -> None:
    await suppressed(house, MANY)
    house.clock.ms += 30 * DAY_MS
    assert await janitor_of(house).purge() == MANY
    house.clock.ms += 60 * DAY_MS
    assert await janitor_of(house).purge() == MANY
    assert all(key.startswith(("mail:idempotency:", "mail:meta")) for key in house.dump())


async def test_forgetting_leaves_time_for_the_other_chores(
    house: Storehouse, autojump_clock: MockClock
) -> None:
    await suppressed(house, MANY)
    house.clock.ms += 30 * DAY_MS
    janitor = janitor_of(house)
    purge = house.upkeep.purge

    async def slowly() -> int:
        await trio.sleep(PURGE_FOR_S * 0.6)
        return await purge()

    house.upkeep.purge = slowly  # type: ignore[method-assign]  # a slow Redis
    assert await janitor.purge() == 2 * BATCH


async def test_a_batch_costs_a_few_calls_and_not_some_for_each_delivery(house: Storehouse) -> None:
    for number in range(20):
        await house.sent(request_of(f"d{number}"), ACCEPTED)
    calls = 0
    pipeline = house.link.pipeline

    async def counted(*args: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        return await pipeline(*args, **named)  # type: ignore[arg-type]  # as it came

    house.link.pipeline = counted  # type: ignore[assignment,method-assign]  # to count
    house.clock.ms += 30 * DAY_MS
    assert await house.upkeep.purge() == 20
    house.clock.ms += 60 * DAY_MS
    assert await house.upkeep.purge() == 20
    assert calls <= 8


async def test_what_ended_by_its_time_to_live_is_taken_out_of_the_lists_that_grow(house: Storehouse) -> None:
    """Nothing ran for longer than the janitor's margin: nobody would ever have looked for these entries again."""
    await house.sent(request_of("gone"), ACCEPTED)
    await house.sent(request_of("kept"), ACCEPTED)
    house.clock.ms += 32 * DAY_MS
    house.run("DEL", k.delivery("gone"), k.payload("gone"))
    house.broken = True  # by whom it was got is for `verify-store --repair`
    await house.upkeep.purge()
    for index in (
        k.created_at_index,
        k.status_index(DeliveryStatus.SENT),
        k.source_index(Source.NOTIFICATION),
    ):
        assert house.score(index, "gone") is None
    assert house.attempt("gone", 1).attempt_no == 1, "attempts have their own time"
