"""One Lua script: its name, its text, and the SHA-1 by which Redis knows it."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from msgspec import Struct

_FOLDER: Final = Path(__file__).parent.parent / "operations"


class Script(Struct, frozen=True):
    """A script that the server runs by its SHA-1. `#!lua flags=allow-oom` may open its text."""

    name: str
    text: str
    sha: str

    @classmethod
    def of(cls, name: str, text: str) -> "Script":
        # EVALSHA names a script by the SHA-1 of its text; nothing is secret about it.
        return cls(name=name, text=text, sha=hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@cache
def script(name: str) -> Script:
    """The script in `operations/<name>.lua`. Raises FileNotFoundError where there is none."""
    return Script.of(name, (_FOLDER / f"{name}.lua").read_text(encoding="utf-8"))


@cache
def scripts() -> tuple[Script, ...]:
    """Every script that ships with the package, by name: what a new connection loads at once."""
    return tuple(script(path.stem) for path in sorted(_FOLDER.glob("*.lua")))
