"""Rewrites a checked template so that all its work is counted.

A Jinja2 environment can intercept calls, filters and arithmetic. Jinja2 compiles loops, `~`, comparisons and slices to
plain Python, so this module replaces them by internal filters. Templates can't use the names of those.
"""

# ruff: noqa: N802  # Jinja2 finds a visitor's methods by the nodes' names

from collections.abc import Callable, Mapping
from typing import Any, Final

from jinja2 import nodes, pass_context
from jinja2.visitor import NodeTransformer

from galaxy_mail.rendering.sandbox import MeteredContext, as_text, joined

ITERATE: Final = "(iterate)"
CONCATENATE: Final = "(concatenate)"
WEIGH: Final = "(weigh)"
SLICE: Final = "(slice)"


@pass_context
def iterate(context: MeteredContext, _: object, count: int, chars: int) -> bool:
    context.meter.iterate(count, chars)
    return True


@pass_context
def concatenate(context: MeteredContext, *values: object) -> str:
    meter = context.meter
    text = joined([as_text(meter, value) for value in values])
    meter.build(len(text))
    return text


@pass_context
def weigh(context: MeteredContext, value: object) -> object:
    context.meter.weigh(value)
    return value


@pass_context
def cut(context: MeteredContext, value: Any, start: Any, stop: Any, step: Any) -> Any:
    context.meter.touch(value)
    return value[start:stop:step]


INTERNAL_FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    ITERATE: iterate,
    CONCATENATE: concatenate,
    WEIGH: weigh,
    SLICE: cut,
}


class Metering(NodeTransformer):
    """Visits a template once, after all checks and after its variables were collected."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        price = _price(node.body)
        if node.test is not None:
            # An element that the test rejects counts, too, though the body doesn't run.
            node.test = nodes.And(_iterate(node.test.lineno, _price([node.test])), node.test)
        node.body.insert(0, nodes.ExprStmt(_iterate(node.lineno, price), lineno=node.lineno))
        return self.generic_visit(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._body(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._body(node)

    def _body(self, node: nodes.Macro | nodes.CallBlock) -> nodes.Node:
        node.body.insert(0, nodes.ExprStmt(_iterate(node.lineno, _price(node.body)), lineno=node.lineno))
        return self.generic_visit(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        first, *others = node.nodes
        return _internal(CONCATENATE, first, *others, lineno=node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        first, *others = node.ops
        literal = isinstance(node.expr, nodes.Const) or isinstance(first.expr, nodes.Const)
        if literal and not others and first.op not in ("in", "notin"):
            return node  # the cost is at most the literal's length
        node.expr = _weigh(node.expr)
        for operand in node.ops:
            operand.expr = _weigh(operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = [bound or nodes.Const(None) for bound in (node.arg.start, node.arg.stop, node.arg.step)]
        return _internal(SLICE, node.node, *bounds, lineno=node.lineno)


def _internal(name: str, first: nodes.Expr, *others: nodes.Expr, lineno: int) -> nodes.Filter:
    return nodes.Filter(first, name, list(others), [], None, None, lineno=lineno)


def _weigh(expression: nodes.Expr) -> nodes.Expr:
    if isinstance(expression, nodes.Const):
        return expression
    return _internal(WEIGH, expression, lineno=expression.lineno)


def _price(body: list[nodes.Node]) -> tuple[int, int]:
    """Nodes and characters of literal text in one run of `body`. A nested body counts here, and again whenever it runs."""
    count = chars = 0
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        count += 1
        if isinstance(node, nodes.TemplateData):
            chars += len(node.data)
        waiting.extend(node.iter_child_nodes())
    return count, chars


def _iterate(lineno: int, price: tuple[int, int]) -> nodes.Expr:
    count, chars = price
    return _internal(ITERATE, nodes.Const(None), nodes.Const(count), nodes.Const(chars), lineno=lineno)
