"""Finds the licenses of everything that is frozen, which most of them ask to go along."""

import os
import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

LICENSE = re.compile(r"licen[cs]e|copying|notice", re.IGNORECASE)


def distributions(name: str, extras: tuple[str, ...]) -> dict[str, Distribution]:
    """This distribution with these extras and all that it requires on this system, by name."""
    found: dict[str, Distribution] = {}

    def require(name: str, extras: tuple[str, ...]) -> None:
        one = distribution(name)
        key = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
        if key in found:
            return
        found[key] = one
        for requirement in map(Requirement, one.requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                require(requirement.name, tuple(requirement.extras))

    require(name, extras)
    return found


def license_files(name: str, *extras: str) -> Iterator[tuple[Path, str]]:
    """Each file, and the folder beneath `licenses/` that it belongs into."""
    for key, one in distributions(name, extras).items():
        for file in one.files or ():
            path = Path(str(one.locate_file(file)))
            if ".dist-info" in str(file) and LICENSE.search(file.name) and path.is_file():
                yield path, key
    of_python = Path(os.__file__).with_name("LICENSE.txt")
    if of_python.is_file():
        yield of_python, "python"
