"""The API over a real Valkey, without a socket, and mail brought into any state by the scripts that production uses."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from msgspec import Struct

from galaxy_mail.actors.supervisor import Supervisor
from galaxy_mail.domain.acceptance import MailRequest
from galaxy_mail.domain.conclusion import RetryPolicy, begin, conclude
from galaxy_mail.domain.records import (
    AttemptStatus,
    Content,
    Delivery,
    Envelope,
    Failure,
    Lane,
    PayloadMode,
    RefusedRecipient,
    RenderedContent,
    Result,
    SendResult,
    Source,
)
from galaxy_mail.http.app import ApiParts, App, build_app
from galaxy_mail.http.tokens import Tokens
from galaxy_mail.intake.intake import Intake
from galaxy_mail.intake.resend_job_runner import ResendJobRunner
from galaxy_mail.intake.resending import Resending
from galaxy_mail.relays.holds import CurrentHolds
from galaxy_mail.rendering.bundled import bundled_templates
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.rendering.limits import RenderLimits
from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.links.protocol import Call, Command, RedisLink, Reply
from galaxy_mail.storage.links.script import scripts
from galaxy_mail.storage.operations.claims import Claim
from galaxy_mail.storage.operations.hold_store import HoldStore
from galaxy_mail.storage.operations.identity import StoreIdentity
from galaxy_mail.storage.operations.job_store import ResendJobStore
from galaxy_mail.storage.operations.store import Store
from galaxy_mail.storage.operations.suppression_list import SuppressionList
from galaxy_mail.storage.reader import Reader
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import Retention
from galaxy_mail.telemetry.metrics import Metrics
from galaxy_mail.telemetry.traces import Traces
from tests.integration.storage.gateways import running
from tests.servers import ValkeyServer

INTERNAL: Final = "/api/v1/internal"
DAY_MS: Final = 24 * 60 * 60 * 1000

SENT: Final = SendResult(
    result=Result.ACCEPTED, status=AttemptStatus.PROVIDER_ACCEPTED, provider_code="250 2.0.0"
)
REFUSED: Final = SendResult(
    result=Result.PERMANENT_FAILURE,
    status=AttemptStatus.PROVIDER_REJECTED,
    failure=Failure(code="permanent_reply", summary="the relay answered 550 5.1.1"),
    provider_code="550 5.1.1",
    refused_recipients=(
        RefusedRecipient(address="ann@example.org", provider_code="550 5.1.1", summary="no such user"),
    ),
)
DELAYED: Final = SendResult(
    result=Result.TRANSIENT_FAILURE,
    status=AttemptStatus.TIMED_OUT,
    failure=Failure(code="timed_out", summary="no answer to the final dot"),
    outcome_unknown=True,
)
DROPPED: Final = SendResult(
    result=Result.SUPPRESSED,
    status=AttemptStatus.PROVIDER_REJECTED,
    failure=Failure(code="suppressed", summary="the provider suppresses it"),
)
NO_RETRY: Final = RetryPolicy(delays_ms=())  # a transient failure is a dead letter at once


class ShiftedLink:
    """A link with a clock that can be set forward: what is kept for weeks is past its time in no time."""

    def __init__(self, link: RedisLink, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self.ahead_ms = 0
        self.round_trips = 0

    async def pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        self.round_trips += 1
        return await self._link.pipeline(commands, timeout_s=timeout_s)

    async def accept_pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        return await self._link.accept_pipeline(commands, timeout_s=timeout_s)

    async def read_stream(
        self, stream: str, after: str, *, count: int, block_ms: int
    ) -> list[tuple[str, list[tuple[bytes, bytes]]]]:
        return await self._link.read_stream(stream, after, count=count, block_ms=block_ms)

    def now_ms(self) -> int:
        return self._clock.now_ms() + self.ahead_ms

    def script_ms(self) -> int | None:
        return self._clock.script_ms()


class Told(Struct):
    """One answer of the API."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["code"])

    @property
    def fields(self) -> list[str]:
        return [error["field"] for error in self.json["errors"]]


class World:
    """The parts of a service that the API works with, and hands to move mail by."""

    def __init__(self, link: RedisLink, clock: Clock, *, tokens: Tokens, timeout_s: float) -> None:
        self.link = self.clock = ShiftedLink(link, clock)
        keys, retention = Keys(), Retention()
        self.epoch = StoreIdentity(keys, clock=self.clock, on_verdict=lambda _: None)
        self.store = Store(
            self.link,
            keys=keys,
            retention=retention,
            claim_ttl_ms=30_000,
            epoch=self.epoch,
            clock=self.clock,
        )
        self.metrics = Metrics()
        self.intake = Intake(
            self.store,
            clock=self.clock,
            idempotency_ttl_ms=retention.idempotency_ms,
            allowlist=frozenset(),
            message_domain="mail.test",
            metrics=self.metrics,
            traces=Traces(),
            on_accepted=lambda: None,
        )
        self.reader = Reader(self.link, keys=keys, retention=retention, clock=self.clock)
        self.suppressions = SuppressionList(self.link, keys)
        self.hold_store = HoldStore(self.link, keys, self.clock)
        self.holds = CurrentHolds(lanes=frozenset())
        self.jobs = ResendJobStore(self.link, keys=keys, epoch=self.epoch, retention=retention)
        self.resending = Resending(self.reader, self.intake, self.clock, Traces())
        self.resend_jobs = ResendJobRunner(self.reader, self.resending, self.jobs, self.clock)
        self.supervisor = Supervisor()
        self.checks: dict[str, str | None] = {"redis": None, "actors": None}
        self.app: App = build_app(
            ApiParts(
                intake=self.intake,
                reader=self.reader,
                suppressions=self.suppressions,
                hold_store=self.hold_store,
                holds=self.holds,
                relays=("default",),
                resending=self.resending,
                resend_jobs=self.resend_jobs,
                catalog=Catalog.load(bundled_templates(), limits=RenderLimits()),
                supervisor=self.supervisor,
                checks=lambda: self.checks,
                metrics=self.metrics,
                tokens=tokens,
                request_timeout_s=timeout_s,
            )
        )
        self._made = 0

    # The API

    async def ask(
        self,
        method: str,
        path: str,
        *,
        json_body: object = None,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Told:
        """One request; the path as it is, or below /api/v1/internal where it lacks a slash."""
        path = path if path.startswith("/") else f"{INTERNAL}/{path}"
        given = dict(headers or {})
        if json_body is not None:
            body = json.dumps(json_body)
            given.setdefault("Content-Type", "application/json")
        if body is not None:
            given.setdefault("Content-Length", str(len(body.encode() if isinstance(body, str) else body)))
        client: Any = self.app.test_client(use_cookies=False)
        response = await client.open(path, method=method, headers=given, data=body)
        content = await response.get_data()
        raw = content.encode() if isinstance(content, str) else content
        return Told(response.status_code, dict(response.headers.items()), raw)

    async def get(self, path: str, **headers: str) -> Told:
        return await self.ask("GET", path, headers=headers)

    async def everything(self, path: str, limit: int = 3) -> list[Any]:
        """All items of a list, page by page."""
        items: list[Any] = []
        cursor = ""
        while True:
            page = await self.get(
                f"{path}{'&' if '?' in path else '?'}limit={limit}{f'&cursor={cursor}' if cursor else ''}"
            )
            assert page.status == 200, page.body
            items += page.json["items"]
            cursor = page.json["next_cursor"]
            if cursor is None:
                return items

    # Mail

    async def accept(
        self,
        delivery_id: str | None = None,
        *,
        source: Source = Source.NOTIFICATION,
        to: str = "ann@example.org",
        cc: tuple[str, ...] = (),
        template_id: str | None = None,
        key: str | None = None,
    ) -> str:
        """Takes in one mail, and gives its id."""
        self._made += 1
        delivery_id = delivery_id or f"d{self._made:04}"
        secret = source is Source.AUTHSESSION
        template_id = "auth.login_code" if secret else template_id
        content = Content(
            envelope=Envelope(to=(to,), cc=cc),
            subject=None if template_id else "Hello",
            text_body=None if template_id else "Hello, Ann.\n",
            template_id=template_id,
            locale="en" if template_id else None,
            variables={"code": "493027"} if template_id else None,
        )
        await self.intake.accept(
            MailRequest(
                delivery_id=delivery_id,
                source=source,
                lane=Lane.PRIORITY if secret else Lane.NORMAL,
                payload_mode=PayloadMode.TEMPLATE if template_id else PayloadMode.RENDERED,
                idempotency_key=key or f"key of {delivery_id}",
                fingerprint=delivery_id,
                content=content,
            )
        )
        return delivery_id

    async def claims(self) -> dict[str, Claim]:
        claimed = await self.store.claim(priority_places=100, normal_places=100, check_lost=False)
        return {claim.delivery_id: claim for claim in claimed.claims}

    async def finish(
        self, result: SendResult = SENT, policy: RetryPolicy = NO_RETRY, *, only: str | None = None
    ) -> None:
        """Sends everything that is due, or one of it, with this result."""
        for claim in (await self.claims()).values():
            if only in (None, claim.delivery_id):
                await self._finish(claim, result, policy)

    async def _finish(self, claim: Claim, result: SendResult, policy: RetryPolicy) -> None:
        rendered = claim.rendered
        if rendered is None and claim.delivery.template_id is not None:
            rendered = RenderedContent(
                subject="Your code is 493027",
                text_body="493027",
                locale_used="en",
                locale_fallback_used=False,
            )
        now_ms = self.clock.now_ms()
        begun = begin(claim.delivery, claim.attempt, rendered=rendered, provider="stub", now_ms=now_ms)
        assert await self.store.begin(claim, begun, rendered=rendered) is None
        claim = msgspec.structs.replace(claim, delivery=begun.delivery, attempt=begun.attempt)
        await self.store.finish(
            claim, conclude(begun.delivery, begun.attempt, result, policy, now_ms=self.clock.now_ms())
        )

    async def made(self, result: SendResult = SENT, **how: Any) -> str:
        """One mail that has ended so."""
        delivery_id = await self.accept(**how)
        await self.finish(result, only=delivery_id)
        return delivery_id

    async def delivery(self, delivery_id: str) -> Delivery:
        delivery = await self.reader.delivery(delivery_id)
        assert delivery is not None
        return delivery


@asynccontextmanager
async def world(
    valkey: ValkeyServer, *, tokens: Tokens | None = None, timeout_s: float = 5.0
) -> AsyncIterator[World]:
    async with running(valkey.url, load=scripts()) as gateway:
        made = World(gateway, gateway.clock, tokens=tokens or Tokens(), timeout_s=timeout_s)
        await made.epoch.check(gateway.pipeline)
        yield made
