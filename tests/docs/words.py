"""Plain words: no name has a word of `words.txt`, and no text has a sentence that is `Never` and a colon.

Names are those of classes, functions, modules, files and folders of the package and of the tests.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.docs.pages import REPOSITORY

WORDS: Final = Path(__file__).with_name("words.txt")
NAMED: Final = ("galaxy_mail", "tests")  # whose names are looked at
WRITTEN: Final = (
    *NAMED,
    "docs",
    "deploy",
    "packaging",
    "templates",
)  # whose text is, with the files beside these folders
TEXTS: Final = {".diff", ".html", ".json", ".lua", ".md", ".py", ".spec", ".tmpl", ".toml", ".txt", ".yaml"}

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_LUA_FUNCTION: Final = re.compile(r"\bfunction +([\w.:]+)|([\w.]+) *= *function\b")
_NEVER: Final = re.compile(r"\bNever\**:")


def problems(repository: Path = REPOSITORY) -> Iterator[str]:
    """What is not said plainly in the files below `repository`."""
    replacements = replacement_of()
    for path in _below(repository, NAMED):
        relative = path.relative_to(repository).as_posix()
        for where, name in _names(path, relative):
            for word in unfit(name, replacements):
                yield f"{where}: {name} has the word {word}; plainer: {replacements[word]}"
    for path in (*_below(repository, WRITTEN), *sorted(repository.iterdir())):
        for number, line in enumerate(_text(path).splitlines(), start=1):
            if _NEVER.search(line):
                yield f"{path.relative_to(repository).as_posix()}:{number}: say what to do instead of what never is"


def replacement_of() -> dict[str, str]:
    """The listed words, each with what to say in its place."""
    lines = WORDS.read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines if not line.startswith("#"))


def unfit(name: str, words: Mapping[str, str]) -> list[str]:
    """The words of a name that it may not have."""
    parts = [part.lower() for part in _WORD.findall(name)]
    return [
        part
        for part, following in zip(parts, [*parts[1:], ""], strict=True)
        if part in words and (part, following) not in {("epoch", "ms"), ("epoch", "milliseconds")}
    ]


def _below(repository: Path, folders: tuple[str, ...]) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in sorted((repository / folder).rglob("*")) if path.suffix != ".pyc")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.suffix in TEXTS and path.is_file() else ""


def _names(path: Path, relative: str) -> Iterator[tuple[str, str]]:
    """The names that a path brings, each with where it stands."""
    yield relative, path.name
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(_text(path))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{relative}:{node.lineno}", node.name
    elif path.suffix == ".lua":
        for number, line in enumerate(_text(path).splitlines(), start=1):
            for match in _LUA_FUNCTION.finditer(line):
                yield f"{relative}:{number}", match[1] or match[2]
