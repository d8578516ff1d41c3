"""The service: starts every part under the supervisor, and stops them.

The order of stopping is the indentation of `run`: nothing new is taken in, attempts in hand end, Redis goes last.
"""

from functools import partial
from random import Random
from typing import Final

import structlog
import trio

from galaxy_mail.config import Config
from galaxy_mail.service.dependencies import Dependencies
from galaxy_mail.service.parts import Parts
from galaxy_mail.storage.links.errors import UnfitRedis
from galaxy_mail.telemetry.traces import Traces

log = structlog.get_logger()

FLUSH_WITHIN_S: Final = 0.5
CANCEL_WITHIN_S: Final = 2.0  # a little more than a slot takes to record its answer or to release its claim


class Service:
    """Runs the parts of one process. Raises what makes it unable to start, before it runs.

    `run` serves until `stop` is called, or ends with what broke: RestartsExhausted, UnfitRedis.
    """

    def __init__(
        self,
        config: Config,
        *,
        traces: Traces | None = None,
        dependencies: Dependencies | None = None,
        random: Random | None = None,  # of the pauses between restarts
        api: bool = True,
    ) -> None:
        self.config = config
        self.parts = Parts(
            config,
            on_unfit=self._on_unfit,
            traces=traces,
            dependencies=dependencies,
            random=random,
            api=api,
        )
        self._stop = trio.Event()
        self._everything = trio.CancelScope()
        self._work: trio.CancelScope | None = None  # all but the storage, which goes last
        self._unfit: UnfitRedis | None = None

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until stopped. Raises RestartsExhausted, UnfitRedis."""
        parts = self.parts
        for problem in parts.catalog.warnings:
            log.warning(
                "template_warning", file=str(problem.file), line=problem.line, message=problem.message
            )
        keep_alive = parts.supervisor.keep_alive
        with self._everything:
            async with trio.open_nursery() as storage:
                for child in (parts.valkey, parts.redis, parts.relays):
                    if child is not None:
                        storage.start_soon(keep_alive, child)
                async with trio.open_nursery() as senders:
                    self._work = senders.cancel_scope
                    for slot in parts.slots:
                        # A slot that crashes during the stop, or before it, is not waited for.
                        senders.start_soon(partial(keep_alive, slot, retired=self._stop))
                    async with trio.open_nursery() as intake:
                        for child in (
                            parts.janitor,
                            parts.scheduler,
                            parts.ingress,
                            parts.resend_jobs,
                            parts.http,
                        ):
                            if child is not None:
                                intake.start_soon(keep_alive, child)
                        task_status.started()
                        await self._stop.wait()
                        # Nothing new is accepted or claimed; attempts in hand have the grace to end.
                        senders.cancel_scope.deadline = (
                            trio.current_time() + self.config.shutdown_grace_ms / 1000
                        )
                        intake.cancel_scope.cancel()
                    parts.lanes.close()
                with trio.move_on_after(FLUSH_WITHIN_S, shield=True):
                    await parts.traces.flush_and_close(FLUSH_WITHIN_S)
                storage.cancel_scope.cancel()
        parts.close()
        if self._unfit is not None:
            raise self._unfit

    def stop(self) -> None:
        """Asks for a graceful stop."""
        self.parts.gauges.stopping = True
        self._stop.set()

    def cancel(self) -> None:
        """Ends at once: slots release or record what they can within a second, other processes take over the rest."""
        self.stop()
        self._everything.deadline = trio.current_time() + CANCEL_WITHIN_S
        if self._work is not None:
            self._work.cancel()

    def _on_unfit(self, unfit: UnfitRedis) -> None:
        self._unfit = unfit
        self._everything.cancel()
