"""The relay of a simulation, and a slot's connection to it. The provider's promises are kept; the relay keeps none.

Some recipients are always treated alike, by the beginning of their address: `busy`, `gone`, `crashes`, `kills`. While the
relay is in a bad mood, it treats everyone alike, and a probe too.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import trio
from msgspec.structs import replace

from galaxy_mail.domain.records import (
    AttemptStatus,
    Blame,
    Failure,
    Lane,
    RefusedRecipient,
    Result,
    SendResult,
)
from galaxy_mail.providers.provider import Message, SendDeadline
from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.simulation.world import Mood, Offer, World

if TYPE_CHECKING:
    from tests.simulation.process import Process

FINAL_TIMEOUT_S: Final = 60.0
AFTER_CANCEL_S: Final = 0.5  # so long it waits for the answer to a dot that has left
SILENCE_S: Final = 15.0  # a slot's patience with a relay that says nothing
PROBE_SILENCE_S: Final = 3.0  # a probe's
CONNECTIONS: Final = 1  # as many mails at a time are taken by a relay that is `crowded`


class SimulatedProvider:
    name = "simulated"

    def __init__(self, world: World, process: "Process") -> None:
        self.world = world
        self.process = process
        self.probes = False  # this one belongs to the actor that probes

    async def __aenter__(self) -> Self:
        self.probes = self.process.is_in("relays")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def close_idle(self, *, at_once: bool = False) -> None:
        pass

    async def probe(self) -> SendResult | None:
        world, process = self.world, self.process
        world.witness.probe(process)
        world.counts["probe_by_session"] += 1
        mood = world.mood
        await process.reach("probe:connected")
        await trio.sleep(PROBE_SILENCE_S if mood is Mood.SILENT else world.rng.uniform(0.001, 0.2))
        await process.reach("probe:answered")
        refused = None if mood is Mood.CROWDED else _REFUSES.get(mood)
        world.tell(f"{process.name} probes: {'well' if refused is None else mood}")
        return refused

    async def send(self, message: Message, *, may_finish: SendDeadline) -> SendResult:
        world, process = self.world, self.process
        if self.probes:
            world.witness.probe(process)
            world.counts["probe_by_delivery"] += 1
        begin = world.witness.sent(message.delivery_id, message.attempt_no, process)
        offer = Offer(
            message.delivery_id,
            message.attempt_no,
            process.name,
            message.envelope,
            message.content,
            message.message_id,
            message.date_ms,
            begin,
            world.witness.order,
        )
        world.offers.append(offer)
        world.connections += 1
        try:
            offer.answer = await self._exchange(message, offer, may_finish)
        finally:
            world.connections -= 1
        offer.answered_s = trio.current_time()
        await process.reach("send:answered")
        return offer.answer

    async def _exchange(self, message: Message, offer: Offer, may_finish: SendDeadline) -> SendResult:
        world, process, rng = self.world, self.process, self.world.rng
        name = f"{message.delivery_id}:{message.attempt_no}"
        recipient = next(iter(message.envelope.recipients()))
        await process.reach("send:connected")
        await trio.sleep(rng.uniform(0.001, 0.2))
        if world.normal_takes_s and offer.begin is not None and offer.begin.delivery.lane is Lane.NORMAL:
            await trio.sleep(world.normal_takes_s)
        await process.reach("send:envelope")
        process.poisoned_by_recipient(recipient)
        mood = world.mood
        if mood in _REFUSES and (mood is not Mood.CROWDED or world.connections > CONNECTIONS):
            await trio.sleep(SILENCE_S if mood is Mood.SILENT else 0)
            world.tell(f"relay is {mood} {name}")
            offer.mood = mood
            return _REFUSES[mood]
        bad = world.happens(world.odds.relay, "relay_misbehaves")
        early = rng.choice(["4xx", "5xx", "hang_up", "time_out", "late", "late"]) if bad else "late"
        if recipient.startswith(("busy", "gone")):
            early = "4xx" if recipient.startswith("busy") else "5xx"
        if early != "late":
            await trio.sleep(rng.uniform(1, 15) if early == "time_out" else 0)
            world.tell(f"relay {early} {name}")
            return _EARLY[early]
        if not may_finish():
            world.tell(f"{process.name} does not finish {name}")
            return _lost("claim_too_short", AttemptStatus.TRANSPORT_FAILED, Blame.SERVICE)
        if world.happens(world.odds.stall, "pause_at_dot"):
            process.pause(rng.uniform(0.5, 2) * world.claim_ttl_s)
        stood_still = await process.reach("send:dot")
        if process.dead:
            await trio.sleep_forever()
        # The final dot is out: from here on nobody can take it back.
        if not stood_still:
            world.witness.dot(message.delivery_id, message.attempt_no, process)
        late = rng.choice(["refused", "silent_taken", "silent_not_taken", "slow"]) if bad else "accepted"
        if mood in _REFUSES_CONTENT:
            late, offer.mood = "refused", mood
        if late in {"accepted", "slow", "silent_taken"}:
            offer.taken = True
            world.tell(f"relay takes {name} ({late})")
        answered_in_s = {"accepted": 0.05, "refused": 0.05, "slow": rng.uniform(5, 50)}.get(
            late, FINAL_TIMEOUT_S
        )
        try:
            await process.reach("send:taken")
            await world.silence(answered_in_s)
        except trio.Cancelled:  # a stop: the answer may still come, within a bounded time
            if process.dead:
                raise
            if late in {"accepted", "slow"}:
                answered_in_s = FINAL_TIMEOUT_S if rng.random() < 0.5 else 0.1
            with trio.CancelScope(shield=True):
                await trio.sleep(min(answered_in_s, AFTER_CANCEL_S))
        if late == "refused":
            return _REFUSES_CONTENT.get(mood, _EARLY["4xx"])
        if answered_in_s >= FINAL_TIMEOUT_S:
            return _lost("final_timeout", AttemptStatus.TIMED_OUT, Blame.MESSAGE, unknown=True)
        return SendResult(
            result=Result.ACCEPTED, status=AttemptStatus.PROVIDER_ACCEPTED, provider_code="250 2.0.0"
        )


def _lost(
    code: str,
    status: AttemptStatus,
    blame: Blame,
    *,
    unknown: bool = False,
    exchange: Exchange | None = None,
) -> SendResult:
    return SendResult(
        result=Result.TRANSIENT_FAILURE,
        status=status,
        failure=Failure(code=code, summary=code),
        blame=blame,
        exchange=exchange,
        outcome_unknown=unknown,
    )


def _refused(code: str, exchange: Exchange, reply: str, blame: Blame) -> SendResult:
    permanent = reply.startswith("5")
    return SendResult(
        result=Result.PERMANENT_FAILURE if permanent else Result.TRANSIENT_FAILURE,
        status=AttemptStatus.PROVIDER_REJECTED,
        failure=Failure(code=code, summary=reply),
        blame=blame,
        exchange=exchange,
        provider_code=reply,
    )


_EARLY: Final = {
    "4xx": _refused("relay_busy", Exchange.RCPT, "451 4.3.0", Blame.MESSAGE),
    "5xx": replace(
        _refused("relay_refused", Exchange.RCPT, "550 5.1.1", Blame.MESSAGE),
        refused_recipients=(
            RefusedRecipient(address="who@b.example", provider_code="550 5.1.1", summary="no"),
        ),
    ),
    "hang_up": _lost("disconnected", AttemptStatus.TRANSPORT_FAILED, Blame.RELAY, exchange=Exchange.MAIL),
    "time_out": _lost("envelope_timeout", AttemptStatus.TIMED_OUT, Blame.RELAY, exchange=Exchange.MAIL),
}
# What a bad mood answers before there is a content,
_REFUSES: Final = {
    Mood.AWAY: _lost(
        "connect_failed", AttemptStatus.TRANSPORT_FAILED, Blame.RELAY, exchange=Exchange.CONNECT
    ),
    Mood.SILENT: _lost(
        "greeting_timed_out", AttemptStatus.TIMED_OUT, Blame.RELAY, exchange=Exchange.GREETING
    ),
    Mood.CLOSING: _refused("service_closing", Exchange.MAIL, "421 4.3.2", Blame.RELAY),
    Mood.CROWDED: _refused("greeting_refused", Exchange.GREETING, "421 4.7.0", Blame.RELAY),
    Mood.NO_SENDER: _refused("sender_refused", Exchange.MAIL, "550 5.7.1", Blame.RELAY),
    Mood.NO_LOGIN: _refused("auth_refused", Exchange.AUTH, "535 5.7.8", Blame.RELAY),
}
_REFUSES_CONTENT: Final = {  # and to the final dot
    Mood.FULL: _refused("message_deferred", Exchange.FINAL, "452 4.3.1", Blame.RELAY),
    Mood.NO_CONTENT: _refused("message_refused", Exchange.FINAL, "554 5.7.1", Blame.MESSAGE),
}
