"""Sending one finished delivery again."""

import secrets

import structlog
from msgspec import Struct

from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.ids import NO_TRACING, ULID_RANDOM_BYTES, Tracing, new_delivery_id
from galaxy_mail.domain.records import Source
from galaxy_mail.domain.resend import ResendNotAllowed, resend_fingerprint, resend_request
from galaxy_mail.intake.intake import Intake
from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.reader import Reader
from galaxy_mail.telemetry.traces import Traces

log = structlog.get_logger()


class UnknownParent(GalaxyMailError):
    """The delivery to send again does not exist."""


class Resent(Struct, frozen=True, kw_only=True):
    """The clone of a delivery."""

    delivery_id: str
    parent_delivery_id: str
    replayed: bool  # an earlier request with the same key made it


class Resending:
    """Makes clones and accepts them like any other mail."""

    def __init__(self, reader: Reader, intake: Intake, clock: Clock, traces: Traces) -> None:
        self._reader = reader
        self._intake = intake
        self._clock = clock
        self._traces = traces

    async def resend(
        self,
        parent_delivery_id: str,
        *,
        idempotency_key: str,
        resent_by: str | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> Resent:
        """Accepts a clone of this delivery. Raises UnknownParent, ResendNotAllowed, IdempotencyConflict, RedisFailure.

        Two requests with different keys make two clones.
        """
        found = await self._reader.with_content(parent_delivery_id)
        try:
            if found is None:
                raise UnknownParent(parent_delivery_id)
            request = resend_request(
                found.delivery,
                found.content,
                found.rendered,
                delivery_id=new_delivery_id(self._clock.now_ms(), secrets.token_bytes(ULID_RANDOM_BYTES)),
                idempotency_key=idempotency_key,
                resent_by=resent_by,
                tracing=tracing,
            )
        except (UnknownParent, ResendNotAllowed):
            # The parent may have expired since the first request; a repeat still gets the first answer.
            record = await self._reader.idempotency(Source.OPERATOR_RESEND, idempotency_key)
            if record is None or record.fingerprint != resend_fingerprint(parent_delivery_id):
                raise
            return Resent(
                delivery_id=record.delivery_id, parent_delivery_id=parent_delivery_id, replayed=True
            )
        with self._traces.resending(parent_delivery_id):
            outcome = await self._intake.accept(request)
        return Resent(
            delivery_id=outcome.delivery_id,
            parent_delivery_id=parent_delivery_id,
            replayed=outcome.replayed,
        )
