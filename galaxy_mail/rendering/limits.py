"""Limits the work of one render.

Callers set two limits: bytes of output and iterations. Three more limits stop expressions that do much work with little
output: characters built, steps (elements visited, nodes of loop and macro bodies run), and nesting depth. Every operation
without constant cost pays the meter before it runs.
"""

from typing import Final

from jinja2 import Undefined
from markupsafe import Markup
from msgspec import Struct

from galaxy_mail.rendering.failures import TemplateRefused, TooLarge

OUTPUT_BYTES_MAX: Final = 1_048_576
ITERATIONS_MAX: Final = 10_000
STEPS_PER_ITERATION: Final = 200
BUILT_PER_OUTPUT: Final = 16
CALL_DEPTH_MAX: Final = 50  # of macros and recursive loops; far below the limit of Python's stack
VALUE_DEPTH_MAX: Final = 100  # of lists and objects in each other

SCALARS: Final = frozenset({int, float, bool, type(None)})
TEXTS: Final = frozenset({str, Markup})
LISTS: Final = frozenset({list, tuple})


class RenderLimits(Struct, frozen=True, kw_only=True):
    """The limits of one render of all parts."""

    output_bytes_max: int = OUTPUT_BYTES_MAX
    iterations_max: int = ITERATIONS_MAX


class Meter:
    """What one render may still do. Each method subtracts its cost and raises TemplateRefused if too little is left."""

    __slots__ = (
        "chars",
        "depth",
        "iterations",
        "iterations_max",
        "output_bytes",
        "output_bytes_max",
        "steps",
    )

    def __init__(self, limits: RenderLimits) -> None:
        self.output_bytes_max = self.output_bytes = limits.output_bytes_max
        self.iterations_max = self.iterations = limits.iterations_max
        self.steps = STEPS_PER_ITERATION * max(limits.iterations_max, ITERATIONS_MAX)
        self.chars = BUILT_PER_OUTPUT * max(limits.output_bytes_max, OUTPUT_BYTES_MAX)
        self.depth = CALL_DEPTH_MAX

    def iterate(self, nodes: int, chars: int) -> None:
        """Pays for one run of a loop's or macro's body with this many nodes and characters of literal text."""
        self.iterations -= 1
        if self.iterations < 0:
            raise TemplateRefused(f"more than {self.iterations_max} iterations")
        self.step(nodes)
        self.build(chars)

    def step(self, count: int) -> None:
        self.steps -= count
        if self.steps < 0:
            raise TemplateRefused("too much work for one mail")

    def build(self, chars: int) -> None:
        """Pays for this many characters of new text, in the output or in an intermediate value."""
        self.chars -= chars
        if self.chars < 0:
            raise self.too_large()

    def enter(self) -> None:
        if self.depth == 0:
            raise TemplateRefused(f"macros or recursive loops nested deeper than {CALL_DEPTH_MAX}")
        self.depth -= 1

    def leave(self) -> None:
        self.depth += 1

    def touch(self, value: object) -> None:
        """Pays for one pass over the characters or elements of `value`, but not over what the elements contain."""
        kind = type(value)
        if kind in SCALARS:
            return
        if kind in TEXTS:
            self.build(len(value))  # type: ignore[arg-type]  # a str, which the type checker can't see from `kind`
        elif isinstance(value, (list, tuple, dict, range)):
            self.step(len(value))

    def weigh(self, value: object) -> None:
        """Pays for a pass over everything in `value`. Refuses what is not a JSON value or nested too deep."""
        if type(value) in SCALARS or isinstance(value, Undefined):
            return
        level: list[object] = [value]
        for _ in range(VALUE_DEPTH_MAX):
            self.step(len(level))
            below: list[object] = []
            for item in level:
                kind = type(item)
                if kind in SCALARS:
                    continue
                if kind in TEXTS:
                    self.build(len(item))  # type: ignore[arg-type]  # as above
                elif isinstance(item, dict):
                    self.step(2 * len(item))  # before the copy, which may be huge
                    below += item.keys()
                    below += item.values()
                elif isinstance(item, (list, tuple, range)):
                    self.step(len(item))
                    below += item
                elif isinstance(item, Undefined):
                    str(item)  # raises an error with its name
                else:
                    raise TemplateRefused("macros, functions and namespaces are not values")
            if not below:
                return
            level = below
        raise TemplateRefused(f"lists or objects nested deeper than {VALUE_DEPTH_MAX}")

    def too_large(self) -> TooLarge:
        return TooLarge(f"more than {self.output_bytes_max} bytes")
