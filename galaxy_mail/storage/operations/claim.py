"""Claims due attempts for a limited time."""

from typing import Final, NamedTuple

from msgspec import Struct

from galaxy_mail.domain.records import Lane
from galaxy_mail.storage.links.protocol import Reply
from galaxy_mail.storage.links.replies import as_bytes, as_bytes_list, as_list
from galaxy_mail.storage.operations.operation import Operation


class ClaimKeys(NamedTuple):
    claims: str
    sequence: str
    losses: str
    priority: str
    normal: str


class ClaimArgs(NamedTuple):
    now_ms: int | None
    ttl_ms: int
    priority_places: int
    normal_places: int
    lost_places: int


class Ticket(Struct, frozen=True, kw_only=True):
    """A claim before its records are read."""

    delivery_id: str
    token: str
    lane: Lane
    losses: int

    @property
    def sequence(self) -> int:
        """The claim counter's value when this was claimed."""
        return int(self.token.rpartition("-")[2])


class Tickets(Struct, frozen=True, kw_only=True):
    """What was claimed, and what is left."""

    taken: list[Ticket]
    now_ms: int
    next_due_ms: int | None  # when the next delivery becomes due; None: nothing is scheduled
    more: frozenset[Lane]  # lanes in which more was due than there were places


def _decode(reply: Reply) -> Tickets:
    now_ms, next_due_ms, priority_left, normal_left, *taken = as_list(reply)
    left = {Lane.PRIORITY: priority_left, Lane.NORMAL: normal_left}
    due_ms = int(as_bytes(next_due_ms))
    return Tickets(
        taken=[_ticket(one) for one in taken],
        now_ms=int(as_bytes(now_ms)),
        next_due_ms=None if due_ms < 0 else due_ms,
        more=frozenset(lane for lane, flag in left.items() if flag == b"1"),
    )


def _ticket(reply: Reply) -> Ticket:
    delivery_id, token, lane, losses = as_bytes_list(reply)
    return Ticket(
        delivery_id=delivery_id.decode(),
        token=token.decode(),
        lane=Lane.PRIORITY if lane == b"p" else Lane.NORMAL,
        losses=int(losses),
    )


CLAIM: Final = Operation("claim", ClaimKeys, ClaimArgs, _decode)
