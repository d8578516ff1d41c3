"""Builds every part of a process from its configuration, in the order in which mail meets them. Starts nothing."""

import secrets
import ssl
from collections.abc import Callable
from random import Random
from typing import Final

import structlog

from galaxy_mail.actors.ingress import Ingress
from galaxy_mail.actors.janitor import Janitor
from galaxy_mail.actors.lanes import Lanes
from galaxy_mail.actors.probe import DeliveryProbe
from galaxy_mail.actors.relays import Relays
from galaxy_mail.actors.resend_jobs import ResendJobs
from galaxy_mail.actors.scheduler import Scheduler
from galaxy_mail.actors.sender import SEND_WITHIN_S, Claims, Judge, Sender
from galaxy_mail.actors.supervisor import Actor, Child, Heartbeat, Supervisor
from galaxy_mail.config import Config
from galaxy_mail.domain.addresses import domain_of
from galaxy_mail.domain.commands import CommandLimits
from galaxy_mail.domain.conclusion import RetryPolicy
from galaxy_mail.domain.holds import DEFAULT_RELAY
from galaxy_mail.http.app import ApiParts, build_app
from galaxy_mail.http.server import HttpServer, bind, tls_context
from galaxy_mail.http.tokens import Tokens
from galaxy_mail.intake.intake import Intake
from galaxy_mail.intake.resend_job_runner import ResendJobRunner
from galaxy_mail.intake.resending import Resending
from galaxy_mail.intake.stream_intake import CommandIntake
from galaxy_mail.relays.holds import CurrentHolds
from galaxy_mail.relays.relay import Relay
from galaxy_mail.service.dependencies import NO_DOMAIN, Dependencies, ProductionDependencies
from galaxy_mail.service.gauges import Gauges
from galaxy_mail.storage.embedded import EmbeddedValkey
from galaxy_mail.storage.links.durability import Durability
from galaxy_mail.storage.links.errors import RedisUnavailable, UnfitRedis
from galaxy_mail.storage.links.protocol import Pipeline
from galaxy_mail.storage.links.startup_checks import check_redis
from galaxy_mail.storage.operations.command_stream import CommandStream
from galaxy_mail.storage.operations.hold_store import HoldStore
from galaxy_mail.storage.operations.identity import StoreIdentity, Verdict
from galaxy_mail.storage.operations.job_store import ResendJobStore
from galaxy_mail.storage.operations.store import Store
from galaxy_mail.storage.operations.suppression_list import SuppressionList
from galaxy_mail.storage.operations.upkeep import Upkeep
from galaxy_mail.storage.reader import Reader
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import Retention
from galaxy_mail.telemetry.metrics import Metrics
from galaxy_mail.telemetry.traces import Traces

log = structlog.get_logger()

HTTP_GRACE_S: Final = 3.0  # of the grace of a stop, what requests in hand may take
NEVER_S: Final = float("inf")


class Parts:
    """What one process consists of. Actors are children for the supervisor, built anew for each run.

    `on_unfit` is told when the first Redis that answers can't hold mail. Raises what makes the process unable to start.
    """

    def __init__(
        self,
        config: Config,
        *,
        on_unfit: Callable[[UnfitRedis], None],
        traces: Traces | None = None,
        dependencies: Dependencies | None = None,
        random: Random | None = None,  # of the pauses between restarts
        api: bool = True,
    ) -> None:
        self.config = config
        self.metrics = Metrics()
        self.traces = traces or Traces()
        self.supervisor = Supervisor(on_restart=self.metrics.actor_restarted, random=random)

        self._valkey: EmbeddedValkey | None = None
        address = config.redis_addr
        if address.embedded_dir is not None:
            self._valkey = EmbeddedValkey(address.embedded_dir)
            address = self._valkey.address
        dependencies = dependencies or ProductionDependencies(config, address)
        self.catalog = dependencies.catalog()
        self._provider = dependencies.provider
        self._on_unfit = on_unfit
        self._durability = Durability(config.redis_durability)
        self.gateway = dependencies.gateway(self._on_connect)

        self.clock = self.gateway.clock
        self.keys = keys = Keys(
            command_stream=config.redis_command_stream,
            schedule=config.redis_attempt_schedule_key,
            dead_letters=config.redis_dead_letter_prefix,
        )
        self.store_identity = StoreIdentity(keys, clock=self.clock, on_verdict=self._on_verdict)
        self.retention = retention = Retention(
            idempotency_ms=config.idempotency_ttl_ms,
            delivery_ms=config.delivery_ttl_ms,
            attempt_ms=config.attempt_ttl_ms,
        )
        self.store = Store(
            self.gateway,
            keys=keys,
            retention=retention,
            claim_ttl_ms=config.claim_ttl_ms,
            epoch=self.store_identity,
            durable=self._durability is not Durability.SERVER,
            clock=self.clock,
        )
        self.stream = CommandStream(
            self.gateway,
            keys=keys,
            epoch=self.store_identity,
            malformed_kept_ms=config.attempt_ttl_ms,
            owner=secrets.token_hex(8),
            clock=self.clock,
        )
        self.relay_names = (DEFAULT_RELAY,)
        slots = config.attempt_worker_concurrency
        self.relay = Relay(DEFAULT_RELAY, slots=slots, clock=self.clock, random=random)
        self.hold_store = HoldStore(self.gateway, keys, self.clock)
        self.holds = CurrentHolds()
        self.lanes = Lanes(slots, self.holds, may_begin=lambda: self.relay.slots_that_may_begin)
        self.intake = Intake(
            self.store,
            clock=self.clock,
            idempotency_ttl_ms=retention.idempotency_ms,
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
        self.reader = Reader(self.gateway, keys=keys, retention=retention, clock=self.clock)
        self.resending = Resending(self.reader, self.intake, self.clock, self.traces)
        jobs = ResendJobStore(self.gateway, keys=keys, epoch=self.store_identity, retention=retention)
        self.resend_job_runner = ResendJobRunner(self.reader, self.resending, jobs, self.clock)
        self.gauges = Gauges(
            gateway=self.gateway,
            clock=self.clock,
            store_identity=self.store_identity,
            lanes=self.lanes,
            holds=self.holds,
            relay=self.relay,
            supervisor=self.supervisor,
            is_reading=lambda: self._ingress is not None and self._ingress.reading,
        )
        self.gauges.show_in(self.metrics)

        self._ingress: Ingress | None = None  # the one that runs now
        self.server: HttpServer | None = None  # likewise
        self.redis = self._child("redis", lambda _: self.gateway, NEVER_S)
        self.slots = [self._slot(number) for number in range(config.attempt_worker_concurrency)]
        self.janitor = self._child("janitor", self._build_janitor)
        self.relays = self._child("relays", self._build_relays)
        self.scheduler = self._child("scheduler", self._build_scheduler)
        self.ingress = self._child("ingress", self._build_ingress)
        self.resend_jobs = self._child("resend-jobs", self._build_resend_jobs)
        self.valkey = self._embedded_valkey()
        self.http = self._api() if api else None

    def _child(
        self, name: str, build: Callable[[Heartbeat], Actor], turns_within_s: float | None = None
    ) -> Child:
        child = Child(name=name, build=build)
        if turns_within_s is not None:
            child = Child(name=name, build=build, turns_within_s=turns_within_s)
        self.metrics.expect_actor(child.kind)
        return child

    def _embedded_valkey(self) -> Child | None:
        valkey = self._valkey
        return None if valkey is None else self._child("valkey", lambda _: valkey, NEVER_S)

    def _slot(self, number: int) -> Child:
        # With two slots or more, one takes the priority lane only, so that a login code does not wait for bulk.
        priority_only = number == 0 and self.config.attempt_worker_concurrency >= 2

        def build(heartbeat: Heartbeat) -> Sender:
            return self._sender(self.lanes, self.relay, heartbeat, priority_only=priority_only)

        return self._child(f"sender-{number}", build)

    def _probe_sender(self, probe: DeliveryProbe) -> Sender:
        return self._sender(probe, probe, Heartbeat())

    def _sender(
        self, lanes: Claims, relay: Judge, heartbeat: Heartbeat, *, priority_only: bool = False
    ) -> Sender:
        return Sender(
            lanes=lanes,
            store=self.store,
            clock=self.clock,
            provider=self._provider(),
            relay=relay,
            catalog=self.catalog,
            policy=self.policy,
            metrics=self.metrics,
            traces=self.traces,
            heartbeat=heartbeat,
            priority_only=priority_only,
            allowlist=self.config.recipient_allowlist,
            send_within_s=send_within_s(self.config),
        )

    def _build_janitor(self, heartbeat: Heartbeat) -> Janitor:
        return Janitor(
            upkeep=Upkeep(self.gateway, keys=self.keys, retention=self.retention, clock=self.clock),
            stream=self.stream,
            stream_kept_ms=self.config.stream_retention_ms,
            on_sample=self.gauges.sampled,
            heartbeat=heartbeat,
        )

    def _build_relays(self, heartbeat: Heartbeat) -> Relays:
        return Relays(
            relay=self.relay,
            store=self.hold_store,
            holds=self.holds,
            lanes=self.lanes,
            provider=self._provider,
            sender=self._probe_sender,
            clock=self.clock,
            heartbeat=heartbeat,
        )

    def _build_scheduler(self, heartbeat: Heartbeat) -> Scheduler:
        return Scheduler(
            lanes=self.lanes,
            store=self.store,
            clock=self.clock,
            policy=self.policy,
            metrics=self.metrics,
            heartbeat=heartbeat,
        )

    def _build_ingress(self, heartbeat: Heartbeat) -> Ingress:
        self._ingress = Ingress(
            stream=self.stream,
            intake=self.commands,
            block_ms=self.config.stream_block_timeout_ms,
            metrics=self.metrics,
            heartbeat=heartbeat,
        )
        return self._ingress

    def _build_resend_jobs(self, heartbeat: Heartbeat) -> ResendJobs:
        return ResendJobs(runner=self.resend_job_runner, heartbeat=heartbeat)

    def _api(self) -> Child:
        config = self.config
        app = build_app(
            ApiParts(
                intake=self.intake,
                reader=self.reader,
                suppressions=SuppressionList(self.gateway, self.keys),
                hold_store=self.hold_store,
                holds=self.holds,
                relays=self.relay_names,
                resending=self.resending,
                resend_jobs=self.resend_job_runner,
                catalog=self.catalog,
                supervisor=self.supervisor,
                checks=self.gauges.checks,
                metrics=self.metrics,
                tokens=Tokens(intake=config.intake_tokens, operator=config.operator_tokens),
                request_timeout_s=config.operator_request_timeout_ms / 1000,
            )
        )
        self._listener = bind(config.internal_http_addr.host, config.internal_http_addr.port)
        tls: ssl.SSLContext | None = None
        if config.tls_cert_file is not None and config.tls_key_file is not None:
            tls = tls_context(
                cert=config.tls_cert_file, key=config.tls_key_file, client_ca=config.tls_client_ca_file
            )
        grace_s = min(HTTP_GRACE_S, config.shutdown_grace_ms / 1000)

        def build(_: Heartbeat) -> HttpServer:
            self.server = HttpServer(app, self._listener, tls=tls, grace_s=grace_s)
            log.info("listening", url=self.server.url)
            return self.server

        return self._child("http", build, NEVER_S)

    def close(self) -> None:
        """Frees the API's port; nothing runs any more."""
        if self.http is not None:
            self._listener.close()

    async def _on_connect(self, pipeline: Pipeline) -> None:
        """A new connection: is it fit to hold our mail, and is it the store that we know? Raises RedisFailure."""
        try:
            for warning in await check_redis(pipeline, durability=self._durability):
                log.warning("redis_check", warning=warning)
        except UnfitRedis as unfit:
            log.error("redis_unfit", reason=str(unfit))  # noqa: TRY400  # the reason says it all
            if self.store_identity.store_id is None:  # the first one: nothing can ever be served
                self._on_unfit(unfit)
            raise RedisUnavailable(str(unfit)) from unfit
        await self.store_identity.check(pipeline)
        self.metrics.redis_link_up("data")

    def _on_verdict(self, verdict: Verdict) -> None:
        store_id = self.store_identity.store_id
        match verdict:
            case Verdict.SAME:
                log.info("redis_connected", store_id=store_id)
            case Verdict.REPLACED:
                self.metrics.store_alarm(verdict)
                log.error("store_strange", store_id=store_id)
            case Verdict.ROLLED_BACK:
                self.metrics.store_alarm(verdict)
                log.error("store_rolled_back", store_id=store_id)


def send_within_s(config: Config) -> float:
    """What a slot may take for one attempt before it counts as stuck."""
    # Connecting and the envelope, both perhaps twice, a body with a stall or two, and the answer to its final dot.
    patience_ms = 6 * config.smtp_timeout_ms + config.smtp_final_timeout_ms
    return max(SEND_WITHIN_S, patience_ms / 1000)
