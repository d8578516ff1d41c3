"""A relay that falls silent at each phase of its dialogue: every attempt ends in time, as what it was, and goes on."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import pytest
import trio

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.ledger import command
from tests.relays.hostile.server import OFFERS, Server, Talk
from tests.service_process import eventually
from tests.testbed import Bed

# What a silence is called where it comes, and whether the relay may have the message then.
SILENCES: Final = {
    Exchange.GREETING: ("greeting_timed_out", False),
    Exchange.EHLO: ("ehlo_timed_out", False),
    Exchange.MAIL: ("envelope_timed_out", False),
    Exchange.RCPT: ("envelope_timed_out", False),
    Exchange.DATA: ("envelope_timed_out", False),
    Exchange.BODY: ("body_timed_out", False),
    Exchange.FINAL: ("final_timed_out", True),
}
MORE_THAN_A_WINDOW: Final = ("x" * 70 + "\n") * 100_000


class FallsSilent(Server):
    """Falls silent once at each phase: on its first connections before it can know whose mail comes, later for `whose`.

    `takes_it`: what comes with a final dot is taken all the same, and only its answer is missing.
    """

    def __init__(self, whose: Mapping[Exchange, str], *, takes_it: bool) -> None:
        super().__init__(offers=[offer for offer in OFFERS if not offer.startswith("SIZE")])
        self.takes_it = takes_it
        self.early = [
            phase for phase in (Exchange.GREETING, Exchange.EHLO, Exchange.MAIL) if phase not in whose
        ]
        self._whose = {f"<{name}@".encode(): phase for phase, name in whose.items()}
        self._silent: dict[Talk, Exchange] = {}

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if exchange is Exchange.GREETING and self.early:
            self._silent[talk] = self.early.pop(0)
        if exchange is Exchange.RCPT and talk not in self._silent:
            for path in [path for path in self._whose if path in said]:
                self._silent[talk] = self._whose.pop(path)
        if self._silent.get(talk) is not exchange:
            await self.behave(talk, exchange, said)
            return
        if exchange is Exchange.BODY:
            await trio.sleep_forever()  # and reads no more
        if exchange is Exchange.FINAL and self.takes_it:
            self.messages.append(said)
        while True:  # until the client has had enough: HangUp is raised then
            await talk.more()


@pytest.mark.parametrize("takes_it", [False, True])
async def test_a_relay_that_falls_silent_anywhere_holds_up_nothing_for_good(bed: Bed, takes_it: bool) -> None:
    whose = {
        phase: phase.name.lower() for phase in (Exchange.RCPT, Exchange.DATA, Exchange.BODY, Exchange.FINAL)
    }
    relay = FallsSilent(whose, takes_it=takes_it)
    async with bed.relay(relay) as settings:
        service = await bed.fleet.ready(
            **settings,
            smtp_timeout="700ms",
            smtp_final_timeout="700ms",
            retry_delays=",".join(["100ms"] * 8),
        )
        large = {"text_body": MORE_THAN_A_WINDOW}
        bed.ledger.publish(*(command(f"n{number}") for number in range(3)))
        bed.ledger.publish(
            *(command(name, payload=large if phase is Exchange.BODY else {}) for phase, name in whose.items())
        )
        await bed.ledger.wait_quiet()
        ended = [
            (line["failure"], line["outcome_unknown"])
            for line in service.events("attempt_finished")
            if line["failure"]
        ]
        assert Counter(ended) == Counter(SILENCES.values())
        for phase, name in whose.items():
            failures = [attempt["failure"] for attempt in await service.attempts(name)]
            assert SILENCES[phase][0] in {failure["code"] for failure in failures if failure}
        assert await service.metric("galaxy_mail_attempts_outcome_unknown_total") == 1
        assert await service.metric("galaxy_mail_actor_restarts_total") == 0
        findings = await bed.close()
    assert findings.duplicates == ({whose[Exchange.FINAL]: 1} if takes_it else {})


async def test_a_copy_that_is_not_wanted_is_not_sent(bed: Bed) -> None:
    """MAIL_UNKNOWN_OUTCOME=fail: rather no mail than a second one, after a silence and after a lost owner alike."""
    relay = FallsSilent({}, takes_it=True)
    relay.early = [Exchange.FINAL, Exchange.FINAL]
    async with bed.relay(relay) as settings:
        given = {**settings, "unknown_outcome": "fail", "attempt_worker_concurrency": "1"}
        service = await bed.fleet.ready(**given, smtp_final_timeout="500ms")
        await bed.login_code(service, "silence")
        story = await service.wait_status(bed.ledger.keys["silence"], "failed")
        assert story["failure"]["code"] == "outcome_unknown"
        await service.stop()

        service = await bed.fleet.ready(**given)
        await bed.login_code(service, "killed")
        await eventually(lambda: len(relay.messages) == 2, "the relay has it")
        service.kill()
        await service.wait_ended()
        service = await bed.fleet.ready(**given)
        story = await service.wait_status(bed.ledger.keys["killed"], "failed")
        assert story["failure"]["code"] == "outcome_unknown"
        findings = await bed.close()
    assert findings.duplicates == {}
    assert len(findings.unknown) == 2
