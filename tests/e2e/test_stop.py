"""Stops: with work in every state, while Redis or the relay hangs, at the second signal, in the middle of the start.

The grace is a bound on what is asked of others, and two seconds more on the whole: `IN_TIME_S` adds what a busy machine
takes for itself.
"""

import signal
import sys
from datetime import datetime
from pathlib import Path
from time import time
from typing import Final

import pytest
import trio

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.ledger import command
from tests.relays.hostile.says_nothing import SaysNothing
from tests.service_process import Line, ServiceProcess, eventually
from tests.testbed import Bed

IN_TIME_S: Final = 2.0 + 1.5
GONE_AFTER_S: Final = (
    30.0  # from its last word on: a frozen program clears away what it unpacked, on a disk that is busy
)


async def stopped_within(
    service: ServiceProcess, within_s: float, number: signal.Signals = signal.SIGTERM
) -> float:
    """Seconds that its end took, by its own last word. True afterwards: its exit status is 0, and no actor crashed."""
    asked_s = time()
    service.signal(number)
    assert await service.wait_ended() == 0, service.story()
    gone_s = time()
    last_words = [*service.events("stopped"), *service.events("stop_overdue")]
    # Ended before it could say anything, it has nothing to clear away.
    ended_s = max(map(told_at_s, last_words), default=gone_s)
    took_s = ended_s - asked_s
    assert took_s < within_s, service.story()
    assert gone_s - ended_s < GONE_AFTER_S, service.story()
    assert service.events("actor_crashed") == [], service.story()
    return took_s


def told_at_s(line: Line) -> float:
    return datetime.fromisoformat(str(line["timestamp"])).timestamp()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_service_stops_at_once(bed: Bed, number: signal.Signals) -> None:
    service = await bed.fleet.ready(shutdown_grace="20s")
    await stopped_within(service, IN_TIME_S, number)
    assert service.lines[-1]["event"] == "stopped"
    assert service.output == ""


async def test_work_that_has_not_begun_is_another_instances_at_once(bed: Bed) -> None:
    """Long before the claims on it run out, and while what is being sent still has all the grace it needs."""
    slow = bed.stub_script('{"rules":[{"recipient":"*","outcomes":["accepted"],"latency":"10m"}]}')
    given = {"claim_ttl": "10m", "attempt_worker_concurrency": "3"}
    first = await bed.fleet.ready(stub_script=slow, shutdown_grace="10m", **given)
    # Two of three slots take commands, and no more are published than the normal lane surely holds besides.
    names = [f"n{number}" for number in range(6)]
    bed.ledger.publish(*(command(name) for name in names))
    await first.metric_reaches("galaxy_mail_busy_sender_slots", 2)
    await eventually(lambda: bed.ledger.claimed() == 6, "all commands are the first one's")
    for key in ("a", "b", "c"):
        await bed.login_code(first, key)
    await first.metric_reaches("galaxy_mail_busy_sender_slots", 3)
    ids = {*names, *bed.ledger.keys.values()}
    await eventually(lambda: bed.ledger.claimed() == len(ids), "all codes, too")
    second = await bed.fleet.ready(**given)

    first.signal(signal.SIGTERM)
    await second.wait_lines("attempt_finished", len(ids) - 3)
    assert first.status is None
    assert first.events("attempt_finished") == first.events("attempt_returned") == []
    first.signal(signal.SIGTERM)  # the end of its grace, if not of the ten minutes
    assert await first.wait_ended() == 0
    assert len(first.events("attempt_returned")) == 3
    for delivery_id in ids:
        await second.wait_status(delivery_id, "sent")
        [attempt] = await second.attempts(delivery_id)
        assert attempt["attempt_no"] == 1
    assert await second.metric("galaxy_mail_lost_claims_total") == 0
    findings = await bed.close()
    assert findings.copies == dict.fromkeys(ids, 1)


async def test_what_the_relay_is_about_to_take_is_waited_for(bed: Bed) -> None:
    """Within the grace an attempt ends as it would have ended anyway."""
    slow = bed.stub_script('{"rules":[{"recipient":"*","outcomes":["accepted"],"latency":"1s"}]}')
    # A claim that a busy machine can't outlast: the stub takes no mail whose claim is about to run out.
    service = await bed.fleet.ready(stub_script=slow, shutdown_grace="20s", claim_ttl="60s")
    await bed.login_code(service, "key")
    await service.metric_reaches("galaxy_mail_busy_sender_slots", 1)
    await stopped_within(service, 1 + IN_TIME_S)
    findings = await bed.close()
    assert findings.statuses() == {"sent": 1}
    assert not service.events("attempt_returned")


@pytest.mark.parametrize(
    ("at", "grace_s"),
    [
        (Exchange.GREETING, 0),
        (Exchange.EHLO, 0),
        (Exchange.DATA, 0),
        (Exchange.DATA, 1),
        (Exchange.FINAL, 0),
        (Exchange.FINAL, 1),
    ],
)
async def test_a_relay_that_hangs_holds_up_no_stop(bed: Bed, at: Exchange, grace_s: int) -> None:
    """Before the final dot the work is returned as it was; after it, what is known is recorded: nothing."""
    bed.ended = False
    relay = SaysNothing(at)
    async with bed.relay(relay) as settings:
        service = await bed.fleet.ready(**settings, shutdown_grace=f"{grace_s}s", claim_ttl="60s")
        await bed.login_code(service, "key")
        await relay_is_at(relay)
        await stopped_within(service, grace_s + IN_TIME_S)
    findings = await bed.ledger.close(everything_ended=False)
    assert findings.wrong == []
    [delivery] = findings.deliveries.values()
    attempts = findings.attempts[delivery.delivery_id]
    if at is Exchange.FINAL:
        assert [(a.status, a.outcome_unknown) for a in attempts] == [
            ("timed_out", True),
            ("scheduled", False),
        ]
        assert delivery.status == "queued"
    else:
        assert [(a.status, a.outcome_unknown) for a in attempts] == [("scheduled", False)]
        assert delivery.status == "rendered"  # the content stays as it was fixed


@pytest.mark.parametrize("sending", [False, True])
async def test_redis_that_hangs_holds_up_no_stop(bed: Bed, sending: bool) -> None:
    """What could not be recorded or given back is another's once its claim has run out."""
    relay = SaysNothing(Exchange.FINAL)
    async with bed.relay(relay) as settings:
        service = await bed.fleet.ready(**settings, shutdown_grace="1s")
        if sending:
            await bed.login_code(service, "key")
            await relay_is_at(relay)
        bed.valkey.pause()
        await stopped_within(service, 1 + IN_TIME_S)
        bed.valkey.resume()
        second = await bed.fleet.ready(**settings)
        if sending:
            await second.wait_status(bed.ledger.keys["key"], "sent")
            first, _ = await second.attempts(bed.ledger.keys["key"])
            # Its last words were on their way: Redis may read them when it wakes, and then they count.
            assert first["failure"]["code"] in {"stop_cut_off", "ownership_lost"}
            assert first["outcome_unknown"]


async def test_redis_that_is_gone_holds_up_no_stop(bed: Bed) -> None:
    service = await bed.fleet.ready(shutdown_grace="1s")
    bed.valkey.kill()
    await service.wait_line("redis_connection_lost")
    await stopped_within(service, 1 + IN_TIME_S)
    await bed.valkey.start()
    await bed.ledger.wait_loaded()


@pytest.mark.parametrize("at", [Exchange.DATA, Exchange.FINAL])
async def test_a_second_signal_stops_at_once(bed: Bed, at: Exchange) -> None:
    """Whatever is left of the grace."""
    bed.ended = False
    relay = SaysNothing(at)
    async with bed.relay(relay) as settings:
        service = await bed.fleet.ready(**settings, shutdown_grace="10m")
        await bed.login_code(service, "key")
        await relay_is_at(relay)
        service.signal(signal.SIGTERM)
        await service.wait_line("stopping")
        await stopped_within(service, IN_TIME_S)
    assert service.events("stopping_at_once")


async def test_a_request_on_its_way_is_answered_before_the_end(bed: Bed) -> None:
    """The listener closes at once, and who was let in before gets an answer."""
    bed.ended = False
    service = await bed.fleet.ready(operator_request_timeout="2s", shutdown_grace="5s")
    bed.valkey.pause()
    answers: list[int] = []

    async def ask() -> None:
        answer = await bed.login_code(service, "key")
        assert answer is not None
        answers.append(answer.status_code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await service.metric_reaches("galaxy_mail_redis_pending_calls", 1)
        service.signal(signal.SIGTERM)
        await service.wait_line("stopping")
        bed.valkey.resume()
    assert answers == [200]
    assert await service.wait_ended() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("later_s", [0.0, 0.05, 0.1, 0.2, 0.4])
async def test_a_stop_in_the_middle_of_the_start(bed: Bed, later_s: float) -> None:
    """From the interpreter's first moments on: imports take longer than anything else of it."""
    service = bed.fleet.start()
    await eventually(lambda: catches(service.pid, signal.SIGTERM), "it catches SIGTERM", every_s=0.001)
    await trio.sleep(later_s)  # not to wait for anything: this is the moment that is tried
    await stopped_within(service, IN_TIME_S)
    assert "Traceback" not in service.story()


@pytest.mark.parametrize("redis_is_there", [True, False])
async def test_a_stop_in_the_moment_in_which_it_listens(bed: Bed, redis_is_there: bool) -> None:
    if not redis_is_there:
        bed.valkey.kill()
    service = bed.fleet.start()
    await service.wait_listening()
    await stopped_within(service, IN_TIME_S)
    if not redis_is_there:
        await bed.valkey.start()
        await bed.ledger.wait_loaded()


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether this process has a handler for this signal (proc(5))."""
    [mask] = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:")
    ]
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


async def relay_is_at(relay: SaysNothing) -> None:
    """Returns once the relay has fallen silent."""
    await eventually(lambda: relay.misbehaved, "the relay is silent")
