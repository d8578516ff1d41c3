"""What is wrong with a catalog, each thing with its file and line."""

from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from galaxy_mail.domain.errors import GalaxyMailError


class Severity(StrEnum):
    ERROR = "error"  # mail would not be sent, or not as meant: the catalog is broken
    WARNING = "warning"  # probably not what the author meant


class CatalogProblem(Struct, frozen=True, kw_only=True, order=True):
    """One thing to mend. Where a whole file or folder is at fault, the line is 1."""

    file: str  # relative to the catalog's folder, with slashes
    line: int
    severity: Severity
    message: str

    def located(self, folder: Path) -> str:
        """The problem as a line that editors know to open."""
        return f"{folder / self.file}:{self.line}: {self.severity}: {self.message}"


class BrokenCatalog(GalaxyMailError):
    """The catalog can't be used. `problems` has all of them (warnings too), by file and line."""

    def __init__(self, folder: Path, problems: tuple[CatalogProblem, ...]) -> None:
        lines = "\n".join(problem.located(folder) for problem in problems)
        super().__init__(f"the template catalog is broken:\n{lines}")
        self.folder = folder
        self.problems = problems


def error(file: str, line: int, message: str) -> CatalogProblem:
    return CatalogProblem(file=file, line=line, severity=Severity.ERROR, message=message)


def warning(file: str, line: int, message: str) -> CatalogProblem:
    return CatalogProblem(file=file, line=line, severity=Severity.WARNING, message=message)
