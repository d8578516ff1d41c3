"""How long records are kept."""

from typing import Final

from msgspec import Struct

from galaxy_mail.domain.records import Delivery, DeliveryStatus

DAY_MS: Final = 24 * 60 * 60 * 1000
BACKSTOP_MS: Final = DAY_MS  # a key's TTL ends so long after the janitor should have purged it


class Retention(Struct, frozen=True, kw_only=True):
    """In ms; all but idempotency from the terminal state on."""

    idempotency_ms: int = 7 * DAY_MS
    delivery_ms: int = 30 * DAY_MS
    attempt_ms: int = 90 * DAY_MS  # also of dead letters with their deliveries, and of malformed commands

    def purge_at_ms(self, delivery: Delivery) -> int:
        """When a terminal delivery is purged; a dead letter is kept as long as its attempts, to be resent."""
        dead = delivery.status is DeliveryStatus.DEAD_LETTER
        kept_ms = max(self.delivery_ms, self.attempt_ms) if dead else self.delivery_ms
        return (delivery.finished_at_ms or delivery.updated_at_ms) + kept_ms
