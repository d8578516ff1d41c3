"""The service: builds every part and starts it under the supervisor.

The order of stopping is the indentation of `run`: nothing new is taken in, attempts in hand end, Redis goes last.
"""

import secrets
from collections.abc import Callable
from functools import partial
from random import Random
from socket import socket as Socket  # noqa: N812  # it is a class
from typing import Final

import structlog
import trio

from galaxy_mail.actors.ingress import Ingress
from galaxy_mail.actors.janitor import Janitor
from galaxy_mail.actors.lanes import Lanes
from galaxy_mail.actors.resend_jobs import ResendJobs
from galaxy_mail.actors.scheduler import Scheduler
from galaxy_mail.actors.sender import SEND_WITHIN_S, Sender
from galaxy_mail.actors.supervisor import Actor, Child, Heartbeat, Supervisor
from galaxy_mail.config import Config
from galaxy_mail.domain.addresses import domain_of
from galaxy_mail.domain.commands import CommandLimits
from galaxy_mail.domain.conclusion import RetryPolicy
from galaxy_mail.domain.records import Lane
from galaxy_mail.http.app import ApiParts, App, build_app
from galaxy_mail.http.server import HttpServer, Tls, bind
from galaxy_mail.http.tokens import Tokens
from galaxy_mail.intake.intake import CommandIntake, Intake
from galaxy_mail.intake.resending import Resending
from galaxy_mail.service.dependencies import NO_DOMAIN, Dependencies, ProductionDependencies
from galaxy_mail.storage.embedded import EmbeddedValkey
from galaxy_mail.storage.links.durability import Durability
from galaxy_mail.storage.links.errors import RedisUnavailable, UnfitRedis
from galaxy_mail.storage.links.protocol import Pipeline
from galaxy_mail.storage.links.startup_checks import check_redis
from galaxy_mail.storage.operations.command_stream import CommandStream
from galaxy_mail.storage.operations.identity import StoreIdentity, Verdict
from galaxy_mail.storage.operations.job_store import ResendJobStore
from galaxy_mail.storage.operations.store import Retention, Store
from galaxy_mail.storage.operations.suppression_list import SuppressionList
from galaxy_mail.storage.operations.upkeep import Depths, Upkeep
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.reader import Reader
from galaxy_mail.telemetry.metrics import Gauge, Metrics
from galaxy_mail.telemetry.traces import Traces

log = structlog.get_logger()

HTTP_GRACE_S: Final = 3.0  # of the grace, what requests in flight may take of it
FLUSH_WITHIN_S: Final = 0.5
CANCEL_WITHIN_S: Final = (
    2.0  # a little more than a slot takes to record what it knows, or to give back what it holds
)
NEVER_S: Final = float("inf")


class Service:
    """Every part of one process, built from its configuration. Raises what makes it unable to start, before it runs.

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
        self.metrics = Metrics()
        self.traces = traces or Traces()
        self.supervisor = Supervisor(on_restart=self.metrics.actor_restarted, random=random)
        self.stopping = False

        self.valkey: EmbeddedValkey | None = None
        address = config.redis_addr
        if address.embedded_dir is not None:
            self.valkey = EmbeddedValkey(address.embedded_dir)
            address = self.valkey.address
        self._durability = Durability(config.redis_durability)
        around = dependencies or ProductionDependencies(config, address)
        self.catalog = around.catalog()
        self.gateway = around.gateway(self._on_connect)
        keys = Keys(
            command_stream=config.redis_command_stream,
            schedule=config.redis_attempt_schedule_key,
            dead_letters=config.redis_dead_letter_prefix,
        )
        self.epoch = StoreIdentity(keys, now_ms=self.gateway.now_ms, on_verdict=self._on_verdict)
        self.store = Store(
            self.gateway,
            keys=keys,
            retention=Retention(
                idempotency_ms=config.idempotency_ttl_ms,
                delivery_ms=config.delivery_ttl_ms,
                attempt_ms=config.attempt_ttl_ms,
            ),
            claim_ttl_ms=config.claim_ttl_ms,
            epoch=self.epoch,
            durable=self._durability is not Durability.SERVER,
            script_now=around.script_now(),
        )
        self.stream = CommandStream(
            self.gateway,
            keys=keys,
            epoch=self.epoch,
            malformed_kept_ms=config.attempt_ttl_ms,
            owner=secrets.token_hex(8),
            script_now=around.script_now(),
        )
        self.lanes = Lanes(config.attempt_worker_concurrency)
        self.intake = Intake(
            self.store,
            allowlist=config.recipient_allowlist,
            message_domain=domain_of(config.smtp_from_email) if config.smtp_from_email else NO_DOMAIN,
            metrics=self.metrics,
            traces=self.traces,
            on_accepted=self.lanes.wake,
        )
        self.commands = CommandIntake(
            self.intake,
            self.stream,
            limits=CommandLimits(
                payload_max_bytes=config.payload_max_bytes, recipients_max=config.recipients_max
            ),
            metrics=self.metrics,
            traces=self.traces,
        )
        self.policy = RetryPolicy(
            delays_ms=config.retry_delays_ms, fail_unknown_outcome=config.unknown_outcome == "fail"
        )
        self._provider = around.provider
        # Connecting and the envelope, both perhaps twice, a body with a stall or two, and the answer to its final dot.
        patience_ms = 6 * config.smtp_timeout_ms + config.smtp_final_timeout_ms
        self._send_within_s = max(SEND_WITHIN_S, patience_ms / 1000)
        reader = Reader(self.store)
        self.resending = Resending(reader, self.intake, ResendJobStore(self.store), self.traces)
        self.server: HttpServer | None = None  # the one that runs now
        self._app: App | None = None
        self._listener: Socket | None = None
        self._tls: Tls | None = None
        if api:
            self._app = self._build_app(reader)
            self._listener = bind(config.internal_http_addr.host, config.internal_http_addr.port)
            if config.tls_cert_file is not None and config.tls_key_file is not None:
                self._tls = Tls.load(
                    cert=config.tls_cert_file, key=config.tls_key_file, client_ca=config.tls_client_ca_file
                )
        self.ingress: Ingress | None = None  # the one that runs now
        self._depths: Depths | None = None
        self._lag: int | None = None
        self._stop = trio.Event()
        self._everything = trio.CancelScope()
        self._work: trio.CancelScope | None = None  # all but the storage, which goes last
        self._unfit: UnfitRedis | None = None
        self._show_gauges()

    # Running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until stopped. Raises RestartsExhausted, UnfitRedis."""
        for problem in self.catalog.warnings:
            log.warning(
                "template_warning", file=str(problem.file), line=problem.line, message=problem.message
            )
        keep_alive = self.supervisor.keep_alive
        with self._everything:
            async with trio.open_nursery() as storage:
                if self.valkey is not None:
                    storage.start_soon(keep_alive, self._child("valkey", lambda _: self._embedded(), NEVER_S))
                storage.start_soon(keep_alive, self._child("redis", lambda _: self.gateway, NEVER_S))
                async with trio.open_nursery() as senders:
                    self._work = senders.cancel_scope
                    for number in range(self.config.attempt_worker_concurrency):
                        # A slot that crashes during the stop, or before it, is not waited for.
                        senders.start_soon(partial(keep_alive, self._sender(number), retired=self._stop))
                    async with trio.open_nursery() as intake:
                        for child in self._intake_children():
                            intake.start_soon(keep_alive, child)
                        task_status.started()
                        await self._stop.wait()
                        # Nothing new is accepted or claimed; attempts in hand have the grace to end.
                        senders.cancel_scope.deadline = (
                            trio.current_time() + self.config.shutdown_grace_ms / 1000
                        )
                        intake.cancel_scope.cancel()
                    self.lanes.close()
                with trio.move_on_after(FLUSH_WITHIN_S, shield=True):
                    await self.traces.flush_and_close(FLUSH_WITHIN_S)
                storage.cancel_scope.cancel()
        if self._listener is not None:
            self._listener.close()
        if self._unfit is not None:
            raise self._unfit

    def stop(self) -> None:
        """Asks for a graceful stop."""
        self.stopping = True
        self._stop.set()

    def cancel(self) -> None:
        """Ends at once: slots give back or record what they can within a second, the rest is taken over later."""
        self.stop()
        self._everything.deadline = trio.current_time() + CANCEL_WITHIN_S
        if self._work is not None:
            self._work.cancel()

    def _child(
        self, name: str, build: Callable[[Heartbeat], Actor], turns_within_s: float | None = None
    ) -> Child:
        child = Child(name=name, build=build)
        if turns_within_s is not None:
            child = Child(name=name, build=build, turns_within_s=turns_within_s)
        self.metrics.expect_actor(child.kind)
        return child

    def _embedded(self) -> EmbeddedValkey:
        assert self.valkey is not None
        return self.valkey

    def _sender(self, number: int) -> Child:
        def build(heartbeat: Heartbeat) -> Sender:
            return Sender(
                lanes=self.lanes,
                store=self.store,
                provider=self._provider(),
                catalog=self.catalog,
                policy=self.policy,
                metrics=self.metrics,
                traces=self.traces,
                heartbeat=heartbeat,
                # With two slots or more, one takes the priority lane only: a login code never waits for bulk.
                priority_only=number == 0 and self.config.attempt_worker_concurrency >= 2,
                allowlist=self.config.recipient_allowlist,
                send_within_s=self._send_within_s,
            )

        return self._child(f"sender-{number}", build)

    def _intake_children(self) -> list[Child]:
        def janitor(heartbeat: Heartbeat) -> Janitor:
            return Janitor(
                upkeep=Upkeep(self.store),
                stream=self.stream,
                stream_kept_ms=self.config.stream_retention_ms,
                on_sample=self._sampled,
                heartbeat=heartbeat,
            )

        def scheduler(heartbeat: Heartbeat) -> Scheduler:
            return Scheduler(
                lanes=self.lanes,
                store=self.store,
                policy=self.policy,
                metrics=self.metrics,
                heartbeat=heartbeat,
            )

        def ingress(heartbeat: Heartbeat) -> Ingress:
            self.ingress = Ingress(
                stream=self.stream,
                intake=self.commands,
                block_ms=self.config.stream_block_timeout_ms,
                metrics=self.metrics,
                heartbeat=heartbeat,
            )
            return self.ingress

        def resend_jobs(heartbeat: Heartbeat) -> ResendJobs:
            return ResendJobs(resending=self.resending, heartbeat=heartbeat)

        children = [
            self._child("janitor", janitor),
            self._child("scheduler", scheduler),
            self._child("ingress", ingress),
            self._child("resend-jobs", resend_jobs),
        ]
        if self._listener is not None:
            children.append(self._child("http", lambda _: self._http(), NEVER_S))
        return children

    def _http(self) -> HttpServer:
        assert self._app is not None
        assert self._listener is not None
        grace_s = min(HTTP_GRACE_S, self.config.shutdown_grace_ms / 1000)
        self.server = server = HttpServer(self._app, self._listener, tls=self._tls, grace_s=grace_s)
        log.info("listening", url=server.url)
        return server

    def _build_app(self, reader: Reader) -> App:
        config = self.config
        return build_app(
            ApiParts(
                intake=self.intake,
                reader=reader,
                suppressions=SuppressionList(self.gateway),
                resending=self.resending,
                catalog=self.catalog,
                supervisor=self.supervisor,
                checks=self.checks,
                metrics=self.metrics,
                tokens=Tokens(intake=config.intake_tokens, operator=config.operator_tokens),
                request_timeout_s=config.operator_request_timeout_ms / 1000,
            )
        )

    # Redis

    async def _on_connect(self, pipeline: Pipeline) -> None:
        """A new connection: is it fit to hold our mail, and is it the store that we know? Raises RedisTrouble."""
        try:
            for warning in await check_redis(pipeline, durability=self._durability):
                log.warning("redis_check", warning=warning)
        except UnfitRedis as unfit:
            log.error("redis_unfit", reason=str(unfit))  # noqa: TRY400  # the reason says it all
            if self.epoch.store_id is None:  # the first one: nothing can ever be served
                self._unfit = unfit
                self._everything.cancel()
            raise RedisUnavailable(str(unfit)) from unfit
        await self.epoch.check(pipeline)
        self.metrics.redis_link_up("data")

    def _on_verdict(self, verdict: Verdict) -> None:
        match verdict:
            case Verdict.SAME:
                log.info("redis_connected", store_id=self.epoch.store_id)
            case Verdict.REPLACED:
                self.metrics.store_alarm(verdict)
                log.error("store_strange", store_id=self.epoch.store_id)
            case Verdict.ROLLED_BACK:
                self.metrics.store_alarm(verdict)
                log.error("store_rolled_back", store_id=self.epoch.store_id)

    # What it shows

    def checks(self) -> dict[str, str | None]:
        """What `/readyz` looks at: None where it is well, else what is wrong."""
        redis = self.gateway.statistics()
        not_running = [
            f"{actor.name} is {actor.status}"
            for actor in self.supervisor.statistics()
            if actor.status not in {"running", "starting"}
        ]
        return {
            "redis": None if redis.connected else redis.last_error or "not connected",
            "store": "it was wiped or exchanged since this process started" if self.epoch.replaced else None,
            "actors": ", ".join(not_running) or None,
            "stopping": "a stop was asked for" if self.stopping else None,
        }

    def _sampled(self, depths: Depths, lag: int) -> None:
        self._depths, self._lag = depths, lag

    def _show_gauges(self) -> None:
        show = self.metrics.show

        def scheduled() -> dict[str, float] | None:
            depths = self._depths
            return None if depths is None else {lane: depths.scheduled[lane] for lane in Lane}

        def oldest() -> dict[str, float] | None:
            depths, now_ms = self._depths, self.gateway.now_ms()
            if depths is None:
                return None
            ages = {lane: depths.oldest_due_ms[lane] for lane in Lane}
            return {lane: 0 if due is None else max(0, now_ms - due) / 1000 for lane, due in ages.items()}

        def actors() -> dict[str, float]:
            statuses = [actor.status for actor in self.supervisor.statistics()]
            return {status: statuses.count(status) for status in dict.fromkeys(statuses)}

        show(Gauge.SCHEDULED_ATTEMPTS, scheduled)
        show(Gauge.OLDEST_SCHEDULED_AGE, oldest)
        show(Gauge.CLAIMS, lambda: None if self._depths is None else self._depths.claims)
        show(Gauge.SENDER_SLOTS, lambda: self.config.attempt_worker_concurrency)
        show(
            Gauge.BUSY_SENDER_SLOTS, lambda: self.config.attempt_worker_concurrency - self.lanes.idle_slots()
        )
        show(Gauge.STREAM_LAG, lambda: self._lag)
        show(Gauge.STREAM_READER, lambda: float(self.ingress is not None and self.ingress.reading))
        show(Gauge.REDIS_CONNECTED, lambda: {"data": float(self.gateway.connected)})
        show(
            Gauge.REDIS_PENDING,
            lambda: self.gateway.statistics().queued + self.gateway.statistics().in_flight,
        )
        show(Gauge.ACTORS, actors)
        show(Gauge.STUCK_ACTORS, lambda: len(self.supervisor.stuck()))
