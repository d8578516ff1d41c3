"""The Jinja2 environment of the templates: its values are JSON, and its work is counted.

`a.b` reads a member of a JSON object. Of Python's methods, only a few harmless ones of text and objects are available.
Every operation without constant cost pays the render's meter, which the context holds. `metering.py` rewrites the
operations that an environment can't intercept: `~`, comparisons, slices and loops.
"""

import json
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from jinja2 import StrictUndefined, Undefined, pass_context
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from markupsafe import Markup

from galaxy_mail.rendering.failures import TemplateRefused
from galaxy_mail.rendering.limits import LISTS, SCALARS, TEXTS, Meter, RenderLimits

INT_BITS_MAX: Final = 4_096  # enough for any amount, and arithmetic stays fast

# printf-style, but without `*`, `%r`, `%a`, names that contain parentheses, and widths of more than three digits.
CONVERSION: Final = re.compile(
    r"%(?:\((?P<name>[^()]*)\))?[#0\- +]*(?P<width>[0-9]{0,3})(?:\.(?P<precision>[0-9]{0,3}))?[cdeEfFgGiosuxX%]"
)

# Their time and their result are proportional to the text.
TEXT_METHODS: Final = frozenset(
    {
        "capitalize",
        "count",
        "endswith",
        "find",
        "isalpha",
        "isdigit",
        "isspace",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "title",
        "upper",
    }
)
STRIPPED_MAX: Final = 100  # characters that `strip` removes: its time is their number times the text's length
OBJECT_METHODS: Final = frozenset({"get", "items", "keys", "values"})
LOOP_MEMBERS: Final = frozenset(
    {"depth", "depth0", "first", "index", "index0", "last", "length", "revindex", "revindex0"}
    | {"nextitem", "previtem"}
)
LOOP_METHODS: Final = frozenset({"changed", "cycle"})


class Absent(StrictUndefined):
    """The value of an undefined name or member: every use except `is defined` and `default` fails.

    The message quotes a name from the template. It doesn't quote a computed subscript, which may be a variable's value.
    """

    __slots__ = ()


class MeteredContext(Context):
    """The variables of one part, and the meter of the render."""

    def __init__(
        self,
        environment: "MailEnvironment",
        parent: dict[str, Any],
        name: str | None,
        blocks: dict[str, Callable[[Context], Any]],
        globals: Mapping[str, Any] | None = None,  # noqa: A002  # Jinja2 passes it by this name
        *,
        meter: Meter | None = None,
    ) -> None:
        super().__init__(environment, parent, name, blocks, dict(globals or {}))
        self.meter = meter or Meter(RenderLimits())


class Method:
    """A method that a template may call, bound to its text, object or loop."""

    __slots__ = ("name", "receiver")

    def __init__(self, receiver: object, name: str) -> None:
        self.receiver = receiver
        self.name = name

    def call(self, meter: Meter, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.receiver, LoopContext):
            for arg in args:
                meter.weigh(arg)  # `changed` compares
        else:
            meter.touch(self.receiver)
            for arg in args:
                meter.touch(arg)
                if self.name.endswith("strip") and type(arg) in TEXTS and len(arg) > STRIPPED_MAX:
                    raise TemplateRefused(f"{self.name} of more than {STRIPPED_MAX} different characters")
        result = getattr(self.receiver, self.name)(*args, **kwargs)
        if isinstance(self.receiver, dict) and self.name != "get":
            result = list(result)  # a view is not a JSON value
        meter.touch(result)
        return result


def bounded_range(meter: Meter, *args: Any) -> range:
    numbers = range(*args)
    try:
        length = len(numbers)
    except OverflowError:  # len() ends at sys.maxsize
        length = meter.iterations_max + 1
    if length > meter.iterations_max:
        raise TemplateRefused(f"range of more than {meter.iterations_max} numbers")
    return numbers


def new_namespace(meter: Meter, *args: Any, **kwargs: Any) -> Namespace:
    for arg in args:
        meter.touch(arg)
    return Namespace(*args, **kwargs)


class GlobalFunction:
    """A function that all templates have."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


FUNCTIONS: Final = {"range": GlobalFunction(bounded_range), "namespace": GlobalFunction(new_namespace)}


def demand(value: object) -> None:
    """Raises an error with the name if `value` is undefined."""
    if isinstance(value, Undefined):
        str(value)  # an `if` without `else` is empty text and doesn't raise


def as_text(meter: Meter, value: object) -> str:
    """How a value is printed: text unchanged, null as nothing, everything else as JSON."""
    kind = type(value)
    if kind in TEXTS:
        meter.build(len(value))  # type: ignore[arg-type]  # a str, which the type checker can't see from `kind`
        return value  # type: ignore[return-value]  # as above
    if value is None:
        return ""
    if kind is bool:
        return "true" if value else "false"
    if kind is int or kind is float:
        text = str(value)
        meter.build(len(text))
        return text
    if isinstance(value, (list, tuple, dict)):
        meter.weigh(value)
        text = json.dumps(value, ensure_ascii=False)
        meter.build(len(text))
        return text
    if isinstance(value, Undefined):
        return str(value)  # raises, except for an `if` without `else`, which is empty text
    raise TemplateRefused("only values can be printed, not macros, functions, ranges or namespaces")


@pass_context
def print_value(context: MeteredContext, value: object) -> str:
    return as_text(context.meter, value)


class MailEnvironment(ImmutableSandboxedEnvironment):
    """One for all templates of a catalog. HTML parts are escaped; the file name tells which they are."""

    context_class = MeteredContext
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(
        self, *, filters: Mapping[str, Callable[..., Any]], tests: Mapping[str, Callable[..., Any]]
    ) -> None:
        super().__init__(
            undefined=Absent,
            autoescape=is_html,
            finalize=print_value,
            trim_blocks=True,  # a line with only a block tag leaves no blank line
            lstrip_blocks=True,
            keep_trailing_newline=True,
            loader=None,
            cache_size=0,
        )
        self.globals = dict(FUNCTIONS)
        self.filters = dict(filters)
        self.tests = dict(tests)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict):
            if attribute in obj:  # first: a member may be called "items"
                return obj[attribute]
            if attribute in OBJECT_METHODS:
                return Method(obj, attribute)
        elif type(obj) in TEXTS:
            if attribute in TEXT_METHODS:
                return Method(obj, attribute)
        elif isinstance(obj, LoopContext):
            if attribute in LOOP_MEMBERS:
                return getattr(obj, attribute)
            if attribute in LOOP_METHODS:
                return Method(obj, attribute)
        elif isinstance(obj, tuple):  # the groups of `groupby` have the fields grouper and list
            if attribute in getattr(type(obj), "_fields", ()):
                return getattr(obj, attribute)
        elif isinstance(obj, Namespace) and not attribute.startswith("_"):
            try:
                return getattr(obj, attribute)
            except AttributeError:
                pass
        demand(obj)
        return self.undefined(hint=f"{_kind(obj)} has no member {attribute!r}")

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, (dict, list, tuple, str, range)):
            try:
                return obj[argument]
            except (TypeError, LookupError):
                if isinstance(argument, str) and argument in getattr(type(obj), "_fields", ()):
                    return getattr(obj, argument)  # of a group, when a filter names the field
        demand(obj)
        return self.undefined(hint=f"{_kind(obj)} has no such element")

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        meter = meter_of(context)
        meter.step(1 + len(args) + len(kwargs))
        if isinstance(obj, (Macro, LoopContext)):
            meter.enter()
            try:
                return context.call(obj, *args, **kwargs)
            finally:
                meter.leave()
        if isinstance(obj, (Method, GlobalFunction)):
            kwargs.pop("_loop_vars", None)  # Jinja2 passes both to functions that take a context
            kwargs.pop("_block_vars", None)
            return obj.call(meter, *args, **kwargs)
        demand(obj)
        raise TemplateRefused("only macros and functions can be called")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        return compute(meter_of(context), operator, left, right)


def is_html(name: str | None) -> bool:
    return name is not None and name.endswith("html.tmpl")


def meter_of(context: Context) -> Meter:
    assert isinstance(context, MeteredContext)
    return context.meter


def compute(meter: Meter, sign: str, left: Any, right: Any) -> Any:
    """`left sign right`. Refuses if the result would be too large."""
    if type(left) in SCALARS and type(right) in SCALARS:
        if type(left) is int and type(right) is int and _bits(sign, left, right) > INT_BITS_MAX:
            raise TemplateRefused("a number too large")
        return ARITHMETIC[sign](left, right)
    demand(left)
    demand(right)
    match sign:
        case "+":
            meter.touch(left)
            meter.touch(right)
        case "*":
            _pay_repeated(meter, left, right)
        case "%" if type(left) in TEXTS:
            return printf(meter, left, right if isinstance(right, (tuple, dict)) else (right,))
        case _:
            raise TemplateRefused(f"values of types that {sign!r} does not support")
    result = ARITHMETIC[sign](left, right)
    if type(result) in TEXTS:  # escaping may have made it longer
        meter.build(len(result))
    return result


ARITHMETIC: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}


def _bits(sign: str, left: int, right: int) -> int:
    """An upper bound of the result's size and so of the time."""
    match sign:
        case "*":
            return left.bit_length() + right.bit_length()
        case "**":
            return left.bit_length() * max(abs(right), 1)
        case _:
            return max(left.bit_length(), right.bit_length()) + 1


def _pay_repeated(meter: Meter, left: Any, right: Any) -> None:
    sequence, times = (right, left) if type(left) in SCALARS else (left, right)
    if type(times) not in (int, bool):
        raise TemplateRefused("values of types that '*' does not support")
    if type(sequence) in TEXTS:
        meter.build(len(sequence) * max(times, 0))
    elif type(sequence) in LISTS:
        meter.step(len(sequence) * max(times, 0))
    else:
        raise TemplateRefused("values of types that '*' does not support")


def printf(meter: Meter, template: str, values: tuple[Any, ...] | dict[str, Any]) -> str:
    """`%` on text. Widths and precisions have at most three digits; values must be text or numbers."""
    meter.touch(template)
    meter.step(len(values))
    for value in values.values() if isinstance(values, dict) else values:
        demand(value)
        if type(value) not in SCALARS and type(value) not in TEXTS:
            raise TemplateRefused("only text and numbers can be formatted")
        meter.touch(value)
    at = template.find("%")
    while at >= 0:
        conversion = CONVERSION.match(template, at)
        if not conversion:
            raise TemplateRefused("an unknown format")
        meter.build(int(conversion["width"] or 0) + int(conversion["precision"] or 0))
        if isinstance(values, dict):
            meter.touch(values.get(conversion["name"]))  # each use counts
        at = template.find("%", conversion.end())
    text: str = template % values
    meter.build(len(text))
    return text


def number_of(value: Any) -> int | float:
    demand(value)
    if type(value) not in (int, float, bool):
        raise TemplateRefused("a value that is not a number")
    number: int | float = value
    return number


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "a text"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, (list, tuple, range)):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    if value is None:
        return "null"
    if isinstance(value, LoopContext):
        return "loop"
    return "a macro, function or namespace"


def joined(pieces: list[str]) -> str:
    """All pieces as one text. If one is markup, the result is markup, too, and the others are escaped."""
    if any(isinstance(piece, Markup) for piece in pieces):
        return Markup("").join(pieces)
    return "".join(pieces)
