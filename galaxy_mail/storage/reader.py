"""What operators read: deliveries, attempts, dead letters, malformed commands.

What is past its time counts as gone, whether or not the janitor was there. Pages are bounded in every way: by items, by
the candidates that Redis looks at, and by bytes; so a page may be short, or empty, and still not be the last one.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from heapq import nsmallest
from typing import Final, Generic, TypeVar

from msgspec import Struct

from galaxy_mail.domain.records import (
    Attempt,
    Content,
    DeadLetter,
    Delivery,
    DeliveryStatus,
    IdempotencyRecord,
    MalformedCommand,
    RenderedContent,
    Source,
    Suppression,
)
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.links.protocol import RedisLink
from galaxy_mail.storage.links.replies import (
    as_bytes_list,
    as_optional_bytes,
    as_optional_bytes_list,
    as_scan,
)
from galaxy_mail.storage.operations.operation import NoKeys
from galaxy_mail.storage.operations.page import PAGE, IndexPage, PageArgs
from galaxy_mail.storage.records.encoding import readable, readable_attempt, readable_delivery
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import Retention

SCAN: Final = 500  # candidates that one page looks at: half a millisecond of Redis' time
PAGE_MAX_BYTES: Final = (
    256 * 1024
)  # of records; an answer that a client is slow to read stays in the sockets' buffers
RECORDS_AT_A_TIME: Final = 50  # of a page, which may end by its bytes before it has read all
ATTEMPTS_AT_A_TIME: Final = 16
SUPPRESSIONS_AT_A_TIME: Final = 1_000

R = TypeVar("R", bound=Struct)


class Position(Struct, frozen=True):
    """Where a page ended: everything up to here has been looked at."""

    at_ms: int
    member: str  # a delivery id or an entry id


class Page(Struct, Generic[R], frozen=True):
    items: list[R]
    next: Position | None  # None: the list ends here


class Filter(Struct, frozen=True, kw_only=True):
    """Which deliveries; all conditions together."""

    recipient: str | None = None  # normalised; case does not count
    status: DeliveryStatus | None = None
    source: Source | None = None
    template_id: str | None = None
    idempotency_key: str | None = None
    created_from_ms: int | None = None
    created_to_ms: int | None = None


class Found(Struct, frozen=True, kw_only=True):
    """A delivery with all that is kept of its content."""

    delivery: Delivery
    content: Content | None
    rendered: RenderedContent | None


class Reader:
    """Reads records by id and in pages."""

    def __init__(self, link: RedisLink, *, keys: Keys, retention: Retention, clock: Clock) -> None:
        self.clock = clock
        self._link = link
        self._keys = keys
        self._retention = retention

    # By id

    async def delivery(self, delivery_id: str) -> Delivery | None:
        """The delivery, None where there is none or its time is over. Raises RedisFailure."""
        [reply] = await self._link.pipeline([("GET", self._keys.delivery(delivery_id))])
        return self._current(as_optional_bytes(reply), delivery_id)

    async def with_content(self, delivery_id: str) -> Found | None:
        """The delivery with its content, as `delivery`. Raises RedisFailure."""
        record, payload = await self._link.pipeline(
            [
                ("GET", self._keys.delivery(delivery_id)),
                ("HMGET", self._keys.payload(delivery_id), "content", "rendered"),
            ]
        )
        delivery = self._current(as_optional_bytes(record), delivery_id)
        if delivery is None:
            return None
        content, rendered = as_optional_bytes_list(payload)
        return Found(
            delivery=delivery,
            content=readable(content, Content),
            rendered=readable(rendered, RenderedContent),
        )

    async def children(self, delivery_ids: Sequence[str]) -> list[list[str]]:
        """The resends of each of these deliveries, oldest first. Raises RedisFailure."""
        if not delivery_ids:
            return []
        replies = await self._link.pipeline(
            [("ZRANGE", self._keys.children_index(delivery_id), 0, -1) for delivery_id in delivery_ids]
        )
        return [[child.decode() for child in as_bytes_list(reply)] for reply in replies]

    async def attempts(self, delivery_id: str) -> list[Attempt] | None:
        """What was tried, oldest first; None where neither delivery nor attempts are left. Raises RedisFailure."""
        attempts: list[Attempt] = []
        exists = False
        while True:
            first = len(attempts) + 1
            keys = [
                self._keys.attempt(delivery_id, number) for number in range(first, first + ATTEMPTS_AT_A_TIME)
            ]
            record, reply = await self._link.pipeline(
                [("GET", self._keys.delivery(delivery_id)), ("MGET", *keys)]
            )
            exists = exists or self._current(as_optional_bytes(record), delivery_id) is not None
            found = as_optional_bytes_list(reply)
            read = [readable_attempt(data, delivery_id, number) for number, data in enumerate(found, first)]
            attempts += [attempt for attempt in read if attempt is not None]
            if None in read:  # they are numbered without gaps
                break
        if exists or (attempts and self._kept(attempts[-1], _ended_at_ms)):
            return attempts
        return None

    async def malformed_command(self, entry_id: str) -> MalformedCommand | None:
        """One malformed command. Raises RedisFailure."""
        [reply] = await self._link.pipeline([("GET", self._keys.malformed(entry_id))])
        record = readable(as_optional_bytes(reply), MalformedCommand)
        return self._kept(record, _recorded_at_ms)

    async def idempotency(self, source: Source, key: str) -> IdempotencyRecord | None:
        """What was answered to this key, while that counts. Raises RedisFailure."""
        [reply] = await self._link.pipeline([("GET", self._keys.idempotency(source, key))])
        record = readable(as_optional_bytes(reply), IdempotencyRecord)
        return record if record is not None and record.expires_at_ms > self.clock.now_ms() else None

    # Pages

    async def deliveries(
        self,
        which: Filter,
        *,
        limit: int,
        after: Position | None = None,
        oldest_first: bool = False,
        scan: int = SCAN,
    ) -> Page[Delivery]:
        """Deliveries by `created_at_ms`, then id; newest first unless asked otherwise. Raises RedisFailure."""
        order = _Order(oldest_first)
        steps = await self._steps(self._indexes(which), which, order, limit=limit, after=after, scan=scan)
        step = _merged(steps, order, limit)
        return await self._page(step, self._keys.delivery, self._current)

    async def dead_letters(self, *, limit: int, after: Position | None = None) -> Page[DeadLetter]:
        """What was given up, newest first. Raises RedisFailure."""
        step = await self._all_of(self._keys.dead_letters_index, limit=limit, after=after)
        return await self._page(
            step,
            self._keys.dead_letter,
            lambda data, _: self._kept(readable(data, DeadLetter), _died_at_ms),
        )

    async def malformed_commands(
        self, *, limit: int, after: Position | None = None
    ) -> Page[MalformedCommand]:
        """Entries that could not be accepted, newest first. Raises RedisFailure."""
        step = await self._all_of(self._keys.malformed_index, limit=limit, after=after)
        return await self._page(
            step,
            self._keys.malformed,
            lambda data, _: self._kept(readable(data, MalformedCommand), _recorded_at_ms),
        )

    async def suppressions(self, *, limit: int, after: str = "") -> tuple[list[Suppression], str | None]:
        """Entries by address from behind `after`, and behind which to go on, None at the end. Raises RedisFailure.

        The list is a hash, so a page costs a walk over it, in steps that hold nobody up.
        """
        behind: set[bytes] = set()
        async for addresses in self._suppressed_addresses():
            behind.update(address for address in addresses if address > after.encode())
        chosen = [address.decode() for address in nsmallest(limit, behind)]
        entries = await self.suppressions_of(chosen)
        return entries, chosen[-1] if len(behind) > len(chosen) else None

    async def suppressed_addresses(self) -> list[str]:
        """Every entry's address, in order. Raises RedisFailure."""
        everything: set[bytes] = set()
        async for addresses in self._suppressed_addresses():
            everything.update(addresses)
        return [address.decode() for address in sorted(everything)]

    async def suppressions_of(self, addresses: Sequence[str]) -> list[Suppression]:
        """The entries of these addresses, as far as there are any. Raises RedisFailure."""
        if not addresses:
            return []
        [reply] = await self._link.pipeline([("HMGET", self._keys.suppressions, *addresses)])
        read = [readable(data, Suppression) for data in as_optional_bytes_list(reply)]
        return [entry for entry in read if entry is not None]

    async def _suppressed_addresses(self) -> AsyncIterator[list[bytes]]:
        """All of them, some at a time, and some perhaps twice."""
        cursor = "0"
        while True:
            command = ("HSCAN", self._keys.suppressions, cursor, "COUNT", SUPPRESSIONS_AT_A_TIME)
            [reply] = await self._link.pipeline([command])
            cursor, flat = as_scan(reply)
            yield flat[::2]
            if cursor == "0":
                return

    # Steps through indexes

    async def _all_of(self, index: str, *, limit: int, after: Position | None) -> "_Step":
        [step] = await self._steps([(index,)], Filter(), _Order(False), limit=limit, after=after, scan=SCAN)
        return step

    async def _steps(
        self,
        alternatives: "Sequence[tuple[str, ...]]",
        which: Filter,
        order: "_Order",
        *,
        limit: int,
        after: Position | None,
        scan: int,
    ) -> "list[_Step]":
        """One step through each of these sets of indexes, in one round trip."""
        arguments = PageArgs(
            order=order.name,
            limit=limit,
            scan=scan,
            from_score="-inf" if which.created_from_ms is None else which.created_from_ms,
            to_score="+inf" if which.created_to_ms is None else which.created_to_ms,
            after_score=None if after is None else after.at_ms,
            after_id=None if after is None else after.member,
        )
        replies = await self._link.pipeline(
            [PAGE.call(NoKeys(), arguments, more_keys=indexes) for indexes in alternatives]
        )
        return [_step(PAGE.decode(reply)) for reply in replies]

    async def _page(
        self,
        step: "_Step",
        key: Callable[[str], str],
        read: Callable[[bytes | None, str], R | None],
    ) -> Page[R]:
        """The records of a step, as far as they are there and there is room for them; `read` is told a member's."""
        items: list[R] = []
        room = PAGE_MAX_BYTES
        for first in range(0, len(step.found), RECORDS_AT_A_TIME):
            found = step.found[first : first + RECORDS_AT_A_TIME]
            [reply] = await self._link.pipeline([("MGET", *(key(position.member) for position in found))])
            records = as_optional_bytes_list(reply)
            for number, (data, position) in enumerate(zip(records, found, strict=True)):
                record = read(data, position.member)
                if record is None or data is None:
                    continue
                room -= len(data)
                if room < 0 and items:
                    return Page(items, step.found[first + number - 1])
                items.append(record)
        return Page(items, step.next)

    def _indexes(self, which: Filter) -> list[tuple[str, ...]]:
        """The sets of indexes in all of which a delivery stands; there are several only where a key is looked for alone."""
        indexes: list[str] = []
        if which.recipient is not None:
            indexes.append(self._keys.recipient_index(which.recipient))
        if which.status is not None:
            indexes.append(self._keys.status_index(which.status))
        if which.template_id is not None:
            indexes.append(self._keys.template_index(which.template_id))
        if which.idempotency_key is not None:
            sources = list(Source) if which.source is None else [which.source]
            return [
                (*indexes, self._keys.idempotency_index(source, which.idempotency_key)) for source in sources
            ]
        if which.source is not None:
            indexes.append(self._keys.source_index(which.source))
        return [tuple(indexes) or (self._keys.created_at_index,)]

    # What counts

    def _current(self, data: bytes | None, delivery_id: str) -> Delivery | None:
        delivery = readable_delivery(data, delivery_id)
        if delivery is None or delivery.status not in TERMINAL:
            return delivery
        return delivery if self._retention.purge_at_ms(delivery) > self.clock.now_ms() else None

    def _kept(self, record: R | None, at_ms: Callable[[R], int]) -> R | None:
        """What is kept as long as attempts are."""
        if record is None or at_ms(record) + self._retention.attempt_ms <= self.clock.now_ms():
            return None
        return record


class _Order(Struct, frozen=True):
    """By time, then by id, both in one direction."""

    oldest_first: bool

    @property
    def name(self) -> str:
        return "oldest" if self.oldest_first else "newest"

    def sorted(self, positions: Iterable[Position]) -> list[Position]:
        return sorted(positions, key=_place, reverse=not self.oldest_first)

    def is_within(self, position: Position, end: Position) -> bool:
        if self.oldest_first:
            return _place(position) <= _place(end)
        return _place(position) >= _place(end)


class _Step(Struct, frozen=True):
    """What the page script gave."""

    found: list[Position]
    next: Position | None  # the last candidate that was looked at; None: there are no more


def _step(page: IndexPage) -> _Step:
    return _Step(
        [Position(at_ms, member) for member, at_ms in page.found],
        None if page.last is None else Position(page.last[1], page.last[0]),
    )


def _merged(steps: "Sequence[_Step]", order: _Order, limit: int) -> _Step:
    """Steps through sets of indexes that have no id in common, as if through one set that holds them all."""
    if len(steps) == 1:
        return steps[0]
    # Up to the nearest of the ends everything is known; what was found beyond it may have others before it.
    ends = order.sorted(step.next for step in steps if step.next is not None)
    found = order.sorted(position for step in steps for position in step.found)
    known = [position for position in found if not ends or order.is_within(position, ends[0])]
    if len(known) > limit:
        return _Step(known[:limit], known[limit - 1])
    return _Step(known, ends[0] if ends else None)


def _ended_at_ms(attempt: Attempt) -> int:
    return attempt.finished_at_ms or attempt.started_at_ms or attempt.scheduled_for_ms


def _died_at_ms(dead_letter: DeadLetter) -> int:
    return dead_letter.created_at_ms


def _recorded_at_ms(command: MalformedCommand) -> int:
    return command.recorded_at_ms


def _place(position: Position) -> tuple[int, str]:
    return position.at_ms, position.member
