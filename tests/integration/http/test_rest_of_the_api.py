"""Dead letters, malformed commands, templates, health, access."""

from typing import Any

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from galaxy_mail.actors.supervisor import Child, Heartbeat
from galaxy_mail.domain.commands import CommandLimits
from galaxy_mail.domain.records import MalformedCommand, encode
from galaxy_mail.http.tokens import Role, Tokens
from galaxy_mail.intake.stream_intake import CommandIntake
from galaxy_mail.storage.operations.command_stream import CommandStream
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.telemetry.traces import Traces
from tests.contracts.documents import openapi, validator
from tests.integration.http.world import DAY_MS, DELAYED, INTERNAL, World, world
from tests.servers import ValkeyServer, run_command


def conforms(schema: str, value: Any) -> None:
    validator(openapi(), {"$ref": f"#/components/schemas/{schema}"}).validate(value)


# Dead letters and malformed commands


async def test_dead_letters_are_listed_newest_first(api: World) -> None:
    dead = [await api.made(DELAYED) for _ in range(5)]
    await api.made()
    conforms("DeadLetterPage", (await api.get("dead-letters")).json)
    items = await api.everything("dead-letters", limit=2)
    expected = sorted(items, key=lambda item: (item["created_at_ms"], item["delivery_id"]), reverse=True)
    assert items == expected
    assert {item["delivery_id"] for item in items} == set(dead)
    assert items[0]["reason"] == "retries_exhausted"
    assert items[0]["failure"]["code"] == "timed_out"


async def malformed(api: World, *fields: dict[str, str]) -> list[str]:
    """Puts entries on the stream and takes them in as the service does."""
    stream = CommandStream(
        api.link, keys=Keys(), epoch=api.epoch, malformed_kept_ms=90 * DAY_MS, owner="test", clock=api.clock
    )
    intake = CommandIntake(api.intake, stream, limits=CommandLimits(), metrics=api.metrics, traces=Traces())
    ids: list[str] = []
    for one in fields:
        parts = [part for pair in one.items() for part in pair]
        [reply] = await api.link.pipeline([("XADD", Keys().command_stream, "*", *parts)])
        assert isinstance(reply, bytes)
        ids.append(reply.decode())
    offset = await stream.offset()
    entries, _ = await stream.read(offset)
    await intake.accept(await intake.decode(entries), offset=offset)
    return ids


async def test_malformed_commands_are_listed_and_shown_masked(api: World) -> None:
    ids = await malformed(
        api,
        {"source": "me", "payload_json": '{"variables":{"code":"493027"}}'},
        {"note": "my password is 493027"},
        {"source": "notification"},
    )
    conforms("MalformedCommandPage", (await api.get("malformed-commands")).json)
    items = await api.everything("malformed-commands", limit=2)
    assert [item["entry_id"] for item in items] == sorted(ids, reverse=True)
    for entry_id in ids:
        told = await api.get(f"malformed-commands/{entry_id}")
        conforms("MalformedCommand", told.json)
        assert b"493027" not in told.body
    first = (await api.get(f"malformed-commands/{ids[0]}")).json
    assert first["fields"]["payload_json"] == '{"variables":{"code":"***"}}'
    assert first["fields"]["source"] == "me"


@pytest.mark.parametrize("entry_id", ["1-1", "x", "%00", "1-1-1"])
async def test_an_unknown_malformed_command_is_404(api: World, entry_id: str) -> None:
    told = await api.get(f"malformed-commands/{entry_id}")
    assert (told.status, told.code) == (404, "not_found")


async def test_a_malformed_command_past_its_time_is_gone(api: World) -> None:
    [entry_id] = await malformed(api, {"source": "me"})
    api.link.ahead_ms = 91 * DAY_MS
    assert (await api.get(f"malformed-commands/{entry_id}")).status == 404
    assert (await api.get("malformed-commands")).json["items"] == []


async def test_large_malformed_commands_make_short_pages(api: World, valkey: ValkeyServer) -> None:
    for number in range(1, 11):
        record = MalformedCommand(
            entry_id=f"{number}-0",
            fields={"payload_json": "x" * 60_000},
            failure_code="invalid_payload",
            message="x",
            recorded_at_ms=api.clock.now_ms(),
        )
        run_command(valkey.socket, "SET", f"mail:malformed_commands:{number}-0", encode(record))
        run_command(
            valkey.socket, "ZADD", "mail:idx:malformed_commands", record.recorded_at_ms, f"{number}-0"
        )
    first = (await api.get("malformed-commands")).json
    assert 1 <= len(first["items"]) < 10
    assert len(await api.everything("malformed-commands", limit=50)) == 10


@pytest.mark.parametrize("path", ["dead-letters", "malformed-commands"])
async def test_lists_refuse_bad_parameters(api: World, path: str) -> None:
    told = await api.get(f"{path}?limit=x&cursor=!&status=sent")
    assert (told.status, told.fields) == (400, ["limit", "cursor", "status"])


# Templates


async def preview(api: World, template_id: str = "auth.login_code", **body: Any) -> Any:
    return await api.ask("POST", f"templates/{template_id}/preview", json_body=body)


async def test_templates_are_listed(api: World) -> None:
    told = await api.get("templates")
    conforms("TemplateList", told.json)
    [template] = [item for item in told.json["items"] if item["template_id"] == "auth.login_code"]
    assert template["required_variables"] == ["code"]
    assert template["locales"] == ["de", "en", "es", "fr", "ru"]


async def test_a_preview_shows_what_would_be_sent(api: World) -> None:
    told = await preview(api, locale="fr-CA", variables={"code": "493027"})
    assert told.status == 200
    conforms("Preview", told.json)
    assert (told.json["locale_used"], told.json["locale_fallback_used"]) == ("fr", True)
    assert "493027" in told.json["text_body"]
    assert await api.everything("deliveries") == []


@pytest.mark.parametrize(
    ("template_id", "body", "status", "code", "fields"),
    [
        ("auth.login_code", {"locale": "en", "variables": {}}, 422, "missing_variables", None),
        ("no.such.template", {"locale": "en", "variables": {}}, 404, "not_found", None),
        ("%2e%2e%2fx", {"locale": "en", "variables": {}}, 404, "not_found", None),
        ("auth.login_code", {"locale": "en"}, 400, "invalid_request", ["variables"]),
        ("auth.login_code", {"locale": "english_us", "variables": []}, 400, "invalid_request", ["locale", "variables"]),
        ("auth.login_code", {"locale": 1, "variables": {}, "x": 1}, 400, "invalid_request", ["locale", "x"]),
    ],
)  # fmt: skip
async def test_a_preview_that_can_not_be_made_says_why(
    api: World, template_id: str, body: Any, status: int, code: str, fields: list[str] | None
) -> None:
    told = await preview(api, template_id, **body)
    assert (told.status, told.code) == (status, code)
    if fields is not None:
        assert told.fields == fields


# Health


async def test_ready_is_what_the_checks_say(api: World) -> None:
    told = await api.get("/readyz")
    conforms("Health", told.json)
    assert (told.status, told.json) == (200, {"status": "ok", "failing": []})
    api.checks["redis"] = "not connected"
    told = await api.get("/readyz")
    assert (told.status, told.json) == (503, {"status": "failing", "failing": ["redis"]})
    told = await api.get("/readyz?verbose")
    conforms("Health", told.json)
    assert told.json["checks"] == [
        {"name": "redis", "ok": False, "detail": "not connected"},
        {"name": "actors", "ok": True, "detail": None},
        {"name": "holds", "ok": True, "detail": None},
    ]


class Stands:
    """An actor whose loop turned once and never again."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat = heartbeat

    async def run(self) -> None:
        self.heartbeat.beat(within_s=-1)
        await trio.sleep_forever()


async def test_live_names_the_actor_that_no_longer_turns(api: World) -> None:
    assert (await api.get("/livez")).json == {"status": "ok", "failing": []}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(api.supervisor.keep_alive, Child(name="janitor", build=Stands))
        await trio.testing.wait_all_tasks_blocked()
        told = await api.get("/livez")
        assert (told.status, told.json) == (503, {"status": "failing", "failing": ["janitor"]})
        conforms("Health", (await api.get("/livez?verbose=1")).json)
        nursery.cancel_scope.cancel()


async def test_metrics_are_prometheus_text(api: World) -> None:
    await api.get("/nowhere")
    told = await api.get("/metrics")
    assert told.headers["content-type"].startswith("text/plain")
    assert b'galaxy_mail_http_responses_total{route="none",status="404"} 1.0' in told.body


async def test_the_contract_is_served_as_json(api: World) -> None:
    told = await api.get("/api/v1/openapi.json")
    assert told.headers["content-type"] == "application/json"
    assert told.json == openapi()


# Access

EVERYBODY: dict[str, dict[str, str]] = {
    "nobody": {},
    "a stranger": {"Authorization": "Bearer who"},
    "auth": {"Authorization": "Bearer auth"},
    "an operator": {"Authorization": "Bearer ops"},
}


async def test_every_route_lets_in_whom_its_role_says_and_nobody_else(valkey: ValkeyServer) -> None:
    async with world(valkey, tokens=Tokens(intake=["auth"], operator=["ops"])) as api:
        for route in api.app.routes.values():
            path = route.rule.replace("<member:", "<").replace("<", "").replace(">", "")
            for who, headers in EVERYBODY.items():
                told = await api.ask(route.method, path, headers=headers)
                expected = {
                    Role.OPEN: None,
                    Role.INTAKE: {"nobody": 401, "a stranger": 401, "an operator": 403}.get(who),
                    Role.OPERATOR: {"nobody": 401, "a stranger": 401, "auth": 403}.get(who),
                }[route.role]
                if expected is None:
                    assert told.status not in (401, 403), (route.name, who)
                else:
                    assert told.status == expected, (route.name, who)
                    assert told.code == {401: "unauthorized", 403: "forbidden"}[expected]
                    assert ("www-authenticate" in told.headers) == (expected == 401)


async def test_who_is_refused_is_logged_without_the_token(valkey: ValkeyServer) -> None:
    async with world(valkey, tokens=Tokens(operator=["ops"])) as api:
        with capture_logs() as lines:
            await api.get("deliveries", Authorization="Bearer not-it-4711")
        [line] = [line for line in lines if line["event"] == "access_refused"]
        assert line["route"] == f"GET {INTERNAL}/deliveries"
        assert "4711" not in repr(lines)


async def test_a_body_is_not_even_read_of_whom_nobody_knows(valkey: ValkeyServer) -> None:
    async with world(valkey, tokens=Tokens(operator=["ops"])) as api:
        told = await api.ask("PUT", "suppressions/a@b.org", body=b"x" * 1_000_000)
        assert told.status == 401


async def test_a_crash_of_a_route_is_a_problem_document_and_no_traceback(
    api: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(_delivery_id: str) -> None:
        raise RuntimeError("secret 493027")

    monkeypatch.setattr(api.reader, "delivery", crash)
    told = await api.get("deliveries/d1")
    assert (told.status, told.code, told.json["detail"]) == (500, "internal_error", "An unexpected error.")
    assert msgspec.json.decode(told.body)["title"] == "Internal Server Error"


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("suppressions/%ff@x.example", "path"),
        ("deliveries/%c3", "path"),
        ("nowhere/%ff", "path"),
        ("deliveries?recipient=%ff@x.example", "query"),
        ("deliveries?%c3=1", "query"),
        ("/livez?%ff", "query"),
    ],
)
async def test_a_path_or_a_query_that_is_not_utf8_is_refused(api: World, path: str, field: str) -> None:
    """And not read as an address, or an id, that nobody named."""
    told = await api.get(path)
    assert (told.status, told.code, told.fields) == (400, "invalid_request", [field])


async def test_an_address_that_is_not_utf8_is_not_suppressed(api: World) -> None:
    told = await api.ask("PUT", "suppressions/%ff@x.example", json_body={"reason": "x"})
    assert told.status == 400
    assert (await api.get("suppressions")).json["items"] == []
    told = await api.ask("PUT", "suppressions/%C3%A9@x.example", json_body={"reason": "x"})
    assert (told.status, told.json["address"]) == (201, "é@x.example")
