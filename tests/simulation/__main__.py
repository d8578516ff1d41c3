"""`python -m tests.simulation --seeds N [--first S]`: explores seeds and prints the history of one that fails."""

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.simulation.pool import run_seeds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--history", type=Path, help="write the history of each failing seed into this folder"
    )
    parser.add_argument("--until-failure", action="store_true", help="end with the first seed that fails")
    parser.add_argument("--show", action="store_true", help="print the history of every seed")
    arguments = parser.parse_args()
    started_s = time.monotonic()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    size = 5 if arguments.until_failure else 25
    chunks = [seeds[start : start + size] for start in range(0, len(seeds), size)]
    counts: Counter[str] = Counter()
    failed = done = 0
    virtual_s = 0.0
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        for runs in pool.map(run_seeds, chunks):
            for run in runs:
                done += 1
                virtual_s += run.virtual_s
                counts.update(run.counts)
                if run.violations:
                    failed += 1
                    print(f"seed {run.seed} FAILED:", *run.violations, sep="\n  ")
                    if failed == 1 and not arguments.history and not arguments.until_failure:
                        print(*run.history, sep="\n")
                    if arguments.history:
                        (arguments.history / f"{run.seed}.txt").write_text("\n".join(run.history))
                elif arguments.show:
                    print(*run.history, sep="\n")
            print(f"{done} seeds, {failed} failed", file=sys.stderr)
            if failed and arguments.until_failure:
                pool.shutdown(cancel_futures=True)
                return 1
    print(
        f"{done} seeds, {virtual_s / 3600:.1f} virtual hours in {time.monotonic() - started_s:.1f} s, {failed} failed"
    )
    print("faults: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
