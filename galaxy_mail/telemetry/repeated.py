"""A failure that repeats is logged once."""


class Repeated:
    """What fails again and again, at each try, until it works.

    if self._failure.is_new(str(failure)):
        log.warning("claiming_failed", error=str(failure))
    """

    __slots__ = ("_reason",)

    def __init__(self) -> None:
        self._reason: str | None = None

    def is_new(self, reason: str) -> bool:
        """Whether it fails for another reason than at the last try."""
        known, self._reason = self._reason, reason
        return known != reason

    def over(self) -> None:
        """It works again: the next failure is new, whatever its reason."""
        self._reason = None
