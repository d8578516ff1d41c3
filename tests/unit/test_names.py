"""One name for one thing: no two classes of the package share a name."""

import ast
from collections import defaultdict
from pathlib import Path
from typing import Final

import galaxy_mail

ROOT: Final = Path(galaxy_mail.__file__).parent


def test_no_two_classes_share_a_name() -> None:
    """`_Part` and `Part` would be one name for two things."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert len(places) > 300  # the package was found
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
