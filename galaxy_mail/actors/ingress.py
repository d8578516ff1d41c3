"""The ingress: reads the command stream in order. Only the process that holds the lease reads."""

from contextlib import suppress
from typing import Final

import structlog
import trio

from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.errors import ungrouped
from galaxy_mail.intake.stream_intake import Batch, CommandIntake, Progress
from galaxy_mail.storage.links.errors import RedisFailure
from galaxy_mail.storage.operations.command_stream import BATCH_ENTRIES, CommandStream, StreamState
from galaxy_mail.telemetry.metrics import Metrics
from galaxy_mail.telemetry.repeated import Repeated

log = structlog.get_logger()

LEASE_TTL_MS: Final = 3_000  # with the poll below, another process takes over within 5 s
LEASE_EVERY_S: Final = 1.0
PAUSE_AFTER_FAILURE_S: Final = 0.5
GIVE_UP_WITHIN_S: Final = 1.0


class Ingress:
    """Reads the entries after the stored offset while it holds the lease; otherwise tries to get the lease every second.

    Ends when cancelled, and then gives up the lease, so that another process can read at once. Touches the stream and the
    intake.
    """

    def __init__(
        self,
        *,
        stream: CommandStream,
        intake: CommandIntake,
        block_ms: int,
        metrics: Metrics,
        heartbeat: Heartbeat,
    ) -> None:
        self.stream = stream
        self.intake = intake
        self.block_ms = block_ms
        self.metrics = metrics
        self.heartbeat = heartbeat
        self.reading = False
        self._held_s = float("-inf")  # trio.current_time() before the latest call that got or kept the lease
        self._failure = Repeated()
        self._restarted = Repeated()

    async def run(self) -> None:
        try:
            while True:
                self.heartbeat.beat()
                try:
                    if await self._hold_lease():
                        await self._read_while_leased()
                    await trio.sleep(LEASE_EVERY_S)
                except RedisFailure as failure:
                    if self._failure.is_new(str(failure)):
                        log.warning("reading_commands_failed", error=str(failure))
                    await trio.sleep(PAUSE_AFTER_FAILURE_S)
        finally:
            with trio.move_on_after(GIVE_UP_WITHIN_S, shield=True):
                await self._give_up_lease()

    async def _hold_lease(self) -> bool:
        asked_s = trio.current_time()
        held = await self.stream.hold_lease(LEASE_TTL_MS)
        if held:
            self._held_s = asked_s
        return held

    async def _give_up_lease(self) -> None:
        try:
            await self.stream.give_up_lease()
        except RedisFailure as failure:
            log.warning("lease_not_given_up", error=str(failure))  # the lease expires

    async def _read_while_leased(self) -> None:
        """Reads until the lease expires or another process has it. Raises RedisFailure."""
        with ungrouped(RedisFailure):
            async with trio.open_nursery() as nursery:
                self.reading = True
                nursery.start_soon(self._keep_lease, nursery.cancel_scope)
                try:
                    await self._read()
                finally:
                    self.reading = False
                    nursery.cancel_scope.cancel()

    async def _keep_lease(self, reading: trio.CancelScope) -> None:
        while trio.current_time() - self._held_s < LEASE_TTL_MS / 1000:
            await trio.sleep(LEASE_EVERY_S)
            try:
                if not await self._hold_lease():
                    break
            except RedisFailure as failure:
                log.warning("lease_not_renewed", error=str(failure))
        reading.cancel()

    async def _read(self) -> None:
        offset = await self.stream.offset()
        ahead: Batch | None = None
        while True:
            self.heartbeat.beat(within_s=self.block_ms / 1000 + self.heartbeat.within_s)
            batch = ahead if ahead is not None else await self._fetch(offset)
            ahead = None
            if not batch.entries:
                if not await self.stream.wait_for_more(offset, block_ms=self.block_ms):
                    state = await self._check_for_losses()
                    if state.offset != offset:  # the store was set back: read again what it lost
                        offset = await self.stream.offset()
                self._failure.over()
                continue
            progress, ahead = await self._accept(batch, offset)
            if progress.refusal is not None:
                raise progress.refusal
            self._failure.over()
            if progress.offset != batch.entries[-1][0]:  # accepted in part, or another process moved it
                ahead = None
                offset = await self.stream.offset()
            else:
                offset = progress.offset

    async def _fetch(self, after: str) -> Batch:
        entries, none_before = await self.stream.read(after)
        if none_before:
            await self._check_for_losses()
        return await self.intake.decode(entries)

    async def _accept(self, batch: Batch, offset: str) -> tuple[Progress, Batch | None]:
        """Accepts a batch. After a full batch more entries are likely, so the next batch is read at the same time."""
        if len(batch.entries) < BATCH_ENTRIES:
            return await self.intake.accept(batch, offset=offset), None
        ahead: list[Batch] = []

        async def read_ahead() -> None:
            with suppress(RedisFailure):  # `_read` reads the batch again
                ahead.append(await self._fetch(batch.entries[-1][0]))

        with ungrouped(RedisFailure):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_ahead)
                progress = await self.intake.accept(batch, offset=offset)
        return progress, ahead[0] if ahead else None

    async def _check_for_losses(self) -> StreamState:
        """Reports entries that were trimmed before they were read, and a stream that restarted below the offset."""
        state = await self.stream.state()
        if state.lost != 0 and await self.stream.note_lost(state):
            self.metrics.ingress_gap(state.lost)
            log.error("stream_entries_lost", lost=state.lost, offset=state.offset)
        if state.restarted:
            if self._restarted.is_new("restarted"):
                self.metrics.store_alarm("stream_restarted")
                log.error(
                    "stream_begins_again_below_offset", offset=state.offset, last_entry_id=state.last_entry_id
                )
        else:
            self._restarted.over()
        return state
