"""Holds by the API: held, shown, replaced, lifted; and what `/readyz` says of them."""

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from galaxy_mail.domain.holds import Cause, Hold
from galaxy_mail.domain.records import Failure
from galaxy_mail.http.tokens import Tokens
from galaxy_mail.relays.breaker_events import HOLD_AFTER_PROBE_MS
from galaxy_mail.relays.holds import Snapshot
from tests.contracts.documents import openapi, validator
from tests.integration.http.world import Told, World, world
from tests.servers import ValkeyServer

SCOPES = ["all", "lane:priority", "lane:normal", "relay:default"]


async def put(api: World, scope: str, reason: str = "move", **more: object) -> Told:
    return await api.ask("PUT", f"holds/{scope}", json_body={"reason": reason, **more})


async def listed(api: World) -> list[tuple[str, str]]:
    told = await api.get("holds")
    validator(openapi(), {"$ref": "#/components/schemas/HoldList"}).validate(told.json)
    return [(item["cause"], item["scope"]) for item in told.json["items"]]


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_hold_is_added_listed_replaced_and_lifted(api: World, scope: str) -> None:
    now_ms = api.clock.now_ms()
    until_ms = now_ms + 60_000
    added = await put(api, scope, created_by="ann", until_ms=until_ms)
    assert added.status == 201
    validator(openapi(), {"$ref": "#/components/schemas/Hold"}).validate(added.json)
    assert added.json["since_ms"] == pytest.approx(now_ms, abs=5_000)
    assert added.json | {"since_ms": 0} == {
        "scope": scope,
        "cause": "operator",
        "reason": "move",
        "failure": None,
        "since_ms": 0,
        "until_ms": until_ms,
        "created_by": "ann",
    }
    assert (await api.get("holds")).json == {"items": [added.json]}
    replaced = await put(api, scope, "longer move")
    assert (replaced.status, replaced.json["reason"], replaced.json["until_ms"]) == (200, "longer move", None)
    assert (await api.get("holds")).json == {"items": [replaced.json]}
    lifted = await api.ask("DELETE", f"holds/{scope}")
    assert (lifted.status, lifted.body) == (204, b"")
    again = await api.ask("DELETE", f"holds/{scope}")
    assert (again.status, again.code) == (404, "not_found")
    assert await listed(api) == []


@pytest.mark.parametrize("scope", ["everything", "lane:bulk", "relay:second", "relay:", "lane:priority:x"])
async def test_an_unknown_scope_is_not_found_and_the_known_ones_are_named(api: World, scope: str) -> None:
    told = await put(api, scope)
    assert (told.status, told.code) == (404, "not_found")
    assert told.json["detail"] == f"There is no such scope. Scopes: {', '.join(SCOPES)}."
    assert (await api.ask("DELETE", f"holds/{scope}")).status == 404


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["reason"]),
        ({"reason": ""}, ["reason"]),
        ({"reason": "x" * 501}, ["reason"]),
        ({"reason": "x", "created_by": "y" * 129}, ["created_by"]),
        ({"reason": "x", "until_ms": 1_700_000_000_000}, ["until_ms"]),
        ({"reason": "x", "until_ms": "tomorrow"}, ["until_ms"]),
        ({"reason": "x", "scope": "all"}, ["scope"]),
    ],
)
async def test_a_bad_hold_names_its_fields(api: World, body: object, fields: list[str]) -> None:
    told = await api.ask("PUT", "holds/all", json_body=body)
    assert (told.status, told.code, told.fields) == (400, "invalid_request", fields)
    assert await listed(api) == []


async def test_a_hold_whose_time_is_over_is_not_listed_and_can_not_be_lifted(api: World) -> None:
    await put(api, "all", until_ms=api.clock.now_ms() + 60_000)
    api.clock.ahead_ms += 61_000
    assert await listed(api) == []
    assert (await put(api, "all", until_ms=api.clock.now_ms() + 60_000)).status == 201
    api.clock.ahead_ms += 61_000
    assert (await api.ask("DELETE", "holds/all")).status == 404


async def test_an_operator_neither_overwrites_nor_lifts_a_breakers_hold(api: World) -> None:
    breakers = Hold(
        scope="relay:default",
        cause=Cause.BREAKER,
        reason="auth",
        failure=Failure(code="auth_refused", summary="the relay answered 535 5.7.8"),
        since_ms=1,
        until_ms=api.clock.now_ms() + 900_000,
        pause_ms=800_000,
    )
    await api.hold_store.put(breakers)
    assert (await put(api, "relay:default")).status == 201
    assert await listed(api) == [("breaker", "relay:default"), ("operator", "relay:default")]
    assert (await api.ask("DELETE", "holds/relay:default")).status == 204
    [item] = (await api.get("holds")).json["items"]
    assert item["cause"] == "breaker"
    assert "pause_ms" not in item
    assert item["failure"] == {"code": "auth_refused", "summary": "the relay answered 535 5.7.8"}


async def test_a_breakers_hold_that_is_lifted_stands_until_the_probe_that_is_due_at_once(api: World) -> None:
    now_ms = api.clock.now_ms()
    for until_ms in (now_ms + 900_000, now_ms + 10_000):
        hold = Hold(
            scope="relay:default",
            cause=Cause.BREAKER,
            reason="auth",
            since_ms=1,
            until_ms=until_ms,
            pause_ms=60_000,
        )
        await api.hold_store.put(hold)
        assert (await api.ask("DELETE", "holds/relay:default")).status == 204
        [stored] = await api.hold_store.read()
        assert stored.hold is not None
        due_ms = min(until_ms, api.clock.now_ms() + HOLD_AFTER_PROBE_MS)
        assert stored.hold == replace(hold, until_ms=stored.hold.until_ms)
        assert now_ms < (stored.hold.until_ms or 0) <= due_ms
    api.clock.ahead_ms += 10_000
    assert (await api.ask("DELETE", "holds/relay:default")).status == 404


async def test_a_hold_of_a_relay_that_is_gone_can_be_lifted(api: World) -> None:
    await api.hold_store.put(Hold(scope="relay:old", cause=Cause.OPERATOR, reason="x", since_ms=1))
    assert (await api.ask("DELETE", "holds/relay:old")).status == 204


async def test_who_holds_and_who_lifts_is_logged(valkey: ValkeyServer) -> None:
    async with world(valkey, tokens=Tokens(operator=["operator-token-1"])) as api:
        token = {"Authorization": "Bearer operator-token-1"}
        assert (await put(api, "all")).status == 401
        with capture_logs() as logs:
            await api.ask("PUT", "holds/all", json_body={"reason": "move"}, headers=token)
            await api.ask("DELETE", "holds/all", headers=token)
            await api.ask("DELETE", "holds/all", headers=token)
    lines = [line for line in logs if line["event"] == "operator_action"]
    assert [(line["action"], line["scope"], line["outcome"]) for line in lines] == [
        ("hold", "all", "done"),
        ("lift_hold", "all", "done"),
        ("lift_hold", "all", "NothingThere"),
    ]
    assert (lines[0]["reason"], lines[0]["replaced"]) == ("move", False)
    assert lines[0]["who"] == lines[0]["created_by"] != "anonymous"


async def test_a_hold_is_shown_by_readyz_and_is_no_unreadiness(api: World) -> None:
    quiet = await api.get("/readyz?verbose")
    assert {"name": "holds", "ok": True, "detail": None} in quiet.json["checks"]
    hold = Hold(scope="lane:priority", cause=Cause.OPERATOR, reason="secret plans", since_ms=1)
    api.holds.update(Snapshot((hold,), ("default",)), 2)
    told = await api.get("/readyz?verbose")
    assert (told.status, told.json["status"], told.json["failing"]) == (200, "ok", [])
    assert {"name": "holds", "ok": True, "detail": "lane:priority (operator)"} in told.json["checks"]
    assert b"secret plans" not in told.body, "open to all"
