"""Maintenance of the store: purge expired records, repair the schedule, measure depths.

Every change is a script that first compares the record with what was read here, so that no change is based on an old
record. Records that this release can't read are left alone and reported.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from galaxy_mail.domain.records import Delivery, DeliveryStatus, Lane, Source
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.links.protocol import Call, Command, RedisLink, Reply
from galaxy_mail.storage.links.replies import (
    answered,
    as_bytes_list,
    as_int,
    as_optional_bytes_list,
)
from galaxy_mail.storage.operations.claims import ClaimedRecords
from galaxy_mail.storage.operations.purge import PURGE, PurgeArgs, PurgeKeys
from galaxy_mail.storage.operations.repair import REPAIR, RepairArgs, RepairKeys
from galaxy_mail.storage.operations.reschedule import RESCHEDULE, reschedule_call
from galaxy_mail.storage.records.encoding import readable_delivery
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import BACKSTOP_MS, Retention

BATCH: Final = 200
ATTEMPTS_AT_A_TIME: Final = 16
QUARANTINED_AT_A_TIME: Final = 10  # each with all of its content
WAITING: Final = tuple(status for status in DeliveryStatus if status not in TERMINAL)


class Depths(Struct, frozen=True, kw_only=True):
    """The schedule at one moment."""

    scheduled: dict[Lane, int]
    oldest_due_ms: dict[Lane, int | None]  # of what is due now; None: nothing is
    claims: int


class Repaired(Struct, frozen=True, kw_only=True):
    """The result of one sweep."""

    rescheduled: tuple[str, ...] = ()  # unfinished, and no lane had them
    unscheduled: tuple[str, ...] = ()  # terminal, and a lane had them
    not_understood: tuple[str, ...] = ()  # scheduled without a readable record: left alone
    requeued: tuple[str, ...] = ()  # quarantined by a release that could not read them; this one can


class Upkeep:
    """What the janitor runs. Each sweep does one bounded batch; the next sweep continues behind it."""

    def __init__(self, link: RedisLink, *, keys: Keys, retention: Retention, clock: Clock) -> None:
        self._link = link
        self._keys = keys
        self._retention = retention
        self._clock = clock
        self._claimed = ClaimedRecords(link, keys)
        # Indexes that may have a delivery whose record is gone; `verify-store --repair` finds the others.
        self._common_indexes = (
            keys.created_at_index,
            *map(keys.status_index, sorted(TERMINAL)),
            *map(keys.source_index, Source),
        )
        self._waiting_rank = dict.fromkeys(WAITING, 0)
        self._lane_rank = dict.fromkeys(Lane, 0)
        self._left_alone = 0  # due, looked at since the index was last read from its start, and still there
        self._quarantined_rank = dict.fromkeys(Lane, 0)

    async def depths(self) -> Depths:
        """For the gauges. Raises RedisFailure."""
        now_ms = self._clock.now_ms()
        commands: list[Command | Call] = [("HLEN", self._keys.claims)]
        for lane in Lane:
            key = self._keys.lane(lane)
            commands += [
                ("ZCARD", key),
                ("ZRANGEBYSCORE", key, "-inf", now_ms, "WITHSCORES", "LIMIT", 0, 1),
            ]
        claims, *rest = [answered(reply) for reply in await self._link.pipeline(commands)]
        scheduled: dict[Lane, int] = {}
        oldest: dict[Lane, int | None] = {}
        for lane, depth, first in zip(Lane, rest[::2], rest[1::2], strict=True):
            scheduled[lane] = as_int(depth)
            first_due = as_bytes_list(first)
            oldest[lane] = int(float(first_due[1])) if first_due else None
        return Depths(scheduled=scheduled, oldest_due_ms=oldest, claims=as_int(claims))

    async def purge(self) -> int:
        """Purges records whose retention is over; returns how many deliveries and attempt histories. Raises RedisFailure."""
        now_ms = self._clock.now_ms()
        due = await self._members(
            ("ZRANGEBYSCORE", self._keys.expires_index, "-inf", now_ms, "LIMIT", self._left_alone, BATCH)
        )
        calls: list[Command | Call] = []
        went_before: list[str] = []
        for delivery_id, data in await self._records(due):
            if data is None:
                went_before.append(delivery_id)
            elif (call := self._purge_call(delivery_id, data, now_ms)) is not None:
                calls.append(call)
        gone = sum(PURGE.decode(reply) for reply in await self._run(calls))
        gone += await self._purge_attempts(went_before, now_ms)
        # What could not be read stays in the index; the next sweep starts behind it.
        self._left_alone = self._left_alone + len(due) - gone if len(due) == BATCH else 0
        return gone

    def _purge_call(self, delivery_id: str, data: bytes, now_ms: int) -> Call | None:
        delivery = readable_delivery(data, delivery_id)
        if (
            delivery is None
            or delivery.status not in TERMINAL
            or self._retention.purge_at_ms(delivery) > now_ms
        ):
            return None  # unreadable, or too early: waiting loses nothing
        finished_at_ms = delivery.finished_at_ms or delivery.updated_at_ms
        return PURGE.call(
            PurgeKeys(
                delivery=self._keys.delivery(delivery_id),
                payload=self._keys.payload(delivery_id),
                children=self._keys.children_index(delivery_id),
                expires=self._keys.expires_index,
            ),
            PurgeArgs(
                delivery_id=delivery_id,
                delivery_record=data,
                attempts_purge_at_ms=finished_at_ms + self._retention.attempt_ms,
            ),
            more_keys=self._keys.indexes_of(delivery),
        )

    async def _purge_attempts(self, ids: list[str], now_ms: int) -> int:
        """Purges the attempts and dead letters of deliveries that were purged before. Attempts are numbered without gaps."""
        looks = await self._run(
            [
                look
                for delivery_id in ids
                for look in (
                    ("PEXPIRETIME", self._keys.attempt(delivery_id, 1)),
                    ("EXISTS", *self._attempt_keys(delivery_id, 1)),
                    ("ZSCORE", self._keys.created_at_index, delivery_id),
                )
            ]
        )
        commands: list[Command | Call] = []
        gone = 0
        for delivery_id, ends_ms, found, indexed in zip(
            ids, looks[::3], looks[1::3], looks[2::3], strict=True
        ):
            if indexed is not None:  # its key expired before the janitor purged it
                commands += [
                    REPAIR.call(
                        RepairKeys(delivery=self._keys.delivery(delivery_id), repaired_index=index),
                        RepairArgs(delivery_id=delivery_id, delivery_record=None, score=None),
                    )
                    for index in self._common_indexes
                ]
            purge_at_ms = as_int(ends_ms) - BACKSTOP_MS
            if purge_at_ms > now_ms:
                commands.append(("ZADD", self._keys.expires_index, purge_at_ms, delivery_id))
                continue
            first, existing = 1, as_int(found)
            commands.append(("DEL", *self._attempt_keys(delivery_id, first)))
            while existing == ATTEMPTS_AT_A_TIME:
                first += ATTEMPTS_AT_A_TIME
                [more] = await self._run([("EXISTS", *self._attempt_keys(delivery_id, first))])
                existing = as_int(more)
                commands.append(("DEL", *self._attempt_keys(delivery_id, first)))
            commands += [
                ("DEL", self._keys.dead_letter(delivery_id)),
                ("ZREM", self._keys.dead_letters_index, delivery_id),
                (
                    "ZREM",
                    self._keys.expires_index,
                    delivery_id,
                ),  # last: a crash before it repeats all of this
            ]
            gone += 1
        await self._run(commands)
        return gone

    async def purge_malformed(self) -> int:
        """Purges malformed commands whose retention is over. Raises RedisFailure."""
        limit_ms = self._clock.now_ms() - self._retention.attempt_ms
        due = await self._members(
            ("ZRANGEBYSCORE", self._keys.malformed_index, "-inf", limit_ms, "LIMIT", 0, BATCH)
        )
        if due:
            await self._run(
                [("DEL", *map(self._keys.malformed, due)), ("ZREM", self._keys.malformed_index, *due)]
            )
        return len(due)

    async def reconcile(self) -> Repaired:
        """Compares a batch of states with the schedule, in both directions. Raises RedisFailure."""
        rescheduled: list[str] = []
        unscheduled: list[str] = []
        not_understood: list[str] = []
        requeued: list[str] = []
        for status in WAITING:
            rescheduled += await self._reschedule_waiting(status)
        for lane in Lane:
            removed, replaced = await self._unschedule_finished(lane)
            unscheduled += removed
            not_understood += replaced
            requeued += await self._reschedule_quarantined(lane)
        return Repaired(
            rescheduled=tuple(rescheduled),
            unscheduled=tuple(unscheduled),
            not_understood=tuple(not_understood),
            requeued=tuple(requeued),
        )

    async def _reschedule_waiting(self, status: DeliveryStatus) -> list[str]:
        """Schedules unfinished deliveries that are in no lane."""
        rank = self._waiting_rank[status]
        ids = await self._members(("ZRANGE", self._keys.status_index(status), rank, rank + BATCH - 1))
        self._waiting_rank[status] = rank + BATCH if len(ids) == BATCH else 0
        missing = await self._in_no_lane(ids)
        repaired: list[str] = []
        for delivery_id, data in await self._records(missing):
            delivery = readable_delivery(data, delivery_id)
            if data is None or delivery is None or delivery.status in TERMINAL:
                continue
            if await self._reschedule(delivery_id, data, delivery.lane, self._due_ms(delivery)):
                repaired.append(delivery_id)
        return repaired

    async def _reschedule_quarantined(self, lane: Lane) -> list[str]:
        """Deliveries that another release quarantined are due again once this release can read them."""
        rank = self._quarantined_rank[lane]
        key = self._keys.lane(lane)
        ids = await self._members(
            ("ZRANGEBYSCORE", key, "+inf", "+inf", "LIMIT", rank, QUARANTINED_AT_A_TIME)
        )
        self._quarantined_rank[lane] = (
            rank + QUARANTINED_AT_A_TIME if len(ids) == QUARANTINED_AT_A_TIME else 0
        )
        requeued: list[str] = []
        for delivery_id, data in await self._records(ids):
            delivery = readable_delivery(data, delivery_id)
            if data is None or delivery is None or not await self._claimed.are_readable(delivery_id):
                continue
            if await self._reschedule(delivery_id, data, delivery.lane, self._due_ms(delivery)):
                requeued.append(delivery_id)
        return requeued

    async def _unschedule_finished(self, lane: Lane) -> tuple[list[str], list[str]]:
        """Removes terminal deliveries from the schedule. Scheduled ids without a readable record are only reported."""
        rank = self._lane_rank[lane]
        ids = await self._members(("ZRANGE", self._keys.lane(lane), rank, rank + BATCH - 1))
        self._lane_rank[lane] = rank + BATCH if len(ids) == BATCH else 0
        repaired: list[str] = []
        replaced: list[str] = []
        for delivery_id, data in await self._records(ids):
            delivery = readable_delivery(data, delivery_id)
            if data is None or delivery is None:
                replaced.append(delivery_id)
            elif delivery.status in TERMINAL and await self._reschedule(
                delivery_id, data, delivery.lane, None
            ):
                repaired.append(delivery_id)
        return repaired, replaced

    def _due_ms(self, delivery: Delivery) -> int:
        return delivery.next_attempt_at_ms or self._clock.now_ms()

    async def _reschedule(self, delivery_id: str, data: bytes, lane: Lane, due_ms: int | None) -> bool:
        [reply] = await self._link.pipeline([reschedule_call(self._keys, delivery_id, data, lane, due_ms)])
        return RESCHEDULE.decode(reply)

    async def _in_no_lane(self, ids: list[str]) -> list[str]:
        if not ids:
            return []
        priority, normal = (
            as_optional_bytes_list(reply)
            for reply in await self._link.pipeline(
                [("ZMSCORE", self._keys.lane(lane), *ids) for lane in (Lane.PRIORITY, Lane.NORMAL)]
            )
        )
        return [i for i, p, n in zip(ids, priority, normal, strict=True) if p is None and n is None]

    async def _run(self, commands: Sequence[Command | Call]) -> list[Reply]:
        if not commands:
            return []
        return [answered(reply) for reply in await self._link.pipeline(commands)]

    async def _members(self, command: Command) -> list[str]:
        [reply] = await self._link.pipeline([command])
        return [member.decode() for member in as_bytes_list(reply)]

    async def _records(self, ids: list[str]) -> list[tuple[str, bytes | None]]:
        if not ids:
            return []
        [reply] = await self._link.pipeline([("MGET", *map(self._keys.delivery, ids))])
        return list(zip(ids, as_optional_bytes_list(reply), strict=True))

    def _attempt_keys(self, delivery_id: str, first: int) -> list[str]:
        return [
            self._keys.attempt(delivery_id, number) for number in range(first, first + ATTEMPTS_AT_A_TIME)
        ]
