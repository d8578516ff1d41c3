"""Holds in Redis."""

import pytest
from msgspec.structs import replace

from galaxy_mail.domain.holds import Cause, Hold
from galaxy_mail.domain.records import Failure
from galaxy_mail.storage.operations.hold_store import UNREADABLE
from tests.keys import k
from tests.storehouse import START_MS, Storehouse

OPERATOR = Hold(
    scope="lane:priority", cause=Cause.OPERATOR, reason="move", since_ms=START_MS, created_by="ada"
)
BREAKER = Hold(
    scope="relay:default",
    cause=Cause.BREAKER,
    reason="the relay fails",
    failure=Failure(code="auth_refused", summary="535 5.7.8 no"),
    since_ms=START_MS,
    until_ms=START_MS + 60_000,
)


async def holds(house: Storehouse) -> list[Hold | None]:
    return [stored.hold for stored in await house.holds.read()]


async def test_a_hold_is_new_once_and_then_replaced(house: Storehouse) -> None:
    assert await house.holds.put(OPERATOR)
    later = replace(OPERATOR, reason="longer move", since_ms=START_MS + 9)
    assert not await house.holds.put(later)
    assert await holds(house) == [later]


async def test_a_hold_whose_time_is_over_does_not_count_as_replaced(house: Storehouse) -> None:
    await house.holds.put(replace(OPERATOR, until_ms=START_MS + 5))
    assert await house.holds.put(replace(OPERATOR, since_ms=START_MS + 5))


async def test_all_members_come_back(house: Storehouse) -> None:
    await house.holds.put(OPERATOR)
    await house.holds.put(BREAKER)
    assert await holds(house) == [BREAKER, OPERATOR], "sorted by cause and scope"


async def test_a_lifted_hold_is_gone_and_one_that_is_not_there_is_told(house: Storehouse) -> None:
    await house.holds.put(OPERATOR)
    assert await house.holds.lift(Cause.OPERATOR, OPERATOR.scope, now_ms=START_MS)
    assert not await house.holds.lift(Cause.OPERATOR, OPERATOR.scope, now_ms=START_MS)
    assert house.run("EXISTS", k.holds) == 0


async def test_lifting_what_has_ended_by_itself_finds_nothing(house: Storehouse) -> None:
    await house.holds.put(replace(OPERATOR, until_ms=START_MS + 5))
    assert not await house.holds.lift(Cause.OPERATOR, OPERATOR.scope, now_ms=START_MS + 5)
    assert house.run("EXISTS", k.holds) == 0


async def test_breaker_and_operator_hold_the_same_scope_apart(house: Storehouse) -> None:
    """Neither overwrites nor lifts the other's."""
    operators = replace(OPERATOR, scope="relay:default")
    assert await house.holds.put(operators)
    assert await house.holds.put(BREAKER)
    assert await holds(house) == [BREAKER, operators]
    assert await house.holds.lift(Cause.BREAKER, "relay:default", now_ms=START_MS)
    assert await holds(house) == [operators]


async def test_a_change_is_made_only_to_what_was_read(house: Storehouse) -> None:
    """Two processes' breakers see the same: the second one changes nothing."""
    assert await house.holds.save(BREAKER, instead_of=None)
    other = replace(BREAKER, until_ms=START_MS + 70_000)
    assert not await house.holds.save(other, instead_of=None)
    read = await house.holds.get(Cause.BREAKER, BREAKER.scope)
    assert read is not None
    assert await house.holds.save(other, instead_of=read)
    assert not await house.holds.remove(read), "it was changed since"
    assert await holds(house) == [other]


async def test_a_put_that_meets_another_change_replaces_that_one(
    house: Storehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = house.holds.get
    others = [replace(OPERATOR, reason="in between")]

    async def meanwhile(cause: Cause, scope: str) -> object:
        found = await get(cause, scope)
        while others:
            await house.holds.save(others.pop(), instead_of=None)
        return found

    monkeypatch.setattr(house.holds, "get", meanwhile)
    assert not await house.holds.put(OPERATOR)
    assert await holds(house) == [OPERATOR]


async def test_members_of_a_newer_release_are_ignored(house: Storehouse) -> None:
    newer = '{"cause":"operator","reason":"r","scope":"all","since_ms":7,"tenants":["a"]}'
    house.run("HSET", k.holds, "operator:all", newer)
    [stored] = await house.holds.read()
    assert stored.readable
    assert stored.hold == Hold(scope="all", cause=Cause.OPERATOR, reason="r", since_ms=7)


@pytest.mark.parametrize(
    "data", ["?", "{}", '{"cause":"operator","reason":"r","scope":"lane:normal","since_ms":7}']
)
async def test_an_operators_hold_that_can_not_be_read_holds_its_scope(data: str, house: Storehouse) -> None:
    house.run("HSET", k.holds, "operator:all", data)
    house.broken = True
    [stored] = await house.holds.read()
    assert not stored.readable
    assert stored.hold == Hold(scope="all", cause=Cause.OPERATOR, reason=UNREADABLE, since_ms=0)
    assert await house.holds.lift(Cause.OPERATOR, "all", now_ms=START_MS), "an operator can lift it"


@pytest.mark.parametrize("field", ["breaker:relay:default", "operator:tenant:7", "planner:all"])
async def test_another_hold_that_can_not_be_read_holds_nothing(field: str, house: Storehouse) -> None:
    house.run("HSET", k.holds, field, "?")
    house.broken = True
    [stored] = await house.holds.read()
    assert (stored.hold, stored.readable) == (None, False)


async def test_a_full_redis_takes_a_hold(house: Storehouse) -> None:
    house.run("CONFIG", "SET", "maxmemory", "1")
    assert await house.holds.put(OPERATOR)
