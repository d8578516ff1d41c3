"""The template filters, with Jinja2's names and parameters. Each pays the meter for its work.

They return plain values (lists, not generators). None turns text into markup, so HTML stays escaped.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote, quote_plus

from jinja2 import Undefined, pass_context
from markupsafe import Markup, escape

from galaxy_mail.rendering.failures import TemplateRefused
from galaxy_mail.rendering.limits import TEXTS
from galaxy_mail.rendering.predicates import LISTED, PREDICATES
from galaxy_mail.rendering.sandbox import (
    INT_BITS_MAX,
    STRIPPED_MAX,
    MeteredContext,
    as_text,
    demand,
    number_of,
    printf,
)

WIDTH_MAX: Final = 1_000  # columns of text, members of a batch
PRECISION_MAX: Final = 20

F = TypeVar("F", bound=Callable[..., Any])
FILTERS: Final[dict[str, Callable[..., Any]]] = {}


def named(*names: str) -> Callable[[F], F]:
    def register(function: F) -> F:
        for name in names:
            FILTERS[name] = pass_context(function)
        return function

    return register


# --- text


def text_of(context: MeteredContext, value: Any) -> str:
    """The value as it would be printed. Filters on text work on this."""
    return as_text(context.meter, value)


def built(context: MeteredContext, text: str) -> str:
    context.meter.build(len(text))
    return text


@named("string")
def string(context: MeteredContext, value: Any) -> str:
    return text_of(context, value)


@named("upper")
def upper(context: MeteredContext, value: Any) -> str:
    return built(context, text_of(context, value).upper())


@named("lower")
def lower(context: MeteredContext, value: Any) -> str:
    return built(context, text_of(context, value).lower())


@named("capitalize")
def capitalize(context: MeteredContext, value: Any) -> str:
    return built(context, text_of(context, value).capitalize())


@named("title")
def title(context: MeteredContext, value: Any) -> str:
    """Each word with a capital letter. An apostrophe doesn't begin a word (`O'Neil's`)."""
    text = text_of(context, value)
    words = [word[:1].upper() + word[1:].lower() for word in re.split(r"([-\s({\[<]+)", text)]
    return built(context, like(text, "".join(words)))


@named("trim")
def trim(context: MeteredContext, value: Any, chars: str | None = None) -> str:
    if chars is not None and len(chars) > STRIPPED_MAX:
        raise TemplateRefused(f"trim of more than {STRIPPED_MAX} different characters")
    return text_of(context, value).strip(chars)


@named("replace")
def replace(context: MeteredContext, value: Any, old: Any, new: Any, count: int = -1) -> str:
    text, old, new = text_of(context, value), text_of(context, old), text_of(context, new)
    if isinstance(text, Markup):  # escaped now, so that `count` sees what `replace` will find
        old, new = escape(old), escape(new)
    times = text.count(old)
    context.meter.build(times * len(new) if count < 0 else min(times, count) * len(new))
    return built(context, text.replace(old, new, count))


@named("truncate")
def truncate(
    context: MeteredContext,
    value: Any,
    length: int = 255,
    killwords: bool = False,
    end: str = "...",
    leeway: int = 5,
) -> str:
    text = text_of(context, value)
    if length < len(end) or leeway < 0:
        raise TemplateRefused("truncate to fewer characters than its end mark has")
    if len(text) <= length + leeway:
        return text
    kept = text[: length - len(end)]
    return built(context, (kept if killwords else kept.rsplit(" ", 1)[0]) + end)


@named("center")
def center(context: MeteredContext, value: Any, width: int = 80) -> str:
    return built(context, text_of(context, value).center(bounded(width, WIDTH_MAX)))


@named("indent")
def indent(
    context: MeteredContext, value: Any, width: int = 4, first: bool = False, blank: bool = False
) -> str:
    """Indents all lines except the first one (unless `first`) and empty ones (unless `blank`)."""
    text = text_of(context, value)
    margin = " " * bounded(width, WIDTH_MAX)
    lines = text.split("\n")
    context.meter.build(len(lines) * len(margin))
    shifted = [
        margin + line if (at or first) and (line or blank) else line
        for at, line in enumerate(map(str, lines))
    ]
    return like(text, "\n".join(shifted))


@named("wordwrap")
def wordwrap(context: MeteredContext, value: Any, width: int = 79, break_long_words: bool = True) -> str:
    """Breaks lines at spaces so that they have at most `width` characters. Keeps existing line breaks."""
    text = text_of(context, value)
    width = bounded(width, WIDTH_MAX)
    if width < 1:
        raise TemplateRefused("wordwrap to a width of 0")
    lines: list[str] = []
    for paragraph in str(text).split("\n"):
        line: list[str] = []
        room = width
        for word in paragraph.split(" "):
            if line and len(word) > room - 1:
                lines.append(" ".join(line))
                line, room = [], width
            elif line:
                room -= 1
            if break_long_words and len(word) > width:
                pieces = [word[at : at + width] for at in range(0, len(word), width)]
                word = pieces.pop()
                lines += pieces
            line.append(word)
            room -= len(word)
        lines.append(" ".join(line))
    context.meter.build(2 * len(text))
    return like(text, "\n".join(lines))


@named("wordcount")
def wordcount(context: MeteredContext, value: Any) -> int:
    return len(re.findall(r"\w+", text_of(context, value)))


@named("format")
def format_(context: MeteredContext, value: Any, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise TemplateRefused("format takes positional or named values, not both")
    return printf(context.meter, text_of(context, value), kwargs or args)


@named("escape", "e")
def escape_(context: MeteredContext, value: Any) -> Markup:
    text = escape(text_of(context, value))
    context.meter.build(len(text))
    return text


@named("forceescape")
def forceescape(context: MeteredContext, value: Any) -> Markup:
    return escape_(context, str(text_of(context, value)))


@named("urlencode")
def urlencode(context: MeteredContext, value: Any) -> str:
    """Encodes text for a URL's path, and an object or a list of pairs as a query."""
    context.meter.weigh(value)
    if isinstance(value, (dict, list, tuple)):
        pairs = value.items() if isinstance(value, dict) else value
        text = "&".join(f"{_quoted(context, name)}={_quoted(context, part)}" for name, part in pairs)
    else:
        text = quote(text_of(context, value))
    return built(context, text)


def _quoted(context: MeteredContext, value: Any) -> str:
    return quote_plus(text_of(context, value))


@named("tojson")
def tojson(context: MeteredContext, value: Any) -> str:
    """JSON with sorted members. It is text, so an HTML part escapes it."""
    demand(value)
    context.meter.weigh(value)
    return built(context, json.dumps(value, ensure_ascii=False, sort_keys=True))


@named("join")
def join(context: MeteredContext, value: Any, d: Any = "", attribute: Any = None) -> str:
    parts = [text_of(context, item) for item in resolved(context, value, attribute)]
    separator = text_of(context, d)
    context.meter.build(len(separator) * len(parts))
    if isinstance(separator, Markup) or any(isinstance(part, Markup) for part in parts):
        return built(context, escape(separator).join(parts))
    return built(context, separator.join(parts))


def like(model: str, text: str) -> str:
    """`text` as markup if `model` is markup. `text` must consist of `model` and white space."""
    return Markup(text) if isinstance(model, Markup) else text  # noqa: S704  # nothing unescaped was added


def bounded(number: Any, limit: int) -> int:
    if type(number) is not int or not -limit <= number <= limit:
        raise TemplateRefused(f"a width, count or precision that is not a whole number up to {limit}")
    return max(number, 0)


# --- numbers


@named("abs")
def abs_(_: MeteredContext, value: Any) -> int | float:
    return abs(number_of(value))


@named("round")
def round_(_: MeteredContext, value: Any, precision: int = 0, method: str = "common") -> int | float:
    if type(precision) is not int or abs(precision) > PRECISION_MAX:
        raise TemplateRefused(f"a precision beyond {PRECISION_MAX}")
    number, scale = number_of(value), float(10**precision)
    match method:
        case "common":
            return round(number, precision)
        case "ceil":
            return math.ceil(number * scale) / scale
        case "floor":
            return math.floor(number * scale) / scale
        case _:
            raise TemplateRefused("round knows common, ceil and floor")


@named("int")
def int_(context: MeteredContext, value: Any, default: Any = 0, base: int = 10) -> Any:
    """The value as a whole number, or `default`."""
    try:
        if type(value) in TEXTS:
            context.meter.touch(value)
            number = int(value, base) if base != 10 else _whole(value)
        else:
            number = int(number_of(value))
    except (ValueError, OverflowError):
        return default
    if number.bit_length() > INT_BITS_MAX:
        raise TemplateRefused("a number too large")
    return number


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return int(float(text))


@named("float")
def float_(context: MeteredContext, value: Any, default: Any = 0.0) -> Any:
    try:
        context.meter.touch(value)
        return float(value if type(value) in TEXTS else number_of(value))
    except (ValueError, OverflowError):
        return default


@named("filesizeformat")
def filesizeformat(_: MeteredContext, value: Any, binary: bool = False) -> str:
    """`13 kB`, `4.1 MB`; with `binary`: `12.7 KiB`."""
    size, base = float(number_of(value)), 1024 if binary else 1000
    if size == 1:
        return "1 Byte"
    if abs(size) < base:
        return f"{int(size)} Bytes"
    for unit in "kMGTPEZY":
        size /= base
        if abs(size) < base or unit == "Y":
            return f"{size:.1f} {unit.upper() + 'iB' if binary else unit + 'B'}"
    raise AssertionError("the last unit takes all")


# --- lists and objects


class Group(NamedTuple):
    grouper: Any
    list: Sequence[Any]


def elements(context: MeteredContext, value: Any) -> list[Any]:
    """The elements that a loop over `value` would see."""
    demand(value)
    if not isinstance(value, LISTED):
        raise TemplateRefused("a value that is not a list")
    context.meter.touch(value)
    context.meter.step(len(value))
    return list(value)


def resolved(context: MeteredContext, value: Any, attribute: Any, default: Any = None) -> list[Any]:
    """The elements, or a member of each, which `attribute` names by a dotted path."""
    items = elements(context, value)
    if attribute is None:
        return items
    if not isinstance(attribute, (str, int)):
        raise TemplateRefused("an attribute that is not a name")
    path = [int(part) if part.isascii() and part.isdigit() else part for part in str(attribute).split(".")]
    context.meter.step(len(path) * len(items))
    return [_member(context, item, path, default) for item in items]


def _member(context: MeteredContext, item: Any, path: list[int | str], default: Any) -> Any:
    for part in path:
        item = context.environment.getitem(item, part)
        if default is not None and isinstance(item, Undefined):
            item = default
    return item


def comparable(context: MeteredContext, keys: Iterable[Any], case_sensitive: bool) -> list[Any]:
    """Keys to sort or group by. Pays for everything that a comparison may visit."""
    ready: list[Any] = []
    for key in keys:
        context.meter.weigh(key)
        demand(key)
        ready.append(key.lower() if isinstance(key, str) and not case_sensitive else key)
    return ready


@named("length", "count")
def length(_: MeteredContext, value: Any) -> int:
    demand(value)
    if not isinstance(value, LISTED):
        raise TemplateRefused("a value that is not text, a list or an object")
    return len(value)


@named("default", "d")
def default_(_: MeteredContext, value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    return default_value if isinstance(value, Undefined) or (boolean and not value) else value


@named("first")
def first(context: MeteredContext, value: Any) -> Any:
    return _end(context, value, 0)


@named("last")
def last(context: MeteredContext, value: Any) -> Any:
    return _end(context, value, -1)


def _end(context: MeteredContext, value: Any, at: int) -> Any:
    items = value if isinstance(value, (list, tuple, str)) else elements(context, value)
    return (
        items[at]
        if items
        else context.environment.undefined(hint="an empty list has no first or last element")
    )


@named("list")
def list_(context: MeteredContext, value: Any) -> list[Any]:
    return elements(context, value)


@named("items")
def items_(context: MeteredContext, value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Undefined):
        return []
    if not isinstance(value, dict):
        raise TemplateRefused("a value that is not an object")
    context.meter.touch(value)
    return list(value.items())


@named("reverse")
def reverse(context: MeteredContext, value: Any) -> Any:
    if type(value) in TEXTS:
        context.meter.touch(value)
        return value[::-1]
    return elements(context, value)[::-1]


@named("sort")
def sort(
    context: MeteredContext,
    value: Any,
    reverse: bool = False,
    case_sensitive: bool = False,
    attribute: Any = None,
) -> list[Any]:
    """Sorts by the elements or by one or more of their members (`"age,name"`)."""
    items = elements(context, value)
    names = attribute.split(",") if isinstance(attribute, str) else [attribute]
    columns = [comparable(context, resolved(context, items, name), case_sensitive) for name in names]
    order = sorted(range(len(items)), key=lambda at: [column[at] for column in columns], reverse=reverse)
    return [items[at] for at in order]


@named("dictsort")
def dictsort(
    context: MeteredContext, value: Any, case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> list[tuple[Any, Any]]:
    if by not in ("key", "value"):
        raise TemplateRefused("dictsort sorts by key or value")
    pairs = items_(context, value)
    keys = comparable(context, (pair[by == "value"] for pair in pairs), case_sensitive)
    return [pairs[at] for at in sorted(range(len(pairs)), key=keys.__getitem__, reverse=reverse)]


@named("unique")
def unique(
    context: MeteredContext, value: Any, case_sensitive: bool = False, attribute: Any = None
) -> list[Any]:
    """The elements without duplicates; the first of equal ones stays."""
    items = elements(context, value)
    keys = comparable(context, resolved(context, items, attribute), case_sensitive)
    seen: dict[Any, Any] = {}
    for key, item in zip(keys, items, strict=True):
        seen.setdefault(key, item)
    return list(seen.values())


@named("min")
def min_(context: MeteredContext, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
    return _extreme(context, value, case_sensitive, attribute, min)


@named("max")
def max_(context: MeteredContext, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
    return _extreme(context, value, case_sensitive, attribute, max)


def _extreme(
    context: MeteredContext, value: Any, case_sensitive: bool, attribute: Any, best: Callable[..., Any]
) -> Any:
    items = elements(context, value)
    if not items:
        return context.environment.undefined(hint="an empty list has no least or greatest element")
    keys = comparable(context, resolved(context, items, attribute), case_sensitive)
    return items[best(range(len(items)), key=keys.__getitem__)]


@named("sum")
def sum_(context: MeteredContext, value: Any, attribute: Any = None, start: int | float = 0) -> int | float:
    total = number_of(start)
    for item in resolved(context, value, attribute):
        total += number_of(item)
    return total


@named("batch")
def batch(context: MeteredContext, value: Any, linecount: int, fill_with: Any = None) -> list[list[Any]]:
    """Lists of `linecount` elements. `fill_with` fills up the last one."""
    items = elements(context, value)
    size = bounded(linecount, WIDTH_MAX)
    if size < 1:
        raise TemplateRefused("batches of 0 elements")
    batches = [items[at : at + size] for at in range(0, len(items), size)]
    if batches and fill_with is not None:
        batches[-1] += [fill_with] * (size - len(batches[-1]))
    return batches


@named("slice")
def slice_(context: MeteredContext, value: Any, slices: int, fill_with: Any = None) -> list[list[Any]]:
    """`slices` lists, the first ones at most one element longer than the others."""
    items = elements(context, value)
    count = bounded(slices, WIDTH_MAX)
    if count < 1:
        raise TemplateRefused("0 slices")
    context.meter.step(count)
    short, longer = divmod(len(items), count)
    parts: list[list[Any]] = []
    at = 0
    for number in range(count):
        size = short + (number < longer)
        part = items[at : at + size]
        if fill_with is not None and number >= longer:
            part.append(fill_with)
        parts.append(part)
        at += size
    return parts


@named("groupby")
def groupby_(
    context: MeteredContext, value: Any, attribute: Any, default: Any = None, case_sensitive: bool = False
) -> list[Group]:
    """Groups of elements with an equal member, sorted by that member. A group is (grouper, list)."""
    items = elements(context, value)
    members = resolved(context, items, attribute, default)
    keys = comparable(context, members, case_sensitive)
    order = sorted(range(len(items)), key=keys.__getitem__)
    groups: list[Group] = []
    for _, positions in groupby(order, keys.__getitem__):
        found = list(positions)
        groups.append(Group(members[found[0]], [items[at] for at in found]))
    return groups


@named("map")
def map_(context: MeteredContext, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
    """A member of each element (`attribute=`), or a filter's result for each."""
    if not args:
        if "attribute" not in kwargs or kwargs.keys() - {"attribute", "default"}:
            raise TemplateRefused("map takes a filter's name, or attribute= and default=")
        return resolved(context, value, kwargs["attribute"], kwargs.get("default"))
    items = elements(context, value)
    name, *others = args
    if name not in FILTERS:
        raise TemplateRefused("map with an unknown filter")
    return [FILTERS[name](context, item, *others, **kwargs) for item in items]


@named("select")
def select(context: MeteredContext, value: Any, *args: Any) -> list[Any]:
    items = elements(context, value)
    return _selected(context, items, items, args, wanted=True)


@named("reject")
def reject(context: MeteredContext, value: Any, *args: Any) -> list[Any]:
    items = elements(context, value)
    return _selected(context, items, items, args, wanted=False)


@named("selectattr")
def selectattr(context: MeteredContext, value: Any, attribute: Any, *args: Any) -> list[Any]:
    items = elements(context, value)
    return _selected(context, items, resolved(context, items, attribute), args, wanted=True)


@named("rejectattr")
def rejectattr(context: MeteredContext, value: Any, attribute: Any, *args: Any) -> list[Any]:
    items = elements(context, value)
    return _selected(context, items, resolved(context, items, attribute), args, wanted=False)


def _selected(
    context: MeteredContext, items: list[Any], subjects: list[Any], args: tuple[Any, ...], *, wanted: bool
) -> list[Any]:
    """The items whose subject passes the test named in `args`, or without a test is true. Not `wanted`: the others."""
    if args:
        name, *others = args
        if name not in PREDICATES:
            raise TemplateRefused("selection by an unknown test")
        verdicts = [bool(PREDICATES[name](context, subject, *others)) for subject in subjects]
    else:
        verdicts = [bool(subject) for subject in subjects]
    return [item for item, verdict in zip(items, verdicts, strict=True) if verdict is wanted]
