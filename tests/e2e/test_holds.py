"""Operators hold mail back: login codes are accepted and wait, through a kill -9, until the hold is lifted."""

import trio

from tests.ledger import command
from tests.service_process import API, ServiceProcess
from tests.testbed import Bed

SCOPE = "lane:priority"


async def hold(service: ServiceProcess) -> None:
    answer = await service.client.request(
        "PUT", f"{API}/holds/{SCOPE}", json_body={"reason": "move", "created_by": "ada"}
    )
    assert answer.status_code == 201, answer.text
    await service.wait_line("hold_opened", scope=SCOPE)


async def lift(service: ServiceProcess) -> None:
    answer = await service.client.request("DELETE", f"{API}/holds/{SCOPE}")
    assert answer.status_code == 204, answer.text


async def test_a_held_login_code_waits_and_is_sent_at_once_when_the_hold_is_lifted(bed: Bed) -> None:
    service = await bed.fleet.ready()
    await hold(service)
    code = await bed.login_code(service, "code")
    assert code is not None
    assert (code.status_code, code.json()) == (200, {"outcome": "sent"})
    code_id = code.headers["Delivery-Id"]
    bed.ledger.publish(command("other-mail"))
    await service.wait_status("other-mail", "sent")
    assert (await service.delivery(code_id))["status"] == "queued"
    status, checks = await service.ready_checks()
    assert (status, checks["holds"]) == (200, "lane:priority (operator)")
    [item] = (await service.get("holds"))["items"]
    assert (item["scope"], item["created_by"]) == (SCOPE, "ada")

    await lift(service)
    with trio.fail_after(30):
        await service.wait_line("attempt_finished", delivery_id=code_id, status="sent")
    [ended] = service.events("hold_ended", scope=SCOPE)
    assert len(service.events("hold_opened")) == 1
    assert [attempt["attempt_no"] for attempt in await service.attempts(code_id)] == [1]
    assert service.events("operator_action", action="hold", scope=SCOPE, outcome="done")
    assert ended["reason"] == "move"


async def test_a_hold_outlives_a_kill_of_every_process(bed: Bed) -> None:
    first = await bed.fleet.ready()
    await hold(first)
    code = await bed.login_code(first, "code")
    assert code is not None
    first.kill()
    await first.wait_ended()

    second = await bed.fleet.ready()
    await second.wait_line("hold_opened", scope=SCOPE)
    other = await bed.login_code(second, "other-code")
    assert other is not None
    bed.ledger.publish(command("other-mail"))
    await second.wait_status("other-mail", "sent")
    for answer in (code, other):
        assert (await second.delivery(answer.headers["Delivery-Id"]))["status"] == "queued"
    assert second.events("attempt_finished", status="sent", source="authsession") == []
    await lift(second)
    for answer in (code, other):
        await second.wait_status(answer.headers["Delivery-Id"], "sent")
