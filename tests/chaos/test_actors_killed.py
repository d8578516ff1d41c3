"""Actors killed by name at each point of an attempt while mail flows: nothing is lost, and the service goes on."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import httpx
import pytest
import trio

from galaxy_mail.config import Config
from galaxy_mail.providers.smtp.outcomes import Exchange
from galaxy_mail.telemetry import logs
from tests.chaos.watched import Place, Point, Watch, WatchedDependencies, WatchedRelay, WatchedService
from tests.http_client import HttpClient
from tests.ledger import command
from tests.service_process import API, WITHIN_S, eventually
from tests.testbed import Bed

# In the order in which an attempt comes to them, on a new connection.
PLACES: tuple[Place, ...] = (
    Point.BEFORE_BEGIN,
    Point.IN_BEGIN,
    Point.AFTER_BEGIN,
    Exchange.GREETING,
    Exchange.EHLO,
    Exchange.MAIL,
    Exchange.RCPT,
    Exchange.DATA,
    Exchange.BODY,
    Exchange.FINAL,
    Point.AFTER_ANSWER,
    Point.BEFORE_FINISH,
    Point.IN_FINISH,
    Point.AFTER_FINISH,
)
NEW_CONNECTION = (Exchange.GREETING, Exchange.EHLO)
ACTORS = ("redis", "scheduler", "ingress", "janitor", "relays", "resend-jobs", "http")


class Running:
    """A watched service under load."""

    def __init__(self, bed: Bed, watch: Watch, relay: WatchedRelay, service: WatchedService) -> None:
        self.bed = bed
        self.watch = watch
        self.relay = relay
        self.service = service
        self.supervisor = service.parts.supervisor
        self._numbers = count()

    def restarts(self, name: str) -> int:
        [actor] = [actor for actor in self.supervisor.statistics() if actor.name == name]
        return actor.restarts

    async def wait_all_run(self) -> None:
        await eventually(
            lambda: all(actor.status == "running" for actor in self.supervisor.statistics()), "all actors run"
        )

    async def load(self) -> None:
        """Some mail by both intakes. An API that was just killed is asked again, with the same key."""
        number = next(self._numbers)
        self.bed.ledger.publish(*(command(f"n{number}-{part}") for part in range(6)))
        await self.login_code(f"c{number}")

    async def login_code(self, key: str) -> None:
        async def answered() -> bool:
            server = self.service.parts.server
            if server is None:
                return False
            self.bed.ledger.unanswered(key)  # until it is answered
            try:
                async with HttpClient(server.url, within_s=WITHIN_S) as client:
                    answer = await client.request(
                        "POST",
                        f"{API}/login-code-deliveries",
                        headers={"Idempotency-Key": key},
                        json_body={"email": f"{key}@example.org", "code": "1", "locale": "en"},
                    )
            except httpx.TransportError:
                return False
            if answer.status_code == httpx.codes.OK:
                self.bed.ledger.answered(key, answer.headers["Delivery-Id"])
            return answer.status_code == httpx.codes.OK

        await eventually(answered, f"{key} is accepted")

    async def kill(self, name: str) -> None:
        """Kills the actor as it stands. True afterwards: it has been started anew."""
        before = self.restarts(name)
        self.supervisor.kill(name)
        await eventually(lambda: self.restarts(name) > before, f"{name} is restarted")

    async def kill_at(self, place: Place, actor: str | None) -> str:
        """Kills the actor, or the slot itself, when a slot comes to the place; the name of the slot."""
        hit: list[str] = []

        def kill(slot: str) -> None:
            hit.append(slot)
            self.supervisor.kill(actor or slot)

        if place in NEW_CONNECTION:  # one is made when the slot is built anew
            await self.kill_at(Point.BEFORE_BEGIN, None)
        victims = {name: self.restarts(name) for name in ("sender-0", "sender-1", *ACTORS)}
        self.watch.arm(place, kill)
        with trio.fail_after(WITHIN_S):
            async with self.under_load():
                await self.watch.wait_hit()
        victim = actor or hit[0]
        await eventually(lambda: self.restarts(victim) > victims[victim], f"{victim} is restarted")
        await self.wait_all_run()
        return hit[0]

    @asynccontextmanager
    async def under_load(self) -> AsyncIterator[None]:
        """Mail flows. Afterwards every request was answered: none is on its way that may be accepted later."""
        enough = trio.Event()

        async def load() -> None:
            while not enough.is_set():
                await self.load()
                await eventually(lambda: self.bed.ledger.outstanding() < 10, "most of it is sent")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            yield
            enough.set()


@asynccontextmanager
async def running(bed: Bed, *, answer_within_s: float = 5) -> AsyncIterator[Running]:
    """A watched service, ready; stopped once everything has ended.

    `answer_within_s`: so long a slot that is killed after its dot waits for the answer, which comes from the same loop.
    """
    watch, undo = Watch(), logs.configure("warning", "json", io.BytesIO())
    relay = WatchedRelay(watch)
    try:
        async with bed.relay(relay) as settings, trio.open_nursery() as nursery:
            # What a killed slot holds it gives back or records at once. Claims whose answer got lost with the gateway
            # expire: soon enough for a test, and not so soon that a busy machine loses others.
            given = {
                "attempt_worker_concurrency": "2",
                "claim_ttl": "5s",
                "shutdown_grace": "5s",
                **settings,
            }
            env = bed.fleet.env | {f"MAIL_{name.upper()}": value or "" for name, value in given.items()}
            config = Config.from_env(env)
            service = WatchedService(config, dependencies=WatchedDependencies(config, watch, answer_within_s))
            nursery.start_soon(service.run)
            ready = Running(bed, watch, relay, service)
            await eventually(
                lambda: service.parts.server is not None and not any(service.parts.gauges.checks().values()),
                "ready",
            )
            yield ready
            await bed.ledger.wait_quiet()
            await ready.wait_all_run()
            service.stop()
    finally:
        undo()


async def test_a_slot_that_is_killed_at_any_point_loses_nothing(bed: Bed) -> None:
    """Killed, it gives back what the relay cannot have, and records what it learnt: nothing is sent twice."""
    async with running(bed) as service:
        for place in PLACES:
            await service.kill_at(place, None)
    findings = await bed.close()
    assert findings.duplicates == {}
    assert findings.unknown == []
    assert set(findings.statuses()) == {"sent"}


@pytest.mark.parametrize("actor", ACTORS)
async def test_an_actor_that_is_killed_at_any_point_of_an_attempt_loses_nothing(bed: Bed, actor: str) -> None:
    """Whatever the others do meanwhile."""
    async with running(bed) as service:
        for place in PLACES:
            await service.kill_at(place, actor)
    findings = await bed.close()
    assert findings.duplicates == {}
    assert findings.unknown == []
    assert set(findings.statuses()) == {"sent"}


async def test_a_slot_that_is_killed_before_the_answer_to_its_dot_sends_a_copy_and_says_so(bed: Bed) -> None:
    """The one window in which a second copy can leave: the relay has it, and its answer never came."""
    async with running(bed, answer_within_s=0.2) as service:
        service.relay.silent_at_final = True
        for _ in range(3):
            await service.kill_at(Exchange.FINAL, None)
    findings = await bed.close()
    assert sum(findings.duplicates.values()) == len(findings.unknown) == 3
    for delivery_id in findings.duplicates:
        *lost, last = findings.attempts[delivery_id]
        assert {(attempt.status, attempt.outcome_unknown) for attempt in lost} == {("timed_out", True)}
        assert last.status == "provider_accepted"


async def test_everything_is_killed_again_and_again_while_mail_flows(bed: Bed) -> None:
    """Every actor in turn, at no particular point."""
    async with running(bed) as service:
        async with service.under_load():
            for _ in range(3):
                for name in ("sender-0", "sender-1", *ACTORS):
                    await service.kill(name)
        await service.wait_all_run()
    findings = await bed.close()
    assert findings.duplicates == {}
    assert findings.unknown == []
