"""The strict JSON decoder of both intakes (RFC 8259 restricted by RFC 7493).

Every decoder must see the same request in a text, and equal values must have one fingerprint. So names are unique in an
object, numbers are limited to what a double holds exactly, and `1.0` is decoded as `1`.
"""

import json
import re
from typing import Final, NoReturn

import msgspec

from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.records import Json

MAX_DEPTH: Final = 32
MAX_NUMBER: Final = (
    2**53 - 1
)  # above, neighbouring integers share one double (RFC 7493 §2.2, RFC 8785 §3.2.2.3)
ITEMS_MAX: Final = (
    100_000  # commas between values: ten megabytes of them would block the event loop for seconds
)
NAME_SHOWN_MAX: Final = 64  # of a name in an error message

_BOM: Final = b"\xef\xbb\xbf"
_DIGITS_SURE: Final = 15  # an integer of this length is always below MAX_NUMBER
_DIGITS_MAX: Final = (
    17  # a sign and sixteen digits; longer ones are refused before the conversion, whose cost is quadratic
)
# More than ITEMS_MAX commas outside of strings. Possessive quantifiers keep the time linear.
_TOO_MANY_ITEMS: Final = re.compile(
    rb'(?>[^",]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^",]*+)*+,){%d}+' % (ITEMS_MAX + 1), re.DOTALL
)
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_ENCODER: Final = msgspec.json.Encoder()


class StrictJsonError(GalaxyMailError, ValueError):
    """The bytes are not strict JSON. The message quotes no value."""


def loads(data: bytes) -> Json:
    """Decodes a JSON text. Raises StrictJsonError for all other bytes.

    Values that are equal by RFC 8785 are decoded as equal values: an integral number is always an `int`.
    """
    if len(data) > ITEMS_MAX and _has_too_many_items(data):
        raise StrictJsonError(f"more than {ITEMS_MAX} members and elements")
    problem = ""
    value: Json = None
    # Errors are raised after the handlers: the decoders' exceptions hold the whole text, including secrets.
    try:
        text = data.decode("utf-8")
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 (byte {error.start})"
    except json.JSONDecodeError as error:
        problem = f"not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
    except RecursionError:
        problem = f"nested deeper than {MAX_DEPTH} levels"
    if data.startswith(_BOM):
        problem = "a byte order mark is not allowed"  # RFC 8259 §8.1
    elif not data:
        problem = "empty"
    if problem:
        raise StrictJsonError(problem)
    # Every level opens with a bracket, so a text with few brackets needs no check of the value.
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _too_deep(value):
        raise StrictJsonError(f"nested deeper than {MAX_DEPTH} levels")
    if _SURROGATE_ESCAPE.search(data) and not _encodable(value):
        raise StrictJsonError("half of a surrogate pair is not a character")  # RFC 7493 §2.1
    return value


def shown_name(name: str) -> str:
    """A member's name for an error message: printable and short."""
    printable = "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in name[:NAME_SHOWN_MAX]
    )
    return printable + ("…" if len(name) > NAME_SHOWN_MAX else "")


def _members(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise StrictJsonError(f"the member `{shown_name(name)}` comes twice in one object")
            seen.add(name)
    return members


def _integer(text: str) -> int:
    if len(text) > _DIGITS_SURE and (len(text) > _DIGITS_MAX or abs(int(text)) > MAX_NUMBER):
        _refuse_number()
    return int(text)


def _number(text: str) -> int | float:
    number = float(text)
    if not -MAX_NUMBER <= number <= MAX_NUMBER:  # infinity too, which is what 1e999 becomes
        _refuse_number()
    return int(number) if number.is_integer() else number


def _refuse_number() -> NoReturn:
    raise StrictJsonError(f"a number is beyond ±{MAX_NUMBER} and would lose digits; send it as text")


def _no_constant(name: str) -> NoReturn:
    raise StrictJsonError(f"{name} is not JSON")


def _has_too_many_items(data: bytes) -> bool:
    """Whether there are too many commas, checked before decoding. Commas in strings don't count."""
    return data.count(b",") > ITEMS_MAX and _TOO_MANY_ITEMS.match(data) is not None


def _too_deep(value: Json) -> bool:
    level: list[Json] = [value]
    for _ in range(MAX_DEPTH):
        below: list[Json] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                below += item.values()
            elif kind is list:
                below += item
        level = [item for item in below if type(item) is dict or type(item) is list]
        if not level:
            return False
    return True


def _encodable(value: Json) -> bool:
    try:
        _ENCODER.encode(value)
    except UnicodeEncodeError:
        return False
    return True


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_number, parse_constant=_no_constant
)
