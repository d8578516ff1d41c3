"""One relay as this process knows it: its breaker, its pace, and what became of its latest mail.

Slots report how their attempts ended (`judge`) and learn whom to blame. The actor `relays` carries out the actions of the
breaker, and tells it what stands in Redis.
"""

from collections import deque
from contextlib import suppress
from random import Random
from typing import Final

import trio
from msgspec import Struct
from msgspec.structs import replace

from galaxy_mail.domain.conclusion import blamed
from galaxy_mail.domain.records import Blame, Delivery, Result, SendResult
from galaxy_mail.providers.smtp.outcomes import Exchange
from galaxy_mail.relays import pace, sameness
from galaxy_mail.relays.breaker import Breaker, BreakerState, step
from galaxy_mail.relays.breaker_events import (
    Charge,
    Event,
    Failed,
    Kind,
    MailAccepted,
    MessageFailed,
    ProbeRefused,
    ProbeUndecided,
    ProbeWell,
    Replace,
    StartProbe,
)
from galaxy_mail.relays.sameness import HowItEnded
from galaxy_mail.storage.links.clock import Clock

CHARGED_WITHIN_S: Final = 60.0  # longer than a check may take; then the relay is blamed
PAUSE_WITHOUT_RESOURCES_S: Final = 1.0
RESOURCES_FORGOTTEN_S: Final = 15.0
BEFORE_MAIL: Final = frozenset(
    {Exchange.CONNECT, Exchange.TLS, Exchange.GREETING, Exchange.EHLO, Exchange.STARTTLS, Exchange.AUTH}
)
OUT_OF_RESOURCES: Final = "out_of_resources"


class Judged(Struct, frozen=True):
    """How an attempt counts: its result with the final blame, and when the delivery is due again."""

    result: SendResult
    due_in_ms: int | None = None  # None: after the usual delay


class Relay:
    """Shared by the slots and the actor `relays` of a process. Only `judge` waits, for at most 60 s; nothing calls Redis."""

    def __init__(self, name: str, *, slots: int, clock: Clock, random: Random | None = None) -> None:
        self.name = name
        self.breaker = Breaker()
        self.actions: deque[Replace | StartProbe] = deque()  # for the actor
        self.without_resources_since_s: float | None = None  # this process, not the relay
        self._pace = pace.full(slots)
        self._clock = clock
        self._random = random or Random()  # noqa: S311  # spreads probes; not for security
        self._sameness = sameness.ACCEPTED
        self._accepted_at_ms: int | None = None
        self._waiting: dict[str, trio.MemorySendChannel[Charge]] = {}  # by the delivery whose slot waits
        self._wake, self._woken = trio.open_memory_channel[None](1)  # wakes the actor
        self._resources_tried_s = float("-inf")

    @property
    def slots_that_may_begin(self) -> int:
        """How many slots of this process may have a message in hand."""
        if self.without_resources_since_s is not None:
            tried_lately = trio.current_time() < self._resources_tried_s + PAUSE_WITHOUT_RESOURCES_S
            return 0 if tried_lately else 1
        return self._pace.slots

    # The slots' side

    async def judge(self, delivery: Delivery, result: SendResult) -> Judged:
        """The result with the blame that follows from what this relay did with other mail.

        Waits while a probe decides whose fault a refused sender, login or certificate is.
        """
        self._note_resources(result)
        if result.result is Result.ACCEPTED:
            self._accepted()
            return Judged(result)
        result, kind = self._blamed(delivery, result)
        if result.blame is Blame.RELAY:
            return await self._charged(delivery, result, kind)
        if self.breaker.row and kind in (Kind.MAIL, Kind.SENDER):  # MAIL was answered
            self.tell(MessageFailed())
        return Judged(result)

    def judge_probe(self, delivery: Delivery, result: SendResult) -> Judged:
        """The same for the delivery that probes a held relay."""
        self._note_resources(result)
        if result.result is Result.ACCEPTED:
            self._sameness = sameness.ACCEPTED
            self._accepted_at_ms = self._clock.now_ms()
            self.tell(ProbeWell())
            return Judged(result)
        like_the_others = self._fails_like_everything(result)
        result, kind = self._blamed(delivery, result)
        if like_the_others:
            result, kind = replace(result, blame=Blame.RELAY), Kind.EVERYTHING
        if result.blame is not Blame.RELAY or result.failure is None:
            self.tell(ProbeUndecided())
            return Judged(result)
        charges = self.tell(ProbeRefused(kind=kind, failure=result.failure, delivery_id=delivery.delivery_id))
        due_in_ms = next((one.due_in_ms for one in charges if one.delivery_id == delivery.delivery_id), None)
        return Judged(result, due_in_ms)

    def _accepted(self) -> None:
        self._accepted_at_ms = self._clock.now_ms()
        self._sameness = sameness.ACCEPTED
        if self.breaker.state is not BreakerState.CLOSED or self.breaker.row:  # else it would change nothing
            self.tell(MailAccepted())

    def _blamed(self, delivery: Delivery, result: SendResult) -> tuple[SendResult, Kind]:
        """Corrects the blame, and says where the relay failed.

        A delivery that failed often while the relay accepts others is at fault; a relay that fails five deliveries alike is
        at fault.
        """
        kind = kind_of(result)
        if result.blame is Blame.RELAY:
            return blamed(delivery, result, relay_accepted_at_ms=self._accepted_at_ms), kind
        ended = how_it_ended(result)
        if result.blame is Blame.MESSAGE and not result.outcome_unknown and ended is not None:
            self._sameness, alike = sameness.failed(self._sameness, delivery.delivery_id, ended)
            if alike:
                return replace(result, blame=Blame.RELAY), Kind.EVERYTHING
        return result, kind

    def _fails_like_everything(self, result: SendResult) -> bool:
        """Whether a probe failed like the mails for which the relay is held, perhaps by another process."""
        hold, ended = self.breaker.hold, how_it_ended(result)
        return (
            (hold is not None and hold.kind is Kind.EVERYTHING)
            and (result.blame is Blame.MESSAGE and ended is not None and ended.counts)
            and (result.failure is not None and result.failure.code == hold.failure.code)
        )

    async def _charged(self, delivery: Delivery, result: SendResult, kind: Kind) -> Judged:
        """Reports a failure of the relay, and waits for its charge."""
        assert result.failure is not None, "whoever is blamed, there is a failure"
        self._pace = pace.failed(self._pace, now_ms=self._clock.now_ms())
        send, receive = trio.open_memory_channel[Charge](1)
        self._waiting[delivery.delivery_id] = send
        try:
            self.tell(Failed(delivery_id=delivery.delivery_id, kind=kind, failure=result.failure))
            with trio.move_on_after(CHARGED_WITHIN_S):
                charge = await receive.receive()
                return Judged(replace(result, blame=charge.blame), charge.due_in_ms)
            return Judged(result)
        finally:
            if self._waiting.get(delivery.delivery_id) is send:  # else another slot has the delivery by now
                del self._waiting[delivery.delivery_id]

    def _note_resources(self, result: SendResult) -> None:
        if result.failure is None or result.failure.code != OUT_OF_RESOURCES:
            self.without_resources_since_s = None
            return
        self._resources_tried_s = trio.current_time()
        if self.without_resources_since_s is None:
            self.without_resources_since_s = self._resources_tried_s

    # The actor's side

    def tell(self, event: Event) -> tuple[Charge, ...]:
        """Gives an event to the breaker. Its charges reach the slots that wait; its other actions wait for the actor."""
        now_ms = self._clock.now_ms()
        went = self.breaker.goes
        self.breaker, actions = step(self.breaker, event, now_ms=now_ms, luck=self._random.random())
        if self.breaker.goes and not went:
            self._pace = pace.held(self._pace, now_ms=now_ms)
        charges: list[Charge] = []
        for action in actions:
            if isinstance(action, Charge):
                charges.append(action)
                self._deliver(action)
            else:
                self.actions.append(action)
        if self.actions or self.breaker.state is BreakerState.CHECKING:
            self.wake()
        return tuple(charges)

    def _deliver(self, charge: Charge) -> None:
        if (waiting := self._waiting.get(charge.delivery_id)) is not None:
            with suppress(trio.WouldBlock, trio.BrokenResourceError):  # it has one, or its slot is gone
                waiting.send_nowait(charge)

    def wake(self) -> None:
        """Wakes the actor: there are actions, or a probe is due."""
        with suppress(trio.WouldBlock):  # a wake-up is pending
            self._wake.send_nowait(None)

    async def wait_woken(self, until_s: float) -> None:
        with trio.move_on_at(until_s):
            await self._woken.receive()

    def second_passed(self) -> None:
        if trio.current_time() > self._resources_tried_s + RESOURCES_FORGOTTEN_S:
            self.without_resources_since_s = None  # nothing was due since: nobody knows
        self._pace = pace.passed(self._pace, now_ms=self._clock.now_ms())

    def begin_anew(self) -> None:
        """Forgets the breaker and its actions, because the actor `relays` starts anew. Slots that wait blame the relay."""
        for delivery_id in list(self._waiting):
            self._deliver(Charge(delivery_id, Blame.RELAY))
        self.actions.clear()
        self.breaker = Breaker()


def kind_of(result: SendResult) -> Kind:
    """Where a relay failed. `MAIL`: after MAIL was answered."""
    exchange = None if result.exchange is None else Exchange(result.exchange)
    code = result.failure.code if result.failure else ""
    # 421 closes the connection, whatever it answers.
    refused = result.provider_code is not None and not result.provider_code.startswith("421")
    if code == "tls_unverified":
        return Kind.CERTIFICATE
    if exchange is Exchange.AUTH and refused:
        return Kind.AUTH
    if exchange is Exchange.MAIL and refused:
        return Kind.SENDER
    if exchange is None or exchange is Exchange.MAIL or exchange in BEFORE_MAIL:
        return Kind.CONNECTION
    return Kind.MAIL


def how_it_ended(result: SendResult) -> HowItEnded | None:
    """How a failed attempt ended at the relay. None: without the relay."""
    if result.exchange is None:
        return None
    code, _, enhanced = (result.provider_code or "").partition(" ")
    return HowItEnded(
        exchange=Exchange(result.exchange), code=int(code) if code else None, enhanced=enhanced or None
    )
