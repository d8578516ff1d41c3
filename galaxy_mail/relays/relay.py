"""What one process has seen of one relay."""

from galaxy_mail.domain.conclusion import blamed
from galaxy_mail.domain.records import Delivery, Result, SendResult


class Relay:
    """One relay as the slots of this process see it. They share it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._accepted_at_ms: int | None = None  # its latest mail

    def judge(self, delivery: Delivery, result: SendResult, *, now_ms: int) -> SendResult:
        """The provider's result with the blame that follows from what this relay did with other mail."""
        if result.result is Result.ACCEPTED:
            self._accepted_at_ms = now_ms
            return result
        return blamed(delivery, result, relay_accepted_at_ms=self._accepted_at_ms)
