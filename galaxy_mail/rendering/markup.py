"""Checks HTML parts for places where escaping a value would not be enough."""

import re
from collections.abc import Iterator
from typing import Final

from jinja2 import nodes

from galaxy_mail.rendering.catalog_problems import CatalogProblem, error

_TAG_START: Final = re.compile(r"<[A-Za-z/]")
_RAW_TEXT: Final = re.compile(r"<(/?)(script|style)\b", re.IGNORECASE)
_PLACEHOLDER: Final = "x"  # replaces a value in the checked source


def check_markup(file: str, tree: nodes.Template) -> Iterator[CatalogProblem]:
    """Finds values in a tag outside of quotes and values in scripts and styles."""
    tail = ""  # the source from the last `<` on, with values replaced
    raw = ""  # the element's name inside of "script" or "style"
    for node in _in_order(tree):
        if isinstance(node, nodes.TemplateData):
            for closing, name in _RAW_TEXT.findall(node.data):
                raw = "" if closing else name.lower()
            tail += node.data
            tail = tail[max(tail.rfind("<"), 0) :]
            continue
        if raw and not _in_tag(tail):
            yield error(file, node.lineno, f"a value inside of <{raw}>, where escaping does not protect")
        elif _in_tag(tail) and not _in_quotes(tail):
            yield error(
                file, node.lineno, "a value in a tag, outside of quotes: put the attribute's value in quotes"
            )
        tail += _PLACEHOLDER


def _in_order(node: nodes.Node) -> Iterator[nodes.Node]:
    """Literal text and printed expressions in the source's order."""
    for child in node.iter_child_nodes():
        if isinstance(node, nodes.Output):
            yield child
        else:
            yield from _in_order(child)


def _in_tag(tail: str) -> bool:
    return bool(_TAG_START.match(tail)) and ">" not in _outside_quotes(tail)


def _in_quotes(tail: str) -> bool:
    return _open_quote(tail) != ""


def _open_quote(tail: str) -> str:
    quote = ""
    for character in tail:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
    return quote


def _outside_quotes(tail: str) -> str:
    return re.sub(r"\"[^\"]*(?:\"|\Z)|'[^']*(?:'|\Z)", "", tail)
