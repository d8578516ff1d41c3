"""The relay of a simulation, and a slot's connection to it. The provider's promises are kept; the relay keeps none.

Some recipients are always treated alike, by the beginning of their address: `busy`, `gone`, `crashes`, `kills`.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import trio

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
from tests.simulation.world import Offer, World

if TYPE_CHECKING:
    from tests.simulation.process import Process

FINAL_TIMEOUT_S: Final = 60.0
AFTER_CANCEL_S: Final = 0.5  # so long it waits for the answer to a dot that has left


class SimulatedProvider:
    name = "simulated"

    def __init__(self, world: World, process: "Process") -> None:
        self.world = world
        self.process = process

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def close_idle(self, *, at_once: bool = False) -> None:
        pass

    async def probe(self) -> SendResult | None:
        return None

    async def send(self, message: Message, *, may_finish: SendDeadline) -> SendResult:
        world, process = self.world, self.process
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
        offer.answer = await self._exchange(message, offer, may_finish)
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
            return _EARLY["4xx"]
        if answered_in_s >= FINAL_TIMEOUT_S:
            return _lost("final_timeout", AttemptStatus.TIMED_OUT, Blame.MESSAGE, unknown=True)
        return SendResult(
            result=Result.ACCEPTED, status=AttemptStatus.PROVIDER_ACCEPTED, provider_code="250 2.0.0"
        )


def _lost(code: str, status: AttemptStatus, blame: Blame, *, unknown: bool = False) -> SendResult:
    return SendResult(
        result=Result.TRANSIENT_FAILURE,
        status=status,
        failure=Failure(code=code, summary=code),
        blame=blame,
        outcome_unknown=unknown,
    )


_EARLY: Final = {
    "4xx": SendResult(
        result=Result.TRANSIENT_FAILURE,
        status=AttemptStatus.PROVIDER_REJECTED,
        failure=Failure(code="relay_busy", summary="busy"),
        blame=Blame.MESSAGE,
        provider_code="451 4.3.0",
    ),
    "5xx": SendResult(
        result=Result.PERMANENT_FAILURE,
        status=AttemptStatus.PROVIDER_REJECTED,
        failure=Failure(code="relay_refused", summary="no such user"),
        blame=Blame.MESSAGE,
        provider_code="550 5.1.1",
        refused_recipients=(
            RefusedRecipient(address="who@b.example", provider_code="550 5.1.1", summary="no"),
        ),
    ),
    "hang_up": _lost("disconnected", AttemptStatus.TRANSPORT_FAILED, Blame.RELAY),
    "time_out": _lost("envelope_timeout", AttemptStatus.TIMED_OUT, Blame.RELAY),
}
