"""Each script's header is its contract, and its body keeps it: the same keys and arguments under the same names."""

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

import pytest
from msgspec import Struct

from galaxy_mail.storage.links.errors import RedisRefused
from galaxy_mail.storage.links.protocol import Call, Reply
from galaxy_mail.storage.links.replies import UnexpectedReply
from galaxy_mail.storage.links.script import Script, scripts
from galaxy_mail.storage.operations import answers
from galaxy_mail.storage.operations.operation import Operation
from galaxy_mail.storage.operations.renew import RENEW, RenewArgs, RenewKeys

HEADER: Final = re.compile(
    r"\A#!lua(?: flags=(?P<flags>[a-z,-]+))?\n--\[\[ (?P<name>\w+): (?P<text>.*?)\n\]\]\n", re.DOTALL
)
# "  KEYS[3]  payload  hash  content": the name ends at two blanks or with the line.
POSITION: Final = re.compile(r"^  (KEYS|ARGV)\[(\d+)(\.\.\.)?\] +(.+?)(?:  .*)?$", re.MULTILINE)
NAMED: Final = re.compile(r"^local ([\w, ]+) = (.+)$")
USE: Final = re.compile(r"\b(KEYS|ARGV)\[(\d+)\]")
COMMAND: Final = re.compile(r'redis\.call\("([A-Z]+)"')
WRITES: Final = frozenset(
    [
        "SET",
        "DEL",
        "HSET",
        "HSETNX",
        "HDEL",
        "HINCRBY",
        "INCR",
        "INCRBY",
        "ZADD",
        "ZREM",
        "PEXPIREAT",
        "XADD",
        "XTRIM",
        "EXPIRE",
        "PERSIST",
    ]
)
ANSWER: Final = re.compile(r"return \{(\d)|return (\d)\b")


class Parts(Struct, frozen=True):
    """A script taken apart."""

    name: str
    flags: frozenset[str]
    header: str
    positions: dict[tuple[str, int], str]  # as the header names them
    variadic: dict[str, int]  # "KEYS" -> where the rest begins
    naming: list[str]  # the first lines, in which positions get names
    body: str  # what follows them


def taken_apart(script: Script) -> Parts:
    header = HEADER.match(script.text)
    assert header is not None, "opens with #!lua and a header that begins with its name"
    positions: dict[tuple[str, int], str] = {}
    variadic: dict[str, int] = {}
    for kind, number, rest, name in POSITION.findall(header["text"]):
        assert (kind, int(number)) not in positions
        if rest:
            variadic[kind] = int(number)
        else:
            positions[kind, int(number)] = name
    naming, _, body = script.text[header.end() :].partition("\n\n")
    return Parts(
        name=header["name"],
        flags=frozenset((header["flags"] or "").split(",")) - {""},
        header=header["text"],
        positions=positions,
        variadic=variadic,
        naming=naming.splitlines(),
        body=body,
    )


def names_given(parts: Parts) -> dict[tuple[str, int], str]:
    """Which position gets which name in the first lines. One line names as many as it has on its right."""
    given: dict[tuple[str, int], str] = {}
    for line in parts.naming:
        match = NAMED.match(line)
        if match is None:
            continue
        left = [name.strip() for name in match[1].split(",")]
        uses = [(kind, int(number)) for kind, number in USE.findall(match[2])]
        if len(left) == len(uses):
            given.update(zip(uses, left, strict=True))
        else:  # several positions in one value, such as a table of places
            given.update(dict.fromkeys(uses, ""))
    for line in parts.naming:
        if NAMED.match(line) is None:
            assert not USE.search(line), f"{line!r} uses a position without naming it"
    return given


ALL: Final = scripts()
by_name = pytest.mark.parametrize("script", ALL, ids=lambda script: script.name)


@by_name
def test_a_header_says_what_the_script_returns_and_what_a_second_run_does(script: Script) -> None:
    parts = taken_apart(script)
    assert parts.name == script.name
    assert re.search(r"^  Returns  \S", parts.header, re.MULTILINE)
    assert re.search(r"^  Twice: \S", parts.header, re.MULTILINE)


@by_name
def test_header_and_first_lines_have_the_same_positions(script: Script) -> None:
    parts = taken_apart(script)
    given = names_given(parts)
    assert set(given) == set(parts.positions)
    for kind in ("KEYS", "ARGV"):
        numbers = sorted(number for which, number in parts.positions if which == kind)
        assert numbers == list(range(1, len(numbers) + 1)), "without gaps"
        if kind in parts.variadic:
            assert parts.variadic[kind] == len(numbers) + 1


@by_name
def test_a_position_has_one_name_in_header_and_body(script: Script) -> None:
    parts = taken_apart(script)
    for position, name in names_given(parts).items():
        in_header = parts.positions[position].replace(" ", "_")
        assert name in {"", in_header, in_header.removeprefix("delivery_")}, position


@by_name
def test_below_its_first_lines_a_script_uses_names_and_no_numbers(script: Script) -> None:
    parts = taken_apart(script)
    assert not USE.search(parts.body)


@by_name
def test_what_follows_the_named_positions_begins_where_the_header_says(script: Script) -> None:
    parts = taken_apart(script)
    firsts = {
        int(value)
        for value in re.findall(r"^local FIRST_\w+ = (\d+)$", "\n".join(parts.naming), re.MULTILINE)
    }
    assert firsts == {number for number in parts.variadic.values() if number > 1}
    for kind in ("KEYS", "ARGV"):
        if kind not in parts.variadic:
            assert f"#{kind}" not in parts.body
            assert f"{kind}[" not in parts.body


@by_name
def test_a_fenced_script_checks_the_token_before_anything_else(script: Script) -> None:
    parts = taken_apart(script)
    if "token" not in parts.positions.values():
        return
    first = next(line for line in parts.body.splitlines() if "redis.call" in line)
    assert first.startswith('if redis.call("HGET", claims, delivery_id) ~= token then')


@by_name
def test_a_script_that_reads_only_is_marked_so(script: Script) -> None:
    parts = taken_apart(script)
    commands = set(COMMAND.findall(parts.body))
    assert commands, "every script talks to Redis"
    assert ("no-writes" in parts.flags) is not bool(commands & WRITES)


@by_name
def test_the_answers_in_the_body_are_those_of_the_header(script: Script) -> None:
    parts = taken_apart(script)
    returns = parts.header.partition("  Returns ")[2].partition("  Twice:")[0]
    stated = {int(number) for number in re.findall(r"^\s+\{(\d)", returns, re.MULTILINE)}
    if not stated:
        return  # its answer is no code
    assert {int(a or b) for a, b in ANSWER.findall(parts.body)} == stated
    assert stated <= set(answers.Answer)


@by_name
def test_nothing_random_and_no_key_that_the_caller_did_not_name(script: Script) -> None:
    """A replica or an append-only file that replays it must come to the same, and ACLs must see every key."""
    parts = taken_apart(script)
    assert "mail:" not in script.text.partition("]]")[2]
    for forbidden in ("math.random", "os.time", "cjson", "RANDOMKEY", "SPOP", "KEYS *", "loadstring"):
        assert forbidden not in parts.body


def test_only_what_takes_mail_in_is_refused_when_redis_is_full() -> None:
    """Spec section 4: accepting fails, and finishing still works; so does everything that a reconnect needs."""
    refused = {script.name for script in ALL if not taken_apart(script).flags & {"allow-oom", "no-writes"}}
    assert refused == {"accept", "record_malformed", "save_job"}


def operation_of(script: Script) -> "Operation[Any, Any, Any]":
    """The one in the module beside the script."""
    module = import_module(f"galaxy_mail.storage.operations.{script.name}")
    operations = [value for value in vars(module).values() if isinstance(value, Operation)]
    assert operations == [getattr(module, script.name.upper())]
    return operations[0]


@by_name
def test_a_script_has_one_operation_whose_fields_are_the_positions_of_its_header(script: Script) -> None:
    operation = operation_of(script)
    assert operation.script is script
    parts = taken_apart(script)
    for kind, fields in (("KEYS", operation.keys._fields), ("ARGV", operation.args._fields)):
        named = [parts.positions[at].replace(" ", "_") for at in sorted(parts.positions) if at[0] == kind]
        assert list(fields) == named


@by_name
def test_a_call_has_its_fields_and_then_what_the_header_leaves_open(script: Script) -> None:
    operation, parts = operation_of(script), taken_apart(script)
    keys = operation.keys(*(f"key {name}" for name in operation.keys._fields))
    args = operation.args(*(f"arg {name}" for name in operation.args._fields))
    assert operation.call(keys, args) == Call(script, tuple(keys), tuple(args))
    more = operation.call(keys, args, more_keys=["k"], more_args=[1])
    assert more.keys == (*keys, "k")
    assert more.args == (*args, 1)
    for kind, fixed in (("KEYS", keys), ("ARGV", args)):
        assert parts.variadic.get(kind, len(fixed) + 1) == len(fixed) + 1


def test_what_is_not_given_is_an_empty_argument() -> None:
    assert RENEW.call(
        RenewKeys(claims="c", schedule="s"), RenewArgs(delivery_id="d", token="t", now_ms=None, ttl_ms=1)
    ).args == ("d", "t", "", 1)


@by_name
def test_a_decoder_raises_a_refusal_and_refuses_a_shape_that_its_script_does_not_have(script: Script) -> None:
    operation = operation_of(script)
    with pytest.raises(RedisRefused):
        operation.decode(RedisRefused("OOM no"))
    shapes: list[Reply] = [None, b"1", 1, [99], [b"1"], [None, None]]
    for reply in shapes:
        with pytest.raises((UnexpectedReply, ValueError)):
            operation.decode(reply)


def test_answers_mean_the_same_everywhere() -> None:
    meanings = {
        answers.Answer.STALE: r"stale|another owner has it",
        answers.Answer.DONE: r"\w",
        answers.Answer.REPLAY: r"accepted before|another record exists",
        answers.Answer.DELIVERY_EXISTS: r"with this id exists",
        answers.Answer.SUPPRESSED: r"suppressed",
        answers.Answer.NOT_NEXT: r"not next",
        answers.Answer.EXPIRED: r"has expired",
    }
    for script in ALL:
        returns = taken_apart(script).header.partition("  Returns ")[2].partition("  Twice:")[0]
        for number, text in re.findall(r"^\s+\{(\d)[^}]*\}\s+(.*)$", returns, re.MULTILINE):
            assert re.search(meanings[answers.Answer(int(number))], text), (script.name, number, text)


POSITIONS, NAMES, NUMBERS, FENCE = (
    test_header_and_first_lines_have_the_same_positions,
    test_a_position_has_one_name_in_header_and_body,
    test_below_its_first_lines_a_script_uses_names_and_no_numbers,
    test_a_fenced_script_checks_the_token_before_anything_else,
)


@pytest.mark.parametrize(
    ("before", "after", "check"),
    [
        ("  KEYS[2]  schedule", "  KEYS[3]  schedule", POSITIONS),
        ("local claims, schedule = KEYS[1], KEYS[2]", "local claims = KEYS[1]", POSITIONS),
        ("  KEYS[1]  claims ", "  KEYS[1]  things ", NAMES),
        ("claims, schedule = KEYS[1], KEYS[2]", "schedule, claims = KEYS[1], KEYS[2]", NAMES),
        ('"ZADD", schedule', '"ZADD", KEYS[2]', NUMBERS),
        ('if redis.call("HGET"', 'redis.call("ZADD", schedule, 1, "x")\nif redis.call("HGET"', FENCE),
    ],
)
def test_these_checks_see_what_is_wrong(before: str, after: str, check: Callable[[Script], None]) -> None:
    renew = next(script for script in ALL if script.name == "renew")
    check(renew)
    assert renew.text.count(before) == 1
    with pytest.raises(AssertionError):
        check(Script.of("renew", renew.text.replace(before, after)))
