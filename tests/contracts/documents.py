"""The two contracts as Python values, and validation by their schemas."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from jsonschema.validators import extend
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from galaxy_mail.domain.addresses import BadAddress, parse_address

Document = dict[str, Any]

CONTRACTS: Final = Path(__file__).parents[2] / "docs" / "contracts"
METHODS: Final = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
FORMATS: Final = FormatChecker(())


@cache
def openapi() -> Document:
    return read(CONTRACTS / "openapi.yaml")


@cache
def asyncapi() -> Document:
    return read(CONTRACTS / "asyncapi.yaml")


def read(path: Path) -> Document:
    document: Document = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    return document


def resolve(document: Document, value: Any) -> Any:
    """`value`, or what it refers to within the document. Raises KeyError for a reference into nothing."""
    seen = 0
    while isinstance(value, Mapping) and "$ref" in value:
        pointer = str(value["$ref"])
        if not pointer.startswith("#/"):
            raise KeyError(pointer)
        value = document
        for part in pointer[2:].split("/"):
            value = value[part.replace("~1", "/").replace("~0", "~")]
        seen += 1
        if seen > 16:
            raise KeyError(pointer)
    return value


def walk(value: Any, path: str = "#") -> Iterator[tuple[str, Any]]:
    """Every value in it with its place."""
    yield path, value
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from walk(member, f"{path}/{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from walk(item, f"{path}/{index}")


@FORMATS.checks("idn-email", raises=BadAddress)
def _is_address(value: object) -> bool:
    return not isinstance(value, str) or bool(parse_address(value))


def _pattern(validator: Any, pattern: str, instance: object, schema: object) -> Iterator[ValidationError]:
    """As ECMAScript means it: `$` is the end of the text, where Python's also stands before a last line break."""
    if isinstance(instance, str) and not re.search(re.sub(r"\$\Z", r"\\Z", pattern), instance):
        yield ValidationError(f"does not match {pattern}")


_Validator: Final = extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]  # its stubs lack the types


def validator(document: Document, schema: Document) -> Any:
    """For values of a schema that stands in the document, or refers into it."""
    registry: Registry[Document] = Registry().with_resource(
        "urn:contract", Resource.from_contents(document, default_specification=DRAFT202012)
    )
    return _Validator(absolute(schema), registry=registry, format_checker=FORMATS)


def absolute(schema: Any) -> Any:
    """The schema with its references made independent of where it stands."""
    if isinstance(schema, Mapping):
        return {
            name: f"urn:contract{member}" if name == "$ref" else absolute(member)
            for name, member in schema.items()
        }
    return [absolute(item) for item in schema] if isinstance(schema, list) else schema


def schema_problems(document: Document, schema: Document, value: object, where: str) -> list[str]:
    return [
        f"{where}: {error.json_path}: {error.message}"
        for error in validator(document, schema).iter_errors(value)
    ]


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Method in capitals, path, operation."""
    for path, item in document["paths"].items():
        for name, operation in item.items():
            if name in METHODS:
                yield name.upper(), path, operation
