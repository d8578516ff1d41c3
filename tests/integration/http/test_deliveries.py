"""Deliveries by id and in lists, their attempts, and what is past its time."""

from itertools import product
from typing import Any

import pytest

from galaxy_mail.domain.conclusion import RetryPolicy
from galaxy_mail.domain.records import DeliveryStatus, Source, Suppression
from tests.contracts.documents import openapi, validator
from tests.integration.http.world import DAY_MS, DELAYED, DROPPED, REFUSED, World
from tests.servers import ValkeyServer, run_command


def conforms(schema: str, value: Any) -> None:
    validator(openapi(), {"$ref": f"#/components/schemas/{schema}"}).validate(value)


async def test_a_delivery_tells_its_story(api: World) -> None:
    delivery_id = await api.made(REFUSED, to="Ann@Example.org", cc=("bob@example.org",))
    told = await api.get(f"deliveries/{delivery_id}")
    assert told.status == 200
    conforms("Delivery", told.json)
    story = told.json
    assert (story["status"], story["attempt_count"], story["subject"]) == ("failed", 1, "Hello")
    assert story["envelope"] == {
        "to": ["Ann@Example.org"],
        "cc": ["bob@example.org"],
        "bcc": [],
        "reply_to": [],
    }
    assert story["failure"] == {"code": "permanent_reply", "summary": "the relay answered 550 5.1.1"}
    assert story["created_at_ms"] <= story["rendered_at_ms"] <= story["finished_at_ms"]
    assert story["message_id"] == f"{delivery_id}@mail.test"


async def test_attempts_come_oldest_first_and_whole(api: World) -> None:
    delivery_id = await api.accept()
    await api.finish(DELAYED, RetryPolicy(delays_ms=(0,)))
    await api.finish(REFUSED)
    told = await api.get(f"deliveries/{delivery_id}/attempts")
    conforms("AttemptList", told.json)
    first, second = told.json["items"]
    assert [first["attempt_no"], second["attempt_no"]] == [1, 2]
    assert (first["status"], first["outcome_unknown"]) == ("timed_out", True)
    assert second["refused_recipients"] == [
        {"address": "ann@example.org", "provider_code": "550 5.1.1", "summary": "no such user"}
    ]


async def test_more_attempts_than_are_read_at_a_time_are_all_told(api: World) -> None:
    delivery_id = await api.accept()
    for _ in range(19):
        await api.finish(DELAYED, RetryPolicy(delays_ms=(0,) * 20))
    items = (await api.get(f"deliveries/{delivery_id}/attempts")).json["items"]
    assert [item["attempt_no"] for item in items] == list(range(1, 21))
    assert items[-1]["status"] == "scheduled"


@pytest.mark.parametrize(
    "path",
    [
        "deliveries/nobody",
        "deliveries/nobody/attempts",
        "deliveries/%00",
        "deliveries/a..b",
        f"deliveries/{'a' * 129}",
    ],
)
async def test_an_unknown_id_is_404(api: World, path: str) -> None:
    told = await api.get(path)
    assert (told.status, told.code) == (404, "not_found")
    told = await api.ask("POST", "deliveries/nobody/resend", headers={"Idempotency-Key": "k"})
    assert (told.status, told.code) == (404, "not_found")


async def test_a_resend_is_linked_both_ways(api: World) -> None:
    parent = await api.made(DELAYED)
    told = await api.ask("POST", f"deliveries/{parent}/resend", headers={"Idempotency-Key": "k"})
    child = told.json["delivery_id"]
    assert (await api.get(f"deliveries/{parent}")).json["resent_as"] == [child]
    assert (await api.get(f"deliveries/{child}")).json["parent_delivery_id"] == parent
    items = {item["delivery_id"]: item for item in (await api.get("deliveries")).json["items"]}
    assert items[parent]["resent_as"] == [child]
    assert items[child]["resent_as"] == []


async def test_a_delivery_past_its_time_is_gone_and_its_attempts_are_not(api: World) -> None:
    delivery_id = await api.made(REFUSED)
    api.link.ahead_ms = 31 * DAY_MS
    assert (await api.get(f"deliveries/{delivery_id}")).status == 404
    assert (await api.get("deliveries")).json == {"items": [], "next_cursor": None}
    told = await api.ask("POST", f"deliveries/{delivery_id}/resend", headers={"Idempotency-Key": "k"})
    assert told.status == 404
    assert len((await api.get(f"deliveries/{delivery_id}/attempts")).json["items"]) == 1
    api.link.ahead_ms = 91 * DAY_MS
    assert (await api.get(f"deliveries/{delivery_id}/attempts")).status == 404


async def test_a_dead_letter_is_kept_as_long_as_its_attempts(api: World) -> None:
    delivery_id = await api.made(DELAYED)
    api.link.ahead_ms = 89 * DAY_MS
    assert (await api.get(f"deliveries/{delivery_id}")).status == 200
    assert len((await api.get("dead-letters")).json["items"]) == 1
    api.link.ahead_ms = 91 * DAY_MS
    assert (await api.get(f"deliveries/{delivery_id}")).status == 404
    assert (await api.get("dead-letters")).json["items"] == []


async def test_what_waits_is_never_past_its_time(api: World) -> None:
    delivery_id = await api.accept()
    api.link.ahead_ms = 400 * DAY_MS
    assert (await api.get(f"deliveries/{delivery_id}")).status == 200


async def test_a_record_of_a_newer_release_breaks_no_list(api: World, valkey: ValkeyServer) -> None:
    ids = [await api.accept() for _ in range(3)]
    run_command(valkey.socket, "SET", f"mail:deliveries:{ids[1]}", '{"status":"teleported"}')
    items = (await api.get("deliveries")).json["items"]
    assert [item["delivery_id"] for item in items] == [ids[2], ids[0]]
    assert (await api.get(f"deliveries/{ids[1]}")).status == 404


# Filters

FILTERS: dict[str, list[str]] = {
    "recipient": ["ann@example.org", "bob@example.org", "ANN@EXAMPLE.ORG"],
    "status": ["sent", "dead_letter", "suppressed"],
    "source": ["authsession", "notification", "operator_resend"],
    "template_id": ["auth.login_code", "order.shipped"],
    "idempotency_key": ["shared", "key of d0001"],
}


async def filled(api: World) -> list[dict[str, Any]]:
    """Mail of every kind, as the API shows it."""
    await api.suppressions.put(Suppression(address="eve@example.org", reason="x", created_at_ms=1))
    results = (None, REFUSED, DELAYED, DROPPED)
    for number, (source, to) in enumerate(
        product((Source.AUTHSESSION, Source.NOTIFICATION), ("ann@example.org", "bob@example.org"))
    ):
        template = "order.shipped" if number % 2 else None
        if results[number] is None:
            await api.made(source=source, to=to, template_id=template)
        else:
            await api.made(results[number] or REFUSED, source=source, to=to, template_id=template)
    await api.made(
        source=Source.NOTIFICATION, key="shared", cc=("Ann@example.org", "eve@example.org"), to="dan@x.org"
    )
    await api.made(source=Source.AUTHSESSION, key="shared", to="eve@example.org")
    await api.accept(to="ann@example.org")
    await api.ask("POST", "deliveries/d0003/resend", headers={"Idempotency-Key": "shared"})
    return await api.everything("deliveries")


def matches(shown: dict[str, Any], name: str, value: str) -> bool:
    if name != "recipient":
        return bool(shown[name] == value)
    everyone = [*shown["envelope"]["to"], *shown["envelope"]["cc"], *shown["envelope"]["bcc"]]
    everyone += [one["address"] for one in shown["suppressed_recipients"]]
    return value.lower() in [address.lower() for address in everyone]


async def test_any_combination_of_filters_finds_what_it_should(api: World) -> None:
    everything = await filled(api)
    assert len(everything) == 8
    pairs = [(name, value) for name, values in FILTERS.items() for value in values]
    found_something = set()
    for one, other in product(pairs, repeat=2):
        conditions = dict((one, other))
        expected = [
            shown["delivery_id"]
            for shown in everything
            if all(matches(shown, name, value) for name, value in conditions.items())
        ]
        query = "&".join(f"{name}={value}" for name, value in conditions.items())
        found = [item["delivery_id"] for item in await api.everything(f"deliveries?{query}", limit=2)]
        assert found == expected, query
        found_something.update(found)
    assert found_something == {shown["delivery_id"] for shown in everything}


async def test_the_time_of_creation_bounds_the_list_on_both_sides(api: World) -> None:
    everything = await filled(api)
    times = sorted({shown["created_at_ms"] for shown in everything})
    for first, last in product(times, repeat=2):
        expected = [s["delivery_id"] for s in everything if first <= s["created_at_ms"] <= last]
        query = f"created_from_ms={first}&created_to_ms={last}"
        found = await api.everything(f"deliveries?{query}", limit=2)
        assert [item["delivery_id"] for item in found] == expected


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("limit=0", ["limit"]),
        ("limit=201", ["limit"]),
        ("limit=x", ["limit"]),
        ("limit=1&limit=2", ["limit"]),
        ("status=", ["status"]),
        ("status=SENT", ["status"]),
        ("source=me", ["source"]),
        ("recipient=ann", ["recipient"]),
        ("template_id=../x", ["template_id"]),
        ("idempotency_key=%C3%BC", ["idempotency_key"]),
        ("created_from_ms=-1", ["created_from_ms"]),
        ("created_to_ms=1.5", ["created_to_ms"]),
        ("cursor=!", ["cursor"]),
        ("cursor=", ["cursor"]),
        ("cursor=bm9wZQ", ["cursor"]),
        ("stat=sent", ["stat"]),
        ("limit=0&stat=sent&cursor=!", ["limit", "cursor", "stat"]),
    ],
)  # fmt: skip
async def test_a_bad_query_is_400_and_names_its_parameters(api: World, query: str, fields: list[str]) -> None:
    told = await api.get(f"deliveries?{query}")
    assert (told.status, told.code, told.fields) == (400, "invalid_request", fields)


@pytest.mark.parametrize(
    "path", ["deliveries/d1", "deliveries/d1/attempts", "templates", "suppressions/a@b.org", "resends/x"]
)
async def test_a_route_without_parameters_takes_none(api: World, path: str) -> None:
    told = await api.get(f"{path}?verbose")
    assert (told.status, told.fields) == (400, ["verbose"])


async def test_new_mail_moves_no_page_that_is_being_read(api: World) -> None:
    for _ in range(5):
        await api.made()
    before = [item["delivery_id"] for item in await api.everything("deliveries")]
    page = (await api.get("deliveries?limit=2")).json
    seen = [item["delivery_id"] for item in page["items"]]
    while page["next_cursor"] is not None:
        await api.made()
        page = (await api.get(f"deliveries?limit=2&cursor={page['next_cursor']}")).json
        seen += [item["delivery_id"] for item in page["items"]]
    assert seen == before


async def test_every_status_can_be_asked_for(api: World) -> None:
    for status in DeliveryStatus:
        assert (await api.get(f"deliveries?status={status}")).status == 200
