"""Do the contracts say what the code does: members, grammars, limits, closed sets, routes?

Every function gives problems as lines of text; none is good.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from types import NoneType
from typing import Any, Final, get_args, get_type_hints

from msgspec import NODEFAULT, Struct
from msgspec.structs import fields as struct_fields
from quart import Quart

from galaxy_mail.domain import (
    acceptance,
    base64,
    commands,
    conclusion,
    holds,
    ids,
    locales,
    login_code,
    media_type,
    records,
    strict_json,
)
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.rendering.failures import RenderFailureCode
from tests.contracts.documents import Document, operations, resolve

# In the API, a record has these members besides its own, or lacks these.
ADDED: Final[Mapping[str, Collection[str]]] = {"Delivery": {"resent_as"}}
INTERNAL: Final[Mapping[str, Collection[str]]] = {
    "Delivery": {
        "lane",
        "large",
        "retries_used",
        "begun_losses",
        "relay_failures",
        "relay_failed_at_ms",
        "traceparent",
        "requested_at_ms",
        "resent_by",
    },
    "Hold": {"pause_ms"},
    "Attempt": {"delivery_id"},  # it is in the address
}
RECORDS: Final[tuple[type[Struct], ...]] = (
    records.Delivery,
    records.Attempt,
    records.DeadLetter,
    records.MalformedCommand,
    records.Suppression,
    records.Envelope,
    records.SuppressedRecipient,
    records.RefusedRecipient,
    records.Failure,
    holds.Hold,
)


def openapi_agrees(document: Document) -> list[str]:
    schemas = document["components"]["schemas"]
    problems = [problem for record in RECORDS for problem in _record_problems(schemas, record)]
    for name, values in _closed_sets().items():
        problems += _set_problems(name, schemas[name]["enum"], values)
    outcomes = {acceptance.OUTCOME_SENT, acceptance.OUTCOME_SUPPRESSED}
    problems += _set_problems(
        "outcome", schemas["LoginCodeOutcome"]["properties"]["outcome"]["enum"], outcomes
    )
    problems += _set_problems("LoginCodeRequest", schemas["LoginCodeRequest"]["required"], login_code.MEMBERS)
    problems += _set_problems(
        "LoginCodeRequest", schemas["LoginCodeRequest"]["properties"], login_code.MEMBERS
    )
    unheard = {code.value for code in RenderFailureCode} - set(schemas["ProblemCode"]["enum"])
    problems += [f"ProblemCode: lacks {code}" for code in sorted(unheard)]
    body = document["paths"]["/api/v1/internal/login-code-deliveries"]["post"]["requestBody"]
    problems += _equal("x-body-max-bytes", body["x-body-max-bytes"], login_code.BODY_MAX_BYTES)
    problems += _grammar_problems(
        schemas,
        {
            "DeliveryId": (ids.DELIVERY_ID_SYNTAX, ids.DELIVERY_ID_MAX_CHARS),
            "TemplateId": (ids.TEMPLATE_ID_SYNTAX, ids.TEMPLATE_ID_MAX_CHARS),
            "IdempotencyKey": (ids.PRINTABLE_ASCII_SYNTAX, ids.IDEMPOTENCY_KEY_MAX_CHARS),
            "TracingId": (ids.PRINTABLE_ASCII_SYNTAX, ids.TRACING_MAX_CHARS),
            "EntryId": (ids.ENTRY_ID_SYNTAX, None),
            "HoldScope": (holds.SCOPE_SYNTAX, None),
            "LoginCode": (login_code.CODE_SYNTAX, login_code.CODE_MAX_CHARS),
        },
    )
    problems += _equal("Locale: maxLength", schemas["Locale"]["maxLength"], locales.LOCALE_MAX)
    problems += _equal("TimeMs: maximum", schemas["TimeMs"]["maximum"], strict_json.MAX_NUMBER)
    return problems


def asyncapi_agrees(document: Document) -> list[str]:
    schemas = document["components"]["schemas"]
    limits = commands.CommandLimits()
    problems: list[str] = []
    for name in ("RenderedEntry", "TemplateEntry"):
        every = (*commands.REQUIRED_FIELDS, *commands.OPTIONAL_FIELDS)
        problems += _set_problems(f"{name}: required", schemas[name]["required"], commands.REQUIRED_FIELDS)
        problems += _set_problems(f"{name}: properties", schemas[name]["properties"], every)
        bound = schemas[name]["properties"]["payload_json"]["x-max-bytes"]
        problems += _equal(f"{name}: x-max-bytes", bound, limits.payload_max_bytes)
    modes = {
        schemas[name]["properties"]["payload_mode"]["const"] for name in ("RenderedEntry", "TemplateEntry")
    }
    problems += _set_problems("payload_mode", modes, [mode.value for mode in records.PayloadMode])
    problems += _set_problems(
        "Source", schemas["Source"]["enum"], [source.value for source in commands.SOURCES]
    )
    problems += _set_problems(
        "FailureCode", schemas["FailureCode"]["enum"], [code.value for code in commands.FailureCode]
    )
    payloads: dict[str, type[Struct]] = {
        "RenderedPayload": commands.RenderedPayload,
        "TemplatePayload": commands.TemplatePayload,
        "Envelope": commands.EnvelopePayload,
        "Attachment": commands.AttachmentPayload,
    }
    for name, kind in payloads.items():
        required = [field.name for field in struct_fields(kind) if _is_required(field)]
        problems += _set_problems(f"{name}: required", schemas[name]["required"], required)
        problems += _set_problems(f"{name}: properties", schemas[name]["properties"], kind.__struct_fields__)
    problems += _grammar_problems(
        schemas,
        {
            "DeliveryId": (ids.DELIVERY_ID_SYNTAX, ids.DELIVERY_ID_MAX_CHARS),
            "IdempotencyKey": (ids.PRINTABLE_ASCII_SYNTAX, ids.IDEMPOTENCY_KEY_MAX_CHARS),
            "TracingId": (ids.PRINTABLE_ASCII_SYNTAX, ids.TRACING_MAX_CHARS),
            "Traceparent": (ids.TRACEPARENT_SYNTAX, ids.TRACING_MAX_CHARS),
            "RequestedAtMs": (commands.REQUESTED_AT_SYNTAX, None),
        },
    )
    problems += _grammar_problems(
        schemas["Attachment"]["properties"],
        {
            "filename": (commands.FILENAME_SYNTAX, commands.FILENAME_MAX_CHARS),
            "content_type": (media_type.CONTENT_TYPE_SYNTAX, media_type.CONTENT_TYPE_MAX_CHARS),
            "content_id": (commands.CONTENT_ID_SYNTAX, commands.CONTENT_ID_MAX_CHARS),
            "content_base64": (base64.BASE64_SYNTAX, None),
        },
    )
    problems += _grammar_problems(
        schemas["RenderedPayload"]["properties"],
        {"subject": (commands.HEADER_TEXT_SYNTAX, commands.SUBJECT_MAX_CHARS)},
    )
    problems += _grammar_problems(
        schemas["TemplatePayload"]["properties"],
        {"template_id": (ids.TEMPLATE_ID_SYNTAX, ids.TEMPLATE_ID_MAX_CHARS)},
    )
    problems += _equal("Attachments: maxItems", schemas["Attachments"]["maxItems"], limits.attachments_max)
    problems += _equal("x-recipients-max", schemas["Envelope"]["x-recipients-max"], limits.recipients_max)
    for name, member in schemas["Envelope"]["properties"].items():
        problems += _equal(f"Envelope: {name}: maxItems", member["maxItems"], limits.recipients_max)
    problems += _equal("x-maximum", schemas["RequestedAtMs"]["x-maximum"], strict_json.MAX_NUMBER)
    problems += _equal("Locale: maxLength", schemas["Locale"]["maxLength"], locales.LOCALE_MAX)
    return problems


def contracts_agree(openapi: Document, asyncapi: Document) -> list[str]:
    """What both define is the same in both."""
    ours, theirs = openapi["components"]["schemas"], asyncapi["components"]["schemas"]
    problems: list[str] = []
    for name in ("EmailAddress", "Locale", "DeliveryId", "IdempotencyKey", "TracingId"):
        rules = [{k: v for k, v in schema[name].items() if k != "description"} for schema in (ours, theirs)]
        problems += _equal(f"{name}: openapi", rules[0], rules[1])
    problems += _set_problems(
        "FailureCode: openapi", ours["FailureCode"]["enum"], theirs["FailureCode"]["enum"]
    )
    return problems


Route = tuple[str, str]  # method, path with {names}


def contract_routes(document: Document) -> set[Route]:
    return {(method, path) for method, path, _ in operations(document)}


def routes_of(app: Quart) -> set[Route]:
    """What an app answers to, spelt as the contract does: without the HEAD and OPTIONS that come by themselves."""
    return {
        (method, re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    }


def routes_agree(document: Document, app: Quart) -> list[str]:
    contract, code = contract_routes(document), routes_of(app)
    problems = [
        f"{method} {path}: in the contract, not in the code" for method, path in sorted(contract - code)
    ]
    return problems + [
        f"{method} {path}: in the code, not in the contract" for method, path in sorted(code - contract)
    ]


def _closed_sets() -> Mapping[str, Collection[str]]:
    enums: tuple[type[StrEnum], ...] = (
        records.Source,
        records.PayloadMode,
        records.DeliveryStatus,
        records.AttemptStatus,
        records.Result,
        records.Blame,
        commands.FailureCode,
    )
    return {
        **{enum.__name__: [member.value for member in enum] for enum in enums},
        "TerminalStatus": [status.value for status in TERMINAL],
        "HoldCause": [cause.value for cause in holds.Cause],
        "DeadLetterReason": [conclusion.RETRIES_EXHAUSTED, conclusion.CRASH_LOOP],
    }


def _record_problems(schemas: Document, record: type[Struct]) -> Iterator[str]:
    name = record.__name__
    schema = schemas[name]
    members = set(record.__struct_fields__) - set(INTERNAL.get(name, ())) | set(ADDED.get(name, ()))
    yield from _set_problems(f"{name}: properties", schema["properties"], members)
    yield from _set_problems(f"{name}: required", schema["required"], members)
    hints = get_type_hints(record)
    for member in members & hints.keys():
        nullable = NoneType in get_args(hints[member])
        if nullable != _may_be_null(schemas, schema["properties"].get(member, {})):
            yield f"{name}: {member} may {'' if nullable else 'not '}be null in the code"


def _may_be_null(schemas: Document, schema: Document) -> bool:
    schema = resolve({"components": {"schemas": schemas}}, schema)
    return "null" in schema.get("type", ()) or any(
        option.get("type") == "null" for option in schema.get("oneOf", ())
    )


def _is_required(field: Any) -> bool:
    return field.default is NODEFAULT and field.default_factory is NODEFAULT


def _set_problems(where: str, contract: Collection[str], code: Collection[str]) -> list[str]:
    problems = [f"{where}: {value} is in the contract alone" for value in sorted(set(contract) - set(code))]
    return problems + [
        f"{where}: {value} is in the code alone" for value in sorted(set(code) - set(contract))
    ]


def _grammar_problems(schemas: Document, grammars: Mapping[str, tuple[str, int | None]]) -> list[str]:
    problems: list[str] = []
    for name, (syntax, max_chars) in grammars.items():
        problems += _equal(f"{name}: pattern", schemas[name].get("pattern"), f"^{syntax}$")
        if max_chars is not None:
            problems += _equal(f"{name}: maxLength", schemas[name].get("maxLength"), max_chars)
    return problems


def _equal(where: str, contract: object, code: object) -> list[str]:
    return [] if contract == code else [f"{where}: {contract!r} in the contract, {code!r} in the code"]
