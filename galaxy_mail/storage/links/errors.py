"""What can go wrong between us and Redis."""

from typing import Final

from galaxy_mail.domain.errors import GalaxyMailError

# Redis quotes a mistaken command's arguments after these words, and arguments may be secret.
_QUOTES_ARGUMENTS: Final = (", with args beginning with:", "with args beginning")


class RedisFailure(GalaxyMailError):
    """Redis didn't do, or may not have done, what it was asked for."""


class RedisUnavailable(RedisFailure):
    """Certainly not executed: no connection, a full queue, or a deadline that passed before anything was written."""


class OutcomeUnknown(RedisFailure):
    """It may or may not have been executed: the connection or the deadline was lost after the first byte was written."""


class NotDurable(OutcomeUnknown):
    """Executed, but Redis didn't confirm in time that the disk or a replica has it."""


class RedisRefused(RedisFailure):
    """Redis' error reply to one command: `code` is its first word (`OOM`, `READONLY`, `NOSCRIPT`, `WRONGTYPE`, ...).

    A value in its command's slot; only `read_stream`, which has no slots, raises it.
    """

    def __init__(self, text: str) -> None:
        for words in _QUOTES_ARGUMENTS:
            text = text.partition(words)[0]
        super().__init__(text)
        self.code = text.partition(" ")[0]


class UnfitRedis(GalaxyMailError):
    """This server would lose or never take what we store. Not raised for a server that is merely away."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__("this Redis can't hold accepted mail: " + "; ".join(reasons))
        self.reasons = reasons
