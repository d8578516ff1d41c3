"""Pages of ids against a model: none skipped, none repeated, whatever the filters, limits and equal times."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galaxy_mail.domain.records import Delivery, DeliveryStatus, Envelope, PayloadMode, Source
from galaxy_mail.storage.reader import PAGE_MAX_BYTES, Filter, Position, Reader
from galaxy_mail.storage.records.encoding import encode_delivery
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import Retention
from tests.blocking_link import BlockingLink
from tests.clocks import FixedClock
from tests.keys import k
from tests.servers import ValkeyServer

NOW_MS: Final = 1_733_300_000_000
SOURCES: Final = list(Source)
STATUSES: Final = [DeliveryStatus.QUEUED, DeliveryStatus.SENDING, DeliveryStatus.SENT]


@pytest.fixture(scope="module")
def link() -> Iterator[BlockingLink]:
    """One server for all examples of this module; each starts from an empty store."""
    with tempfile.TemporaryDirectory(prefix="valkey-", ignore_cleanup_errors=True) as folder:
        server = ValkeyServer(Path(folder))
        trio.run(server.start)
        link = BlockingLink(server.socket)
        try:
            yield link
        finally:
            link.close()
            server.kill()


def reader_of(link: BlockingLink) -> Reader:
    return Reader(link, keys=Keys(), retention=Retention(), clock=FixedClock(NOW_MS))


def delivery(delivery_id: str, at_ms: int, source: Source, status: DeliveryStatus, key: str) -> Delivery:
    return Delivery(
        delivery_id=delivery_id,
        source=source,
        status=status,
        payload_mode=PayloadMode.RENDERED,
        envelope=Envelope(to=("ann@example.org",)),
        idempotency_key=key,
        message_id=f"{delivery_id}@mail.test",
        created_at_ms=NOW_MS + at_ms,
        updated_at_ms=NOW_MS + at_ms,
    )


def fill(link: BlockingLink, deliveries: list[Delivery]) -> None:
    commands: list[tuple[bytes | str | int, ...]] = [("FLUSHALL",)]
    for one in deliveries:
        commands.append(("SET", k.delivery(one.delivery_id), encode_delivery(one)))
        indexes = (k.status_index(one.status), *k.fixed_indexes(one))
        commands += [("ZADD", index, one.created_at_ms, one.delivery_id) for index in indexes]
    link.run(commands)


ids = st.text("abAB-_~1.", min_size=1, max_size=3).filter(
    lambda text: not text.startswith(".") and not text.endswith(".") and ".." not in text
)
mail = st.builds(
    delivery,
    ids,
    st.integers(0, 3),
    st.sampled_from(SOURCES),
    st.sampled_from(STATUSES),
    st.sampled_from(["k1", "k2"]),
)
filters = st.builds(
    Filter,
    recipient=st.none() | st.sampled_from(["ann@example.org", "ANN@example.org", "bob@example.org"]),
    status=st.none() | st.sampled_from(STATUSES),
    source=st.none() | st.sampled_from(SOURCES),
    idempotency_key=st.none() | st.sampled_from(["k1", "k2"]),
    created_from_ms=st.none() | st.integers(NOW_MS, NOW_MS + 3),
    created_to_ms=st.none() | st.integers(NOW_MS, NOW_MS + 3),
)


def matching(deliveries: list[Delivery], which: Filter, *, oldest_first: bool) -> list[str]:
    found = [
        one
        for one in deliveries
        if (which.recipient is None or which.recipient.lower() == "ann@example.org")
        and which.status in (None, one.status)
        and which.source in (None, one.source)
        and which.idempotency_key in (None, one.idempotency_key)
        and (which.created_from_ms is None or which.created_from_ms <= one.created_at_ms)
        and (which.created_to_ms is None or one.created_at_ms <= which.created_to_ms)
    ]
    found.sort(key=lambda one: (one.created_at_ms, one.delivery_id), reverse=not oldest_first)
    return [one.delivery_id for one in found]


async def all_pages(reader: Reader, which: Filter, **how: Any) -> list[str]:
    seen: list[str] = []
    after: Position | None = None
    while True:
        page = await reader.deliveries(which, after=after, **how)
        assert len(page.items) <= how["limit"]
        assert after is None or page.next != after  # every page gets further
        seen += [one.delivery_id for one in page.items]
        if page.next is None:
            return seen
        after = page.next


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(mail, max_size=25, unique_by=lambda one: one.delivery_id),
    filters,
    st.integers(1, 5),
    st.integers(1, 7),
    st.booleans(),
)
def test_pages_together_are_what_matches_in_order(
    link: BlockingLink, deliveries: list[Delivery], which: Filter, limit: int, scan: int, oldest_first: bool
) -> None:
    fill(link, deliveries)

    async def read() -> list[str]:
        return await all_pages(reader_of(link), which, limit=limit, scan=scan, oldest_first=oldest_first)

    assert trio.run(read) == matching(deliveries, which, oldest_first=oldest_first)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(mail, min_size=1, max_size=12, unique_by=lambda one: one.delivery_id), st.data())
def test_a_cursor_whose_delivery_is_gone_still_leads_on(
    link: BlockingLink, deliveries: list[Delivery], data: st.DataObject
) -> None:
    ordered = matching(deliveries, Filter(), oldest_first=False)
    gone = data.draw(st.integers(0, len(ordered) - 1))
    lost = next(one for one in deliveries if one.delivery_id == ordered[gone])
    fill(link, [one for one in deliveries if one is not lost])

    async def read() -> list[str]:
        after = Position(lost.created_at_ms, lost.delivery_id)
        page = await reader_of(link).deliveries(Filter(), limit=200, after=after)
        return [one.delivery_id for one in page.items]

    assert trio.run(read) == ordered[gone + 1 :]


def test_thousands_of_equal_times_cost_no_more_than_a_few(link: BlockingLink) -> None:
    """By rank and binary search: looked at are the candidates of the page, not those before it."""
    names = [f"{number:05}" for number in range(5_000)]
    link.run([("FLUSHALL",)])
    link.run([("ZADD", k.created_at_index, *(part for name in names for part in (NOW_MS, name)))])
    records = [delivery(name, 0, Source.NOTIFICATION, DeliveryStatus.SENT, "k") for name in names]
    link.run([("SET", k.delivery(one.delivery_id), encode_delivery(one)) for one in records])

    def calls() -> int:
        [reply] = link.run([("INFO", "commandstats")])
        assert isinstance(reply, bytes)
        lines = [
            line
            for line in reply.decode().splitlines()
            if line.startswith(("cmdstat_zrevrange:", "cmdstat_zcount:"))
        ]
        return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)

    async def read() -> None:
        reader = reader_of(link)
        page = await reader.deliveries(Filter(), limit=50, after=Position(NOW_MS, "02500"))
        assert [one.delivery_id for one in page.items] == [f"{n:05}" for n in range(2499, 2449, -1)]

    before = calls()
    trio.run(read)
    assert calls() - before < 30


def test_a_page_ends_where_its_bytes_do_and_the_next_goes_on(link: BlockingLink) -> None:
    large = [
        Delivery(
            delivery_id=f"d{number:03}",
            source=Source.NOTIFICATION,
            status=DeliveryStatus.QUEUED,
            payload_mode=PayloadMode.RENDERED,
            envelope=Envelope(to=tuple(f"{'x' * 60}{n}@example.org" for n in range(100))),
            idempotency_key="k",
            message_id="m",
            created_at_ms=NOW_MS,
            updated_at_ms=NOW_MS,
        )
        for number in range(100)
    ]
    fill(link, large)

    async def read() -> tuple[int, list[str]]:
        reader = reader_of(link)
        first = await reader.deliveries(Filter(), limit=200)
        size = sum(len(encode_delivery(one)) for one in first.items)
        assert size <= PAGE_MAX_BYTES
        return len(first.items), await all_pages(reader, Filter(), limit=200)

    of_first, everything = trio.run(read)
    assert 1 < of_first < 100
    assert everything == [f"d{number:03}" for number in reversed(range(100))]
