"""Retries over time and restarts, what is given up, and what an operator can do about it."""

from itertools import pairwise
from typing import Any

import msgspec

from galaxy_mail.providers.smtp.outcomes import Exchange
from tests.ledger import command
from tests.relays.hostile.server import Server, Talk
from tests.service_process import API, ServiceProcess
from tests.testbed import Bed


async def test_a_transient_failure_is_retried_until_it_succeeds(bed: Bed) -> None:
    """Each retry after its delay, with the same content; the failure is forgotten once it was sent."""
    script = {
        "rules": [{"recipient": "*@slow.test", "outcomes": ["transient_failure", "timeout", "accepted"]}]
    }
    service = await bed.fleet.ready(stub_script=bed.stub_script(msgspec.json.encode(script).decode()))
    await bed.login_code(service, "slow", email="ada@slow.test")
    story = await service.wait_status(bed.ledger.keys["slow"], "sent")
    attempts = await service.attempts(story["delivery_id"])
    assert [(a["attempt_no"], a["status"], a["result"]) for a in attempts] == [
        (1, "provider_rejected", "transient_failure"),
        (2, "timed_out", "transient_failure"),
        (3, "provider_accepted", "accepted"),
    ]
    assert attempts[0]["failure"]["code"] == "message_deferred"
    for earlier, later in pairwise(attempts):
        assert later["scheduled_for_ms"] == earlier["finished_at_ms"] + 1000
        assert later["started_at_ms"] >= later["scheduled_for_ms"]
    assert (story["failure"], story["attempt_count"], story["next_attempt_at_ms"]) == (None, 3, None)


async def test_a_retry_survives_the_process_that_planned_it(bed: Bed) -> None:
    """The plan is in Redis, so another process follows it, and counts on from where the first one was."""
    script = {"default": ["transient_failure", "accepted"]}
    given = {"stub_script": bed.stub_script(msgspec.json.encode(script).decode()), "retry_delays": "3s"}
    first = await bed.fleet.ready(**given)
    await bed.login_code(first, "key")
    await first.wait_line("attempt_finished", attempt_no=1)
    first.kill()
    await first.wait_ended()
    second = await bed.fleet.ready(**given)
    story = await second.wait_status(bed.ledger.keys["key"], "sent")
    attempts = await second.attempts(story["delivery_id"])
    assert [a["attempt_no"] for a in attempts] == [1, 2]
    assert attempts[1]["started_at_ms"] >= attempts[0]["finished_at_ms"] + 3000


class Relents(Server):
    """Refuses `later` for now, until it is told otherwise."""

    relents = False

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        await self.behave(talk, exchange, said.replace(b"later@", b"taken@") if self.relents else said)


async def test_what_is_given_up_waits_as_a_dead_letter_and_can_be_sent_again(bed: Bed) -> None:
    """Four attempts; then operators find it, resend it, and see both ends of the link."""
    relay = Relents()
    async with bed.relay(relay) as settings:
        service = await bed.fleet.ready(**settings, retry_delays="50ms,50ms,50ms")
        bed.ledger.publish(command("n1", payload={"envelope": {"to": ["later@example.org"]}}))
        story = await service.wait_status("n1", "dead_letter")
        assert story["failure"]["code"] == "recipient_deferred"
        attempts = await service.attempts("n1")
        assert [a["attempt_no"] for a in attempts] == [1, 2, 3, 4]
        assert {a["status"] for a in attempts} == {"provider_rejected"}
        assert [one["address"] for one in attempts[0]["refused_recipients"]] == ["later@example.org"]
        [dead] = (await service.get("dead-letters"))["items"]
        assert (dead["delivery_id"], dead["reason"], dead["attempt_count"]) == ("n1", "retries_exhausted", 4)

        without_key = await service.client.request("POST", f"{API}/deliveries/n1/resend")
        assert (without_key.status_code, without_key.json()["code"]) == (400, "invalid_request")
        children = [await _resend(service, "n1", "again", status) for status in (201, 200)]
        assert children[0] == children[1]  # a replay
        child = await service.wait_status(children[0], "dead_letter")
        assert (child["source"], child["parent_delivery_id"]) == ("operator_resend", "n1")
        assert (await service.delivery("n1"))["resent_as"] == [children[0]]
        assert (await service.delivery("n1"))["status"] == "dead_letter"
        assert len((await service.get("dead-letters"))["items"]) == 2

        relay.relents = True
        clone = await _resend(service, "n1", "once more", 201)
        assert (await service.wait_status(clone, "sent"))["subject"] == "Subject of n1"
        findings = await bed.close()
    assert findings.copies == {clone: 1}


async def test_what_is_refused_for_good_fails_at_once_and_is_not_retried(bed: Bed) -> None:
    """And nobody else of the envelope gets it."""
    relay = Server()
    async with bed.relay(relay) as settings:
        service = await bed.fleet.ready(**settings)
        envelope = {"to": ["ada@example.org", "nobody@example.org"], "bcc": ["later@example.org"]}
        bed.ledger.publish(command("n1", payload={"envelope": envelope}))
        story = await service.wait_status("n1", "failed")
        [attempt] = await service.attempts("n1")
        assert attempt["status"] == "provider_rejected"
        assert {r["address"]: r["provider_code"] for r in attempt["refused_recipients"]} == {
            "nobody@example.org": "550 5.1.1",
            "later@example.org": "450 4.2.1",
        }
        assert story["failure"]["code"] == "recipient_refused"
        findings = await bed.close()
    assert not findings.copies


async def test_only_what_has_ended_can_be_sent_again(bed: Bed) -> None:
    service = await bed.fleet.ready(
        stub_script=bed.stub_script('{"default":["transient_failure","accepted"]}')
    )
    await bed.login_code(service, "key")
    delivery_id = bed.ledger.keys["key"]
    await service.wait_status(delivery_id, "queued", "sending")
    refused = await service.client.request(
        "POST", f"{API}/deliveries/{delivery_id}/resend", headers={"Idempotency-Key": "k"}
    )
    assert (refused.status_code, refused.json()["code"]) == (409, "resend_not_allowed")
    await bed.ledger.wait_quiet()
    clone = await _resend(service, delivery_id, "k", 201)
    story: Any = await service.wait_status(clone, "sent")
    assert story["subject"] is None  # a login code's clone is as secret as itself


async def _resend(service: ServiceProcess, delivery_id: str, key: str, status: int) -> str:
    answer = await service.client.request(
        "POST", f"{API}/deliveries/{delivery_id}/resend", headers={"Idempotency-Key": key}
    )
    assert answer.status_code == status, answer.text
    assert answer.json()["parent_delivery_id"] == delivery_id
    return str(answer.json()["delivery_id"])
