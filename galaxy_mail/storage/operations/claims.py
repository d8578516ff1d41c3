"""Claims: attempts that this process owns for a limited time, with their records."""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Content,
    Delivery,
    DeliveryStatus,
    Lane,
    RenderedContent,
)
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.storage.links.protocol import RedisLink
from galaxy_mail.storage.links.replies import as_optional_bytes_list
from galaxy_mail.storage.operations.claim import Ticket
from galaxy_mail.storage.operations.operation import NoKeys
from galaxy_mail.storage.operations.read_claimed import READ_CLAIMED, ReadClaimedArgs, StoredRecords
from galaxy_mail.storage.records.encoding import readable, readable_attempt, readable_delivery
from galaxy_mail.storage.records.keys import Keys

CONTENT_WITH_CLAIM_BYTES: Final = (
    64 * 1024
)  # larger content is read by the slot that sends it, not with a batch
CONTENT_MAX_BYTES: Final = 2**29  # what one value in Redis may have: content of any size


class StaleClaim(GalaxyMailError):
    """We no longer hold the claim; nothing was written. An expired claim that nobody took raises this only in `begin`."""

    def __init__(self, delivery_id: str) -> None:
        super().__init__(f"the claim of {delivery_id} is gone")
        self.delivery_id = delivery_id


class Quarantined(GalaxyMailError):
    """The claim's records can't be read. It is out of the schedule until a release that can read them puts it back."""

    def __init__(self, delivery_id: str) -> None:
        super().__init__(f"the records of {delivery_id} can't be read")
        self.delivery_id = delivery_id


class Claim(Struct, frozen=True, kw_only=True):
    """An attempt that this process owns until the claim expires, with its records."""

    delivery_id: str
    token: str
    lane: Lane
    losses: int  # 0, or how many owners it lost, the latest just now
    epoch: int  # of the store when it was claimed
    delivery: Delivery
    attempt: Attempt
    content: Content | None  # None: large, to be read by `load`
    rendered: RenderedContent | None


class Claimed(Struct, frozen=True, kw_only=True):
    """The result of one `claim`."""

    claims: list[Claim]
    now_ms: int
    next_due_ms: int | None  # when the next one becomes due; None: nothing is scheduled
    more: frozenset[Lane]  # those in which more was due than there were places
    parked: list[str]  # ids whose records can't be read; they were quarantined


def claim_of(ticket: Ticket, found: StoredRecords, epoch: int) -> Claim | None:
    """The claim with its records; None where they can't be read."""
    delivery = readable_delivery(found.delivery, ticket.delivery_id)
    if delivery is None or delivery.status in TERMINAL or found.content_bytes == 0:
        return None
    content = readable(found.content, Content) if found.content else None
    rendered = readable(found.rendered, RenderedContent) if found.rendered else None
    if (found.content and content is None) or (found.rendered and rendered is None):
        return None
    return Claim(
        delivery_id=ticket.delivery_id,
        token=ticket.token,
        lane=ticket.lane,
        losses=ticket.losses,
        epoch=epoch,
        delivery=delivery,
        attempt=scheduled_attempt(delivery),
        content=content,
        rendered=rendered,
    )


def scheduled_attempt(delivery: Delivery) -> Attempt:
    """The attempt of a delivery that waits for it, derived from the delivery's record."""
    return Attempt(
        delivery_id=delivery.delivery_id,
        attempt_no=delivery.attempt_count,
        status=AttemptStatus.SCHEDULED,
        scheduled_for_ms=delivery.next_attempt_at_ms or delivery.created_at_ms,
    )


class ClaimedRecords:
    """Reads the records of claimed deliveries."""

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def read(self, tickets: Sequence[Ticket], epoch: int) -> list[Claim]:
        """The claims whose records can be read. Raises RedisFailure."""
        found = await self._stored(
            [ticket.delivery_id for ticket in tickets], content_max_bytes=CONTENT_WITH_CLAIM_BYTES
        )
        claims = [claim_of(ticket, one, epoch) for ticket, one in zip(tickets, found, strict=True)]
        return await self._with_attempts([claim for claim in claims if claim is not None])

    async def are_readable(self, delivery_id: str) -> bool:
        """Whether this release can read all that a claim of the delivery needs. Raises RedisFailure."""
        [found] = await self._stored([delivery_id], content_max_bytes=CONTENT_MAX_BYTES)
        claim = claim_of(Ticket(delivery_id=delivery_id, token="", lane=Lane.NORMAL, losses=0), found, 0)
        return claim is not None and bool(await self._with_attempts([claim]))

    async def _stored(self, delivery_ids: Sequence[str], *, content_max_bytes: int) -> list[StoredRecords]:
        return await READ_CLAIMED.run(
            self._link,
            NoKeys(),
            ReadClaimedArgs(content_max_bytes=content_max_bytes),
            more_keys=[*map(self._keys.delivery, delivery_ids), *map(self._keys.payload, delivery_ids)],
        )

    async def _with_attempts(self, claims: list[Claim]) -> list[Claim]:
        """Adds the attempts that lost owners had begun, and drops claims that should have one and don't."""
        sending = [claim for claim in claims if claim.delivery.status is DeliveryStatus.SENDING]
        if not sending:
            return claims
        keys = [self._keys.attempt(claim.delivery_id, claim.delivery.attempt_count) for claim in sending]
        [reply] = await self._link.pipeline([("MGET", *keys)])
        begun: dict[str, Attempt] = {}
        for claim, data in zip(sending, as_optional_bytes_list(reply), strict=True):
            attempt = readable_attempt(data, claim.delivery_id, claim.delivery.attempt_count)
            if attempt is not None and attempt.status is AttemptStatus.IN_PROGRESS:
                begun[claim.delivery_id] = attempt
        return [
            claim
            if claim.delivery.status is not DeliveryStatus.SENDING
            else msgspec.structs.replace(claim, attempt=begun[claim.delivery_id])
            for claim in claims
            if claim.delivery.status is not DeliveryStatus.SENDING or claim.delivery_id in begun
        ]
