"""Are the contracts valid, whole, and true to their own examples?

Every function gives problems as lines of text; none is good.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.contracts.documents import (
    CONTRACTS,
    Document,
    operations,
    read,
    resolve,
    schema_problems,
    walk,
)

META = CONTRACTS.parents[1] / "tests" / "contracts" / "asyncapi_meta.yaml"


def openapi_is_valid(document: Document) -> list[str]:
    errors = OpenAPIV31SpecValidator(document).iter_errors()
    return [f"openapi: {error.json_path}: {error.message.splitlines()[0]}" for error in errors]


def asyncapi_is_valid(document: Document) -> list[str]:
    validator = Draft202012Validator(read(META))
    return [f"asyncapi: {error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def references_resolve(document: Document) -> list[str]:
    """Also the other way round: a component that nothing refers to is a leftover."""
    problems: list[str] = []
    used: Counter[str] = Counter()
    for path, value in walk(document):
        if isinstance(value, dict) and "$ref" in value:
            used[value["$ref"]] += 1
            try:
                resolve(document, value)
            except KeyError:
                problems.append(f"{path}: {value['$ref']} leads nowhere")
    for kind, components in document["components"].items():
        if kind != "securitySchemes":
            places = [f"#/components/{kind}/{name}" for name in components]
            problems += [f"{place}: is used nowhere" for place in places if place not in used]
    return problems


def openapi_examples_match(document: Document) -> list[str]:
    """Examples of bodies, answers and parameters against their schemas; every JSON body and answer has one."""
    problems: list[str] = []
    for path, value in walk(document):
        if path.endswith("/content"):
            for media_type, media in value.items():
                problems += _media_problems(document, f"{path}/{media_type}", media_type, media)
        elif isinstance(value, dict) and "example" in value and "schema" in value:
            problems += schema_problems(document, value["schema"], value["example"], path)
    return problems


def _media_problems(document: Document, path: str, media_type: str, media: Document) -> list[str]:
    examples = media.get("examples", {})
    problems: list[str] = []
    if not examples and media_type.endswith("json") and media["schema"] != {"type": "object"}:
        problems.append(f"{path}: has no example")
    for name, example in examples.items():
        value = resolve(document, example)["value"]
        problems += schema_problems(document, media["schema"], value, f"{path}: example {name}")
    return problems


def asyncapi_examples_match(document: Document) -> list[str]:
    problems: list[str] = []
    for name, message in document["components"]["messages"].items():
        for example in message["examples"]:
            where = f"message {name}: example {example['name']}"
            problems += schema_problems(document, message["payload"], example["payload"], where)
    return problems


def operations_are_complete(document: Document) -> list[str]:
    """What every operation owes its callers, whoever wrote it."""
    problems: list[str] = []
    ids = Counter(operation["operationId"] for _, _, operation in operations(document))
    problems += [f"operationId {name} comes {count} times" for name, count in ids.items() if count > 1]
    for method, path, operation in operations(document):
        problems += [
            f"{method} {path}: {problem}" for problem in _operation_problems(document, path, operation)
        ]
    return problems


def _operation_problems(document: Document, path: str, operation: Document) -> Iterator[str]:
    answers: dict[str, Any] = {
        status: resolve(document, answer) for status, answer in operation["responses"].items()
    }
    parameters = [resolve(document, parameter) for parameter in operation.get("parameters", [])]
    parameters += [
        resolve(document, parameter) for parameter in document["paths"][path].get("parameters", [])
    ]
    named = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
    for name in named ^ {part.strip("{}") for part in path.split("/") if part.startswith("{")}:
        yield f"parameter {name} is in the path or in the list alone"
    if operation["security"]:
        expected = {"400", "401", "403", "500", "503"}
        if "requestBody" in operation:
            expected |= {"413", "415"}
            if "x-body-max-bytes" not in operation["requestBody"]:
                yield "says no x-body-max-bytes"
        for status in sorted(expected - answers.keys()):
            yield f"does not say when it answers {status}"
    for status, answer in answers.items():
        media_types = answer.get("content", {}).keys()
        if status >= "400" and operation["security"] and media_types != {"application/problem+json"}:
            yield f"{status} is no problem document"
        for name, media in answer.get("content", {}).items():
            for example in media.get("examples", {}).values():
                value = resolve(document, example)["value"]
                if name == "application/problem+json" and str(value["status"]) != status:
                    yield f"{status} has an example of {value['status']}"
