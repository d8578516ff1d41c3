"""Media types: of attachments, by their whole grammar; of request bodies, by their name."""

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
    """One media type, as it was written."""

    type: str
    subtype: str
    parameters: list[str]  # "charset=utf-8"


def parse_media_type(text: str) -> MediaType | None:
    """None where it breaks CONTENT_TYPE_SYNTAX or is longer than CONTENT_TYPE_MAX_CHARS."""
    if len(text) > CONTENT_TYPE_MAX_CHARS or not _CONTENT_TYPE.fullmatch(text):
        return None
    name, _, parameters = text.partition(";")
    kind, _, subtype = name.rstrip().partition("/")
    return MediaType(kind, subtype, _PARAMETER.findall(f";{parameters}") if parameters else [])


def name_of(content_type: str | None) -> str:
    """The type without its parameters, in lower case: of a header, which may break the grammar. "" where there is none."""
    return (content_type or "").partition(";")[0].strip().lower()
