"""The auth route to the letter of its contract, over a real store."""

from collections.abc import Callable
from typing import Any, Final

import pytest
import trio
from structlog.testing import capture_logs

from galaxy_mail.domain.records import DeliveryStatus, Lane, Source, Suppression
from tests.integration.http.world import INTERNAL, Told, World
from tests.servers import ValkeyServer, run_command

PATH: Final = f"{INTERNAL}/login-code-deliveries"
ASKED: Final = {"email": "ann@example.org", "code": "493027", "locale": "fr-CA"}
KEY: Final = {"Idempotency-Key": "key-1"}


async def post(api: World, body: object = ASKED, headers: dict[str, str] = KEY, **more: Any) -> Told:
    return await api.ask("POST", PATH, json_body=body, headers=headers, **more)


def written(valkey: ValkeyServer) -> set[bytes]:
    """Every key but those of the store itself."""
    keys: Any = run_command(valkey.socket, "KEYS", "*")
    return set(keys) - {b"mail:meta"}


async def test_a_login_code_is_durable_and_answered_with_its_outcome_alone(api: World) -> None:
    told = await post(api)
    assert (told.status, told.body) == (200, b'{"outcome":"sent"}')
    assert "idempotency-replayed" not in told.headers
    delivery = await api.delivery(told.headers["delivery-id"])
    assert (delivery.source, delivery.status, delivery.lane) == (
        Source.AUTHSESSION,
        DeliveryStatus.QUEUED,
        Lane.PRIORITY,
    )
    assert (delivery.template_id, delivery.locale, delivery.envelope.to) == (
        "auth.login_code",
        "fr-CA",
        ("ann@example.org",),
    )
    assert list(await api.claims()) == [delivery.delivery_id]


async def test_a_repeat_gets_the_same_answer_and_creates_nothing(api: World, valkey: ValkeyServer) -> None:
    first = await post(api)
    before = written(valkey)
    again = await post(api, {"locale": "fr-CA", "code": "493027", "email": "ann@example.org"})
    assert (again.status, again.body) == (first.status, first.body)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["delivery-id"] == first.headers["delivery-id"]
    assert written(valkey) == before


@pytest.mark.parametrize("change", [{"code": "1"}, {"email": "bob@example.org"}, {"locale": "fr"}])
async def test_the_same_key_for_another_request_is_refused(
    api: World, valkey: ValkeyServer, change: dict[str, str]
) -> None:
    await post(api)
    before = written(valkey)
    told = await post(api, ASKED | change)
    assert (told.status, told.code, told.fields) == (422, "invalid_request", ["Idempotency-Key"])
    assert written(valkey) == before


async def test_fifty_at_once_make_one_delivery(api: World) -> None:
    told: list[Told] = []

    async def ask() -> None:
        told.append(await post(api))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert {(one.status, one.body) for one in told} == {(200, b'{"outcome":"sent"}')}
    assert len({one.headers["delivery-id"] for one in told}) == 1
    assert sum("idempotency-replayed" not in one.headers for one in told) == 1
    assert len(await api.everything("deliveries")) == 1


@pytest.mark.parametrize("entry", ["ann@example.org", "@example.org"])
async def test_a_suppressed_recipient_is_recorded_and_never_attempted(api: World, entry: str) -> None:
    await api.suppressions.put(Suppression(address=entry, reason="complained", created_at_ms=1))
    told = await post(api, ASKED | {"email": "Ann@Example.org"})
    assert (told.status, told.body) == (200, b'{"outcome":"suppressed"}')
    delivery_id = told.headers["delivery-id"]
    shown = (await api.get(f"deliveries/{delivery_id}")).json
    assert shown["status"] == "suppressed"
    assert shown["suppressed_recipients"] == [{"address": "Ann@example.org", "reason": "complained"}]
    assert (await api.get(f"deliveries/{delivery_id}/attempts")).json == {"items": []}
    again = await post(api, ASKED | {"email": "Ann@Example.org"})
    assert (again.body, again.headers["idempotency-replayed"]) == (told.body, "true")


REFUSED: dict[str, tuple[dict[str, Any], int, list[str]]] = {
    "no key": ({"headers": {}, "json_body": ASKED}, 400, ["Idempotency-Key"]),
    "an empty key": ({"headers": {"Idempotency-Key": ""}, "json_body": ASKED}, 400, ["Idempotency-Key"]),
    "a long key": ({"headers": {"Idempotency-Key": "k" * 256}, "json_body": ASKED}, 400, ["Idempotency-Key"]),
    "a key beyond ASCII": ({"headers": {"Idempotency-Key": "schlüssel"}, "json_body": ASKED}, 400, ["Idempotency-Key"]),
    "no members": ({"body": b"{}"}, 400, ["email", "code", "locale"]),
    "no key and no members": ({"headers": {}, "body": b"{}"}, 400, ["Idempotency-Key", "email", "code", "locale"]),
    "no JSON": ({"body": b"email=ann"}, 400, ["body"]),
    "an empty body": ({"body": b""}, 400, ["body"]),
    "not UTF-8": ({"body": b'{"email":"\xff"}'}, 400, ["body"]),
    "an unknown member": ({"json_body": ASKED | {"cc": []}}, 400, ["cc"]),
    "a wrong type": ({"json_body": ASKED | {"code": 493027}}, 400, ["code"]),
    "a line break": ({"json_body": ASKED | {"code": "1\r\nBcc: x"}}, 400, ["code"]),
    "no address": ({"json_body": ASKED | {"email": "ann"}}, 400, ["email"]),
    "no locale": ({"json_body": ASKED | {"locale": "english_us"}}, 400, ["locale"]),
    "a member twice": ({"body": b'{"email":"a@b.org","code":"1","code":"2","locale":"en"}'}, 400, ["body"]),
    "text behind": ({"body": b'{"email":"a@b.org","code":"1","locale":"en"}{}'}, 400, ["body"]),
    "no media type": ({"body": b"{}", "content_type": None}, 415, ["Content-Type"]),
    "another media type": ({"body": b"{}", "content_type": "text/plain"}, 415, ["Content-Type"]),
    "another charset": ({"body": b"{}", "content_type": "application/json; charset=latin-1"}, 415, ["Content-Type"]),
    "too large": ({"body": b" " * 16385}, 413, ["body"]),
}  # fmt: skip


@pytest.mark.parametrize("asked", REFUSED.values(), ids=REFUSED.keys())
async def test_a_bad_request_names_its_fields_and_writes_nothing(
    api: World, valkey: ValkeyServer, asked: tuple[dict[str, Any], int, list[str]]
) -> None:
    how, status, fields = asked
    how = {"headers": KEY, **how}
    media_type = how.pop("content_type", "application/json")
    if media_type is not None:
        how["headers"] = {**how["headers"], "Content-Type": media_type}
    told = await api.ask("POST", PATH, **how)
    assert (told.status, told.code, told.fields) == (status, "invalid_request", fields)
    assert told.headers["content-type"] == "application/problem+json"
    assert written(valkey) == set()


async def test_the_largest_body_is_taken(api: World) -> None:
    body = b'{"email":"ann@example.org","code":"493027","locale":"en"}'
    told = await api.ask(
        "POST",
        PATH,
        body=body + b" " * (16384 - len(body)),
        headers={**KEY, "Content-Type": "application/json"},
    )
    assert told.status == 200


async def test_tracing_headers_are_kept_and_bad_ones_ignored(api: World) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    told = await post(api, headers={**KEY, "X-Request-Id": "req-5f2c", "traceparent": traceparent})
    shown = (await api.get(f"deliveries/{told.headers['delivery-id']}")).json
    assert (shown["request_id"], shown["trace_id"]) == ("req-5f2c", "0af7651916cd43dd8448eb211c80319c")
    told = await post(api, headers={"Idempotency-Key": "2", "X-Request-Id": "ü" * 3, "traceparent": "01"})
    shown = (await api.get(f"deliveries/{told.headers['delivery-id']}")).json
    assert (told.status, shown["request_id"], shown["trace_id"]) == (200, None, None)


async def test_the_code_is_in_no_line_of_the_log_and_no_answer(api: World) -> None:
    with capture_logs() as lines:
        told = await post(api)
        await api.finish()
        answers = [told.body, (await api.get("deliveries")).body]
        answers.append((await api.get(f"deliveries/{told.headers['delivery-id']}")).body)
        answers.append((await api.get("/metrics")).body)
        answers.append((await post(api, ASKED | {"code": "493027\n"})).body)
        answers.append((await post(api, ASKED | {"code": "49302711"})).body)
    assert "493027" not in repr(lines)
    assert not any(b"493027" in answer for answer in answers)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD"])
async def test_other_methods_are_405_and_told_which_there_are(api: World, method: str) -> None:
    told = await api.ask(method, PATH)
    assert (told.status, told.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "alter", [lambda path: path + "/", lambda path: path.replace("/v1", "//v1"), lambda path: path.upper()]
)
async def test_a_path_is_right_or_it_is_nothing(api: World, alter: Callable[[str], str]) -> None:
    told = await api.ask("POST", alter(PATH), json_body=ASKED, headers=KEY)
    assert (told.status, told.code) == (404, "not_found")


async def test_what_it_took_is_measured(api: World) -> None:
    await post(api)
    await post(api)
    shown = (await api.get("/metrics")).body.decode()
    assert 'galaxy_mail_intake_seconds_count{source="authsession"} 1.0' in shown
    assert 'galaxy_mail_duplicates_total{source="authsession"} 1.0' in shown
    assert f'galaxy_mail_http_responses_total{{route="POST {PATH}",status="200"}} 2.0' in shown


async def test_a_parameter_is_refused(api: World, valkey: ValkeyServer) -> None:
    """It may hold what belongs into the body, and paths end up in the logs of proxies."""
    told = await api.ask("POST", f"{PATH}?email=ann@example.org", json_body=ASKED, headers=KEY)
    assert (told.status, told.code, told.fields) == (400, "invalid_request", ["email"])
    assert written(valkey) == set()
