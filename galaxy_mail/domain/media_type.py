"""Media types: the full syntax for attachments, the name for request bodies."""

import re
from typing import Final, NamedTuple

CONTENT_TYPE_MAX_CHARS: Final = 255
# RFC 6838 §4.2 for the type's names, RFC 2045 §5.1 for parameters.
_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
CONTENT_TYPE_SYNTAX: Final = (
    r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
    rf'([ \t]*;[ \t]*{_NAME}=({_NAME}|"([ !#-\[\]-~]|\\[ -~])*"))*'
)

_CONTENT_TYPE: Final = re.compile(CONTENT_TYPE_SYNTAX)
_PARAMETER: Final = re.compile(rf';[ \t]*({_NAME}=(?:{_NAME}|"(?:[^"\\]|\\.)*"))')


class MediaType(NamedTuple):
    """A media type, unchanged."""

    type: str
    subtype: str
    parameters: list[str]  # "charset=utf-8"


def parse_media_type(text: str) -> MediaType | None:
    """The media type, or None if it does not match CONTENT_TYPE_SYNTAX or exceeds CONTENT_TYPE_MAX_CHARS."""
    if len(text) > CONTENT_TYPE_MAX_CHARS or not _CONTENT_TYPE.fullmatch(text):
        return None
    name, _, parameters = text.partition(";")
    kind, _, subtype = name.rstrip().partition("/")
    return MediaType(kind, subtype, _PARAMETER.findall(f";{parameters}") if parameters else [])


def name_of(content_type: str | None) -> str:
    """The type of a Content-Type header without parameters, in lower case; "" for an absent header."""
    return (content_type or "").partition(";")[0].strip().lower()
