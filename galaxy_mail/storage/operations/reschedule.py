"""Corrects the schedule of a delivery, if its record is unchanged."""

from typing import Final, NamedTuple

from galaxy_mail.domain.records import Lane
from galaxy_mail.storage.links.protocol import Call
from galaxy_mail.storage.operations.answers import done
from galaxy_mail.storage.operations.operation import Operation
from galaxy_mail.storage.records.keys import Keys


class RescheduleKeys(NamedTuple):
    delivery: str
    claims: str
    lane: str
    other: str


class RescheduleArgs(NamedTuple):
    delivery_id: str
    delivery_record: bytes
    due_ms: int | None


RESCHEDULE: Final = Operation("reschedule", RescheduleKeys, RescheduleArgs, done)


def reschedule_call(keys: Keys, delivery_id: str, record: bytes, lane: Lane, due_ms: int | None) -> Call:
    """For then, where no lane has it; None: out of both lanes and without an owner."""
    other = Lane.NORMAL if lane is Lane.PRIORITY else Lane.PRIORITY
    return RESCHEDULE.call(
        RescheduleKeys(
            delivery=keys.delivery(delivery_id),
            claims=keys.claims,
            lane=keys.lane(lane),
            other=keys.lane(other),
        ),
        RescheduleArgs(delivery_id=delivery_id, delivery_record=record, due_ms=due_ms),
    )
