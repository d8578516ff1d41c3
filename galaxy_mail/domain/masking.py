"""Masks what callers sent before operators see it: values with a secret name are masked, free text is withheld."""

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from galaxy_mail.domain.raw_fields import Kept, decode_value, numbered
from galaxy_mail.domain.records import Json
from galaxy_mail.domain.secrets import MASK, is_secret_name, mentions_secret

# Fields that hold no content: shown as they came, so that an operator sees what is wrong with them.
_PLAIN_FIELDS: Final = frozenset(
    {
        "delivery_id",
        "source",
        "payload_mode",
        "idempotency_key",
        "requested_at_ms",
        "request_id",
        "trace_id",
        "traceparent",
    }
)
_PLAIN_MAX_CHARS: Final = 256
_NUMBERED: Final = re.compile(r" \([0-9]+\)\Z")  # how `raw_fields` keeps a name that comes twice


def mask_fields(fields: Mapping[str, str]) -> dict[str, str]:
    """The kept raw fields of a malformed command (`raw_fields.keep`) as operators see them."""
    return {name: _shown(_NUMBERED.sub("", name), decode_value(stored)) for name, stored in fields.items()}


def _shown(name: str, kept: Kept) -> str:
    if is_secret_name(name):
        return MASK
    if kept.text is None:
        return _shown_bytes(kept)
    masked = _masked_json(kept.text)
    if masked is not None:
        return masked
    if name in _PLAIN_FIELDS and kept.whole_sha256 is None and len(kept.text) <= _PLAIN_MAX_CHARS:
        return kept.text
    return _digest(kept, kept.text.encode())


def _shown_bytes(kept: Kept) -> str:
    """The bytes in base64, unless they mention a secret: `{"code":"…"}` in Latin-1 or UTF-16 is as readable as in UTF-8."""
    encoded = kept.base64 or ""
    try:
        raw = b64decode(encoded, validate=True)
    except ValueError:
        return _digest(kept, encoded.encode())
    if kept.whole_sha256 is not None or mentions_secret(raw):
        return _digest(kept, raw)
    return f"base64:{encoded}"


def _masked_json(text: str) -> str | None:
    """This JSON object or array with secret-named members masked; None where the text is neither.

    The decoder is lenient: an operator wants to see what the strict one refused, such as a duplicate name.
    """
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        value = json.loads(text, object_pairs_hook=_masked_members)
        masked = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None
    return masked.encode("utf-8", "backslashreplace").decode()  # a lone surrogate can't be encoded


def _masked_members(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members: dict[str, Json] = {}
    for name, value in pairs:
        members[numbered(name, members)] = MASK if is_secret_name(name) else value
    return members


def _digest(kept: Kept, shown: bytes) -> str:
    """The length and hash of withheld text, which identify it without showing it."""
    return f"{kept.whole_bytes} bytes, SHA-256 {kept.whole_sha256 or sha256(shown).hexdigest()}"
