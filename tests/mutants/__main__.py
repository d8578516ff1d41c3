"""Applies each mutant to a copy of the checkout and runs the test that must notice it.

    python -m tests.mutants                     every mutant; takes some minutes
    python -m tests.mutants depth-stuck-at-0    those that are named

Exit status 1: some mutant was not noticed.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.mutants.mutants import Watched, checkout, noticed, read_watched
from tests.simulation.mutants import Broken, Misplaced


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = set(parser.parse_args().names)
    chosen = [watched for watched in read_watched() if not names or watched.name in names]
    if unknown := names - {watched.name for watched in chosen}:
        parser.error(f"no mutant is named {', '.join(sorted(unknown))}")
    left = iter(chosen)
    with ThreadPoolExecutor() as threads:
        survived = sum(threads.map(_run, [left] * (os.cpu_count() or 1)))
    print(f"{len(chosen)} mutants, {survived} survived")
    return 1 if survived else 0


def _run(left: Iterator[Watched]) -> int:
    """Takes mutants until none is left; how many of them were not noticed."""
    survived = 0
    with checkout() as root:
        for watched in left:
            try:
                told = "noticed" if noticed(watched, root) else "NOT NOTICED"
            except (Misplaced, Broken) as error:
                told = f"{type(error).__name__}: {error}"
            survived += told != "noticed"
            print(f"{watched.name} | {watched.mutant.breaks} | {told}", flush=True)
    return survived


if __name__ == "__main__":
    sys.exit(main())
