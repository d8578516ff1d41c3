"""Mail does not pay for the faults of its relay: it waits for a relay that is away or refuses everything."""

from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from itertools import cycle, pairwise
from typing import Any, Final

import pytest

from galaxy_mail.domain.records import AttemptStatus, Blame, Lane
from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.ledger import Findings, arrival, command
from tests.relays.hostile.moody import WELL, Mood, Moody, Place, place_for
from tests.relays.hostile.server import OFFERS, HangUp, Server, Talk
from tests.service_process import API, ServiceProcess, eventually
from tests.testbed import Bed, smtp_settings

X = Exchange
SCOPE: Final = "relay:default"
SLOTS: Final = 4
# A retry that is used up hangs its test.
PATIENT: Final = {"retry_delays": "10m,10m,10m", "smtp_timeout": "2s", "claim_ttl": "10s"}
LOGIN: Final = {"smtp_username": "galaxy", "smtp_password": "swordfish-5813"}
RIGHT: Final = b64encode(b"\0galaxy\0swordfish-5813")


def moody(*offers: str) -> Moody:
    return Moody(offers=[*OFFERS, *offers, "AUTH PLAIN"], secrets=[RIGHT])


@asynccontextmanager
async def served(bed: Bed, relay: Server) -> AsyncIterator[tuple[Place, dict[str, str | None]]]:
    """The relay at its place, and the settings of services that mail by it. What it takes goes into the books."""
    bed.ledger.sources.append(lambda: [arrival(message) for message in relay.messages])
    async with place_for(relay) as place:
        login = LOGIN if relay.secrets else {}
        yield place, {**smtp_settings(place.port), **login, **PATIENT}


async def give(bed: Bed, service: ServiceProcess, name: str, *, codes: int = 5, others: int = 20) -> set[str]:
    """Login codes and notifications, all accepted. Returns their ids."""
    before = set(bed.ledger.promised)
    bed.ledger.publish(*(command(f"{name}-{number}") for number in range(others)))
    for number in range(codes):
        await eventually(partial(_accepted, bed, service, f"{name}-code-{number}"), "a code is accepted")
    await bed.ledger.wait_consumed()
    return bed.ledger.promised - before


async def _accepted(bed: Bed, service: ServiceProcess, key: str) -> bool:
    """Redis may be slow on a busy machine: then the same key asks again."""
    answer = await bed.login_code(service, key)
    return bool(answer and answer.is_success)


async def hold_of(service: ServiceProcess) -> dict[str, Any]:
    """The hold of the relay's breaker, once there is one."""
    found: list[dict[str, Any]] = []

    async def held() -> bool:
        found[:] = (await service.get("holds"))["items"]
        return bool(found)

    await eventually(held, "a hold")
    [hold] = found
    assert (hold["scope"], hold["cause"]) == (SCOPE, "breaker")
    return hold


async def probe_now(service: ServiceProcess) -> None:
    answer = await service.client.request("DELETE", f"{API}/holds/{SCOPE}")
    assert answer.status_code == 204, answer.text


async def lifted_by_a_probe(service: ServiceProcess) -> None:
    """Returns once nothing is held. No hold ended by itself, which takes a minute more."""

    async def lifted() -> bool:
        return not (await service.get("holds"))["items"]

    await eventually(lifted, "the hold is lifted")
    await service.wait_lines("hold_ended", len(service.events("hold_opened")))
    for ended in service.events("hold_ended"):
        assert _ms(ended["timestamp"]) < ended["until_ms"] - 30_000, ended


def _ms(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp() * 1000


def failed_attempts(findings: Findings, names: Collection[str]) -> list[tuple[str | None, str | None]]:
    """Code and blame of what did not succeed."""
    return [
        (attempt.failure.code if attempt.failure else None, attempt.blame)
        for name in names
        for attempt in findings.attempts[name]
        if attempt.status is not AttemptStatus.PROVIDER_ACCEPTED
    ]


def charged(findings: Findings) -> list[str]:
    """Deliveries that paid: with a retry, or by their end."""
    return [
        name
        for name, delivery in findings.deliveries.items()
        if delivery.retries_used or delivery.status in ("failed", "dead_letter")
    ]


# Away, or refusing everything

AWAY: Final = "away"
MOODS: Final[dict[str, tuple[Mood, str, str]]] = {  # and the hold's reason, the attempts' code
    AWAY: (WELL, "connection", "connect_failed"),
    "silent": ({X.GREETING: None}, "connection", "greeting_timed_out"),
    "421": ({X.GREETING: b"421 4.3.2 not now"}, "connection", "greeting_refused"),
    "454": ({X.MAIL: b"454 4.7.0 Temporary authentication failure"}, "sender", "sender_deferred"),
    "530": ({X.MAIL: b"530 5.7.0 Must issue a STARTTLS command first"}, "sender", "sender_refused"),
    "503": ({X.MAIL: b"503 5.5.1 need AUTH command"}, "sender", "sender_refused"),
    "550": ({X.MAIL: b"550 5.7.60 not allowed to send as this sender"}, "sender", "sender_refused"),
    "full": ({X.FINAL: b"452 4.3.1 Insufficient system storage"}, "mail", "message_deferred"),
}


async def test_mail_waits_for_a_relay_that_is_away_and_for_one_that_refuses_everything(bed: Bed) -> None:
    """One process meets every mood in turn: after each it is as well as before."""
    relay = moody()
    async with served(bed, relay) as (place, settings):
        service = await bed.fleet.ready(**settings)
        given: dict[str, set[str]] = {}
        for times, (name, (mood, reason, code)) in enumerate(MOODS.items(), 1):
            await place.close()  # no connection of before is left
            relay.mood = mood
            if name != AWAY:
                await place.open()
            given[name] = await give(bed, service, name)
            hold = await hold_of(service)
            assert (hold["reason"], hold["failure"]["code"]) == (reason, code), name
            status, checks = await service.ready_checks()
            assert (status, checks["holds"]) == (200, f"{SCOPE} (breaker)"), name
            relay.mood = WELL
            if name == AWAY:
                await place.open()
            await bed.ledger.wait_quiet()
            await lifted_by_a_probe(service)
            # What had begun before a hold may fail behind it, and open another one.
            assert len(service.events("hold_opened")) == len(service.events("hold_ended")) >= times, name
        assert (await service.get("dead-letters"))["items"] == []
        findings = await bed.close()
    assert set(findings.statuses()) == {"sent"}
    assert charged(findings) == []
    for name, (_, _, code) in MOODS.items():
        failed = failed_attempts(findings, given[name])
        assert set(failed) == {(code, Blame.RELAY)}, name
        assert len(failed) <= 3 * SLOTS, f"{name}: a hold would have kept the others from trying"


async def test_all_processes_together_probe_a_relay_once_a_second_at_most(bed: Bed) -> None:
    relay = moody()
    relay.mood = {X.GREETING: b"421 4.3.2 not now"}
    async with served(bed, relay) as (_, settings):
        first, second = await bed.fleet.several(2, **settings)
        names = await give(bed, first, "waits", codes=12, others=0)
        await hold_of(second)

        def probes() -> int:
            """Connections that were not made for an attempt."""
            return len(relay.came_s) - sum(len(one.events("attempt_finished")) for one in (first, second))

        await eventually(lambda: probes() >= 3, "three probes")
        came_s = list(relay.came_s)
        relay.mood = WELL
        await probe_now(second)
        await bed.ledger.wait_quiet()
        findings = await bed.close()
    failed = failed_attempts(findings, names)
    assert set(failed) == {("greeting_refused", Blame.RELAY)}
    assert set(findings.statuses()) == {"sent"}
    probed_s = came_s[len(failed) :]
    assert len(probed_s) <= probed_s[-1] - probed_s[0] + 2  # a busy machine shifts what it sees
    assert probed_s[-1] - probed_s[-2] > 1.5, "the third pause is of 4 s, less a fifth and what was shifted"


async def test_a_refused_login_is_not_repeated_until_an_operator_or_a_minute_asks_for_it(bed: Bed) -> None:
    relay = moody()
    async with served(bed, relay) as (_, settings):
        relay.mood = {X.AUTH: b"535 5.7.8 bad credentials"}
        service = await bed.fleet.ready(**settings)
        names = await give(bed, service, "waits")
        hold = await hold_of(service)
        assert (hold["reason"], hold["failure"]["code"]) == ("auth", "auth_refused")
        assert hold["until_ms"] - hold["since_ms"] > 100_000  # a minute to the probe, and a minute more
        relay.mood = WELL
        await probe_now(service)
        await bed.ledger.wait_quiet()
        await lifted_by_a_probe(service)
        [ended] = service.events("hold_ended")
        assert _ms(ended["timestamp"]) < hold["until_ms"] - 90_000, "the probe was due later"
        findings = await bed.close()
    assert set(findings.statuses()) == {"sent"}
    assert charged(findings) == []
    failed = failed_attempts(findings, names)
    assert set(failed) == {("auth_refused", Blame.RELAY)}
    assert len(failed) <= 3 * SLOTS  # until every slot has seen the hold


# Refusing everything by an answer that blames the message


async def test_a_relay_that_fails_everything_alike_is_probed_by_one_delivery_at_a_time(bed: Bed) -> None:
    """Four are charged, because each answer alone blames the message. A refused probe is due again in a minute."""
    relay = moody()
    relay.mood = {X.FINAL: b"554 5.7.1 Message rejected"}
    async with served(bed, relay) as (_, settings):
        service = await bed.fleet.ready(**settings)
        names = await give(bed, service, "refused", codes=10, others=30)
        hold = await hold_of(service)
        assert (hold["reason"], hold["failure"]["code"]) == ("fails_everything", "message_refused")

        def put_off() -> int:
            """Deliveries that were refused as probes."""
            queued = service.events("attempt_finished", status="queued")
            return sum(line["next_attempt_at_ms"] > hold["since_ms"] + 50_000 for line in queued)

        await eventually(lambda: put_off() >= 1, "a probe was refused")
        relay.mood = WELL
        await lifted_by_a_probe(service)
        await eventually(lambda: bed.ledger.outstanding() == put_off(), "everything else is sent")
        probes_refused = put_off()
        [opened] = service.events("hold_opened")
        [ended] = service.events("hold_ended")
        bed.ended = False  # the refused probes' deliveries wait
        findings = await bed.close()
    held_ms, freed_ms = (_ms(line["timestamp"]) for line in (opened, ended))
    probes = sorted(
        (attempt.started_at_ms, attempt.finished_at_ms, name)
        for name in names
        for attempt in findings.attempts[name]
        if attempt.started_at_ms is not None and held_ms < attempt.started_at_ms < freed_ms
    )
    assert len(probes) == probes_refused + 1
    for (_, finished_ms, _), (started_ms, _, _) in pairwise(probes):
        assert finished_ms is not None
        assert started_ms - finished_ms > 500
    assert {findings.deliveries[name].lane for _, _, name in probes} == {Lane.PRIORITY}
    assert len({name for _, _, name in probes}) == len(probes), "each time another one"
    assert Counter(findings.statuses()) == {
        "failed": 4,
        "queued": probes_refused,
        "sent": len(names) - 4 - probes_refused,
    }
    assert Counter(failed_attempts(findings, names))["message_refused", Blame.MESSAGE] == 4
    assert len(charged(findings)) == 4


# Taking some, and not more


class TakesSome(Server):
    """So many mails a connection; then it refuses the sender, each time in other words."""

    def __init__(self, mails: int, *replies: bytes) -> None:
        super().__init__()
        self.mails = mails
        self.refused: Counter[bytes] = Counter()
        self._replies = cycle(replies)

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if exchange is X.MAIL and sum(line.startswith(b"MAIL") for line in talk.lines) > self.mails:
            reply = next(self._replies)
            self.refused[reply] += 1
            await talk.say(reply)
        else:
            await self.behave(talk, exchange, said)


async def test_what_a_connection_takes_no_more_goes_by_a_fresh_one_in_the_same_attempt(bed: Bed) -> None:
    replies = (
        b"452 4.3.2 too many messages",
        b"550 5.3.0 too many messages",
        b"451 4.4.2 Timeout waiting for data from client.",
        b"460 too many messages",
        b"421 4.3.2 too many messages",
    )
    relay = TakesSome(3, *replies)
    async with served(bed, relay) as (_, settings):
        service = await bed.fleet.ready(**settings)
        names = await give(bed, service, "mail", codes=20, others=40)
        await bed.ledger.wait_quiet()
        assert service.events("hold_opened") == []
        findings = await bed.close()
    assert relay.refused.keys() == set(replies)
    assert set(findings.statuses()) == {"sent"}
    assert {findings.deliveries[name].attempt_count for name in names} == {1}


class Crowded(Server):
    """Serves one connection at a time, the oldest one. The others get this reply at one exchange."""

    def __init__(self, at: Exchange, reply: bytes) -> None:
        super().__init__()
        self.at = at
        self.reply = reply
        self.refused = 0
        self._open: list[Talk] = []

    async def converse(self, talk: Talk) -> None:
        self._open.append(talk)
        try:
            await super().converse(talk)
        finally:
            self._open.remove(talk)

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if exchange is not self.at or talk is self._open[0]:
            await self.behave(talk, exchange, said)
            return
        self.refused += 1
        await talk.say(self.reply)
        if self.reply.startswith(b"421"):
            raise HangUp


@pytest.mark.parametrize(
    ("at", "reply"),
    [
        (X.GREETING, b"421 4.3.2 too many connections"),
        (X.DATA, b"432 4.3.2 Concurrent connections limit exceeded"),
        (X.FINAL, b"432 4.3.2 Concurrent connections limit exceeded"),
    ],
    ids=["greeting", "DATA", "dot"],
)
async def test_a_relay_that_takes_one_connection_gets_everything(
    bed: Bed, at: Exchange, reply: bytes
) -> None:
    relay = Crowded(at, reply)
    async with served(bed, relay) as (_, settings):
        service = await bed.fleet.ready(**settings)
        names = await give(bed, service, "mail", codes=10, others=40)
        await bed.ledger.wait_quiet()
        await lifted_by_a_probe(service)
        findings = await bed.close()
    assert relay.refused > 0
    assert set(findings.statuses()) == {"sent"}
    assert charged(findings) == []
    assert {blame for _, blame in failed_attempts(findings, names)} == {Blame.RELAY}


async def test_more_recipients_than_the_relay_takes_fail_at_once(bed: Bed) -> None:
    class TakesTwo(Server):
        async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
            if exchange is X.RCPT and talk.recipients_accepted == 2:
                await talk.say(b"452 4.5.3 Too many recipients")
            else:
                await self.behave(talk, exchange, said)

    relay = TakesTwo()
    async with served(bed, relay) as (_, settings):
        service = await bed.fleet.ready(**settings)
        readers = [f"reader{number}@example.org" for number in range(4)]
        bed.ledger.publish(
            command("four", payload={"envelope": {"to": readers}}),
            command("two", payload={"envelope": {"to": readers[:2]}}),
        )
        four = await service.wait_status("four", "failed")
        await service.wait_status("two", "sent")
        assert four["failure"]["code"] == "too_many_recipients"
        assert "took 2 of 4 recipients" in four["failure"]["summary"]
        [attempt] = await service.attempts("four")
        assert attempt["blame"] == "message"
        findings = await bed.close()
    assert findings.copies == {"two": 1}


async def test_unknown_recipients_hold_nobody_up(bed: Bed) -> None:
    relay = Server()
    async with served(bed, relay) as (_, settings):
        service = await bed.fleet.ready(**settings)
        bad = [
            command(f"bad-{number}", payload={"envelope": {"to": [f"nobody@host{number}.example"]}})
            for number in range(50)
        ]
        bed.ledger.publish(*bad[:25], command("good"), *bad[25:])
        await bed.login_code(service, "code")
        await bed.ledger.wait_quiet()
        assert service.events("hold_opened") == []
        findings = await bed.close()
    assert findings.statuses() == {"failed": 50, "sent": 2}
    assert {delivery.attempt_count for delivery in findings.deliveries.values()} == {1}
    assert set(failed_attempts(findings, findings.attempts)) == {("recipient_refused", Blame.MESSAGE)}
    # Relays answer later and later on a connection on which they have refused somebody.
    for talk in relay.talks:
        refused = next((n for n, line in enumerate(talk.lines) if b"<nobody@" in line), len(talk.lines))
        assert not any(line.startswith(b"MAIL") for line in talk.lines[refused:])


# Processes that die


async def test_a_hold_outlives_no_relay_that_is_well_whatever_was_killed(bed: Bed) -> None:
    """kill -9 of the only process while its hold waits, while it probes by session, and while it probes by a delivery."""
    at_the_greeting, at_mail = {X.GREETING: b"421 4.3.2 not now"}, {X.FINAL: b"452 4.3.1 disk full"}
    relay = moody()
    async with served(bed, relay) as (place, settings):
        settings["claim_ttl"] = "2s"
        service = await bed.fleet.ready(**settings)
        for name, mood, probed in (
            ("waiting", at_the_greeting, None),
            ("by-session", at_the_greeting, {X.GREETING: None}),
            ("by-delivery", at_mail, {X.MAIL: None}),
        ):
            await place.close()  # no connection of before is left
            relay.mood = mood
            await place.open()
            await give(bed, service, name, codes=3, others=0)
            await hold_of(service)
            if probed is not None:
                relay.mood = probed  # and the probe stands still
                await eventually(partial(_probed_since, relay, len(relay.talks), *probed), "a probe")
            service.kill()
            await service.wait_ended()
            relay.mood = WELL
            service = await bed.fleet.ready(**settings)
            await bed.ledger.wait_quiet()
            await lifted_by_a_probe(service)
        findings = await bed.close()
    assert set(findings.statuses()) == {"sent"}
    assert charged(findings) == []


def _probed_since(relay: Server, talks: int, at: Exchange) -> bool:
    """Whether a later talk has come so far."""
    return any(
        at is X.GREETING or any(line.startswith(b"MAIL") for line in talk.lines)
        for talk in relay.talks[talks:]
    )
