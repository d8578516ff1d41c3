"""The API while Redis is away, hangs, is full or was wiped: 503 in time, and nothing half-written."""

from typing import Any, Final

import trio

from tests.integration.http.world import DELAYED, World, world
from tests.servers import ValkeyServer, run_command

LOGIN_CODE: Final = {"email": "ann@example.org", "code": "493027", "locale": "en"}
ASKED: Final[list[tuple[str, str, dict[str, Any]]]] = [
    ("POST", "login-code-deliveries", {"json_body": LOGIN_CODE}),
    ("GET", "deliveries", {}),
    ("GET", "deliveries/d1", {}),
    ("GET", "deliveries/d1/attempts", {}),
    ("POST", "deliveries/d1/resend", {}),
    ("POST", "resends", {"json_body": {"filter": {"status": "failed"}, "reason": "x"}}),
    ("GET", "resends/01je50a7gkq3v9d2xw8m4r6tzn", {}),
    ("GET", "dead-letters", {}),
    ("GET", "malformed-commands", {}),
    ("GET", "malformed-commands/1-0", {}),
    ("GET", "suppressions", {}),
    ("GET", "suppressions/export", {}),
    ("POST", "suppressions/import", {"body": "address,reason\na@b.org,x\n", "headers": {"Content-Type": "text/csv"}}),
    ("GET", "suppressions/ann@example.org", {}),
    ("PUT", "suppressions/ann@example.org", {"json_body": {"reason": "x"}}),
    ("DELETE", "suppressions/ann@example.org", {}),
]  # fmt: skip


def keyed(how: dict[str, Any]) -> dict[str, Any]:
    return {**how, "headers": {"Idempotency-Key": "k", **how.get("headers", {})}}


async def test_every_route_says_503_while_redis_is_gone(valkey: ValkeyServer) -> None:
    async with world(valkey) as api:
        valkey.kill()
        for method, path, how in ASKED:
            with trio.fail_after(20):
                told = await api.ask(method, path, **keyed(how))
            assert (told.status, told.code) == (503, "service_unavailable"), path
            assert told.headers["retry-after"] == "1"


async def test_every_route_says_503_in_time_while_redis_hangs(valkey: ValkeyServer) -> None:
    async with world(valkey, timeout_s=0.1) as api:
        valkey.pause()
        try:
            for method, path, how in ASKED:
                with trio.fail_after(20):
                    told = await api.ask(method, path, **keyed(how))
                assert (told.status, told.code) == (503, "service_unavailable"), path
        finally:
            valkey.resume()


async def test_the_templates_need_no_redis(valkey: ValkeyServer) -> None:
    async with world(valkey) as api:
        valkey.kill()
        assert (await api.get("templates")).status == 200


async def test_a_full_redis_refuses_mail_and_still_tells_what_it_has(
    api: World, valkey: ValkeyServer
) -> None:
    delivery_id = await api.made(DELAYED)
    before: Any = run_command(valkey.socket, "KEYS", "*")
    run_command(valkey.socket, "CONFIG", "SET", "maxmemory", "1")
    told = await api.ask(
        "POST", "login-code-deliveries", json_body=LOGIN_CODE, headers={"Idempotency-Key": "k"}
    )
    assert (told.status, told.json["detail"]) == (503, "The store is full.")
    told = await api.ask("POST", f"deliveries/{delivery_id}/resend", headers={"Idempotency-Key": "k"})
    assert (told.status, told.json["detail"]) == (503, "The store is full.")
    assert (await api.get(f"deliveries/{delivery_id}")).status == 200
    assert (await api.get("deliveries")).status == 200
    assert set(run_command(valkey.socket, "KEYS", "*") or ()) == set(before)  # type: ignore[call-overload]  # a list


async def test_a_wiped_redis_takes_no_mail(api: World, valkey: ValkeyServer) -> None:
    api.epoch.replaced = True  # as a reconnect finds it
    for path, how in (
        ("login-code-deliveries", {"json_body": LOGIN_CODE}),
        ("resends", {"json_body": {"filter": {"status": "failed"}, "reason": "x"}}),
    ):
        told = await api.ask("POST", path, **keyed(how))
        assert (told.status, told.json["detail"]) == (
            503,
            "The store was exchanged; an operator has to look at it.",
        )
