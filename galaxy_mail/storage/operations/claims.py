"""What a process owns for a limited time: attempts that it claimed, with their records."""

from msgspec import Struct

from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Content,
    Delivery,
    Lane,
    RenderedContent,
)
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.storage.operations.claim import Ticket
from galaxy_mail.storage.operations.read_claimed import StoredRecords
from galaxy_mail.storage.records.encoding import readable, readable_delivery


class StaleClaim(GalaxyMailError):
    """Another owner has the delivery; nothing was changed. Not raised for a claim that expired untaken, but by begin."""

    def __init__(self, delivery_id: str) -> None:
        super().__init__(f"the claim of {delivery_id} is gone")
        self.delivery_id = delivery_id


class Quarantined(GalaxyMailError):
    """The records of a claim can't be read: it is kept out of the way, for operators and for a release that can read it."""

    def __init__(self, delivery_id: str) -> None:
        super().__init__(f"the records of {delivery_id} can't be read")
        self.delivery_id = delivery_id


class Claim(Struct, frozen=True, kw_only=True):
    """An attempt that this process owns until its time runs out, with the records as they are now."""

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
    """What one claim gave."""

    claims: list[Claim]
    now_ms: int
    next_due_ms: int | None  # when the next one becomes due; None: nothing is scheduled
    more: frozenset[Lane]  # those in which more was due than there were places
    parked: list[str]  # ids whose records can't be read: out of the way, for operators


def claim_of(ticket: Ticket, found: StoredRecords, epoch: int) -> Claim | None:
    """The claim with its records; None where they make none."""
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
    """The attempt that a delivery which waits for it has, from the delivery's own record."""
    return Attempt(
        delivery_id=delivery.delivery_id,
        attempt_no=delivery.attempt_count,
        status=AttemptStatus.SCHEDULED,
        scheduled_for_ms=delivery.next_attempt_at_ms or delivery.created_at_ms,
    )
