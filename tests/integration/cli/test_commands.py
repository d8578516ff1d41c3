"""What operators type, and what they read then."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from galaxy_mail.actors.resend_jobs import ResendJobs
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.cli import dead_letters as dead_letters_module
from galaxy_mail.domain.records import MalformedCommand, Source, Suppression, encode
from galaxy_mail.settings.kinds import HostPort
from tests.integration.cli.conftest import Shell
from tests.integration.http.world import DAY_MS, DELAYED, REFUSED
from tests.servers import ValkeyServer, run_command


def rows(table: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    return [re.split(r" {2,}", line.strip()) for line in table.splitlines()[1:]]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# Deliveries


async def test_deliveries_are_listed_newest_first(shell: Shell) -> None:
    first = await shell.api.made(to="ann@example.org", cc=("bob@example.org",))
    second = await shell.api.made(DELAYED, source=Source.AUTHSESSION)
    table = await shell.out("deliveries", "list")
    assert table.splitlines()[0].split() == [
        "CREATED", "DELIVERY", "STATUS", "SOURCE", "TO", "TEMPLATE", "OR", "SUBJECT", "ATTEMPTS", "FAILURE"
    ]  # fmt: skip
    newest, oldest = rows(table)
    assert newest[1:] == [
        second,
        "dead_letter",
        "authsession",
        "ann@example.org",
        "auth.login_code",
        "1",
        "timed_out",
    ]
    assert oldest[1:] == [first, "sent", "notification", "ann@example.org +1", "Hello", "1", "-"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", newest[0])


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--status", "sent"], [0]),
        (["--status", "sent", "--recipient", "BOB@example.org"], []),
        (["--source", "authsession"], [1]),
        (["--template", "auth.login_code"], [1]),
        (["--key", "key of d0002"], [1]),
        (["--since", "1h"], [1, 0]),
        (["--until", "1h"], []),
        (["--since", "2020-01-01", "--until", "2020-01-02T10:00+02:00"], []),
        (["--limit", "1"], [1]),
        (["--all"], [1, 0]),
    ],
)  # fmt: skip
async def test_conditions_narrow_the_list(shell: Shell, options: list[str], found: list[int]) -> None:
    ids = [await shell.api.made(), await shell.api.made(DELAYED, source=Source.AUTHSESSION)]
    listed = json.loads(await shell.out("deliveries", "list", "--json", *options))
    assert [item["delivery_id"] for item in listed["items"]] == [ids[number] for number in found]


async def test_a_list_goes_over_as_many_pages_as_it_takes(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("galaxy_mail.cli.api.PAGE_MAX", 2)
    for _ in range(5):
        await shell.api.made()
    result = await shell.run("deliveries", "list", "--limit", "3")
    assert len(rows(result.stdout)) == 3
    assert result.stderr == "3 shown, there are more: pass --limit or --all\n"
    result = await shell.run("deliveries", "list", "--all")
    assert len(rows(result.stdout)) == 5
    assert result.stderr == ""


async def test_an_empty_list_says_so_and_is_no_failure(shell: Shell) -> None:
    result = await shell.run("deliveries", "list")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no deliveries\n")
    assert json.loads(await shell.out("deliveries", "list", "--json")) == {"items": []}


async def test_a_delivery_is_shown_with_its_attempts(shell: Shell) -> None:
    await shell.api.suppressions.put(
        Suppression(address="eve@example.org", reason="complained", created_at_ms=1)
    )
    delivery_id = await shell.api.made(REFUSED, cc=("eve@example.org",))
    shown = await shell.out("deliveries", "show", delivery_id)
    lines = dict(re.split(r" {2,}", line, maxsplit=1) for line in shown.split("\n\n")[0].splitlines())
    assert lines["status"] == "failed"
    assert lines["failure"] == "permanent_reply: the relay answered 550 5.1.1"
    assert lines["suppressed"] == "eve@example.org (complained)"
    assert "next attempt" not in lines
    assert "provider_rejected" in shown
    assert "attempt 1: ann@example.org was refused: 550 5.1.1 no such user" in shown


async def test_json_is_what_the_api_says(shell: Shell) -> None:
    delivery_id = await shell.api.made(REFUSED)
    for command, path in (("show", ""), ("attempts", "/attempts")):
        printed = json.loads(await shell.out("deliveries", command, delivery_id, "--json"))
        told = await shell.api.get(f"deliveries/{delivery_id}{path}", Authorization="Bearer ops-4711")
        assert printed == told.json


async def test_attempts_can_be_read_when_the_delivery_is_purged(shell: Shell) -> None:
    delivery_id = await shell.api.made(REFUSED)
    shell.api.link.ahead_ms = 31 * DAY_MS
    assert (await shell.run("deliveries", "show", delivery_id)).exit_code == 1
    assert len(rows(await shell.out("deliveries", "attempts", delivery_id))) == 2  # and the refused recipient


async def test_what_mail_holds_can_not_command_the_terminal(shell: Shell) -> None:
    await shell.api.suppressions.put(
        Suppression(address="a@b.org", reason="\x1b[31mred\x07 \u202ereversed", created_at_ms=1)
    )
    table = await shell.out("suppressions", "list")
    assert "\x1b" not in table.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert r"\x1b[31mred\x07 \u202ereversed" in table


# Sending again


async def test_a_delivery_is_resent_with_a_key_that_is_printed(shell: Shell) -> None:
    delivery_id = await shell.api.made(DELAYED)
    result = await shell.run(
        "deliveries", "resend", delivery_id, "--reason", "the relay was down", "--by", "ann"
    )
    assert result.exit_code == 0
    key = result.stderr.strip().removeprefix("idempotency key: ")
    clone_id = result.stdout.strip().removeprefix("resent as ")
    clone = await shell.api.delivery(clone_id)
    assert (clone.parent_delivery_id, clone.resent_by, clone.idempotency_key) == (delivery_id, "ann", key)
    again = await shell.run("deliveries", "resend", delivery_id, "--idempotency-key", key)
    assert (again.stdout, again.stderr) == (f"already resent with this key: {clone_id}\n", "")


async def test_a_resend_as_json_has_its_key(shell: Shell) -> None:
    delivery_id = await shell.api.made(DELAYED)
    printed = json.loads(
        await shell.out("deliveries", "resend", delivery_id, "--json", "--idempotency-key", "k")
    )
    assert printed == {
        "delivery_id": printed["delivery_id"],
        "parent_delivery_id": delivery_id,
        "idempotency_key": "k",
        "replayed": False,
    }


async def test_what_may_not_be_resent_is_refused_in_words(shell: Shell) -> None:
    result = await shell.run("deliveries", "resend", await shell.api.accept())
    assert result.exit_code == 1
    assert (
        "galaxy-mail: Only a delivery in a terminal state can be resent; this one is queued." in result.stderr
    )


@asynccontextmanager
async def working(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The service works on jobs, and the command looks often."""
    monkeypatch.setattr(dead_letters_module, "CHECK_EVERY_S", 0.01)
    monkeypatch.setattr("galaxy_mail.actors.resend_jobs.CHECK_EVERY_S", 0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ResendJobs(runner=shell.api.resend_jobs, heartbeat=Heartbeat()).run)
        yield
        nursery.cancel_scope.cancel()


async def test_dead_letters_are_listed(shell: Shell) -> None:
    delivery_id = await shell.api.made(DELAYED)
    [row] = rows(await shell.out("dead-letters", "list"))
    assert row[1:] == [delivery_id, "retries_exhausted", "1", "timed_out: no answer to the final dot"]


async def test_dead_letters_are_counted_and_then_resent(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = [await shell.api.made(DELAYED) for _ in range(3)]
    await shell.api.made(REFUSED)
    command = [
        "dead-letters",
        "resend",
        "--since",
        "1h",
        "--reason",
        "the relay was down",
        "--per-second",
        "1000",
    ]
    async with working(shell, monkeypatch):
        counted = await shell.run(*command, "--dry-run")
        assert (counted.exit_code, counted.stdout) == (0, "3 would be resent\n")
        done = await shell.run(*command, "--yes")
    assert done.exit_code == 0, done.output
    assert "3 dead letters match" in done.stderr
    assert re.search(r"^resent +3$", done.stdout, re.MULTILINE)
    for delivery_id in dead:
        told = await shell.api.get(f"deliveries/{delivery_id}", Authorization="Bearer ops-4711")
        assert len(told.json["resent_as"]) == 1


async def test_nothing_is_resent_without_a_yes(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    await shell.api.made(DELAYED)
    async with working(shell, monkeypatch):
        result = await shell.run("dead-letters", "resend", "--every", "--reason", "x")
    assert result.exit_code == 2
    assert "stdin is not a terminal: pass --yes to resend without confirmation" in result.stderr
    listed = json.loads(await shell.out("deliveries", "list", "--json"))
    assert len(listed["items"]) == 1


async def test_a_job_can_be_left_alone_and_followed_later(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shell.api.made(DELAYED)
    async with working(shell, monkeypatch):
        started = await shell.run("dead-letters", "resend", "--every", "--reason", "x", "--yes", "--no-wait")
        assert started.exit_code == 0
        [job_id] = re.findall(r"^job (\w+)$", started.stderr, re.MULTILINE)
        followed = json.loads(await shell.out("dead-letters", "resend", "--job", job_id, "--json"))
    assert (followed["job_id"], followed["status"], followed["resent"]) == (job_id, "done", 1)


async def test_the_same_key_resends_nothing_twice(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    await shell.api.made(DELAYED)
    command = [
        "dead-letters",
        "resend",
        "--every",
        "--reason",
        "x",
        "--yes",
        "--idempotency-key",
        "night-1",
        "--json",
    ]
    async with working(shell, monkeypatch):
        first, second = json.loads(await shell.out(*command)), json.loads(await shell.out(*command))
    assert first == second
    assert first["resent"] == 1


async def test_a_repeat_with_what_was_printed_resends_nothing_twice(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`1h` ago is another time at each try."""
    await shell.api.made(DELAYED)
    command = ["dead-letters", "resend", "--reason", "x", "--yes", "--json"]
    async with working(shell, monkeypatch):
        first = await shell.run(*command, "--since", "1h", "--until", "1ms")
        [(key, since, until)] = re.findall(
            r"^idempotency key: (\S+) \(with --since (\S+) --until (\S+)\)$", first.stderr, re.MULTILINE
        )
        again = ["--idempotency-key", key, "--since", since, "--until", until]
        second = await shell.run(*command, *again)
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert json.loads(first.stdout) == json.loads(second.stdout)


async def test_what_is_skipped_shows_in_the_exit_status(
    shell: Shell, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery_id = await shell.api.made(DELAYED)
    run_command(valkey.socket, "DEL", f"mail:payloads:{delivery_id}")
    async with working(shell, monkeypatch):
        result = await shell.run("dead-letters", "resend", "--every", "--reason", "x", "--yes")
    assert result.exit_code == 1
    assert re.search(r"^skipped +1$", result.stdout, re.MULTILINE)


async def test_nothing_to_resend_is_no_failure(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    async with working(shell, monkeypatch):
        result = await shell.run("dead-letters", "resend", "--every", "--reason", "x")
    assert (result.exit_code, result.stdout) == (0, "0 would be resent\n")


async def test_dead_letters_that_are_named_are_resent_one_by_one(shell: Shell) -> None:
    """What can't be sent again is told and holds up no other; mail that was sent is not sent twice by a mistyped id."""
    dead = [await shell.api.made(DELAYED) for _ in range(2)]
    sent = await shell.api.made()
    waiting = await shell.api.accept()
    result = await shell.run("dead-letters", "resend", dead[0], waiting, "nope", sent, dead[1])
    assert result.exit_code == 1
    assert [line.split(" resent as ")[0] for line in result.stdout.splitlines()] == dead
    assert f"{waiting}: it is not a dead letter but queued" in result.stderr
    assert "nope: There is no such delivery." in result.stderr
    assert f"{sent}: it is not a dead letter but sent; `deliveries resend` can send it again" in result.stderr
    listed = json.loads(await shell.out("deliveries", "list", "--source", "operator_resend", "--json"))
    assert sorted(item["parent_delivery_id"] for item in listed["items"]) == sorted(dead)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "pass delivery ids, or conditions"),
        (["--since", "1h"], "--reason is required"),
        (["d1", "--since", "1h"], "exclude each other"),
        (["--job", "j", "--every"], "exclude each other"),
        (["d1", "--dry-run"], "--dry-run needs conditions"),
        (["d1", "d2", "--idempotency-key", "k"], "--idempotency-key allows only one delivery id"),
        (["--since", "yesterday"], "neither a duration such as 90m or 2d nor a time"),
        (["--per-second", "0", "--every"], "0 is not in the range"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    shell: Shell, options: list[str], message: str
) -> None:
    result = await shell.run("dead-letters", "resend", *options, env={"MAIL_API_URL": "http://127.0.0.1:1"})
    assert result.exit_code == 2
    assert message in result.stderr


# Malformed commands


async def test_malformed_commands_are_listed_and_shown(shell: Shell, valkey: ValkeyServer) -> None:
    record = MalformedCommand(
        entry_id="1733300000300-0",
        fields={"delivery_id": "notify.4712", "payload_json": '{"variables":{"code":"493027"}}'},
        failure_code="invalid_payload",
        message="template_id: is required",
        recorded_at_ms=shell.api.clock.now_ms(),
    )
    run_command(valkey.socket, "SET", f"mail:malformed_commands:{record.entry_id}", encode(record))
    run_command(valkey.socket, "ZADD", "mail:idx:malformed_commands", record.recorded_at_ms, record.entry_id)
    [row] = rows(await shell.out("malformed", "list"))
    assert row[1:] == [record.entry_id, "invalid_payload", "notify.4712", "template_id: is required"]
    shown = await shell.out("malformed", "show", record.entry_id)
    assert "notify.4712" in shown
    assert '{"variables":{"code":"***"}}' in shown
    assert "493027" not in shown


# Suppressions


async def test_holds_are_added_listed_and_removed(shell: Shell) -> None:
    assert await shell.out("holds", "list") == ""
    assert await shell.out("holds", "add", "lane:priority", "--reason", "move") == "lane:priority is held\n"
    replaced = await shell.out(
        "holds", "add", "lane:priority", "--reason", "longer move", "--for", "2h", "--by", "ann"
    )
    assert replaced.startswith("lane:priority was held before; the hold is replaced, until 2")
    await shell.out("holds", "add", "relay:default", "--reason", "it moves")
    first, second = rows(await shell.out("holds", "list"))
    assert first[:2] == ["lane:priority", "operator"]
    assert {"ann", "longer move"} <= set(first)
    assert second[:2] == ["relay:default", "operator"]
    listed = json.loads(await shell.out("holds", "list", "--json"))
    assert [item["until_ms"] is None for item in listed["items"]] == [False, True]
    assert await shell.out("holds", "remove", "lane:priority") == "removed\n"
    result = await shell.run("holds", "remove", "lane:priority")
    assert (result.exit_code, result.stderr) == (1, "galaxy-mail: There is no such hold.\n")
    added = json.loads(await shell.out("holds", "add", "all", "--reason", "stop", "--json"))
    assert (added["scope"], added["cause"]) == ("all", "operator")


async def test_a_scope_that_is_none_and_a_time_that_is_none_are_refused(shell: Shell) -> None:
    result = await shell.run("holds", "add", "lane:bulk", "--reason", "x")
    assert result.exit_code == 1
    assert "Scopes: all, lane:priority, lane:normal, relay:default." in result.stderr
    result = await shell.run("holds", "add", "all", "--reason", "x", "--for", "soon")
    assert result.exit_code == 2
    assert "'soon' is not a duration" in result.stderr


async def test_suppressions_are_added_listed_shown_and_removed(shell: Shell) -> None:
    assert await shell.out(
        "suppressions", "add", "Bob@Example.org", "--reason", "complained", "--by", "ann"
    ) == ("bob@example.org is suppressed\n")
    assert "was suppressed before" in await shell.out(
        "suppressions", "add", "bob@example.org", "--reason", "again"
    )
    await shell.out("suppressions", "add", "@closed.example", "--reason", "gone")
    assert [row[0] for row in rows(await shell.out("suppressions", "list"))] == [
        "@closed.example",
        "bob@example.org",
    ]
    assert "again" in await shell.out("suppressions", "show", "bob@example.org")
    assert await shell.out("suppressions", "remove", "bob@example.org") == "removed\n"
    result = await shell.run("suppressions", "remove", "bob@example.org")
    assert (result.exit_code, result.stderr) == (1, "galaxy-mail: There is no such suppression.\n")


async def test_the_list_goes_out_as_csv_and_comes_in_again(shell: Shell, tmp_path: Path) -> None:
    await shell.out("suppressions", "import", "-", stdin="address,reason\na@b.org,x\n@c.org,y\n")
    file = tmp_path / "list.csv"
    await shell.out("suppressions", "export", "-o", str(file))
    assert (await shell.run("suppressions", "export")).stdout_bytes == file.read_bytes()
    assert await shell.out("suppressions", "import", str(file)) == "0 added, 2 replaced\n"
    assert names_in(tmp_path) == ["list.csv"]


async def test_a_bad_line_is_told(shell: Shell) -> None:
    result = await shell.run("suppressions", "import", "-", stdin="address,reason\nnobody,x\n")
    assert (result.exit_code, result.stderr) == (2, "galaxy-mail: line 2: address: an address needs an @\n")


async def test_an_export_to_where_nothing_can_be_written_is_told(shell: Shell, tmp_path: Path) -> None:
    place = tmp_path / "no" / "list.csv"
    result = await shell.run("suppressions", "export", "-o", str(place))
    assert result.exit_code == 1
    assert result.stderr == f"galaxy-mail: can't write {place}: No such file or directory\n"


async def test_an_export_that_fails_leaves_no_file(
    shell: Shell, valkey: ValkeyServer, tmp_path: Path
) -> None:
    valkey.kill()
    result = await shell.run("suppressions", "export", "-o", str(tmp_path / "list.csv"))
    assert result.exit_code == 3
    assert names_in(tmp_path) == []


# Trouble


async def test_what_the_service_takes_for_a_mistake_is_a_usage_error(shell: Shell) -> None:
    result = await shell.run("deliveries", "list", "--recipient", "ann")
    assert (result.exit_code, result.stderr) == (2, "galaxy-mail: recipient: an address needs an @\n")


async def test_a_service_that_is_not_there_is_told(shell: Shell) -> None:
    result = await shell.run("deliveries", "list", env={"MAIL_API_URL": "http://127.0.0.1:1"})
    assert result.exit_code == 3
    assert result.stderr.startswith("galaxy-mail: can't reach http://127.0.0.1:1 (MAIL_API_URL): ")


async def test_a_service_that_can_not_serve_is_told(shell: Shell, valkey: ValkeyServer) -> None:
    valkey.kill()
    result = await shell.run("deliveries", "list")
    assert (result.exit_code, result.stderr) == (3, "galaxy-mail: The store can't be reached.\n")


@pytest.mark.parametrize(
    ("token", "words"), [("", "A bearer token is needed."), ("wrong", "This token is not known.")]
)
async def test_a_token_that_opens_nothing_is_told(shell: Shell, token: str, words: str) -> None:
    result = await shell.run("deliveries", "list", env={"MAIL_API_TOKEN": token})
    assert result.exit_code == 1
    assert (
        result.stderr
        == f"galaxy-mail: {words} Is MAIL_API_TOKEN one of the service's MAIL_OPERATOR_TOKENS?\n"
    )


async def test_a_token_is_in_no_message(shell: Shell) -> None:
    result = await shell.run("deliveries", "list", env={"MAIL_API_TOKEN": "wrong-4711"})
    assert "wrong-4711" not in result.output


async def test_something_else_at_that_address_is_told(shell: Shell) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        result = await shell.run("deliveries", "list", env={"MAIL_API_URL": f"http://127.0.0.1:{port}"})
        nursery.cancel_scope.cancel()
    assert result.exit_code == 3
    assert "is not Galaxy Mail" in result.stderr


# Publishing


def command(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "delivery_id": f"notify.{number}",
        "source": "notification",
        "payload_mode": "rendered",
        "idempotency_key": f"order-{number}",
        "requested_at_ms": 1733300000000,
        "payload": {"envelope": {"to": ["ann@example.org"]}, "subject": "Hello", "text_body": "Hello.\n"},
        **changes,
    }


async def publish(shell: Shell, valkey: ValkeyServer, text: str, *options: str) -> Any:
    return await shell.run("publish", "-", *options, stdin=text, env={"MAIL_REDIS_ADDR": valkey.url})


async def test_commands_of_a_file_go_onto_the_stream_in_order(shell: Shell, valkey: ValkeyServer) -> None:
    text = "\n".join(json.dumps(command(number)) for number in range(120))
    result = await publish(shell, valkey, text)
    assert result.exit_code == 0, result.output
    entries: Any = run_command(valkey.socket, "XRANGE", "mail:delivery_commands", "-", "+")
    printed = [line.split("  ") for line in result.stdout.splitlines()]
    assert printed == [
        [entry_id.decode(), f"notify.{number}"] for number, (entry_id, _) in enumerate(entries)
    ]
    fields = dict(zip(entries[0][1][::2], entries[0][1][1::2], strict=True))
    assert json.loads(fields[b"payload_json"]) == command(0)["payload"]
    assert fields[b"requested_at_ms"] == b"1733300000000"


async def test_one_command_may_take_many_lines(shell: Shell, valkey: ValkeyServer) -> None:
    result = await publish(shell, valkey, json.dumps(command(1), indent=2), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["delivery_id"] == "notify.1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ('{"a":', "the file is not a JSON object: not JSON"),
        ("[]", "line 1: not a JSON object"),
        (json.dumps(command(1)) + "\n{", "line 2: not JSON"),
        (json.dumps(command(1, payload_json="{}")), "line 1: has both payload and payload_json"),
        (json.dumps(command(1, trace_id=None)), "line 1: trace_id: must be a string or an integer"),
        (json.dumps(command(1, source="me")), "line 1: unsupported_source: "),
        (
            json.dumps(command(1))
            + "\n\n"
            + json.dumps(command(2, payload={}))
            + "\n"
            + json.dumps(command(3, x="y")),
            "line 3: invalid_payload: ",
        ),
    ],
)
async def test_a_file_with_one_bad_command_publishes_none(
    shell: Shell, valkey: ValkeyServer, text: str, message: str
) -> None:
    result = await publish(shell, valkey, text)
    assert result.exit_code == 1
    assert message in result.stderr
    assert run_command(valkey.socket, "EXISTS", "mail:delivery_commands") == 0


async def test_a_bad_command_is_published_on_demand(shell: Shell, valkey: ValkeyServer) -> None:
    result = await publish(shell, valkey, json.dumps(command(1, source="me")), "--no-check")
    assert result.exit_code == 0
    assert run_command(valkey.socket, "XLEN", "mail:delivery_commands") == 1


async def test_the_limits_are_those_that_the_service_has(shell: Shell, valkey: ValkeyServer) -> None:
    many = {"to": [f"a{number}@example.org" for number in range(51)]}
    text = json.dumps(command(1, payload={"envelope": many, "subject": "x", "text_body": "x" * 500}))
    refused = await publish(shell, valkey, text)
    assert (refused.exit_code, "more than 50 addresses" in refused.stderr) == (1, True)
    shell.env["MAIL_RECIPIENTS_MAX"] = "51"
    assert (await publish(shell, valkey, text)).exit_code == 0
    shell.env["MAIL_PAYLOAD_MAX_BYTES"] = "1KiB"
    assert "more than the limit of 1024" in (await publish(shell, valkey, text)).stderr


async def test_whoever_watches_sees_how_far_it_is(
    shell: Shell, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, str, int]] = []

    @contextmanager
    def progress(length: int, label: str) -> Iterator[Any]:
        bar = SimpleNamespace(done=0)
        bar.update = lambda steps: setattr(bar, "done", bar.done + steps)
        yield bar
        told.append((length, label, bar.done))

    monkeypatch.setattr("galaxy_mail.cli.publish.progress", progress)
    text = "\n".join(json.dumps(command(number)) for number in range(120))
    assert (await publish(shell, valkey, text)).exit_code == 0
    assert told == [(120, "publishing", 120)]


async def test_publishing_without_a_redis_is_told(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galaxy_mail.cli.redis_access.CONNECT_WITHIN_S", 0.2)
    text = json.dumps(command(1))
    nowhere = {"MAIL_REDIS_ADDR": str(HostPort("127.0.0.1", 1))}
    result = await shell.run("publish", "-", stdin=text, env=nowhere)
    assert result.exit_code == 3
    assert "can't reach Redis" in result.stderr
