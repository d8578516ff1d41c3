"""The suppression list: one by one, page by page, and as CSV."""

from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from galaxy_mail.domain.records import Suppression
from galaxy_mail.http.tokens import Tokens
from tests.contracts.documents import openapi, validator
from tests.integration.http.world import Told, World, world
from tests.servers import ValkeyServer


async def put(api: World, address: str, reason: str = "complained", **more: str) -> Told:
    return await api.ask(
        "PUT", f"suppressions/{quote(address, safe='')}", json_body={"reason": reason, **more}
    )


async def test_an_entry_is_added_shown_replaced_and_removed(api: World) -> None:
    added = await put(api, "bob@example.org", created_by="ann")
    assert added.status == 201
    validator(openapi(), {"$ref": "#/components/schemas/Suppression"}).validate(added.json)
    assert (added.json["address"], added.json["reason"], added.json["created_by"]) == (
        "bob@example.org",
        "complained",
        "ann",
    )
    assert (await api.get("suppressions/bob@example.org")).json == added.json
    replaced = await put(api, "bob@example.org", "left the company")
    assert (replaced.status, replaced.json["reason"], replaced.json["created_by"]) == (
        200,
        "left the company",
        None,
    )
    removed = await api.ask("DELETE", "suppressions/bob@example.org")
    assert (removed.status, removed.body) == (204, b"")
    for told in (
        await api.get("suppressions/bob@example.org"),
        await api.ask("DELETE", "suppressions/bob@example.org"),
    ):
        assert (told.status, told.code) == (404, "not_found")


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("Bob@Example.ORG", "bob@example.org"),
        ("@Example.ORG", "@example.org"),
        ("zoé@bücher.example", "zoé@xn--bcher-kva.example"),
        ("a/b@example.org", "a/b@example.org"),
        ("import@example.org", "import@example.org"),
        ("export/import@example.org", "export/import@example.org"),
        ('"a b"@example.org', '"a b"@example.org'),
        ("a%b@example.org", "a%b@example.org"),
        ("a?b@example.org", "a?b@example.org"),
    ],
)  # fmt: skip
async def test_an_address_is_the_same_however_it_is_written(api: World, given: str, normal: str) -> None:
    told = await put(api, given)
    assert (told.status, told.json["address"]) == (201, normal)
    assert (await api.get(f"suppressions/{quote(given, safe='')}")).json["address"] == normal
    assert (await api.ask("DELETE", f"suppressions/{quote(normal, safe='')}")).status == 204


@pytest.mark.parametrize("address", ["bob", "@", "a@b@c.org", "@-x.org"])
async def test_what_is_no_address_is_refused(api: World, address: str) -> None:
    for told in (
        await api.ask("PUT", f"suppressions/{address}", json_body={"reason": "x"}),
        await api.ask("DELETE", f"suppressions/{address}"),
    ):
        assert (told.status, told.fields) == (400, ["address"])


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["reason"]),
        ({"reason": ""}, ["reason"]),
        ({"reason": "x" * 501}, ["reason"]),
        ({"reason": "x", "created_by": "y" * 129}, ["created_by"]),
        ({"reason": "x", "address": "z"}, ["address"]),
    ],
)
async def test_a_bad_entry_names_its_fields(api: World, body: object, fields: list[str]) -> None:
    told = await api.ask("PUT", "suppressions/bob@example.org", json_body=body)
    assert (told.status, told.code, told.fields) == (400, "invalid_request", fields)


async def test_the_list_is_by_address_and_in_pages(api: World) -> None:
    addresses = sorted(
        [*(f"u{number:03}@example.org" for number in range(120)), "@closed.example", "zoé@example.org"]
    )
    await api.suppressions.put_all([Suppression(address=a, reason="x", created_at_ms=1) for a in addresses])
    items = await api.everything("suppressions", limit=50)
    assert [item["address"] for item in items] == addresses
    page = (await api.get("suppressions?limit=2")).json
    validator(openapi(), {"$ref": "#/components/schemas/SuppressionPage"}).validate(page)
    assert (await api.get("suppressions?limit=0&cursor=!&x=1")).fields == ["limit", "cursor", "x"]


async def test_a_page_goes_on_behind_an_address_that_is_gone(api: World) -> None:
    for name in "abcd":
        await put(api, f"{name}@example.org")
    cursor = (await api.get("suppressions?limit=2")).json["next_cursor"]
    await api.ask("DELETE", "suppressions/b@example.org")
    page = (await api.get(f"suppressions?limit=2&cursor={cursor}")).json
    assert [item["address"] for item in page["items"]] == ["c@example.org", "d@example.org"]
    assert page["next_cursor"] is None


@pytest.mark.parametrize(("path", "allowed"), [("import", "POST"), ("export", "GET, HEAD")])
async def test_what_is_done_with_the_whole_list_is_no_address(api: World, path: str, allowed: str) -> None:
    told = await api.ask("PUT", f"suppressions/{path}", json_body={"reason": "x"})
    assert (told.status, told.headers["allow"]) == (405, allowed)


# CSV


async def upload(api: World, text: str, media_type: str | None = "text/csv") -> Told:
    headers = {} if media_type is None else {"Content-Type": media_type}
    return await api.ask("POST", "suppressions/import", body=text, headers=headers)


async def test_a_file_adds_and_replaces_and_leaves_the_rest(api: World) -> None:
    await put(api, "old@example.org")
    await put(api, "both@example.org")
    told = await upload(api, "address,reason\r\nboth@example.org,new reason\r\n@closed.example,gone\r\n")
    assert (told.status, told.json) == (200, {"added": 1, "replaced": 1})
    items = {item["address"]: item["reason"] for item in (await api.get("suppressions")).json["items"]}
    assert items == {
        "@closed.example": "gone",
        "both@example.org": "new reason",
        "old@example.org": "complained",
    }


async def test_one_bad_line_refuses_the_whole_file(api: World) -> None:
    told = await upload(api, "address,reason\r\nann@example.org,x\r\nnobody,x\r\n")
    assert (told.status, told.fields) == (400, ["line 3"])
    assert (await api.get("suppressions")).json["items"] == []


@pytest.mark.parametrize("media_type", [None, "application/json", "text/plain"])
async def test_a_file_of_another_kind_is_refused(api: World, media_type: str | None) -> None:
    told = await upload(api, "address,reason\r\n", media_type)
    assert (told.status, told.code, told.fields) == (415, "invalid_request", ["Content-Type"])


async def test_a_file_beyond_the_limit_is_refused(api: World) -> None:
    told = await upload(api, "address,reason\r\n" + "x" * 5 * 1024 * 1024)
    assert (told.status, told.fields) == (413, ["body"])


async def test_what_is_exported_can_be_imported_elsewhere(api: World) -> None:
    entries = [
        Suppression(
            address=f"u{number:04}@example.org",
            reason='said "no", twice\r\nand again' if number % 2 else "x",
            created_by="ann" if number % 3 else None,
            created_at_ms=number,
        )
        for number in range(1_234)
    ]
    await api.suppressions.put_all(entries)
    exported = await api.get("suppressions/export")
    assert exported.status == 200
    assert exported.headers["content-type"].startswith("text/csv")
    assert exported.body.startswith(b"address,reason,created_by,created_at_ms\r\nu0000@example.org,x,,0\r\n")
    for entry in entries:
        await api.suppressions.remove(entry.address)
    assert (await upload(api, exported.body.decode())).json == {"added": 1_234, "replaced": 0}
    assert (await api.get("suppressions/export")).body == exported.body


async def test_an_empty_list_is_exported_as_its_header(api: World) -> None:
    assert (await api.get("suppressions/export")).body == b"address,reason,created_by,created_at_ms\r\n"


# Who did it


async def test_every_change_is_in_the_audit_log(api: World) -> None:
    with capture_logs() as lines:
        await put(api, "bob@example.org", "complained")
        await put(api, "bob@example.org", "complained")
        await api.ask("DELETE", "suppressions/bob@example.org")
        await upload(api, "address,reason\nann@example.org,x\n")
        await upload(api, "address,reason\nnobody,x\n")
        await api.get("suppressions/export")
        await api.get("suppressions")
    actions = [line for line in lines if line["event"] == "operator_action"]
    assert [(line["action"], line["outcome"]) for line in actions] == [
        ("suppress", "done"),
        ("suppress", "done"),
        ("unsuppress", "done"),
        ("import_suppressions", "done"),
        ("import_suppressions", "InvalidRequest"),
        ("export_suppressions", "done"),
    ]
    assert [line.get("replaced") for line in actions[:2]] == [False, True]
    assert (actions[0]["address"], actions[0]["reason"]) == ("bob@example.org", "complained")


async def test_who_added_it_is_known_by_the_token_where_nobody_says_it(valkey: ValkeyServer) -> None:
    async with world(valkey, tokens=Tokens(operator=["ops"])) as api:
        headers = {"Authorization": "Bearer ops"}
        told = await api.ask("PUT", "suppressions/a@b.org", json_body={"reason": "x"}, headers=headers)
        assert told.json["created_by"].startswith("token:")
        body = {"reason": "x", "created_by": "ann"}
        told = await api.ask("PUT", "suppressions/a@b.org", json_body=body, headers=headers)
        assert told.json["created_by"] == "ann"
