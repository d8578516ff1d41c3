"""The events that a breaker is told, and the actions that it asks for."""

from enum import StrEnum
from typing import Final, TypeAlias

from msgspec import Struct

from galaxy_mail.domain.records import Blame, Failure

HOLD_AFTER_PROBE_MS: Final = 60_000  # a hold ends by itself so long after the probe that was due


class Kind(StrEnum):
    """Where the relay failed; the `reason` of a hold. It decides how the relay is probed."""

    CONNECTION = "connection"  # before it answered MAIL, except as in the next three
    CERTIFICATE = "certificate"
    AUTH = "auth"
    SENDER = "sender"  # MAIL was refused
    MAIL = "mail"  # after it accepted MAIL
    EVERYTHING = "fails_everything"


CHECKED: Final = frozenset({Kind.CERTIFICATE, Kind.AUTH, Kind.SENDER})  # a check follows: a probe at once
BY_DELIVERY: Final = frozenset({Kind.MAIL, Kind.EVERYTHING})  # a probe without a mail proves nothing


class Probe(StrEnum):
    SESSION = "session"
    DELIVERY = "delivery"


class BreakerHold(Struct, frozen=True, kw_only=True):
    """The breaker's hold of one relay, as it stands in `mail:holds`.

    `pause_ms` is stored, too, so that any process can go on with the probes. Operators are not shown it.
    """

    kind: Kind
    failure: Failure
    since_ms: int
    until_ms: int  # it ends by itself
    pause_ms: int  # before the next probe, without its spread

    @property
    def probe_due_ms(self) -> int:
        return self.until_ms - HOLD_AFTER_PROBE_MS


# Events


class MailAccepted(Struct, frozen=True):
    """The relay accepted a mail."""


class MessageFailed(Struct, frozen=True):
    """The relay answered MAIL, and what failed then is the message's fault."""


class Failed(Struct, frozen=True, kw_only=True):
    """An attempt failed by the relay's fault. A `Charge` follows, perhaps later."""

    delivery_id: str
    kind: Kind
    failure: Failure


class Seen(Struct, frozen=True):
    """The breaker's hold that stands in Redis."""

    hold: BreakerHold | None


class Leased(Struct, frozen=True):
    """This process has the probe lease."""


class ProbeWell(Struct, frozen=True):
    """The session went well, or the delivery was accepted."""


class ProbeRefused(Struct, frozen=True, kw_only=True):
    kind: Kind
    failure: Failure
    delivery_id: str | None = None  # of a probe by delivery


class ProbeUndecided(Struct, frozen=True):
    """The probe's delivery failed, but not by the relay's fault: whether the relay is well stays open."""


class ProbeGivenUp(Struct, frozen=True):
    """The probe was not made or was cut off."""


class Tick(Struct, frozen=True):
    """Time has passed."""


Event: TypeAlias = (
    MailAccepted
    | MessageFailed
    | Failed
    | Seen
    | Leased
    | ProbeWell
    | ProbeRefused
    | ProbeUndecided
    | ProbeGivenUp
    | Tick
)

# Actions


class Replace(Struct, frozen=True):
    """Open (`before` is None), change or lift (`after` is None) the hold, if `before` is what stands in Redis."""

    before: BreakerHold | None
    after: BreakerHold | None


class StartProbe(Struct, frozen=True):
    probe: Probe


class Charge(Struct, frozen=True):
    """The attempt of this delivery may be concluded, with this blame."""

    delivery_id: str
    blame: Blame
    due_in_ms: int | None = None  # None: after the usual delay


Action: TypeAlias = Replace | StartProbe | Charge
