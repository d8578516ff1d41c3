"""Deliveries and attempts as Redis holds them: their canonical JSON without the fields that can be derived.

Redis keeps one of each for every mail, for months. Fields that can be derived from the key or from other fields are not
stored: a delivery's id (nor as the start of its Message-ID), an attempt's delivery and number. The others are stored only
where they differ from the derived value. For a delivery

    updated_at_ms         is finished_at_ms
    locale                is locale_used: most get the language that they asked for
    locale_fallback_used  is false where there is a locale_used
    trace_id              is the one inside traceparent
    lane                  is `priority` where the source is `authsession`
    template_id           is `auth.login_code` there
    payload_mode          is `template`
    attempt_count         is 1

and for an attempt whose status is `provider_accepted`, the result is `accepted` and the provider is `smtp`.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from galaxy_mail.domain.ids import trace_id_in
from galaxy_mail.domain.login_code import LOGIN_CODE_TEMPLATE_ID
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Delivery,
    Lane,
    PayloadMode,
    Result,
    Source,
    decode,
)

_DECODER: Final = msgspec.json.Decoder(dict[str, Any])
_ENCODER: Final = msgspec.json.Encoder(order="sorted")


def encode_delivery(delivery: Delivery) -> bytes:
    """The value at `mail:deliveries:<delivery_id>`. Equal records give equal bytes."""
    fields = msgspec.to_builtins(delivery)
    local, _, domain = delivery.message_id.partition("@")
    if local == delivery.delivery_id:
        fields["message_id"] = "@" + domain
    return _encode(fields, delivery, _derived(fields, delivery.delivery_id))


def decode_delivery(data: bytes, delivery_id: str) -> Delivery:
    """The delivery at that id's key. Raises msgspec.DecodeError (a ValueError) where it is not a delivery."""
    fields = _DECODER.decode(data)
    message_id = fields.get("message_id")
    if isinstance(message_id, str) and message_id.startswith("@"):
        fields["message_id"] = delivery_id + message_id
    return msgspec.convert(_derived(fields, delivery_id) | fields, Delivery)


def encode_attempt(attempt: Attempt) -> bytes:
    """The value at `mail:attempts:<delivery_id>:<attempt_no>`. Equal records give equal bytes."""
    fields = msgspec.to_builtins(attempt)
    return _encode(fields, attempt, _derived_of_attempt(fields, attempt.delivery_id, attempt.attempt_no))


def decode_attempt(data: bytes, delivery_id: str, attempt_no: int) -> Attempt:
    """The attempt at that key. Raises msgspec.DecodeError (a ValueError) where it is not an attempt."""
    fields = _DECODER.decode(data)
    return msgspec.convert(_derived_of_attempt(fields, delivery_id, attempt_no) | fields, Attempt)


def _derived(fields: dict[str, Any], delivery_id: str) -> dict[str, Any]:
    """The fields of a delivery that follow from its key and from its other fields, with their values."""
    derived: dict[str, Any] = {
        "delivery_id": delivery_id,
        "attempt_count": 1,
        "payload_mode": PayloadMode.TEMPLATE,
    }
    if (finished_at_ms := fields.get("finished_at_ms")) is not None:
        derived["updated_at_ms"] = finished_at_ms
    if fields.get("source") == Source.AUTHSESSION:
        derived |= {"lane": Lane.PRIORITY, "template_id": LOGIN_CODE_TEMPLATE_ID}
    if (locale_used := fields.get("locale_used")) is not None:
        derived |= {"locale": locale_used, "locale_fallback_used": False}
    if isinstance(traceparent := fields.get("traceparent"), str):
        derived["trace_id"] = trace_id_in(traceparent)
    return derived


def _derived_of_attempt(fields: dict[str, Any], delivery_id: str, attempt_no: int) -> dict[str, Any]:
    derived: dict[str, Any] = {"delivery_id": delivery_id, "attempt_no": attempt_no}
    if fields.get("status") == AttemptStatus.PROVIDER_ACCEPTED:
        derived |= {"provider": "smtp", "result": Result.ACCEPTED}
    return derived


def _encode(fields: dict[str, Any], record: Struct, derived: dict[str, Any]) -> bytes:
    """The fields without those that equal their derived value. A default that differs from it is stored."""
    for name, value in derived.items():
        own = getattr(record, name)
        if own == value:
            fields.pop(name, None)
        else:
            fields[name] = own
    return _ENCODER.encode(fields)


R = TypeVar("R", bound=Struct)


def readable(data: bytes | None, kind: type[R]) -> R | None:
    """The record; None where there is none, or where this release cannot read what a newer one wrote."""
    return _or_none(data, lambda found: decode(found, kind))


def readable_delivery(data: bytes | None, delivery_id: str) -> Delivery | None:
    """The same for a delivery."""
    return _or_none(data, lambda found: decode_delivery(found, delivery_id))


def readable_attempt(data: bytes | None, delivery_id: str, attempt_no: int) -> Attempt | None:
    """The same for an attempt."""
    return _or_none(data, lambda found: decode_attempt(found, delivery_id, attempt_no))


def _or_none(data: bytes | None, read: Callable[[bytes], R]) -> R | None:
    if data is None:
        return None
    try:
        return read(data)
    except msgspec.DecodeError:
        return None
