"""The suppression list in Redis."""

import pytest

from galaxy_mail.domain.acceptance import suppression_entries
from galaxy_mail.domain.records import Suppression
from galaxy_mail.storage.links.errors import RedisRefused
from galaxy_mail.storage.operations.answers import UNREADABLE, NewlySuppressed
from tests.deliveries import request_of
from tests.keys import k
from tests.storehouse import START_MS, Storehouse

ANN = Suppression(address="ann@x.example", reason="bounced", created_by="op", created_at_ms=START_MS)
DOMAIN = Suppression(address="@y.example", reason="not ours", created_at_ms=START_MS + 1)


async def test_an_entry_is_new_once_and_then_replaced(house: Storehouse) -> None:
    assert await house.suppressions.put(ANN)
    later = Suppression(address=ANN.address, reason="asked for it", created_at_ms=START_MS + 9)
    assert not await house.suppressions.put(later)
    assert await house.suppressions.get(ANN.address) == later


async def test_an_entry_is_found_by_its_own_spelling_alone(house: Storehouse) -> None:
    await house.suppressions.put(ANN)
    await house.suppressions.put(DOMAIN)
    assert await house.suppressions.get("@y.example") == DOMAIN
    assert await house.suppressions.get("bob@y.example") is None
    assert await house.suppressions.get("@x.example") is None


async def test_what_is_removed_is_gone_and_what_is_not_there_is_told(house: Storehouse) -> None:
    await house.suppressions.put(ANN)
    assert await house.suppressions.remove(ANN.address)
    assert not await house.suppressions.remove(ANN.address)
    assert house.run("EXISTS", k.suppressions) == 0


async def test_many_are_added_in_one_go(house: Storehouse) -> None:
    await house.suppressions.put(ANN)
    house.link.asked.clear()
    assert await house.suppressions.put_all([ANN, DOMAIN]) == 1
    assert await house.suppressions.put_all([]) == 0
    assert house.link.asked == ["HSET"]


async def test_all_of_them_are_seen_in_bounded_steps(house: Storehouse) -> None:
    entries = [
        Suppression(address=f"u{number}@x.example", reason="r", created_at_ms=number)
        for number in range(2_000)
    ]
    await house.suppressions.put_all(entries)
    house.link.asked.clear()
    assert await house.reader.suppressed_addresses() == sorted(entry.address for entry in entries)
    assert house.link.asked.count("HSCAN") > 1


async def test_a_list_that_redis_can_not_take_is_an_error(house: Storehouse) -> None:
    house.run("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(RedisRefused, match="OOM"):
        await house.suppressions.put(ANN)
    assert await house.suppressions.get(ANN.address) is None


async def test_an_entry_that_cannot_be_read_suppresses_and_stops_nothing(house: Storehouse) -> None:
    """Written by hand, or by a later release: reading it as nothing would mail whom nobody may mail."""
    house.broken = True
    house.run("HSET", k.suppressions, "@example.org", "no JSON")
    request = request_of()
    entries = suppression_entries(request.content.envelope)
    assert await house.accept(request, look=True) == NewlySuppressed({"@example.org": UNREADABLE})
    known = await house.stream.read_known([], [], entries)
    assert known.suppressed == {"@example.org": UNREADABLE}
