"""Two releases on one store: what the older one can't read waits for the newer one, and is never given up."""

from typing import Any, cast

import msgspec
import pytest

from galaxy_mail.domain.records import Content, DeliveryStatus, Envelope, decode
from galaxy_mail.storage.operations.claims import CONTENT_WITH_CLAIM_BYTES, Quarantined
from tests.deliveries import ACCEPTED, request_of
from tests.keys import k
from tests.storehouse import START_MS, Storehouse

LARGE = Content(
    envelope=Envelope(to=("d1@example.org",)), subject="s", text_body="x" * (CONTENT_WITH_CLAIM_BYTES + 1)
)


def changed(house: Storehouse, delivery_id: str, **members: Any) -> bytes:
    """Writes the record as another release would; the one that stood there before."""
    before = cast("bytes", house.run("GET", k.delivery(delivery_id)))
    house.run("SET", k.delivery(delivery_id), msgspec.json.encode({**msgspec.json.decode(before), **members}))
    return before


async def test_what_another_release_could_not_read_is_taken_up_by_one_that_can(house: Storehouse) -> None:
    await house.accept(request_of())
    readable = changed(house, "d1", source="a source of the future")
    assert (await house.claim()).parked == ["d1"]
    assert (await house.upkeep.reconcile()).requeued == (), "it is still unreadable"
    house.run("SET", k.delivery("d1"), readable)
    assert (await house.upkeep.reconcile()).requeued == ("d1",)
    assert house.score(house.keys.schedule, "d1") == START_MS
    await house.finish(await house.begin(await house.claim_one()), ACCEPTED)


async def test_an_attempt_in_progress_is_taken_up_likewise(house: Storehouse) -> None:
    await house.begun(request_of())
    readable = changed(house, "d1", status="a status of the future")
    house.clock.ms += 30_000
    assert (await house.claim()).parked == ["d1"]
    house.run("SET", k.delivery("d1"), readable)
    assert (await house.upkeep.reconcile()).requeued == ("d1",)
    assert (await house.claim_one()).delivery.status is DeliveryStatus.SENDING


@pytest.mark.parametrize("field", ["content", "rendered"])
async def test_large_content_that_cannot_be_read_is_quarantined_when_it_is_loaded(
    field: str, house: Storehouse
) -> None:
    await house.accept(request_of(content=LARGE))
    readable = cast("bytes", house.run("HGET", k.payload("d1"), "content"))
    house.run("HSET", k.payload("d1"), field, "x" * len(readable))
    claim = await house.claim_one()
    with pytest.raises(Quarantined):
        await house.store.load(claim)
    assert house.run("ZSCORE", house.keys.schedule, "d1") == b"inf"
    assert house.run("HLEN", k.claims) == 0
    assert (await house.upkeep.reconcile()).requeued == ()
    house.run("HDEL", k.payload("d1"), "rendered")
    house.run("HSET", k.payload("d1"), "content", readable)
    assert (await house.upkeep.reconcile()).requeued == ("d1",)


async def test_members_that_a_later_release_adds_are_no_obstacle(house: Storehouse) -> None:
    await house.accept(request_of())
    changed(house, "d1", envelope={"to": ["d1@example.org"], "on_behalf_of": ["x@example.org"]}, colour="red")
    assert (await house.claim_one()).delivery.envelope.to == ("d1@example.org",)
    content = msgspec.json.encode(
        {"envelope": {"to": [], "x": 1}, "attachments": [{**dict.fromkeys(_ATTACHMENT, ""), "x": 1}]}
    )
    assert len(decode(content, Content).attachments) == 1


_ATTACHMENT = ("filename", "content_type", "content_base64")
