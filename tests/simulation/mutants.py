"""Breaks one guarantee at a time in a copy of the checkout, and says what notices it.

    python -m tests.simulation.mutants                 every mutant, a thousand seeds each at most, then the tests
    python -m tests.simulation.mutants release-unfenced --seeds 100
    python -m tests.simulation.mutants --write         writes what it found into the page of the decision
    python -m tests.simulation.mutants --check         only whether every edit still finds its place

What noticed a mutant by the page is asked first. A mutant that nothing notices is a hole in the proof, and the exit
status 1.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

CHECKOUT: Final = Path(__file__).parents[2]
MUTANTS: Final = Path(__file__).with_name("mutants.diff")
PAGE: Final = CHECKOUT / "docs" / "decisions" / "0028-the-proof-can-fail.md"
TABLE: Final = re.compile(r"(<!-- mutants -->\n\n)(.*?)(\n<!-- /mutants -->)", re.DOTALL)
ROW: Final = re.compile(r"^\| `([a-z-]+)` \| (.*?) \| (.*?) \|$", re.MULTILINE)
NOT_YET: Final = "-"
NOTHING: Final = "NOTHING"
COPIED: Final = ("galaxy_mail", "templates", "tests", "docs", "pyproject.toml")
NEEDLESS: Final = {"__pycache__", "bench", "chaos", "e2e", "relays"}  # of the tests
CELL_CHARS: Final = 140
SIMULATION_WITHIN_S: Final = 1_200.0
TESTS_WITHIN_S: Final = 900.0
TESTS: Final = (  # without those of the way to Redis, which no mutant touches
    "tests/integration/storage/test_scripts.py",
    "tests/integration/storage/test_store.py",
    "tests/integration/storage/test_hold_store.py",
    "tests/integration/storage/test_command_stream.py",
    "tests/integration/storage/test_upkeep.py",
    "tests/integration/actors",
    "tests/integration/storage/test_unreadable_records.py",
    "tests/integration/intake",
    "tests/integration/service",
    "tests/unit/domain",
    "tests/unit/actors",
    "tests/unit/relays",
    "tests/unit/storage",
)


class Edit(Struct, frozen=True):
    """Lines that stand once in their file, and what stands there instead."""

    file: str
    old: str
    new: str


class Mutant(Struct, frozen=True):
    name: str
    breaks: str  # the guarantee that does not hold any more
    edits: tuple[Edit, ...]


class Misplaced(Exception):
    """A mutant's text does not stand once where it is looked for: the code has moved on, and so must the mutant."""


def read_mutants(file: Path = MUTANTS) -> list[Mutant]:
    """What `mutants.diff` says: `# name: what it breaks`, `@ file`, and lines as in a patch (-old, +new, both)."""
    mutants: list[Mutant] = []
    for block in re.split(r"^# ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, *hunks = re.split(r"^@ ", block, flags=re.MULTILINE)
        name, _, breaks = title.strip().partition(": ")
        mutants.append(Mutant(name, breaks, tuple(map(_edit, hunks))))
    return mutants


def _edit(hunk: str) -> Edit:
    file, *lines = hunk.rstrip("\n").split("\n")
    old = "".join(f"{line[1:]}\n" for line in lines if line[:1] in {"-", " "})
    return Edit(file, old, "".join(f"{line[1:]}\n" for line in lines if line[:1] in {"+", " "}))


class Broken(Exception):
    """It does not even start: what notices that proves nothing."""


def edited(mutant: Mutant, root: Path) -> dict[Path, str]:
    """The mutant's files and their texts with its edits. Raises Misplaced."""
    texts: dict[Path, str] = {}
    for edit in mutant.edits:
        path = root / edit.file
        text = texts.get(path) or path.read_text(encoding="utf-8")
        if text.count(edit.old) != 1:
            raise Misplaced(f"{edit.file} has {text.count(edit.old)} times {edit.old!r}")
        texts[path] = text.replace(edit.old, edit.new)
    return texts


def copy_checkout(to: Path) -> None:
    def ignored(folder: str, names: list[str]) -> set[str]:
        needless = NEEDLESS if Path(folder) == CHECKOUT / "tests" else {"__pycache__"}
        return needless & set(names)

    for name in COPIED:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=ignored)
        else:
            shutil.copy(source, to / name)


def noticed_by_seed(root: Path, seeds: int, *, first: int = 0) -> str | None:
    """The first seed that fails, and what was wrong with it. Raises Broken."""
    arguments = ["-m", "tests.simulation", "--until-failure", "--first", str(first), "--seeds", str(seeds)]
    output = _run(root, arguments, SIMULATION_WITHIN_S)
    if output is None:
        return "the simulation does not end"
    found = re.search(r"^seed (\d+) FAILED:\n +(.*)$", output, re.MULTILINE)
    if found is not None:
        return f"seed {found[1]}: {_short(found[2])}"
    if re.search(r"^\d+ seeds, .* virtual hours in .* 0 failed$", output, re.MULTILINE) is None:
        raise Broken(output)
    return None


def noticed_by_test(root: Path, tests: Sequence[str] = TESTS, *, less: Sequence[str] = ()) -> str | None:
    """The first test that fails, by its name without its parameters; those in `less` are left out. Raises Broken."""
    chosen = [test for test in tests if (root / test.partition("::")[0]).exists()]
    if not chosen:
        return None
    left_out = [f"--deselect={test}" for test in less]
    arguments = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *chosen, *left_out]
    output = _run(root, arguments, TESTS_WITHIN_S)
    if output is None:
        return "the tests do not end"
    found = re.search(r"^(?:FAILED|ERROR) ([^\s\[]+::[^\s\[]+)", output, re.MULTILINE)
    if found is not None:
        return found[1]
    if re.search(r"^\d+ passed", output, re.MULTILINE) is None:
        raise Broken(output)
    return None


def _noticed_again(root: Path, before: str) -> str | None:
    """What the same seed or test has to say here. Raises Broken."""
    if (seed := re.match(r"seed (\d+):", before)) is not None:
        return noticed_by_seed(root, 1, first=int(seed[1]))
    return noticed_by_test(root, [before]) if "::" in before else None


def _short(text: str) -> str:
    """For a cell of a table."""
    text = text.replace("|", "/")
    return text if len(text) <= CELL_CHARS else text[:CELL_CHARS].rpartition(" ")[0] + " ..."


def _run(root: Path, arguments: Sequence[str], within_s: float) -> str | None:
    """What it printed; None where it did not end, and then all that it started is ended with it."""
    process = subprocess.Popen(
        [sys.executable, "-B", *arguments],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "HOME": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        return process.communicate(timeout=within_s)[0]
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def read_page() -> dict[str, str]:
    """By a mutant's name, what the page says that notices it."""
    if not PAGE.exists():
        return {}
    return {name: noticed for name, _, noticed in ROW.findall(PAGE.read_text(encoding="utf-8"))}


def write_page(noticed: Mapping[str, str]) -> None:
    """One row for each mutant that there is."""
    rows = [f"| `{m.name}` | {m.breaks} | {noticed.get(m.name, NOT_YET)} |" for m in read_mutants()]
    table = "\n".join(["| mutant | breaks | noticed by |", "| --- | --- | --- |", *rows, ""])
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda found: found[1] + table + found[3], text), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--check", action="store_true", help="apply the edits, run nothing")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(CHECKOUT)}")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in read_mutants() if not arguments.names or mutant.name in arguments.names]
    survived = 0
    with tempfile.TemporaryDirectory(prefix="unbroken-") as folder:
        unbroken = Path(folder)
        if not arguments.check:
            copy_checkout(unbroken)
        for mutant in chosen:
            try:
                if arguments.check:
                    edited(mutant, CHECKOUT)
                    continue
                noticed = _noticed(mutant, arguments.seeds, unbroken)
            except (Misplaced, Broken) as error:
                print(f"{mutant.name} | {type(error).__name__}: {error}", flush=True)
                survived += 1
                continue
            survived += noticed is None
            print(f"{mutant.name} | {mutant.breaks} | {noticed or NOTHING}", flush=True)
            if arguments.write:
                write_page({**read_page(), mutant.name: noticed or NOTHING})
    return 1 if survived else 0


def _noticed(mutant: Mutant, seeds: int, unbroken: Path) -> str | None:
    """What notices this mutant, and nothing where it is not broken. Raises Misplaced, Broken."""
    before = read_page().get(mutant.name, NOT_YET)
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        root = Path(folder)
        copy_checkout(root)
        for path, text in edited(mutant, root).items():
            path.write_text(text, encoding="utf-8")
        noticed = _noticed_again(root, before)
        if noticed is not None and "::" in noticed and _noticed_again(unbroken, noticed) is not None:
            noticed = None
        noticed = noticed or noticed_by_seed(root, seeds)
        if noticed is not None:
            return noticed
        fell_by_chance: list[str] = []  # on a busy machine, or without the mutant, too
        while (noticed := noticed_by_test(root, less=fell_by_chance)) is not None:
            if "::" not in noticed or (
                _noticed_again(root, noticed) is not None and _noticed_again(unbroken, noticed) is None
            ):
                return noticed
            fell_by_chance.append(noticed)
    return None


if __name__ == "__main__":
    sys.exit(main())
