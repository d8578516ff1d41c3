"""Stream entries made from the AsyncAPI contract: its examples, its invalid ones, and mutations of both."""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Final

from tests.contracts.documents import Document

Fields = list[tuple[bytes, bytes]]


def fields_of(entry: dict[str, str]) -> Fields:
    return [(name.encode(), value.encode()) for name, value in entry.items()]


def examples(document: Document) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Message, name, entry."""
    for message, content in document["components"]["messages"].items():
        for example in content["examples"]:
            yield message, example["name"], example["payload"]


def invalid_examples(document: Document) -> Iterator[tuple[str, str, Fields]]:
    """Name, failure code, fields."""
    for example in document["x-invalid-examples"]:
        base = document["components"]["messages"][example["message"]]["examples"][0]["payload"]
        entry = {
            name: value for name, value in {**base, **example.get("set", {})}.items() if value is not None
        }
        yield (
            example["name"],
            example["failure_code"],
            fields_of(entry) + fields_of(example.get("append", {})),
        )


# Text that some grammar or other refuses, at its end as well as alone.
_ENDINGS: Final = (
    "\n",
    "\r\nBcc: x@example.org",
    "\0",
    "\x7f",
    "\t",
    " ",
    "é",
    "\u2028",
    "\u202e",
    "=",
    "<",
    ".",
    "/",
    "x",
)
_OTHERS: Final[tuple[Any, ...]] = (None, True, 0, 1.5, "", "x", "a@b.example", "..", [], ["x"], {}, {"x": 1})


def mutations(value: Any) -> Iterator[tuple[str, Any]]:
    """What differs from this JSON value in one place, and where: each may be valid still."""
    for other in _OTHERS:
        if other != value or type(other) is not type(value):
            yield f": {json.dumps(other)}", other
    if isinstance(value, str):
        for ending in _ENDINGS:
            yield f": + {json.dumps(ending)}", value + ending
        yield ": upper case", value.upper()
        for length in (63, 64, 65, 128, 129, 255, 256, 998, 999):
            yield f": {length} characters", (value * length)[:length]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield f"[{index}] removed", value[:index] + value[index + 1 :]
            for where, mutated in mutations(item):
                yield f"[{index}]{where}", [*value[:index], mutated, *value[index + 1 :]]
        for times in (50, 51, 101):
            yield f": {times} of them", [deepcopy(value[0]) for _ in range(times)] if value else ["x"] * times
    elif isinstance(value, dict):
        yield ".unknown", {**value, "unknown": 1}
        for name, member in value.items():
            yield f".{name} removed", {other: value[other] for other in value if other != name}
            yield (
                f".{name} misspelt",
                {(other + "_" if other == name else other): value[other] for other in value},
            )
            for where, mutated in mutations(member):
                yield f".{name}{where}", {**value, name: mutated}
