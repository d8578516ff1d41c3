"""`galaxy-mail serve`: the service as a process, with its signals and its last deadline."""

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

YOUNG_OBJECTS: Final = (
    10_000  # that many new ones before the collector looks at them; Python's own figure is 700
)
AFTER_GRACE_S: Final = 1.8  # what comes after the grace is bounded by this, whatever hangs

Beside = Callable[[Service], Awaitable[None]]


@click.command()
def serve() -> None:
    """Run the service. It is configured by MAIL_* environment variables (see check-config).

    SIGTERM and SIGINT stop it gracefully within MAIL_SHUTDOWN_GRACE; a second signal stops it at once. Claims that
    could not be given back expire and are taken over by another process, or by this one after its restart.
    """
    config = Config.from_env(os.environ)
    logs.configure(config.log_level, config.log_format)
    run(config)


def run(config: Config, beside: Beside | None = None) -> None:
    """Runs the service until a signal, or until `beside` stops it. Raises what it can't start or go on with."""
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
    """What was made so far lives as long as the process: looking through it again stops every actor for tens of ms.

    A mail leaves few cycles behind, so young objects are looked at less often, too.
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
    """Ends the process then even when a peer blocks it: what it held expires and is taken over."""

    def give_up() -> None:
        log.error("stop_overdue", after_s=seconds)
        os._exit(0)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
