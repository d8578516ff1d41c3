"""What the documentation repeats of the code: tables and drawings made from it, and sets that pages must list.

`generated` gives text for the marked parts, `listed` the sets for the marked tables.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import fields

from galaxy_mail.config import ClientConfig, Config
from galaxy_mail.domain import conclusion
from galaxy_mail.domain.commands import FailureCode
from galaxy_mail.domain.records import AttemptStatus, DeliveryStatus
from galaxy_mail.domain.states import ATTEMPT_MOVES, DELIVERY_MOVES
from galaxy_mail.providers import stub
from galaxy_mail.providers.smtp.outcomes import OUTCOMES
from galaxy_mail.rendering.failures import RenderFailureCode
from galaxy_mail.settings import markdown_table
from galaxy_mail.storage.links.script import scripts
from galaxy_mail.storage.operations.answers import Answer
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.telemetry.metrics import _GAUGES, Metrics
from tests.docs.pages import REPOSITORY

OPENAPI: Final = REPOSITORY / "galaxy_mail" / "http" / "openapi.json"

Status = DeliveryStatus | AttemptStatus
Moves = Mapping[DeliveryStatus, frozenset[DeliveryStatus]] | Mapping[AttemptStatus, frozenset[AttemptStatus]]


@cache
def generated() -> Mapping[str, str]:
    """The text of each generated part, by its name."""
    return {
        "configuration": "\n" + markdown_table((*Config.settings(), *ClientConfig.settings())) + "\n",
        "delivery-states": _drawing(DELIVERY_MOVES, "accepted"),
        "attempt-states": _drawing(ATTEMPT_MOVES, "scheduled"),
        "smtp-outcomes": _outcomes(),
        "metrics": _metrics(),
        "scripts": _scripts(),
    }


@cache
def listed() -> Mapping[str, frozenset[str]]:
    """What a table must list, by the table's name; several code spans of a row's first cells are joined by blanks."""
    return {
        "delivery-moves": _pairs(DELIVERY_MOVES),
        "attempt-moves": _pairs(ATTEMPT_MOVES),
        "keys": frozenset(catalog()),
        "answers": frozenset(str(answer.value) for answer in Answer),
        "malformed-codes": frozenset(FailureCode),
        "render-codes": frozenset(RenderFailureCode),
        "dead-letter-reasons": frozenset({conclusion.RETRIES_EXHAUSTED, conclusion.CRASH_LOOP}),
        "lifecycle-codes": frozenset(
            {
                conclusion.RECIPIENTS_SUPPRESSED,
                conclusion.CRASH_LOOP,
                conclusion.OUTCOME_UNKNOWN,
                conclusion.OWNERSHIP_LOST,
            }
        ),
        "stub-codes": frozenset(_stub_codes()),
        "log-events": log_events(),
        "problem-codes": frozenset(_openapi()["components"]["schemas"]["ProblemCode"]["enum"]),
    }


def catalog() -> set[str]:
    """Every key's name up to its first variable part."""
    configurable = {str(one.default) for one in fields(Keys)}
    return {*Keys.fixed, *configurable, Keys().priority_schedule}


@cache
def metric_names() -> frozenset[str]:
    """Every name that `/metrics` shows: families and their series."""
    gauges = {f"galaxy_mail_{gauge}" for gauge in _GAUGES}
    shown = Metrics().exposition().decode()
    families = set(re.findall(r"^# TYPE (\S+) ", shown, re.MULTILINE))
    series = set(re.findall(r"^(galaxy_mail_\w+)[ {]", shown, re.MULTILINE))
    return frozenset(gauges | families | series)


@cache
def variables() -> frozenset[str]:
    return frozenset((*Config.variables(), *ClientConfig.variables()))


def routes() -> Iterator[tuple[str, str]]:
    """Method in capitals and path template, of every operation of the contract."""
    for path, operations in _openapi()["paths"].items():
        for method in operations:
            if method in {"get", "put", "post", "delete"}:
                yield method.upper(), path


@cache
def log_events() -> frozenset[str]:
    """The event of every log line that the code writes."""
    found: set[str] = set()
    for path in (REPOSITORY / "galaxy_mail").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(
            re.findall(r"\blog\.(?:debug|info|warning|error|exception|critical)\(\s*\"(\w+)\"", text)
        )
    return frozenset(found)


@cache
def _openapi() -> dict[str, dict[str, dict[str, dict[str, list[str]]]]]:
    document: dict[str, dict[str, dict[str, dict[str, list[str]]]]] = msgspec.json.decode(
        OPENAPI.read_bytes()
    )
    return document


def _drawing(moves: Moves, first: str) -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    for status, following in moves.items():
        lines += [f"    {status} --> {to}" for to in type(status) if to in following]
    lines += [f"    {status} --> [*]" for status, following in moves.items() if not following]
    return "\n".join([*lines, "```", ""])


def _pairs(moves: Moves) -> frozenset[str]:
    return frozenset(f"{status} {to}" for status, following in moves.items() for to in following)


def _outcomes() -> str:
    rows = [
        "| exchange | what came of it | failure code | result | blame | attempt | may have left |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (exchange, ending), outcome in OUTCOMES.items():
        code = f"`{outcome.failure_code}`" if outcome.failure_code else ""
        unknown = "**yes**" if outcome.outcome_unknown else ""
        blame = f"`{outcome.blame}`" if outcome.blame else ""
        rows.append(
            f"| {exchange} | {_ENDINGS[ending.value]} | {code} | `{outcome.result}` | {blame} "
            f"| `{outcome.status}` | {unknown} |"
        )
    return "\n" + "\n".join(rows) + "\n\n"


_ENDINGS: Final[Mapping[str, str]] = {
    "accepted": "2yz",
    "permanent": "5yz",
    "transient": "4yz",
    "closing": "421",
    "bad_reply": "not SMTP, or a code that is not legal there",
    "hung_up": "the relay closed the connection",
    "timed_out": "no answer in time",
    "unresolved": "its name has no address",
    "unreachable": "it can't be reached",
    "no_resources": "this host has no file descriptor, port, memory or thread left",
    "unverified": "its certificate does not verify",
    "broken": "the handshake failed",
    "injected": "bytes in clear behind the answer to STARTTLS",
    "not_offered": "the relay does not offer what is needed",
    "in_clear": "credentials would travel in clear",
    "too_large": "larger than the relay's SIZE",
    "too_many": "more recipients than the relay takes in one message",
    "malformed": "the message can't be encoded as a mail",
    "claim_short": "less than half of the claim is left",
    "cut_off": "the service stopped, and its grace is over",
}


def _metrics() -> str:
    shown = Metrics().exposition().decode()
    help_of = dict(re.findall(r"^# HELP (galaxy_mail_\S+) (.*)$", shown, re.MULTILINE))
    type_of = dict(re.findall(r"^# TYPE (galaxy_mail_\S+) (\S+)$", shown, re.MULTILINE))
    rows = {name: (type_of[name], ", ".join(_labels(name)), text) for name, text in help_of.items()}
    for gauge, (text, labels) in _GAUGES.items():
        rows[f"galaxy_mail_{gauge}"] = ("gauge", ", ".join(f"`{label}`" for label in labels), text)
    lines = ["| metric | type | labels | what it counts or measures |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{name}` | {kind} | {labels} | {text} |" for name, (kind, labels, text) in sorted(rows.items())
    ]
    return "\n" + "\n".join(lines) + "\n\n"


@cache
def _label_names() -> Mapping[str, tuple[str, ...]]:
    metrics = Metrics()
    names: dict[str, tuple[str, ...]] = {"galaxy_mail_build_info": ("version",)}
    for part in vars(metrics).values():
        name = getattr(part, "_name", None)
        if isinstance(name, str):
            label = getattr(part, "_label", None)
            names[name] = tuple(getattr(part, "_labels", ())) or ((label,) if label else ())
    return names


def _labels(name: str) -> Iterator[str]:
    for label in _label_names()[name.removesuffix("_total")]:
        yield f"`{label}`"


def _scripts() -> str:
    lines = [
        "| script | what it does | when Redis is full | run twice |",
        "| --- | --- | --- | --- |",
    ]
    for script in scripts():
        head = script.text.partition("]]")[0]
        does = re.search(r"--\[\[ \w+: (.*?)\n\s*\n", head, re.DOTALL)
        twice = re.search(r"\n  Twice: (.*?)(?:\n\s*\n|\Z)", head, re.DOTALL)
        assert does, f"{script.name} does not say what it does"
        assert twice, f"{script.name} does not say what a second run does"
        flags = script.text.splitlines()[0]
        full = "reads only" if "no-writes" in flags else "runs" if "allow-oom" in flags else "refused"
        lines.append(f"| `{script.name}` | {_cell(does[1])} | {full} | {_cell(twice[1])} |")
    return "\n" + "\n".join(lines) + "\n\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _stub_codes() -> Iterator[str]:
    results = (*stub.RESULTS.values(), stub.CLAIM_RUNNING_OUT)
    yield from (result.failure.code for result in results if result.failure is not None)
    yield from re.findall(r"\"(message_malformed|outbox_failed)\"", Path(stub.__file__).read_text())
