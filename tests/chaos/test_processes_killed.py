"""Processes killed under load: nothing is lost, and a second copy leaves only where the outcome of the first is unknown.

`make test` runs a few rounds with fewer deliveries; GALAXY_CHAOS=full runs all twenty with 300 in flight each.
"""

import os
import signal
from collections import Counter
from random import Random
from typing import Final

import pytest
import trio

from tests.chaos.relays import TAKEN, Holding, Slow
from tests.ledger import arrival, command
from tests.relays.hostile.server import Server
from tests.service_process import ServiceProcess, eventually
from tests.testbed import Bed

FULL: Final = os.environ.get("GALAXY_CHAOS") == "full"
ROUNDS, IN_FLIGHT = (20, 300) if FULL else (3, 100)


@pytest.mark.timeout(900)
async def test_kill_9_with_every_attempt_in_flight_loses_nothing(bed: Bed) -> None:
    """Each round: so many attempts have begun and stand anywhere on their way to the relay; then kill -9.

    How many copies leave is known beforehand: as many as the relay had taken without an answer.
    """
    relay = Holding(Random(5))
    expected: Counter[str] = Counter()
    async with bed.relay(relay) as settings:
        given = {
            **settings,
            "attempt_worker_concurrency": str(IN_FLIGHT + 1),
            "smtp_timeout": "60s",
            "claim_ttl": "4s",
        }
        service = await bed.fleet.ready(**given)
        for number in range(ROUNDS):
            relay.hold()
            await load(bed, service, number)
            await eventually(
                lambda: relay.held.total() == IN_FLIGHT,
                f"round {number}: {relay.held} are held",
                every_s=0.02,
            )
            assert bed.ledger.outstanding() >= IN_FLIGHT
            service.kill()
            expected.update(arrival(message).delivery_id for message in relay.unanswered)
            await service.wait_ended()
            relay.release()
            service = await bed.fleet.ready(**given)
            await bed.ledger.wait_quiet()
        findings = await bed.close()
    assert findings.duplicates == expected
    assert {attempt.delivery_id for attempt in findings.unknown} >= expected.keys()
    assert set(findings.statuses()) == {"sent"}
    assert relay.held.keys() >= {TAKEN}
    print(
        f"{ROUNDS} rounds of kill -9, {IN_FLIGHT} in flight each: {len(findings.deliveries)} deliveries, 0 lost, "
        f"{expected.total()} second copies, all of them taken and unanswered at the kill; "
        f"{len(findings.unknown)} attempts with an unknown outcome"
    )


@pytest.mark.timeout(900)
async def test_kill_9_in_the_middle_of_the_flow_loses_nothing(bed: Bed) -> None:
    """The kill comes at any moment of accepting, claiming, beginning, sending and recording."""
    random = Random(7)
    relay = Slow(random, 0.02)
    async with bed.relay(relay) as settings:
        given = {**settings, "attempt_worker_concurrency": "40"}
        service = await bed.fleet.ready(**given)
        for number in range(ROUNDS):
            arrived = len(relay.messages)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load, bed, service, number)
                await has_taken(relay, arrived + random.randint(1, IN_FLIGHT))
                service.kill()
                await service.wait_ended()
            service = await bed.fleet.ready(**given)
            for key in sorted(bed.ledger.perhaps):
                await bed.login_code(service, key)
            await bed.ledger.wait_quiet()
        findings = await bed.close()
    assert set(findings.statuses()) <= {"sent"}
    print(
        f"{ROUNDS} kills -9 in the flow: {len(findings.deliveries)} deliveries, 0 lost, "
        f"{sum(findings.duplicates.values())} second copies, {len(findings.unknown)} attempts with an unknown outcome"
    )


async def test_a_stop_under_load_loses_nothing_and_sends_nothing_twice(bed: Bed) -> None:
    """SIGTERM in the flow, again and again: what was begun ends, what was not is the next process' at once."""
    random = Random(9)
    relay = Slow(random, 0.02)
    async with bed.relay(relay) as settings:
        given = {**settings, "attempt_worker_concurrency": "40", "claim_ttl": "60s"}
        service = await bed.fleet.ready(**given)
        for number in range(2):
            arrived = len(relay.messages)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load, bed, service, number)
                await has_taken(relay, arrived + random.randint(1, 50))
                service.signal(signal.SIGTERM)
                successor = await bed.fleet.ready(**given)
                assert await service.wait_ended() == 0, service.story()
            service = successor
        await bed.ledger.wait_quiet()
        findings = await bed.close()
    assert findings.duplicates == {}
    assert findings.unknown == []
    assert set(findings.statuses()) == {"sent"}
    assert {delivery.attempt_count for delivery in findings.deliveries.values()} == {1}


async def has_taken(relay: Server, number: int) -> None:
    """Returns as soon as the relay has so many messages."""
    await eventually(lambda: len(relay.messages) >= number, f"{number} have arrived", every_s=0.001)


async def load(bed: Bed, service: ServiceProcess, number: int) -> None:
    """Commands and login codes, as many as are to be in flight. Requests that a kill cuts off are asked anew, later."""
    bed.ledger.publish(*(command(f"n{number}-{part}") for part in range(IN_FLIGHT * 2 // 3)))
    async with trio.open_nursery() as nursery:
        for part in range(IN_FLIGHT - IN_FLIGHT * 2 // 3):
            nursery.start_soon(bed.login_code, service, f"c{number}-{part}")
