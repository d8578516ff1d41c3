"""Problems of a template catalog, each with its file and line."""

from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from galaxy_mail.domain.errors import GalaxyMailError


class Severity(StrEnum):
    ERROR = "error"  # the catalog can't be used: mail would not be sent, or with wrong content
    WARNING = "warning"  # probably not what the author intended


class CatalogProblem(Struct, frozen=True, kw_only=True, order=True):
    """One problem. The line is 1 if it concerns a whole file or folder."""

    file: str  # relative to the catalog's folder, with slashes
    line: int
    severity: Severity
    message: str

    def located(self, folder: Path) -> str:
        """The problem as `file:line: severity: message`, which editors can open."""
        return f"{folder / self.file}:{self.line}: {self.severity}: {self.message}"


class BrokenCatalog(GalaxyMailError):
    """The catalog has an error. `problems` has all errors and warnings, sorted by file and line."""

    def __init__(self, folder: Path, problems: tuple[CatalogProblem, ...]) -> None:
        lines = "\n".join(problem.located(folder) for problem in problems)
        super().__init__(f"the template catalog is broken:\n{lines}")
        self.folder = folder
        self.problems = problems


def error(file: str, line: int, message: str) -> CatalogProblem:
    return CatalogProblem(file=file, line=line, severity=Severity.ERROR, message=message)


def warning(file: str, line: int, message: str) -> CatalogProblem:
    return CatalogProblem(file=file, line=line, severity=Severity.WARNING, message=message)
