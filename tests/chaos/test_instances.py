"""Two and three instances on one Redis: each delivery is one's, and what one loses is soon another's."""

import signal
from itertools import count
from time import time
from typing import Any, Final, cast

import trio

from tests.chaos.relays import HoldsAll
from tests.ledger import LANES, arrival, command
from tests.relays.hostile.server import Server
from tests.servers import run_commands
from tests.service_process import ServiceProcess, eventually
from tests.testbed import Bed

# The rest is what a busy machine needs; in virtual time, other tests hold the bounds themselves.
TAKEN_OVER_WITHIN_MS: Final = 2_000 + 10_000  # of the claim's expiry
READ_WITHIN_S: Final = 5.0 + 10.0
# Whose owner is not to lose a claim, however long the machine stands still. What a claim whose answer gets lost holds is
# nobody's for as long, too.
LONG: Final = "20s"


async def test_three_instances_share_the_work_and_none_is_done_twice(bed: Bed) -> None:
    """All have their hands full when one is killed and one is stopped; a fourth comes. Only the killed one's are copied.

    The others' claims live longer: where the machine stands still for a while, they would count as crashed, too.
    """
    relay = HoldsAll()
    slots, commands = (
        5,
        40,
    )  # one slot more takes codes alone; that many commands are more than any two can hold
    async with bed.relay(relay) as settings:
        given = {
            **settings,
            "attempt_worker_concurrency": str(slots + 1),
            "claim_ttl": LONG,
            "shutdown_grace": "60s",
        }
        first = await bed.fleet.ready(**{**given, "claim_ttl": "4s"})
        names = (f"n{number}" for number in count())
        bed.ledger.publish(*(command(next(names)) for _ in range(commands)))
        await eventually(lambda: len(relay.held) >= slots, "the first one's slots are busy")
        of_the_first = {arrival(message).delivery_id for message in relay.held[:slots]}
        second, third = await bed.fleet.several(2, **given)
        for service in (first, second, third):
            await service.metric_reaches("galaxy_mail_busy_sender_slots", slots)
        await eventually(lambda: len(relay.held) >= 3 * slots, "all slots are busy")

        async def ask(service: ServiceProcess, keys: range) -> None:
            for key in keys:
                while f"c{key}" not in bed.ledger.keys:  # a busy machine may answer 503, which is no promise
                    await bed.login_code(service, f"c{key}")

        async with trio.open_nursery() as nursery:
            for number, service in enumerate((first, second, third)):
                nursery.start_soon(ask, service, range(number * 10, number * 10 + 10))
        first.kill()
        second.signal(signal.SIGTERM)
        await second.wait_line("stopping")
        bed.ledger.publish(*(command(next(names)) for _ in range(commands)))
        relay.holds = False
        relay.released.set()
        fourth = await bed.fleet.ready(**given)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, third, range(30, 40))
            nursery.start_soon(ask, fourth, range(40, 50))
        assert await second.wait_ended() == 0
        await bed.ledger.wait_quiet()
        findings = await bed.close()
    assert findings.statuses() == {"sent": 2 * commands + 50}
    told = [line for service in bed.fleet.processes for line in service.events("attempt_finished")]
    once = {(line["delivery_id"], line["attempt_no"]) for line in told}
    assert len(once) == len(told), "an attempt's end was recorded by two"
    # The relay had them when their owner was killed. What else has a copy was lost by the same owner: the books see to it.
    assert of_the_first <= findings.duplicates.keys()
    assert {attempt.failure.code for attempt in findings.unknown if attempt.failure} == {"ownership_lost"}
    for service in (second, third, fourth):
        assert service.events("claim_stale") == [], "a living owner lost a claim"


def expiries(bed: Bed) -> dict[str, float]:
    """Delivery id -> when its claim expires, in epoch ms: nobody renews any more."""
    found: dict[str, float] = {}
    for reply in run_commands(bed.valkey.socket, [("ZRANGE", lane, 0, -1, "WITHSCORES") for lane in LANES]):
        flat = cast("list[bytes]", reply)
        found |= {name.decode(): float(score) for name, score in zip(flat[::2], flat[1::2], strict=True)}
    return found


async def test_what_a_killed_instance_held_is_taken_over_within_2_s_of_its_claims_end(bed: Bed) -> None:
    """By one that stands beside it, and stood still meanwhile, so that all of it was the first one's."""
    relay = HoldsAll()
    async with bed.relay(relay) as settings:
        given = {**settings, "attempt_worker_concurrency": "4"}
        first = await bed.fleet.ready(**given, claim_ttl="3s")
        second = await bed.fleet.ready(**given, claim_ttl=LONG)
        second.signal(signal.SIGSTOP)
        names = [f"n{number}" for number in range(3)]
        bed.ledger.publish(*(command(name) for name in names))
        await eventually(lambda: len(relay.held) == 3, "all are held")
        first.kill()
        await first.wait_ended()
        ends_ms = expiries(bed)
        relay.holds = False
        relay.released.set()
        second.signal(signal.SIGCONT)
        for name in names:
            line = await second.wait_line("claim_lost", delivery_id=name)
            assert (line["losses"], line["begun"]) == (1, True)
            lost, again = await _two_attempts(second, name)
            late_ms = lost["finished_at_ms"] - ends_ms[name]
            assert 0 <= late_ms <= TAKEN_OVER_WITHIN_MS
            assert again["scheduled_for_ms"] == lost["finished_at_ms"]  # the next one is due at once
            assert (lost["failure"]["code"], lost["outcome_unknown"]) == ("ownership_lost", True)
        findings = await bed.close()
    assert findings.duplicates == dict.fromkeys(names, 1)  # the relay had them when their owner was killed


async def _two_attempts(service: ServiceProcess, name: str) -> list[Any]:
    await service.wait_status(name, "sent")
    attempts = await service.attempts(name)
    assert len(attempts) == 2
    return attempts


async def test_a_relay_that_takes_its_time_costs_no_claim_as_long_as_its_owner_lives(bed: Bed) -> None:
    """Longer than a claim lives, with somebody beside who would take it over."""
    relay = HoldsAll()
    async with bed.relay(relay) as settings:
        first, second = await bed.fleet.several(2, **settings, claim_ttl="4s")
        bed.ledger.publish(command("n1"))
        await eventually(lambda: len(relay.held) == 1, "it is held")
        [first_end_ms] = expiries(bed).values()
        await eventually(lambda: expiries(bed)["n1"] > first_end_ms + 4_000, "it was renewed again and again")
        relay.released.set()
        await first.wait_status("n1", "sent")
        for service in (first, second):
            assert await service.metric("galaxy_mail_lost_claims_total") == 0
        findings = await bed.close()
    assert findings.copies == {"n1": 1}
    assert [attempt.status for attempt in findings.attempts["n1"]] == ["provider_accepted"]


async def test_a_paused_owner_changes_nothing_when_it_wakes(bed: Bed) -> None:
    """It counts as crashed: another has taken over, sent a copy, and recorded it; what the first learns is stale."""
    relay = HoldsAll()
    async with bed.relay(relay) as settings:
        given = {**settings, "attempt_worker_concurrency": "2"}
        first = await bed.fleet.ready(**given)
        second = await bed.fleet.ready(**given, claim_ttl=LONG)
        second.signal(signal.SIGSTOP)  # so that it is the first one's
        bed.ledger.publish(command("n1"))
        await eventually(lambda: len(relay.held) == 1, "it is held")
        first.signal(signal.SIGSTOP)
        relay.holds = False
        second.signal(signal.SIGCONT)
        story = await second.wait_status("n1", "sent")
        relay.released.set()  # and the first one is answered, too
        first.signal(signal.SIGCONT)
        await first.wait_line("claim_stale", delivery_id="n1", attempt_no=1)
        assert await first.delivery("n1") == story
        assert await first.metric("galaxy_mail_stale_claims_total") == 1
        assert await first.metric("galaxy_mail_actor_restarts_total") == 0
        bed.ledger.publish(command("n2"))
        await first.wait_status("n2", "sent")
        findings = await bed.close()
    assert findings.duplicates == {"n1": 1}
    assert [(a.attempt_no, a.outcome_unknown) for a in findings.attempts["n1"]] == [(1, True), (2, False)]


async def reader_of(*services: ServiceProcess) -> ServiceProcess:
    """The one that reads the stream. On a machine that stood still the lease may be on its way to another."""
    while True:
        reading = [service for service in services if await service.metric("galaxy_mail_stream_reader")]
        if len(reading) == 1:
            return reading[0]


async def test_the_stream_has_a_new_reader_within_5_s(bed: Bed) -> None:
    """One reads at a time: killed, its lease runs out; stopped, it hands the lease over at once."""
    one, other = await bed.fleet.several(2)
    bed.ledger.publish(command("n0"))
    await one.wait_status("n0", "sent")
    reader = await reader_of(one, other)
    heir = other if reader is one else one
    reader.kill()
    killed_s = time()
    await reader.wait_ended()
    bed.ledger.publish(command("n1"))
    await bed.ledger.wait_consumed()
    assert time() - killed_s < READ_WITHIN_S
    await heir.wait_status("n1", "sent")
    assert await reader_of(heir) is heir

    third = await bed.fleet.ready()
    await reader_of(heir, third)
    await heir.stop()
    bed.ledger.publish(command("n2"))
    await bed.ledger.wait_consumed()
    await third.wait_status("n2", "sent")


async def test_a_paused_reader_changes_nothing_when_it_wakes(bed: Bed) -> None:
    """In the middle of a backlog another one goes on from the offset; what the first had read ahead is refused."""
    numbers = count()
    async with bed.relay(Server()) as settings:
        services = await bed.fleet.several(2, **settings)
        bed.ledger.publish(command("n"))
        await services[0].wait_status("n", "sent")
        reader = await reader_of(*services)
        published = 1
        for _ in range(20):  # once, unless we were too slow to stop it in the middle
            bed.ledger.publish(*(command(f"n{next(numbers)}") for _ in range(1_000)))
            some = published + 100
            published += 1_000

            def some_are_read(some: int = some) -> bool:
                return bed.ledger.consumed() > some

            await eventually(some_are_read, "some are read", every_s=0.001)
            reader.signal(signal.SIGSTOP)
            if bed.ledger.consumed() < published:
                break
            reader.signal(signal.SIGCONT)
        else:
            raise AssertionError("it was never stopped in the middle")
        await bed.ledger.wait_consumed()
        reader.signal(signal.SIGCONT)
        bed.ledger.publish(command("last"))
        for service in services:
            await service.wait_status("last", "sent")
        await bed.ledger.wait_quiet()
        assert bed.ledger.consumed() == published + 1
        assert await reader.metric("galaxy_mail_actor_restarts_total") == 0
        findings = await bed.close()
    assert set(findings.statuses()) == {"sent"}
