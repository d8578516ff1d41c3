"""Checks that a template uses only the allowed part of Jinja2, before it is compiled.

A template can't include, import or extend another one. Everything printed in HTML is escaped.
"""

import difflib
from collections.abc import Collection, Iterator
from typing import Final

from jinja2 import nodes

from galaxy_mail.rendering.catalog_problems import CatalogProblem, error
from galaxy_mail.rendering.filters import FILTERS
from galaxy_mail.rendering.predicates import PREDICATES

N = nodes
STATEMENTS: Final[frozenset[type[nodes.Node]]] = frozenset(
    {N.Template, N.Output, N.TemplateData, N.If, N.For, N.With, N.Assign, N.AssignBlock, N.Macro, N.CallBlock}
)
VALUES: Final[frozenset[type[nodes.Node]]] = frozenset(
    {N.Name, N.NSRef, N.Const, N.Tuple, N.List, N.Dict, N.Pair, N.Keyword, N.Getattr, N.Getitem, N.Slice}
)
OPERATIONS: Final[frozenset[type[nodes.Node]]] = frozenset(
    {N.Filter, N.Test, N.Call, N.Concat, N.Add, N.Sub, N.Mul, N.Div, N.FloorDiv, N.Mod, N.Pow, N.Neg, N.Pos}
)
CONDITIONS: Final[frozenset[type[nodes.Node]]] = frozenset(
    {N.Compare, N.Operand, N.And, N.Or, N.Not, N.CondExpr}
)
ALLOWED: Final = STATEMENTS | VALUES | OPERATIONS | CONDITIONS
NESTING_MAX: Final = 40  # far below the limit of Python's stack
TOO_DEEP: Final = "nested too deep"
INSTEAD: Final[dict[type[nodes.Node], str]] = {
    N.Extends: "`extends` is not available: a template can't use another one",
    N.Include: "`include` is not available: a template can't use another one",
    N.Import: "`import` is not available: a template can't use another one",
    N.FromImport: "`from … import` is not available: a template can't use another one",
    N.Block: "`block` is not available: a template can't use another one",
    N.FilterBlock: "`filter` blocks are not available: use `{% set x %}…{% endset %}`, then `{{ x | filter }}`",
    N.Scope: "`autoescape` is not available: HTML is always escaped, text is not",
}
FILTERS_INSTEAD: Final[dict[str, str]] = {
    "safe": "values are always escaped in HTML; write the markup in the template",
    "striptags": "use a text variable",
    "attr": "write value.member or value[name]",
    "random": "the same input must give the same mail",
    "pprint": "use tojson",
    "xmlattr": "write the attributes in the template",
    "urlize": 'write <a href="{{ url }}">',
}


def check_language(file: str, template: nodes.Template) -> Iterator[CatalogProblem]:
    """Everything in the template that is not allowed."""
    yield from dict.fromkeys(
        _check(file, template, NESTING_MAX)
    )  # one place may be too deep in several nodes


def _check(file: str, node: nodes.Node, deeper: int) -> Iterator[CatalogProblem]:
    if deeper == 0:
        yield error(file, _line(node), TOO_DEEP)
        return
    if type(node) not in ALLOWED:
        yield error(file, _line(node), INSTEAD.get(type(node), f"{type(node).__name__} is not available"))
        return
    match node:
        case N.Filter(name=name) if name not in FILTERS:
            yield error(file, node.lineno, _unknown("filter", name, FILTERS, FILTERS_INSTEAD.get(name)))
        case N.Test(name=name) if name not in PREDICATES:
            yield error(file, node.lineno, _unknown("test", name, PREDICATES, None))
        case N.AssignBlock(filter=N.Filter()):
            # Jinja2 would treat the filter's result as markup.
            yield error(
                file, node.lineno, "a `set` block can't have a filter: apply it where the name is used"
            )
            return
        case N.CallBlock(call=N.Call(node=called)) if not isinstance(called, N.Name):
            yield error(file, node.lineno, "`call` needs the name of a macro")
        case N.Name(name="self"):
            yield error(file, node.lineno, "`self` is not available: a template can't use another one")
    for child in node.iter_child_nodes():
        yield from _check(file, child, deeper - 1)


def _line(node: nodes.Node) -> int:
    """The node's line. Nodes that Jinja2's parser adds, such as Scope, have none; then that of the first child."""
    lines: list[int | None] = [node.lineno, *(child.lineno for child in node.find_all(nodes.Node))]
    return next((line for line in lines if line is not None), 1)


def _unknown(kind: str, name: str, known: Collection[str], instead: str | None) -> str:
    hint = instead
    if hint is None and (close := difflib.get_close_matches(name, known, n=1)):
        hint = f"did you mean {close[0]!r}?"
    return f"unknown {kind} {name!r}" + (f": {hint}" if hint else "")
