"""The janitor: purges expired records, trims the stream, repairs the schedule, and samples the gauges."""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.storage.links.errors import RedisFailure
from galaxy_mail.storage.operations.command_stream import CommandStream
from galaxy_mail.storage.operations.upkeep import BATCH, Depths, Upkeep

log = structlog.get_logger()

SAMPLE_EVERY_S: Final = 2.0
RECONCILE_EVERY_S: Final = 10.0
PURGE_EVERY_S: Final = 5.0
PURGE_FOR_S: Final = 2.0  # of PURGE_EVERY_S: purging must be faster than deliveries finish
TRIM_EVERY_S: Final = 30.0


class Janitor:
    """Runs each maintenance task when it is due, in bounded batches.

    Ends when cancelled. Touches the store's upkeep and the stream; no claim, no lane.
    """

    def __init__(
        self,
        *,
        upkeep: Upkeep,
        stream: CommandStream,
        stream_kept_ms: int,
        on_sample: Callable[[Depths, int], None],  # the schedule's depths and the stream's lag
        heartbeat: Heartbeat,
    ) -> None:
        self.upkeep = upkeep
        self.stream = stream
        self.stream_kept_ms = stream_kept_ms
        self.heartbeat = heartbeat
        self._on_sample = on_sample
        self._tasks: list[tuple[float, Callable[[], Awaitable[object]]]] = [
            (SAMPLE_EVERY_S, self.sample),
            (PURGE_EVERY_S, self.purge),
            (RECONCILE_EVERY_S, self.reconcile),
            (TRIM_EVERY_S, self.trim),
        ]

    async def run(self) -> None:
        due_s = [trio.current_time()] * len(self._tasks)
        while True:
            self.heartbeat.beat()
            for number, (every_s, task) in enumerate(self._tasks):
                if due_s[number] > trio.current_time():
                    continue
                self.heartbeat.beat()
                try:
                    await task()
                except RedisFailure as failure:
                    log.warning("chore_failed", chore=task.__name__, error=str(failure))
                due_s[number] = trio.current_time() + every_s
            await trio.sleep_until(min(due_s))

    async def sample(self) -> None:
        """Reads the gauges. Raises RedisFailure."""
        state = await self.stream.state()
        self._on_sample(await self.upkeep.depths(), state.lag)

    async def purge(self) -> int:
        """Purges expired records in batches, for at most PURGE_FOR_S; returns their number. Raises RedisFailure."""
        until_s = trio.current_time() + PURGE_FOR_S
        gone, batch = 0, BATCH
        while batch >= BATCH and trio.current_time() <= until_s:
            self.heartbeat.beat()
            batch = await self.upkeep.purge() + await self.upkeep.purge_malformed()
            gone += batch
        if gone:
            log.info("forgotten", records=gone)
        return gone

    async def reconcile(self) -> None:
        """Compares one batch of states with the schedule and repairs the schedule. Raises RedisFailure."""
        repaired = await self.upkeep.reconcile()
        for delivery_id in repaired.rescheduled:
            log.error("delivery_was_not_scheduled", delivery_id=delivery_id)
        for delivery_id in repaired.unscheduled:
            log.error("finished_delivery_was_scheduled", delivery_id=delivery_id)
        for delivery_id in repaired.not_understood:
            log.error("scheduled_without_record", delivery_id=delivery_id)
        for delivery_id in repaired.requeued:
            log.info("parked_delivery_taken_up", delivery_id=delivery_id)

    async def trim(self) -> int:
        """Removes old stream entries that were read. Raises RedisFailure."""
        return await self.stream.trim(keep_ms=self.stream_kept_ms)
