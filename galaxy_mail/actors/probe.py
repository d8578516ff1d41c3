"""A probe by delivery: one due mail is sent although its relay is held, and its outcome says whether the relay is well."""

from collections.abc import Callable
from typing import Final

import trio

from galaxy_mail.actors.lanes import EndOfLanes, Lanes
from galaxy_mail.actors.sender import Sender
from galaxy_mail.domain.records import Delivery, Lane, SendResult
from galaxy_mail.relays.relay import Judged, Relay
from galaxy_mail.storage.operations.claims import Claim

CLAIMED_WITHIN_S: Final = 2.0


class DeliveryProbe:
    """Gives a sender one claim, although the lane is held, and reports its outcome to the relay."""

    def __init__(self, lanes: Lanes, relay: Relay) -> None:
        self.answered = False
        self.has_claim = False
        self._lanes = lanes
        self._relay = relay
        self._taken = False

    async def run(self, sender: Callable[["DeliveryProbe"], Sender]) -> bool:
        """Sends one delivery. False: the relay was not probed; nothing was due, or the attempt ended before the relay."""
        await sender(self).run()
        return self.answered

    async def take(self, *, priority_only: bool) -> Claim:  # noqa: ARG002  # as the lanes' `take`
        if not self._taken:
            self._taken = True
            with trio.move_on_after(CLAIMED_WITHIN_S):
                claim = await self._lanes.take_probe()
                self.has_claim = True
                return claim
        raise EndOfLanes

    def is_held(self, lane: Lane) -> bool:
        return not self._lanes.may_probe(lane)

    def all_may_begin(self) -> bool:
        return True

    async def judge(self, delivery: Delivery, result: SendResult) -> Judged:
        self.answered = True
        return self._relay.judge_probe(delivery, result)
