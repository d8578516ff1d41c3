"""`galaxy-mail serve`: runs the service as a process, stops it on signals and bounds the stop by a deadline."""

import gc
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import click
import structlog
import trio

from galaxy_mail.config import Config
from galaxy_mail.service.service import Service
from galaxy_mail.telemetry import logs
from galaxy_mail.telemetry.otel_settings import traces_from_env

log = structlog.get_logger()

YOUNG_OBJECTS: Final = 10_000  # new objects before the collector examines them; Python's default is 700
AFTER_GRACE_S: Final = 1.8  # the process exits this long after the grace period, even if a task hangs

Beside = Callable[[Service], Awaitable[None]]


@click.command()
def serve() -> None:
    """Run the service. MAIL_* environment variables configure it (see check-config).

    SIGTERM and SIGINT stop the service gracefully within MAIL_SHUTDOWN_GRACE; a second signal stops it at once. A claim
    that was not released expires; then another process, or this one after its restart, takes the delivery over.
    """
    config = Config.from_env(os.environ)
    logs.configure(config.log_level, config.log_format)
    run(config)


def run(config: Config, beside: Beside | None = None) -> None:
    """Runs the service until a signal or `beside` stops it. Raises the error if the service can't start or continue."""
    for warning in config.warnings():
        log.warning("config_warning", warning=warning)
    trio.run(_run, config, beside)
    log.info("stopped")


async def _run(config: Config, beside: Beside | None) -> None:
    service = Service(config, traces=traces_from_env(os.environ))
    _spare_the_collector()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signals, signals, service)
            if beside is not None:
                nursery.start_soon(beside, service)
            await service.run()
            nursery.cancel_scope.cancel()


def _spare_the_collector() -> None:
    """Excludes the objects that exist now from garbage collection, and collects young objects less often.

    The objects made so far live as long as the process. A full collection of them would stop every actor for tens of
    milliseconds. A mail leaves few reference cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 50)


async def _stop_on_signals(signals: AsyncIterator[int], service: Service) -> None:
    async for number in signals:
        name = signal.Signals(number).name
        if service.stopping:
            log.warning("stopping_at_once", signal=name)
            _exit_after(AFTER_GRACE_S)
            service.cancel()
        else:
            grace_s = service.config.shutdown_grace_ms / 1000
            log.info("stopping", signal=name, grace_s=grace_s)
            _exit_after(grace_s + AFTER_GRACE_S)
            service.stop()


def _exit_after(seconds: float) -> None:
    """Ends the process after `seconds` even if a task hangs. Its claims expire and are taken over."""

    def give_up() -> None:
        log.error("stop_overdue", after_s=seconds)
        os._exit(0)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
