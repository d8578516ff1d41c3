"""Mutants of what a whole service is made of, each with the test that must notice it: `mutants.diff` beside this file.

Those of `tests/simulation` break a guarantee of the store, and seeds find them. These break a setting, a metric, a span or
a deadline, and the test of exactly this must fail.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.simulation.mutants import Broken, Mutant, copy_checkout, edited, read_mutants

MUTANTS: Final = Path(__file__).with_name("mutants.diff")
TEST_WITHIN_S: Final = 15  # a mutant may hang its test, and that is noticed too
PROCESS_WITHIN_S: Final = 120.0
PASSED, FAILED = 0, 1  # exit statuses of pytest; a module that does not import, or no such test, has another


class Watched(Struct, frozen=True):
    """A mutant, and the test that must notice it."""

    mutant: Mutant
    test: str

    @property
    def name(self) -> str:
        return self.mutant.name


def read_watched() -> list[Watched]:
    """As in `tests/simulation/mutants.diff`, with a line `= test` under each title."""
    return [_watched(mutant) for mutant in read_mutants(MUTANTS)]


def _watched(mutant: Mutant) -> Watched:
    breaks, _, test = mutant.breaks.partition("\n= ")
    return Watched(Mutant(mutant.name, breaks, mutant.edits), test)


@contextmanager
def checkout() -> Iterator[Path]:
    """A copy of the checkout, to break."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy_checkout(Path(folder))
        yield Path(folder)


def noticed(watched: Watched, root: Path) -> bool:
    """Whether the test fails where the copy at `root` has the mutant. Raises Misplaced, Broken."""
    before = {path: path.read_text(encoding="utf-8") for path in edited(watched.mutant, root)}
    for path, text in edited(watched.mutant, root).items():
        path.write_text(text, encoding="utf-8")
    try:
        return _fails(watched.test, root)
    finally:
        for path, text in before.items():
            path.write_text(text, encoding="utf-8")


def _fails(test: str, root: Path) -> bool:
    """Raises Broken where the test neither passes nor fails."""
    # A folder of its own: pytest's default is cleared by every run, and runs at the same time stumble over that.
    options = (
        "-q",
        "-p",
        "no:cacheprovider",
        f"--timeout={TEST_WITHIN_S}",
        f"--basetemp={root / 'temporary'}",
    )
    pytest = ["-m", "pytest", *options, test]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    process = subprocess.Popen(
        [sys.executable, "-B", *pytest],
        cwd=root,
        env={**outside, "PYTHONPATH": str(root), "HOME": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=PROCESS_WITHIN_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode not in {PASSED, FAILED}:
        raise Broken(output)
    return process.returncode == FAILED
