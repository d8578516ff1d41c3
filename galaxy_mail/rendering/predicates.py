"""Jinja2's tests (`x is even`). Each pays the meter for its work."""

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from jinja2 import Undefined, pass_context

from galaxy_mail.rendering.limits import TEXTS
from galaxy_mail.rendering.sandbox import MeteredContext, as_text, number_of

Predicate = Callable[..., bool]

LISTED: Final = (list, tuple, dict, str, range)

BY_VALUE: Final[Mapping[str, Callable[[Any], bool]]] = {
    "defined": lambda value: not isinstance(value, Undefined),
    "undefined": lambda value: isinstance(value, Undefined),
    "none": lambda value: value is None,
    "true": lambda value: value is True,
    "false": lambda value: value is False,
    "boolean": lambda value: type(value) is bool,
    "integer": lambda value: type(value) is int,
    "float": lambda value: type(value) is float,
    "number": lambda value: type(value) in (int, float, bool),
    "string": lambda value: type(value) in TEXTS,
    "mapping": lambda value: isinstance(value, dict),
    "sequence": lambda value: isinstance(value, LISTED),
    "iterable": lambda value: isinstance(value, LISTED),
    "odd": lambda value: number_of(value) % 2 == 1,
    "even": lambda value: number_of(value) % 2 == 0,
}
BY_COMPARISON: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "eq": operator.eq,
    "==": operator.eq,
    "equalto": operator.eq,
    "ne": operator.ne,
    "!=": operator.ne,
    "lt": operator.lt,
    "<": operator.lt,
    "lessthan": operator.lt,
    "le": operator.le,
    "<=": operator.le,
    "gt": operator.gt,
    ">": operator.gt,
    "greaterthan": operator.gt,
    "ge": operator.ge,
    ">=": operator.ge,
    "in": lambda value, container: value in container,
}


def _by_value(holds: Callable[[Any], bool]) -> Predicate:
    @pass_context
    def check(_: MeteredContext, value: Any) -> bool:
        return holds(value)

    return check


def _by_comparison(holds: Callable[[Any, Any], Any]) -> Predicate:
    @pass_context
    def check(context: MeteredContext, value: Any, other: Any) -> bool:
        context.meter.weigh(value)
        context.meter.weigh(other)
        return bool(holds(value, other))

    return check


@pass_context
def divisibleby(_: MeteredContext, value: Any, num: Any) -> bool:
    return number_of(value) % number_of(num) == 0


@pass_context
def lower(context: MeteredContext, value: Any) -> bool:
    return as_text(context.meter, value).islower()


@pass_context
def upper(context: MeteredContext, value: Any) -> bool:
    return as_text(context.meter, value).isupper()


PREDICATES: Final[Mapping[str, Predicate]] = {
    **{name: _by_value(holds) for name, holds in BY_VALUE.items()},
    **{name: _by_comparison(holds) for name, holds in BY_COMPARISON.items()},
    "divisibleby": divisibleby,
    "lower": lower,
    "upper": upper,
}
