"""Encodes a malformed command's fields as text of bounded size for its record.

The fields of a stream entry are byte strings, and a name may occur twice. The record is JSON, so it stores each value as
text:

    text                        the value, if it is UTF-8
    text:<text>                 the same, if it begins with one of these markers
    base64:<...>                bytes that are not UTF-8
    cut:<bytes>:<sha256>:<...>  a cut value: the length and hash of the whole value, then one of the forms above

Names are encoded in the same way. The second `source` is stored as `source (2)`.
"""

from base64 import b64encode
from collections.abc import Container, Sequence
from hashlib import sha256
from typing import Final

from msgspec import Struct

RAW_FIELDS_MAX_BYTES: Final = 64 * 1024  # all encoded names and values
NAME_MAX_BYTES: Final = 256
LEFT_OUT: Final = "(left out)"  # the name under which the number of omitted fields is stored

_TEXT: Final = "text:"
_BASE64: Final = "base64:"
_CUT: Final = "cut:"
_MARKERS: Final = (_TEXT, _BASE64, _CUT)
_CUT_COST_BYTES: Final = len(f"{_CUT}{2**63}:{'0' * 64}:") + len(_BASE64)
_NUMBERING_COST_BYTES: Final = len(" (4294967295)")
_LEFT_OUT_COST_BYTES: Final = 64

Fields = Sequence[tuple[bytes, bytes]]


class Kept(Struct, frozen=True):
    """A decoded stored value."""

    text: str | None  # None: not UTF-8
    base64: str | None  # set if `text` is None
    whole_bytes: int  # the length before the cut
    whole_sha256: str | None  # set if the value was cut


def keep(fields: Fields) -> dict[str, str]:
    """Encodes the fields: short values whole, long values cut to the space that is left."""
    room = RAW_FIELDS_MAX_BYTES - _LEFT_OUT_COST_BYTES
    kept: dict[int, tuple[str, str]] = {}
    # Shortest first, so that a large payload leaves space for the ids.
    for index in sorted(range(len(fields)), key=lambda index: len(fields[index][0]) + len(fields[index][1])):
        raw_name, raw_value = fields[index]
        name = _encode(raw_name, NAME_MAX_BYTES)
        room -= len(name.encode()) + _NUMBERING_COST_BYTES
        if room < _CUT_COST_BYTES:
            break
        value = _encode(raw_value, room)
        room -= len(value.encode())
        kept[index] = (name, value)
    stored: dict[str, str] = {}
    for index in sorted(kept):
        name, value = kept[index]
        stored[numbered(name, stored)] = value
    if len(kept) < len(fields):
        stored[numbered(LEFT_OUT, stored)] = f"{len(fields) - len(kept)} fields"
    return stored


def decode_value(stored: str) -> Kept:
    """Decodes a value that `keep` encoded. Accepts any text."""
    whole_bytes, whole_sha256 = None, None
    if stored.startswith(_CUT) and stored.count(":") >= 3:
        _, length, whole_sha256, stored = stored.split(":", 3)
        whole_bytes = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0
    if stored.startswith(_BASE64):
        encoded = stored.removeprefix(_BASE64)
        padding = len(encoded) - len(encoded.rstrip("="))
        size = max(len(encoded) * 3 // 4 - padding, 0)
        return Kept(None, encoded, size if whole_bytes is None else whole_bytes, whole_sha256)
    text = stored.removeprefix(_TEXT)
    return Kept(text, None, len(text.encode()) if whole_bytes is None else whole_bytes, whole_sha256)


def numbered(name: str, taken: Container[str]) -> str:
    """`name`, or `name (2)` and so on if it is taken."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name} ({number})"
    return candidate


def _encode(raw: bytes, max_bytes: int) -> str:
    """`raw` encoded in at most `max_bytes` bytes of UTF-8; `max_bytes` is at least `_CUT_COST_BYTES`."""
    encoded = _encode_whole(raw) if len(raw) <= max_bytes else None
    if encoded is not None and len(encoded.encode()) <= max_bytes:
        return encoded
    room = max_bytes - _CUT_COST_BYTES
    head = raw[:room]
    try:
        raw.decode()
        begun = _marked(
            head.decode("utf-8", "ignore")
        )  # "ignore" drops a character that was cut in the middle
    except UnicodeDecodeError:
        begun = _BASE64 + b64encode(head[: room // 4 * 3]).decode()
    return f"{_CUT}{len(raw)}:{sha256(raw).hexdigest()}:{begun}"


def _encode_whole(raw: bytes) -> str:
    try:
        return _marked(raw.decode())
    except UnicodeDecodeError:
        return _BASE64 + b64encode(raw).decode()


def _marked(text: str) -> str:
    return _TEXT + text if text.startswith(_MARKERS) else text
