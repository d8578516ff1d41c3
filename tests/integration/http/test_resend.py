"""Sending one finished delivery again."""

from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from galaxy_mail.domain.records import Lane, SendResult, Source, Suppression
from tests.integration.http.world import DAY_MS, DELAYED, DROPPED, REFUSED, SENT, Told, World
from tests.servers import ValkeyServer, run_command


async def resend(api: World, delivery_id: str, key: str = "k", **how: Any) -> Told:
    return await api.ask("POST", f"deliveries/{delivery_id}/resend", headers={"Idempotency-Key": key}, **how)


@pytest.mark.parametrize(
    "result", [SENT, REFUSED, DELAYED, DROPPED], ids=["sent", "failed", "dead", "suppressed"]
)
async def test_from_every_terminal_state_a_clone_is_made(api: World, result: SendResult) -> None:
    parent_id = await api.made(result, source=Source.AUTHSESSION)
    parent = await api.delivery(parent_id)
    told = await resend(api, parent_id)
    assert told.status == 201
    assert told.json["parent_delivery_id"] == parent_id
    clone = await api.delivery(told.json["delivery_id"])
    assert (clone.source, clone.parent_delivery_id, clone.lane) == (
        Source.OPERATOR_RESEND,
        parent_id,
        Lane.PRIORITY,
    )
    assert (clone.envelope, clone.template_id, clone.locale_used) == (
        parent.envelope,
        "auth.login_code",
        "en",
    )
    assert await api.delivery(parent_id) == parent  # it was not written
    claim = (await api.claims())[clone.delivery_id]
    assert claim.rendered is not None  # what the parent sent, not rendered anew
    assert claim.rendered.subject == "Your code is 493027"
    assert (await api.get(f"deliveries/{clone.delivery_id}")).json["subject"] is None


async def test_a_clone_can_be_resent(api: World) -> None:
    parent_id = await api.made(DELAYED)
    child_id = (await resend(api, parent_id)).json["delivery_id"]
    await api.finish(DELAYED, only=child_id)
    assert (await resend(api, child_id, "k2")).status == 201


async def test_who_is_suppressed_now_gets_no_copy(api: World) -> None:
    parent_id = await api.made(REFUSED, cc=("bob@example.org",))
    await api.suppressions.put(Suppression(address="bob@example.org", reason="complained", created_at_ms=1))
    clone = (await api.get(f"deliveries/{(await resend(api, parent_id)).json['delivery_id']}")).json
    assert clone["envelope"]["cc"] == []
    assert clone["suppressed_recipients"] == [{"address": "bob@example.org", "reason": "complained"}]


async def test_who_was_suppressed_then_and_is_not_now_gets_one(api: World) -> None:
    await api.suppressions.put(Suppression(address="ann@example.org", reason="by mistake", created_at_ms=1))
    parent_id = await api.accept()
    await api.suppressions.remove("ann@example.org")
    clone = (await api.get(f"deliveries/{(await resend(api, parent_id)).json['delivery_id']}")).json
    assert (clone["status"], clone["envelope"]["to"]) == ("queued", ["ann@example.org"])


async def test_what_has_not_ended_is_not_resent(api: World, valkey: ValkeyServer) -> None:
    delivery_id = await api.accept()
    keys = run_command(valkey.socket, "DBSIZE")
    told = await resend(api, delivery_id)
    assert (told.status, told.code) == (409, "resend_not_allowed")
    assert told.json["detail"] == "Only a delivery in a terminal state can be resent; this one is queued."
    assert run_command(valkey.socket, "DBSIZE") == keys


async def test_what_has_lost_its_content_is_not_resent(api: World, valkey: ValkeyServer) -> None:
    delivery_id = await api.made(DELAYED)
    run_command(valkey.socket, "DEL", f"mail:payloads:{delivery_id}")
    told = await resend(api, delivery_id)
    assert (told.status, told.code) == (409, "resend_not_allowed")
    assert told.json["detail"] == "The content of this delivery has expired."


async def test_a_repeat_is_told_the_same_and_makes_nothing(api: World) -> None:
    parent_id = await api.made(DELAYED)
    first, again = await resend(api, parent_id), await resend(api, parent_id)
    assert (first.status, again.status) == (201, 200)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json == first.json
    assert len(await api.everything("deliveries")) == 2


async def test_a_repeat_is_told_the_same_when_the_content_has_gone_since(
    api: World, valkey: ValkeyServer
) -> None:
    parent_id = await api.made(DELAYED)
    first = await resend(api, parent_id)
    run_command(valkey.socket, "DEL", f"mail:payloads:{parent_id}")
    again = await resend(api, parent_id)
    assert (again.status, again.json) == (200, first.json)
    assert (await resend(api, parent_id, "another key")).status == 409


async def test_a_key_past_its_time_makes_another_clone(api: World) -> None:
    parent_id = await api.made(DELAYED)
    first = await resend(api, parent_id)
    api.link.ahead_ms = 8 * DAY_MS
    again = await resend(api, parent_id)
    assert again.status == 201
    assert again.json["delivery_id"] != first.json["delivery_id"]


async def test_the_same_key_for_another_parent_is_refused(api: World) -> None:
    one, other = await api.made(DELAYED), await api.made(DELAYED)
    await resend(api, one)
    told = await resend(api, other)
    assert (told.status, told.code, told.fields) == (422, "invalid_request", ["Idempotency-Key"])


async def test_without_a_key_nothing_is_resent(api: World) -> None:
    parent_id = await api.made(DELAYED)
    told = await api.ask("POST", f"deliveries/{parent_id}/resend")
    assert (told.status, told.fields) == (400, ["Idempotency-Key"])


async def test_requests_at_once_with_one_key_make_one_clone(api: World) -> None:
    parent_id = await api.made(DELAYED)
    told: list[Told] = []

    async def ask() -> None:
        told.append(await resend(api, parent_id))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert sorted(one.status for one in told) == [200] * 19 + [201]
    assert len({one.body for one in told}) == 1
    assert len((await api.get(f"deliveries/{parent_id}")).json["resent_as"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "fields"),
    [
        ({"resent_by": "ann", "reason": "the relay was down"}, 201, []),
        ({}, 201, []),
        ({"reason": ""}, 400, ["reason"]),
        ({"resent_by": 1, "why": "x"}, 400, ["resent_by", "why"]),
        ([], 400, ["body"]),
    ],
)
async def test_who_and_why_may_be_told(api: World, body: object, status: int, fields: list[str]) -> None:
    told = await resend(api, await api.made(DELAYED), json_body=body)
    assert told.status == status
    if fields:
        assert told.fields == fields


async def test_a_body_of_another_kind_is_refused(api: World) -> None:
    told = await resend(api, await api.made(DELAYED), body="reason=x")
    assert (told.status, told.fields) == (415, ["Content-Type"])


async def test_the_audit_log_tells_who_what_and_why(api: World) -> None:
    parent_id = await api.made(DELAYED)
    with capture_logs() as lines:
        told = await resend(api, parent_id, json_body={"resent_by": "ann", "reason": "the relay was down"})
        await resend(api, await api.accept())
    done, refused = [line for line in lines if line["event"] == "operator_action"]
    assert (done["action"], done["outcome"], done["who"]) == ("resend", "done", "anonymous")
    assert (done["resent_by"], done["reason"]) == ("ann", "the relay was down")
    assert (done["delivery_id"], done["clone_delivery_id"]) == (parent_id, told.json["delivery_id"])
    assert refused["outcome"] == "ResendNotAllowed"
    assert (await api.delivery(told.json["delivery_id"])).resent_by == "ann"
