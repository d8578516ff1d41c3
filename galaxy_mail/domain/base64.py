"""Base64 of attachments (RFC 4648 §4): padded, on one line."""

from typing import Final

BASE64_SYNTAX: Final = r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def base64_bytes(text: str) -> bytes | None:
    """The text as bytes, still in base64, or None if it does not match BASE64_SYNTAX. Fast for megabytes."""
    data = text.encode("ascii", "replace")
    padding = data.translate(None, _ALPHABET)
    if len(data) % 4 or padding not in (b"", b"=", b"==") or not data.endswith(padding):
        return None
    return data
