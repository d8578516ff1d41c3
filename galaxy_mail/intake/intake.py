"""Accepting mail from either intake: the domain decides, the store applies."""

from collections.abc import Callable

import structlog
from msgspec import Struct
from msgspec.structs import replace

from galaxy_mail.domain.acceptance import (
    OUTCOME_SENT,
    Acceptance,
    MailRequest,
    Suppressed,
    accept,
    not_allowed,
    suppression_entries,
)
from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.links.errors import OutcomeUnknown
from galaxy_mail.storage.links.protocol import Call
from galaxy_mail.storage.operations.answers import (
    Accepted,
    DeliveryExists,
    NewlySuppressed,
    NotNext,
    Replay,
)
from galaxy_mail.storage.operations.store import Store, StreamPosition
from galaxy_mail.telemetry.logs import delivery_fields
from galaxy_mail.telemetry.metrics import Metrics
from galaxy_mail.telemetry.traces import Traces

log = structlog.get_logger()


class IdempotencyConflict(GalaxyMailError):
    """The idempotency key was used for another request. Nothing was written."""


class AcceptResult(Struct, frozen=True, kw_only=True):
    """The answer to a caller. A repeat gets the same."""

    outcome: str  # "sent" | "suppressed"
    delivery_id: str
    replayed: bool


class Intake:
    """Accepts all mail, of both intakes. Calls `on_accepted` when a delivery is due at once."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        idempotency_ttl_ms: int,
        allowlist: frozenset[str],  # empty: everyone may be mailed
        message_domain: str,
        metrics: Metrics,
        traces: Traces,
        on_accepted: Callable[[], None],
    ) -> None:
        self.clock = clock
        self._store = store
        self._idempotency_ttl_ms = idempotency_ttl_ms
        self._allowlist = allowlist
        self._message_domain = message_domain
        self._metrics = metrics
        self._traces = traces
        self._on_accepted = on_accepted

    async def accept(self, request: MailRequest) -> AcceptResult:
        """Makes one request durable, or repeats its first answer. Raises IdempotencyConflict, RedisFailure.

        After a lost reply it makes the same call once more; the answer tells whether the first one was executed.
        """
        with self._traces.accepting(request.source, request.delivery_id, request.traceparent) as span:
            request = replace(request, traceparent=span.traceparent(request.traceparent))
            outcome = await self._accept(request)
            if outcome.replayed:
                span.set(delivery_id=outcome.delivery_id)
            return outcome

    async def _accept(self, request: MailRequest) -> AcceptResult:
        suppressed: dict[str, str] = {}
        look_for = suppression_entries(request.content.envelope)
        replaced = b""
        repeated = False
        while True:
            acceptance = self.acceptance(request, suppressed)
            try:
                answer = await self._store.accept(acceptance, unless_suppressed=look_for, replaced=replaced)
            except OutcomeUnknown:
                if repeated:
                    raise
                repeated = True
                continue
            match answer:
                case Accepted():
                    return self.accepted(acceptance)
                case Replay(record) if record.delivery_id == request.delivery_id and repeated:
                    return self.accepted(acceptance)  # by the call whose reply was lost
                case Replay(record, raw) if record.expires_at_ms <= self.clock.now_ms():
                    replaced = raw
                case Replay(record):
                    if record.fingerprint != request.fingerprint:
                        self._metrics.conflict(request.source)
                        raise IdempotencyConflict("this idempotency key was used for another request")
                    self._metrics.duplicate(request.source)
                    return AcceptResult(outcome=record.outcome, delivery_id=record.delivery_id, replayed=True)
                case NewlySuppressed(entries):
                    suppressed, look_for = entries, ()
                case DeliveryExists() | NotNext():
                    raise AssertionError(f"a new delivery id was answered {answer}")

    @property
    def durable(self) -> bool:
        """Whether each accepting pipeline waits for the disk or for a replica."""
        return self._store.durable

    def acceptance(self, request: MailRequest, suppressed: Suppressed) -> Acceptance:
        """The records of this request, by these entries of the suppression list and by the allowlist."""
        return accept(
            request,
            suppressed=not_allowed(request.content.envelope, self._allowlist) | dict(suppressed),
            message_domain=self._message_domain,
            idempotency_ttl_ms=self._idempotency_ttl_ms,
            now_ms=self.clock.now_ms(),
        )

    def accept_call(self, acceptance: Acceptance, *, position: StreamPosition, replaced: bytes) -> Call:
        """The script call that accepts a stream entry. Suppression was looked up before."""
        return self._store.accept_call(acceptance, position=position, replaced=replaced)

    def accepted(self, acceptance: Acceptance) -> AcceptResult:
        """Counts and logs an acceptance that is durable, and wakes the scheduler."""
        delivery = acceptance.delivery
        self._metrics.accepted(delivery)
        log.info(
            "delivery_accepted",
            **delivery_fields(delivery),
            outcome=acceptance.outcome,
        )
        if acceptance.outcome == OUTCOME_SENT:
            self._on_accepted()
        return AcceptResult(outcome=acceptance.outcome, delivery_id=delivery.delivery_id, replayed=False)
