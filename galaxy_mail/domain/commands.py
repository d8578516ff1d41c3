"""Decodes a stream entry that Notification published into a request, or finds why it is malformed.

The checks run in this order, and the first one that fails gives the failure code: unknown fields, missing fields, source
and payload mode, the fields' grammars (and empty or repeated fields), the payload's size, the payload's content. The
store checks for conflicts afterwards.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from galaxy_mail.domain import ids, raw_fields
from galaxy_mail.domain.acceptance import MailRequest
from galaxy_mail.domain.addresses import BadAddress, parse_address
from galaxy_mail.domain.base64 import base64_bytes
from galaxy_mail.domain.errors import FieldError
from galaxy_mail.domain.fingerprint import fingerprint, without_empty
from galaxy_mail.domain.locales import BadLocale, parse_locale
from galaxy_mail.domain.media_type import CONTENT_TYPE_MAX_CHARS, parse_media_type
from galaxy_mail.domain.records import (
    Attachment,
    Content,
    Envelope,
    Json,
    Lane,
    MalformedCommand,
    PayloadMode,
    Source,
)
from galaxy_mail.domain.strict_json import MAX_NUMBER, StrictJsonError, loads, shown_name

SUBJECT_MAX_CHARS: Final = 998  # the longest line of a message (RFC 5322 §2.1.1)
FILENAME_MAX_CHARS: Final = 255
CONTENT_ID_MAX_CHARS: Final = 255
NAMES_SHOWN_MAX: Final = 5
MESSAGE_MAX_CHARS: Final = 500  # of a malformed command's message

REQUIRED_FIELDS: Final = (
    "delivery_id",
    "source",
    "payload_mode",
    "idempotency_key",
    "requested_at_ms",
    "payload_json",
)
OPTIONAL_FIELDS: Final = ("request_id", "trace_id", "traceparent")  # tracing only: no part of the fingerprint
SOURCES: Final = (Source.NOTIFICATION,)

# Header values must not hold line breaks (RFC 5322 §2.2) or invisible control characters.
HEADER_TEXT_SYNTAX: Final = r"[^\u0000-\u0008\u000A-\u001F\u007F]*"
FILENAME_SYNTAX: Final = r"[^\u0000-\u001F\u007F]+"
CONTENT_ID_SYNTAX: Final = r"[!-;=?-~]+"  # between the angle brackets that the header adds (RFC 2392)
REQUESTED_AT_SYNTAX: Final = r"[1-9][0-9]{0,15}"

_HEADER_TEXT: Final = re.compile(HEADER_TEXT_SYNTAX)
_FILENAME: Final = re.compile(FILENAME_SYNTAX)
_CONTENT_ID: Final = re.compile(CONTENT_ID_SYNTAX)
_REQUESTED_AT: Final = re.compile(REQUESTED_AT_SYNTAX)

Fields = Sequence[tuple[bytes, bytes]]
P = TypeVar("P", bound=Struct)


class FailureCode(StrEnum):
    """Why a command is malformed."""

    MISSING_FIELD = "missing_field"
    UNKNOWN_FIELD = "unknown_field"
    INVALID_FIELD = "invalid_field"
    UNSUPPORTED_SOURCE = "unsupported_source"
    UNSUPPORTED_PAYLOAD_MODE = "unsupported_payload_mode"
    INVALID_PAYLOAD = "invalid_payload"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"  # the store finds these two
    DELIVERY_ID_CONFLICT = "delivery_id_conflict"


class CommandLimits(Struct, frozen=True, kw_only=True):
    payload_max_bytes: int = 10 * 1024 * 1024
    recipients_max: int = 50  # of to, cc and bcc together; of reply_to on its own
    attachments_max: int = 100


class Malformed(Struct, frozen=True, kw_only=True):
    """An entry that is not a valid command. The message names fields and rules but quotes no value."""

    entry_id: str
    failure_code: FailureCode
    message: str


class EnvelopePayload(Struct, frozen=True, forbid_unknown_fields=True):
    to: list[str]
    cc: list[str] = []
    bcc: list[str] = []
    reply_to: list[str] = []


class AttachmentPayload(Struct, frozen=True, forbid_unknown_fields=True):
    filename: str
    content_type: str
    content_base64: str
    content_id: str | UnsetType = UNSET


class RenderedPayload(Struct, frozen=True, forbid_unknown_fields=True):
    envelope: EnvelopePayload
    subject: str
    text_body: str
    html_body: str | UnsetType = UNSET
    attachments: list[AttachmentPayload] = []


class TemplatePayload(Struct, frozen=True, forbid_unknown_fields=True):
    envelope: EnvelopePayload
    template_id: str
    locale: str
    variables: dict[str, Json]
    attachments: list[AttachmentPayload] = []


def decode_command(entry_id: str, fields: Fields, limits: CommandLimits) -> MailRequest | Malformed:
    """The request of this entry, or why it is malformed. No entry makes it raise."""
    try:
        return _request(fields, limits)
    except _Refused as refused:
        code, message = refused.failure_code, refused.message
    except MemoryError:  # not the entry's fault: a later try may succeed
        raise
    except Exception as error:  # noqa: BLE001 - an entry that crashes the ingress would be read again for ever
        code = FailureCode.INVALID_PAYLOAD
        message = f"decoding it failed unexpectedly ({type(error).__name__}): a bug of this service"
    return Malformed(entry_id=entry_id, failure_code=code, message=_bounded(message))


def tracing_fields(fields: Fields) -> tuple[str | None, str | None]:
    """The `delivery_id` and the `traceparent` of an entry, each only where it is valid. For entries that are malformed."""
    values = {name: value.decode("ascii", "replace") for name, value in fields if name in _TRACING}
    delivery_id, traceparent = (values.get(name, "") for name in _TRACING)
    return (
        delivery_id if ids.DELIVERY_ID.fullmatch(delivery_id) else None,
        ids.valid_traceparent(traceparent),
    )


def malformed_record(
    entry_id: str, fields: Fields, failure_code: FailureCode, message: str, now_ms: int
) -> MalformedCommand:
    """The record of a malformed entry, with up to 64 KiB of its raw fields."""
    return MalformedCommand(
        entry_id=entry_id,
        fields=raw_fields.keep(fields),
        failure_code=failure_code.value,
        message=_bounded(message),
        recorded_at_ms=now_ms,
    )


class _Refused(Exception):
    def __init__(self, failure_code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.failure_code = failure_code
        self.message = message


_GRAMMAR: Final[dict[bytes, tuple[re.Pattern[str], str]]] = {
    b"delivery_id": (
        ids.DELIVERY_ID,
        f"dot-separated runs of A-Z a-z 0-9 _ ~ - with {ids.DELIVERY_ID_MAX_CHARS} characters in all",
    ),
    b"idempotency_key": (
        ids.IDEMPOTENCY_KEY,
        f"1 to {ids.IDEMPOTENCY_KEY_MAX_CHARS} printable ASCII characters",
    ),
    b"requested_at_ms": (_REQUESTED_AT, f"a positive whole number of milliseconds up to {MAX_NUMBER}"),
    b"request_id": (ids.TRACING_ID, f"1 to {ids.TRACING_MAX_CHARS} printable ASCII characters"),
    b"trace_id": (ids.TRACING_ID, f"1 to {ids.TRACING_MAX_CHARS} printable ASCII characters"),
    b"traceparent": (ids.TRACEPARENT, "a W3C trace context"),
}
_TRACING: Final = (b"delivery_id", b"traceparent")
_REQUIRED: Final = frozenset(name.encode() for name in REQUIRED_FIELDS)
_FIELDS: Final = _REQUIRED | frozenset(name.encode() for name in OPTIONAL_FIELDS)
_SOURCES: Final = frozenset(source.encode() for source in SOURCES)
_MODES: Final = {mode.encode(): mode for mode in PayloadMode}
_OPTIONAL_LISTS: Final = frozenset({"cc", "bcc", "reply_to"})


def _request(fields: Fields, limits: CommandLimits) -> MailRequest:
    values = dict(fields)
    texts = _texts(fields, values)
    payload_json = values[b"payload_json"]
    if len(payload_json) > limits.payload_max_bytes:
        raise _Refused(
            FailureCode.PAYLOAD_TOO_LARGE,
            f"payload_json: has {len(payload_json)} bytes, more than the limit of {limits.payload_max_bytes}",
        )
    mode = _MODES[values[b"payload_mode"]]
    try:
        payload = loads(payload_json)
        content = _content(payload, mode, limits)
    except StrictJsonError as error:
        raise _Refused(FailureCode.INVALID_PAYLOAD, f"payload_json: {error}") from None
    except FieldError as error:
        raise _Refused(FailureCode.INVALID_PAYLOAD, str(error)) from None
    requested_at_ms = int(texts["requested_at_ms"])
    return MailRequest(
        delivery_id=texts["delivery_id"],
        source=Source.NOTIFICATION,
        lane=Lane.NORMAL,
        payload_mode=mode,
        idempotency_key=texts["idempotency_key"],
        fingerprint=fingerprint(
            {
                "delivery_id": texts["delivery_id"],
                "source": Source.NOTIFICATION.value,
                "payload_mode": mode.value,
                "idempotency_key": texts["idempotency_key"],
                "requested_at_ms": requested_at_ms,
                "payload": _comparable(payload),
            }
        ),
        content=content,
        request_id=texts.get("request_id"),
        trace_id=texts.get("trace_id"),
        traceparent=texts.get("traceparent"),
        requested_at_ms=requested_at_ms,
    )


def _texts(fields: Fields, values: dict[bytes, bytes]) -> dict[str, str]:
    """The validated values of the fields that have a grammar, by name."""
    if unknown := values.keys() - _FIELDS:
        raise _Refused(FailureCode.UNKNOWN_FIELD, f"unknown: {_listed(unknown)}")
    if missing := _REQUIRED - values.keys():
        raise _Refused(FailureCode.MISSING_FIELD, f"missing: {_listed(missing)}")
    repeated: set[bytes] = set()
    if len(values) < len(fields):
        repeated = {name for name, count in Counter(name for name, _ in fields).items() if count > 1}
    # A repeated or empty source or mode is reported below as invalid, not here as unsupported.
    source, mode = values[b"source"], values[b"payload_mode"]
    if source not in _SOURCES and source and b"source" not in repeated:
        raise _Refused(FailureCode.UNSUPPORTED_SOURCE, f"source: must be {_alternatives(_SOURCES)}")
    if mode not in _MODES and mode and b"payload_mode" not in repeated:
        raise _Refused(FailureCode.UNSUPPORTED_PAYLOAD_MODE, f"payload_mode: must be {_alternatives(_MODES)}")
    texts: dict[str, str] = {}
    problems = [f"{name.decode()}: comes more than once" for name in sorted(repeated)]
    for name, value in values.items():
        if name in repeated:
            continue
        if not value:
            problems.append(f"{name.decode()}: is empty")
        elif (rule := _GRAMMAR.get(name)) is not None:
            text = value.decode("ascii", "replace")
            if not rule[0].fullmatch(text) or (name == b"requested_at_ms" and int(text) > MAX_NUMBER):
                problems.append(f"{name.decode()}: must be {rule[1]}")
            texts[name.decode()] = text
    if problems:
        raise _Refused(FailureCode.INVALID_FIELD, "; ".join(problems))
    return texts


def _content(payload: Json, mode: PayloadMode, limits: CommandLimits) -> Content:
    """The payload as content. Raises FieldError for an invalid value."""
    if mode is PayloadMode.RENDERED:
        rendered = _shaped(payload, RenderedPayload)
        if not _HEADER_TEXT.fullmatch(rendered.subject):
            raise FieldError("subject", "line breaks and control characters are not allowed")
        if len(rendered.subject) > SUBJECT_MAX_CHARS:
            raise FieldError("subject", f"has more than {SUBJECT_MAX_CHARS} characters")
        return Content(
            envelope=_envelope(rendered.envelope, limits),
            subject=rendered.subject,
            text_body=rendered.text_body,
            html_body=None if rendered.html_body is UNSET else rendered.html_body,
            attachments=_attachments(rendered.attachments, limits),
        )
    template = _shaped(payload, TemplatePayload)
    if not ids.TEMPLATE_ID.fullmatch(template.template_id):
        rule = f"must be dot-separated runs of A-Z a-z 0-9 _ - with {ids.TEMPLATE_ID_MAX_CHARS} characters in all"
        raise FieldError("template_id", rule)
    try:
        locale = parse_locale(template.locale)
    except BadLocale as bad:
        raise FieldError("locale", str(bad)) from None
    return Content(
        envelope=_envelope(template.envelope, limits),
        template_id=template.template_id,
        locale=locale,
        variables=template.variables,
        attachments=_attachments(template.attachments, limits),
    )


def _shaped(payload: Json, kind: type[P]) -> P:
    try:
        return msgspec.convert(payload, kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).rpartition(" - at `$")
        if not problem:
            problem, path = path, ""
    raise FieldError(path.strip(".`") or "payload_json", problem)


def _envelope(envelope: EnvelopePayload, limits: CommandLimits) -> Envelope:
    if not envelope.to:
        raise FieldError("envelope.to", "must have at least one address")
    if len(envelope.to) + len(envelope.cc) + len(envelope.bcc) > limits.recipients_max:
        raise FieldError(
            "envelope", f"to, cc and bcc have more than {limits.recipients_max} addresses together"
        )
    if len(envelope.reply_to) > limits.recipients_max:
        raise FieldError("envelope.reply_to", f"has more than {limits.recipients_max} addresses")
    return Envelope(
        to=_addresses("to", envelope.to),
        cc=_addresses("cc", envelope.cc),
        bcc=_addresses("bcc", envelope.bcc),
        reply_to=_addresses("reply_to", envelope.reply_to),
    )


def _addresses(name: str, texts: list[str]) -> tuple[str, ...]:
    addresses: list[str] = []
    for text in texts:
        try:
            addresses.append(parse_address(text))
        except BadAddress as bad:
            raise FieldError(f"envelope.{name}[{len(addresses)}]", str(bad)) from None
    return tuple(addresses)


def _attachments(attachments: list[AttachmentPayload], limits: CommandLimits) -> tuple[Attachment, ...]:
    if len(attachments) > limits.attachments_max:
        raise FieldError("attachments", f"has more than {limits.attachments_max} members")
    content_ids: set[str] = set()
    for index, attachment in enumerate(attachments):
        if problem := _attachment_problem(attachment, content_ids):
            raise FieldError(f"attachments[{index}].{problem[0]}", problem[1])
    return tuple(
        Attachment(
            filename=attachment.filename,
            content_type=attachment.content_type,
            content_base64=attachment.content_base64,
            content_id=None if attachment.content_id is UNSET else attachment.content_id,
        )
        for attachment in attachments
    )


def _attachment_problem(attachment: AttachmentPayload, content_ids: set[str]) -> tuple[str, str] | None:
    """The invalid member and its problem, None if there is none. Adds the content id to `content_ids`."""
    filename, content_type, content_id = attachment.filename, attachment.content_type, attachment.content_id
    if not _FILENAME.fullmatch(filename) or len(filename) > FILENAME_MAX_CHARS:
        return (
            "filename",
            f"must be 1 to {FILENAME_MAX_CHARS} characters without line breaks and control characters",
        )
    if parse_media_type(content_type) is None:
        return "content_type", f"must be a media type of at most {CONTENT_TYPE_MAX_CHARS} characters"
    if content_id is not UNSET:
        if not _CONTENT_ID.fullmatch(content_id) or len(content_id) > CONTENT_ID_MAX_CHARS:
            rule = f"must be 1 to {CONTENT_ID_MAX_CHARS} printable ASCII characters without blanks and angle brackets"
            return "content_id", rule
        if content_id in content_ids:
            return "content_id", "is also the content_id of another attachment"
        content_ids.add(content_id)
    if base64_bytes(attachment.content_base64) is None:
        return "content_base64", "must be base64 (RFC 4648 4) with its padding and without line breaks"
    return None


def _comparable(payload: Json) -> Json:
    """The payload for the fingerprint. Its shape must be checked before."""
    payload = without_empty(payload, {"attachments"})
    payload["envelope"] = without_empty(payload["envelope"], _OPTIONAL_LISTS)
    return payload


def _listed(names: Collection[bytes]) -> str:
    shown = [shown_name(name.decode("utf-8", "replace")) for name in sorted(names)[:NAMES_SHOWN_MAX]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _alternatives(values: Collection[bytes]) -> str:
    return " or ".join(sorted(value.decode() for value in values))


def _bounded(message: str) -> str:
    """The message without control characters, cut to its maximum: it may quote names of members."""
    if not message.isprintable():
        message = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in message)
    return message if len(message) <= MESSAGE_MAX_CHARS else message[: MESSAGE_MAX_CHARS - 1] + "…"
