"""Redis killed, paused, exchanged, set back, full, read-only, cut off: what is promised comes true once it is well again."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import httpx
import pytest
import trio

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.chaos.relays import HoldsAll, Slow
from tests.ledger import STREAM, command
from tests.proxy import proxy_before
from tests.relays.hostile.server import Server, Talk
from tests.servers import free_port, run_command, run_commands
from tests.service_process import WITHIN_S, ServiceProcess, eventually
from tests.testbed import Bed

MORE = 10  # requests that have to be accepted for mail to flow


class Flow:
    """Two callers who ask for login codes without end, each code again until it is accepted."""

    def __init__(self, bed: Bed, service: ServiceProcess) -> None:
        self.bed = bed
        self.service = service
        self.accepted = 0
        self.refused = 0
        self.enough = False

    async def ask(self, name: str) -> None:
        number = 0
        while not self.enough:
            answer = await self.bed.login_code(self.service, f"{name}-{number}")
            assert answer is not None
            if answer.status_code == httpx.codes.OK:
                self.accepted += 1
                number += 1
            else:
                assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
                self.refused += 1
                await trio.sleep(0.02)  # as Retry-After has it, only sooner

    async def wait_accepted(self, more: int = MORE) -> None:
        """Returns once so many more were accepted."""
        until = self.accepted + more
        await eventually(lambda: self.accepted >= until, f"{more} more are accepted")

    async def wait_refused(self, more: int = 3) -> None:
        until = self.refused + more
        await eventually(lambda: self.refused >= until, f"{more} more are refused")


@asynccontextmanager
async def flowing(bed: Bed, service: ServiceProcess) -> AsyncIterator[Flow]:
    """Mail flows, before and after; at the end all of it has been sent, without a restart of any actor."""
    flow = Flow(bed, service)
    async with trio.open_nursery() as nursery:
        for name in ("a", "b"):
            nursery.start_soon(flow.ask, name)
        bed.ledger.publish(*(command(f"before-{number}") for number in range(30)))
        await flow.wait_accepted()
        yield flow
        bed.ledger.publish(*(command(f"after-{number}") for number in range(30)))
        await flow.wait_accepted()
        flow.enough = True
    await bed.ledger.wait_quiet()
    assert await service.metric("galaxy_mail_actor_restarts_total") == 0
    status, checks = await service.ready_checks()
    assert status == httpx.codes.OK, checks


@pytest.fixture
async def service(bed: Bed) -> AsyncIterator[ServiceProcess]:
    """A service that sends to a relay which takes its time, so that attempts are always in hand."""
    async with bed.relay(Slow(Random(3), 0.02)) as settings:
        yield await bed.fleet.ready(**settings, attempt_worker_concurrency="8", operator_request_timeout="1s")
        await bed.fleet.stop()


async def test_redis_killed_under_load_keeps_what_it_acknowledged(bed: Bed, service: ServiceProcess) -> None:
    """With an append-only file, whenever it is synced: the system did not crash."""
    async with flowing(bed, service) as flow:
        for _ in range(3):
            bed.valkey.kill()
            await flow.wait_refused()
            await bed.valkey.start()
            await bed.ledger.wait_loaded()
            await flow.wait_accepted()
    findings = await bed.close()
    assert set(findings.statuses()) == {"sent"}


async def test_redis_that_stands_still_for_longer_than_a_claim_lives(
    bed: Bed, service: ServiceProcess
) -> None:
    """What was in hand may count as lost then; whatever was said to it is done when it wakes."""
    async with flowing(bed, service) as flow:
        bed.valkey.pause()
        await service.wait_line("redis_connection_lost")  # it owed an answer for 5 s
        assert flow.refused
        bed.valkey.resume()
        await flow.wait_accepted()
    findings = await bed.close()
    assert set(findings.statuses()) == {"sent"}


async def test_an_answer_that_comes_while_redis_is_away_is_recorded_when_it_is_back(bed: Bed) -> None:
    """The slot goes on asking: as long as its claim lives, no copy leaves and no retry is used up."""
    relay = HoldsAll()
    async with bed.relay(relay) as settings:
        service = await bed.fleet.ready(**settings, claim_ttl="60s")
        bed.ledger.publish(command("n1"))
        await bed.login_code(service, "key")
        await eventually(lambda: len(relay.held) == 2, "both are held")
        bed.valkey.kill()
        await service.wait_line("redis_connection_lost")
        relay.released.set()
        await service.wait_lines("redis_trouble", 2)
        assert len(relay.messages) == 2
        await bed.valkey.start()
        for delivery_id in ("n1", bed.ledger.keys["key"]):
            await service.wait_status(delivery_id, "sent")
        findings = await bed.close()
    assert set(findings.copies.values()) == {1}
    assert {delivery.attempt_count for delivery in findings.deliveries.values()} == {1}
    assert findings.unknown == []


async def test_connections_that_are_cut_and_replies_that_are_lost(bed: Bed) -> None:
    """Nobody knows what was done, everything is asked again, and nothing is done twice."""
    async with (
        proxy_before(bed.valkey.socket) as proxy,
        bed.relay(Slow(Random(3), 0.02)) as settings,
    ):
        service = await bed.fleet.ready(
            **settings, redis_addr=proxy.url, attempt_worker_concurrency="8", operator_request_timeout="1s"
        )
        async with flowing(bed, service) as flow:
            for _ in range(6):
                proxy.cut()
                await flow.wait_accepted(3)
            for _ in range(3):
                proxy.lose_replies = True
                await flow.wait_refused(2)
                proxy.lose_replies = False
                await flow.wait_accepted(3)
            proxy.hold_replies = True
            await flow.wait_refused()
            proxy.hold_replies = False  # what was held is gone, and the connection with it
            await flow.wait_accepted(3)
        findings = await bed.close()
    assert set(findings.statuses()) == {"sent"}


async def test_a_redis_that_has_become_a_replica_is_waited_for(bed: Bed, service: ServiceProcess) -> None:
    """A failover that went elsewhere: every write is refused, nothing is lost, and the way back needs no restart."""
    async with flowing(bed, service) as flow:
        run_command(bed.valkey.socket, "REPLICAOF", "127.0.0.1", free_port())
        await flow.wait_refused()
        status, checks = await service.ready_checks()
        assert status == httpx.codes.SERVICE_UNAVAILABLE
        assert "replica" in str(checks["redis"])
        run_command(bed.valkey.socket, "REPLICAOF", "NO", "ONE")
        await flow.wait_accepted()
    findings = await bed.close()
    assert set(findings.statuses()) == {"sent"}


async def test_a_full_redis_takes_nothing_in_and_what_is_in_goes_out(bed: Bed) -> None:
    """The offset stays where it is, finishing works, and a process can be started meanwhile."""
    script = bed.stub_script(
        '{"rules":[{"recipient":"*@slow.test","outcomes":["transient_failure","accepted"]}]}'
    )
    service = await bed.fleet.ready(stub_script=script, retry_delays="2s")
    await bed.login_code(service, "slow", email="ada@slow.test")
    await service.wait_line("attempt_finished", attempt_no=1)
    fields = command("n1")
    flat = [part for pair in fields.items() for part in pair]
    entry_id, _ = run_commands(
        bed.valkey.socket, [("XADD", STREAM, "*", *flat), ("CONFIG", "SET", "maxmemory", "1")]
    )
    assert isinstance(entry_id, bytes)
    bed.ledger.last_entry_id = entry_id.decode()
    bed.ledger.promised.add("n1")

    await service.wait_line("reading_commands_failed")
    refused = await bed.login_code(service, "refused")
    assert refused is not None
    assert (refused.status_code, refused.json()["detail"]) == (503, "The store is full.")
    story = await service.wait_status(bed.ledger.keys["slow"], "sent")
    assert story["attempt_count"] == 2
    assert bed.ledger.offset() != bed.ledger.last_entry_id
    second = await bed.fleet.ready()
    await second.stop()

    run_command(bed.valkey.socket, "CONFIG", "SET", "maxmemory", "0")
    await service.wait_status("n1", "sent")
    again = await bed.login_code(service, "refused")
    assert again is not None
    assert again.status_code == httpx.codes.OK
    await bed.ledger.wait_quiet()
    assert await service.metric("galaxy_mail_actor_restarts_total") == 0


async def test_a_wiped_redis_stops_the_intake_and_sounds_the_alarm(bed: Bed) -> None:
    """What was promised is gone, so nothing is promised on top of it; the right data brings everything back."""
    service = await bed.fleet.ready()
    await bed.login_code(service, "before")
    bed.ledger.publish(command("n1"))
    await bed.ledger.wait_quiet()
    data = bed.valkey.folder / "appendonlydir"
    bed.valkey.kill()
    data.rename(data.with_name("kept"))
    await bed.valkey.start()

    await service.wait_line("store_strange", level="error")
    refused = await bed.login_code(service, "meanwhile")
    assert refused is not None
    assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert "exchanged" in refused.json()["detail"]
    status, checks = await service.ready_checks()
    assert status == httpx.codes.SERVICE_UNAVAILABLE
    assert "wiped or exchanged" in str(checks["store"])
    assert (checks["redis"], checks["actors"]) == (None, None)
    assert (await service.client.get("/livez")).status_code == httpx.codes.OK
    assert await service.metric("galaxy_mail_store_alarms_total", kind="strange") == 1
    run_command(
        bed.valkey.socket, "XADD", STREAM, "*", *[part for pair in command("n2").items() for part in pair]
    )
    await service.wait_line("reading_commands_failed")
    assert run_command(bed.valkey.socket, "EXISTS", "mail:deliveries:n2") == 0

    bed.valkey.kill()
    shutil.rmtree(data)
    data.with_name("kept").rename(data)
    await bed.valkey.start()
    await service.wait_line("redis_connected", link="data", connections=3)
    await eventually(lambda: _is_ready(service), "it is ready again")
    await bed.login_code(service, "meanwhile")
    again = await bed.login_code(service, "before")
    assert again is not None
    assert again.headers["Idempotency-Replayed"] == "true"
    bed.ledger.publish(command("n3"))
    await service.wait_status("n3", "sent")
    await bed.ledger.wait_quiet()


class HoldsOnce(Server):
    """Refuses mail to `slow` for now, then holds it at DATA, then takes it; everybody else's it takes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0
        self.held = trio.Event()
        self._slow: set[Talk] = set()

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if exchange is Exchange.RCPT and b"<slow@" in said:
            self.times += 1
            if self.times == 1:
                said = said.replace(b"<slow@", b"<later@")
            elif self.times == 2:
                self._slow.add(talk)
        if exchange is Exchange.DATA and talk in self._slow:
            self.held.set()
            await talk.more()  # until the client gives up: HangUp is raised then
        await self.behave(talk, exchange, said)


async def test_a_redis_that_was_set_back_drops_what_is_held_and_goes_on(bed: Bed) -> None:
    """After a failover to an older copy nobody knows what a claim is worth: the attempt in hand is given up before
    its dot, and the copy's own schedule decides.
    """
    relay = HoldsOnce()
    async with bed.relay(relay) as settings:
        service = await bed.fleet.ready(**settings, retry_delays="4s,4s", smtp_timeout="10m")
        bed.ledger.publish(command("n1", payload={"envelope": {"to": ["slow@example.org"]}}))
        await service.wait_line("attempt_finished", attempt_no=1)
        data = bed.valkey.folder / "appendonlydir"
        bed.valkey.kill()
        shutil.copytree(data, data.with_name("older"))
        await bed.valkey.start()
        await service.wait_line("redis_connected", link="data", connections=2)
        kept = set(bed.ledger.promised)

        lost = await bed.login_code(service, "lost")
        assert lost is not None
        with trio.fail_after(WITHIN_S):
            await relay.held.wait()
        await service.wait_status(bed.ledger.keys["lost"], "sent")
        bed.valkey.kill()
        shutil.rmtree(data)
        data.with_name("older").rename(data)
        await bed.valkey.start()

        await service.wait_line("store_rolled_back", level="error")
        await service.wait_line("claim_stale", delivery_id="n1", attempt_no=2)
        story = await service.wait_status("n1", "sent")
        assert story["attempt_count"] == 2
        await eventually(lambda: _is_ready(service), "it is ready")
        assert await service.metric("galaxy_mail_store_alarms_total", kind="rolled_back") == 1
        gone = bed.ledger.keys.pop("lost")
        bed.ledger.promised &= kept
        anew = await bed.login_code(service, "lost")
        assert anew is not None
        assert anew.headers["Delivery-Id"] != gone
        await service.wait_status(bed.ledger.keys["lost"], "sent")
        assert await service.metric("galaxy_mail_actor_restarts_total") == 0
        await service.stop()
        findings = await bed.ledger.close()
        bed.closed = True
    assert findings.wrong == [
        f"{gone} arrived and is not stored"
    ]  # Redis did not keep what it had acknowledged
    assert findings.copies["n1"] == 1
    assert relay.times == 3


async def _is_ready(service: ServiceProcess) -> bool:
    return (await service.client.get("/readyz")).status_code == httpx.codes.OK
