"""The documentation as pages: headings, links, code, tables, and the parts that are made from the code.

Only as much of Markdown as the pages use: ATX headings, fenced code, code spans, links, pipe tables.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

REPOSITORY: Final = Path(__file__).parents[2]
SPAN: Final = "span"

_FENCE: Final = re.compile(r"^ {0,3}(`{3,})([^\n`]*)\n(.*?)^ {0,3}\1`*[ \t]*$", re.MULTILINE | re.DOTALL)
_COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)
_SPAN: Final = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_HEADING: Final = re.compile(r"^(#{1,6}) +(.+?) *#* *$", re.MULTILINE)
_LINK: Final = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^()\s>]+)>?\)")
_NOT_IN_ANCHORS: Final = re.compile(r"[^\w\- ]")
_MARKED: Final = re.compile(
    r"(?P<open><!-- generated: (?P<name>[a-z-]+) -->\n)(?P<body>.*?)(?P<close><!-- /generated -->)", re.DOTALL
)
_LISTS: Final = re.compile(r"<!-- lists: (?P<name>[a-z-]+) -->\n+(?P<table>(?:\|[^\n]*\n)+)")


class Fragment(NamedTuple):
    """A piece of code in a page, and the line on which it begins."""

    line: int
    text: str
    language: str  # of a fenced block; SPAN for a span


class Link(NamedTuple):
    line: int
    target: str


class Table(NamedTuple):
    """A table that must list all of something: the code spans of its first columns, row by row."""

    name: str
    line: int
    rows: tuple[tuple[str, ...], ...]  # cells as text


class Page:
    """One Markdown file."""

    def __init__(self, path: Path, text: str | None = None) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8") if text is None else text

    @property
    def name(self) -> str:
        """Relative to the repository, as people name it."""
        return self.path.relative_to(REPOSITORY).as_posix()

    @cached_property
    def blocks(self) -> list[Fragment]:
        return [
            Fragment(self._line(match.start(3)), match[3], match[2].strip())
            for match in _FENCE.finditer(self.text)
        ]

    @cached_property
    def spans(self) -> list[Fragment]:
        return [
            Fragment(self._line(match.start()), " ".join(match[2].split()), SPAN)
            for match in _SPAN.finditer(self._prose)
        ]

    @property
    def code(self) -> Iterator[Fragment]:
        yield from self.blocks
        yield from self.spans

    @cached_property
    def links(self) -> list[Link]:
        text = _SPAN.sub(_blanked, self._prose)
        return [Link(self._line(match.start()), match[1]) for match in _LINK.finditer(text)]

    @cached_property
    def headings(self) -> list[str]:
        return [match[2] for match in _HEADING.finditer(self._prose)]

    @cached_property
    def anchors(self) -> frozenset[str]:
        """As GitHub makes them of headings: a heading that comes twice gets `-1`, and so on."""
        anchors: list[str] = []
        for heading in self.headings:
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
            anchor = _NOT_IN_ANCHORS.sub("", plain.strip().lower()).replace(" ", "-")
            repeated = sum(1 for other in anchors if other == anchor or other.rpartition("-")[0] == anchor)
            anchors.append(f"{anchor}-{repeated}" if anchor in anchors else anchor)
        return frozenset(anchors)

    @cached_property
    def generated(self) -> dict[str, str]:
        """The parts that are made from the code, by their names."""
        return {match["name"]: match["body"] for match in _MARKED.finditer(self.text)}

    @cached_property
    def tables(self) -> list[Table]:
        """The tables that claim to be complete, without their head."""
        return [
            Table(
                match["name"],
                self._line(match.start("table")),
                tuple(_cells(row) for row in match["table"].splitlines()[2:]),
            )
            for match in _LISTS.finditer(self.text)
        ]

    def written_anew(self, parts: dict[str, str]) -> str:
        """The text with its generated parts as given; a part that is not given stays."""

        def anew(match: re.Match[str]) -> str:
            return match["open"] + parts.get(match["name"], match["body"]) + match["close"]

        return _MARKED.sub(anew, self.text)

    @cached_property
    def _prose(self) -> str:
        """The text with code blocks and comments blanked, so that lines keep their numbers."""
        return _COMMENT.sub(_blanked, _FENCE.sub(_blanked, self.text))

    def _line(self, offset: int) -> int:
        return self.text.count("\n", 0, offset) + 1


def pages() -> list[Page]:
    """Every page that the product ships."""
    beside = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "templates/README.md", "tests/README.md")
    paths = [REPOSITORY / name for name in beside]
    for folder in ("docs", "deploy", "packaging"):
        paths += sorted((REPOSITORY / folder).rglob("*.md"))
    return [Page(path) for path in paths if path.exists()]


def code_spans(cell: str) -> tuple[str, ...]:
    return tuple(match[2] for match in _SPAN.finditer(cell))


def _cells(row: str) -> tuple[str, ...]:
    # A pipe within a cell is written \|, in code too.
    parts = re.split(r"(?<!\\)\|", row.strip().strip("|"))
    return tuple(part.strip().replace("\\|", "|") for part in parts)


def _blanked(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])
