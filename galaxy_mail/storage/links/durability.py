"""How durable an acceptance is before it is answered: MAIL_REDIS_DURABILITY."""

from enum import StrEnum

from galaxy_mail.storage.links.errors import RedisRefused
from galaxy_mail.storage.links.protocol import Command, Reply


class Durability(StrEnum):
    SERVER = "server"  # what the server's appendfsync gives when it answers
    FSYNC = "fsync"  # its append-only file is on its disk
    REPLICA = "replica"  # one replica has it

    def wait_command(self, timeout_ms: int) -> Command | None:
        """The command that waits for all that its connection wrote before. Elsewhere written, it says nothing."""
        match self:
            case Durability.SERVER:
                return None
            case Durability.FSYNC:
                return ("WAITAOF", 1, 0, timeout_ms)
            case Durability.REPLICA:
                return ("WAIT", 1, timeout_ms)

    def shortfall(self, reply: Reply) -> str | None:
        """What the barrier's answer lacks. It answers with numbers when the time is over, not with an error."""
        if isinstance(reply, RedisRefused):
            return str(reply)
        confirmed = reply[0] if isinstance(reply, list) and reply else reply
        if isinstance(confirmed, int) and confirmed >= 1:
            return None
        return (
            "no disk confirmed it in time" if self is Durability.FSYNC else "no replica confirmed it in time"
        )
