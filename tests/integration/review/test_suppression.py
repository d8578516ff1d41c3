"""Who is not mailed, in the less usual cases."""

from galaxy_mail.domain.acceptance import suppression_entries
from galaxy_mail.storage.operations.answers import UNREADABLE, NewlySuppressed
from tests.deliveries import request_of
from tests.keys import k
from tests.storehouse import Storehouse


async def test_an_entry_that_cannot_be_read_suppresses_and_stops_nothing(house: Storehouse) -> None:
    """Written by hand, or by a later release: reading it as nothing would mail whom nobody may mail."""
    house.broken = True
    house.run("HSET", k.suppressions, "@example.org", "no JSON")
    request = request_of()
    entries = suppression_entries(request.content.envelope)
    assert await house.accept(request, look=True) == NewlySuppressed({"@example.org": UNREADABLE})
    known = await house.stream.read_known([], [], entries)
    assert known.suppressed == {"@example.org": UNREADABLE}
