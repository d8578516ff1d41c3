"""Whether a relay fails everything alike, although each answer alone blames the message. Pure.

`Client host rejected` to every recipient, or `554` to every content, reads like a fault of the message. If five different
deliveries in a row end alike at one relay, and none is accepted in between, the relay is blamed. Each process counts for
itself.

The shell asks `failed` about each attempt that the outcome table blames on the message, unless its outcome is unknown.
When it says yes, the attempt is reported to the breaker with `Kind.EVERYTHING`. Other attempts, those
blamed on the relay too, neither count nor end the row: they say nothing about messages.
"""

from typing import Final

from msgspec import Struct

from galaxy_mail.providers.smtp.outcomes import Exchange

ALIKE: Final = 5  # the first four are charged to their messages

_NO_SUCH_RECIPIENT: Final = frozenset({550, 551, 553})
_MAILBOX_STATUS: Final = frozenset(
    {"2.0", "2.1", "2.2", "2.3", "2.4"}
)  # RFC 3463: this mailbox, not the relay


class HowItEnded(Struct, frozen=True, kw_only=True):
    exchange: Exchange
    code: int | None = None  # None: no answer
    enhanced: str | None = None  # "5.7.1"

    @property
    def counts(self) -> bool:
        """A recipient that does not exist does not count, nor does silence after the final dot."""
        if self.code is None:
            return self.exchange in (Exchange.RCPT, Exchange.DATA, Exchange.BODY)
        if self.exchange is not Exchange.RCPT:
            return True
        if self.enhanced is None:
            return self.code not in _NO_SUCH_RECIPIENT
        _, _, status = self.enhanced.partition(".")
        return not status.startswith("1.") and status not in _MAILBOX_STATUS


class Sameness(Struct, frozen=True):
    """The latest deliveries in a row that ended alike."""

    ended: HowItEnded | None = None
    deliveries: frozenset[str] = frozenset()


def failed(sameness: Sameness, delivery_id: str, ended: HowItEnded) -> tuple[Sameness, bool]:
    """The row after this failure, and whether the relay is to blame for it."""
    if not ended.counts:
        return sameness, False
    before = sameness.deliveries if sameness.ended == ended else frozenset()
    if len(before) >= ALIKE:  # it need not grow
        return sameness, True
    deliveries = before | {delivery_id}
    return Sameness(ended, deliveries), len(deliveries) >= ALIKE


ACCEPTED: Final = Sameness()  # after an accepted mail
