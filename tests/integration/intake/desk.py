"""Both intakes of one process on a Storehouse, and commands for them."""

import json
from typing import Final, cast

from galaxy_mail.domain.commands import CommandLimits
from galaxy_mail.domain.records import MalformedCommand, decode
from galaxy_mail.intake.intake import Intake
from galaxy_mail.intake.stream_intake import CommandIntake, Progress
from galaxy_mail.storage.links.protocol import Entry
from galaxy_mail.telemetry.metrics import Metrics
from galaxy_mail.telemetry.traces import Traces
from tests.keys import k
from tests.storehouse import Storehouse

LIMITS: Final = CommandLimits()


class Desk:
    """Both intakes of one process."""

    def __init__(
        self,
        house: Storehouse,
        *,
        allowlist: frozenset[str] = frozenset(),
        traces: Traces = Traces(),  # noqa: B008  # off: it has no state
    ) -> None:
        self.house = house
        self.metrics = Metrics()
        self.rung = 0
        self.intake = Intake(
            house.store,
            clock=house.clock,
            idempotency_ttl_ms=house.retention.idempotency_ms,
            allowlist=allowlist,
            message_domain="mail.example",
            metrics=self.metrics,
            traces=traces,
            on_accepted=self._wake,
        )
        self.commands = CommandIntake(
            self.intake, house.stream, limits=LIMITS, metrics=self.metrics, traces=traces
        )

    def _wake(self) -> None:
        self.rung += 1

    async def take(self, *entries: Entry) -> Progress:
        """One batch, from where the offset is."""
        batch = await self.commands.decode(entries)
        return await self.commands.accept(batch, offset=await self.house.stream.offset())


def entry(entry_id: str, name: str, /, **fields: str) -> Entry:
    """A command with ready content to <name>@example.org; a field that is "" is left out."""
    payload = {
        "envelope": {"to": [f"{name}@example.org"]},
        "subject": f"Subject of {name}",
        "text_body": f"Text of {name}",
    }
    every = {
        "delivery_id": name,
        "source": "notification",
        "payload_mode": "rendered",
        "idempotency_key": f"key of {name}",
        "requested_at_ms": "1732500000000",
        "payload_json": json.dumps(payload),
    } | fields
    return entry_id, [(key.encode(), value.encode()) for key, value in every.items() if value]


def malformed_code(house: Storehouse, entry_id: str) -> str:
    record = cast("bytes", house.run("GET", k.malformed(entry_id)))
    return decode(record, MalformedCommand).failure_code


def count(house: Storehouse) -> int:
    return cast("int", house.run("ZCARD", k.created_at_index))
