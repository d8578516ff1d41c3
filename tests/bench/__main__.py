"""`make bench`: measures the service beside its yardsticks. Never asserts a speed: it exits 0 whatever the figures are.

Writes `build/bench/bench.md` and `bench.json`, and with `--report` `docs/performance.md`.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from msgspec import json

from tests.bench.against import PAIRS, UnknownCommit, compare, table
from tests.bench.catalog import with_ratios
from tests.bench.figures import Figure
from tests.bench.process import OTHERS_CORE, Disturbance, pin_self
from tests.bench.report import Result, describe_machine, markdown, missed, utc_now
from tests.bench.sections import (
    auth,
    bare_route,
    celery,
    drain,
    ingest,
    lanes,
    mail,
    pages,
    plain_sender,
    profile,
    redis_memory,
    scaling,
    sending,
    start,
    stream,
)
from tests.bench.settings import FULL, QUICK, REPOSITORY, Settings

Section = Callable[[Settings], list[Figure]]

OUTPUT_DIR: Final = REPOSITORY / "build" / "bench"
REPORT: Final = REPOSITORY / "docs" / "performance.md"

# In the order in which a run goes: a yardstick stands before what is held against it.
SECTIONS: Final[dict[str, Section]] = {
    "start": start.measure,
    "bare-route": bare_route.measure,
    "auth": auth.measure,
    "plain-sender": plain_sender.measure,
    "celery": celery.measure,
    "drain": drain.measure,
    "sending": sending.measure,
    "ingest": ingest.measure,
    "stream": stream.measure,
    "lanes": lanes.measure,
    "scaling": scaling.measure,
    "memory": redis_memory.measure,
    "pages": pages.measure,
    "mail": mail.measure,
    "profile": profile.measure,
}
NEEDS: Final = {"auth": {"bare-route"}, "drain": {"celery"}, "sending": {"celery"}}
GROUPS: Final = {"yardsticks": {"bare-route", "plain-sender", "celery"}}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short run")
    parser.add_argument("--runs", type=int, help="how many runs the medians are of (3)")
    parser.add_argument(
        "--only",
        help=f"sections, separated by commas: {', '.join((*GROUPS, *SECTIONS))}; yardsticks come along",
    )
    parser.add_argument("--report", action="store_true", help="write docs/performance.md too")
    parser.add_argument(
        "--render", action="store_true", help="measure nothing: write the reports of the last run anew"
    )
    parser.add_argument("--keep", action="store_true", help="leave logs and data, and say where")
    parser.add_argument("--against", metavar="COMMIT", help="only compare CPU per unit of work with a commit")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"of runs, for --against ({PAIRS})")
    asked = parser.parse_args(arguments)
    if asked.render:
        _write(json.decode((OUTPUT_DIR / "bench.json").read_bytes(), type=Result), report=asked.report)
        return 0
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        parser.error("needs Linux and two cores: one for the service, one for everything else")
    try:
        chosen = _chosen(asked.only)
    except KeyError as unknown:
        parser.error(f"no section {unknown}")

    pin_self(OTHERS_CORE)
    workdir = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        if asked.against is not None:
            sizes = QUICK if asked.quick else FULL
            try:
                compared = compare(asked.against, sizes, pairs=asked.pairs, workdir=workdir)
            except UnknownCommit as unknown:
                parser.error(f"--against {asked.against}: {unknown}")
            print(table(asked.against, compared))
            return 0
        result = measure(
            chosen, runs=asked.runs or (1 if asked.quick else 3), quick=asked.quick, workdir=workdir
        )
    finally:
        if asked.keep:
            print(f"logs and data: {workdir}", file=sys.stderr)
        else:
            shutil.rmtree(workdir)
    OUTPUT_DIR.mkdir(parents=True, exist_ok=True)
    (OUTPUT_DIR / "bench.json").write_bytes(json.format(json.encode(result), indent=1))
    _write(result, report=asked.report)
    for line in missed(result):
        print(f"not reached: {line}", file=sys.stderr)
    for line in result.failures:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if result.failures else 0


def _write(result: Result, *, report: bool) -> None:
    text = markdown(result)
    (OUTPUT_DIR / "bench.md").write_text(text)
    if report:
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(text)
    print(text)


def measure(chosen: Sequence[str], *, runs: int, quick: bool, workdir: Path) -> Result:
    """All chosen sections, `runs` times over."""
    shared = workdir / "shared"
    shared.mkdir()
    figures: list[tuple[Figure, ...]] = []
    failures: list[str] = []
    for run in range(1, runs + 1):
        of_run: list[Figure] = []
        for name in chosen:
            section_dir = workdir / f"{run}-{name}"
            section_dir.mkdir()
            settings = Settings(sizes=QUICK if quick else FULL, workdir=section_dir, shared=shared)
            started_s, disturbance = time.monotonic(), Disturbance()
            try:
                of_run += SECTIONS[name](settings)
            except Exception as error:  # noqa: BLE001  # whatever it is: the other sections still have their say
                traceback.print_exc()
                failures.append(f"{name}, run {run}: {type(error).__name__}: {str(error).strip()[-300:]}")
            others = disturbance.share()
            of_run.append(Figure(key=f"others/{name}", value=others * 100))
            took_s = time.monotonic() - started_s
            print(
                f"run {run}: {name}: {took_s:.0f} s, {others:.0%} of the machine taken by others",
                file=sys.stderr,
            )
        figures.append(tuple(with_ratios(of_run)))
    return Result(
        quick=quick,
        measured_at=utc_now(),
        machine=describe_machine(),
        runs=tuple(figures),
        failures=tuple(failures),
    )


def _chosen(only: str | None) -> list[str]:
    """The sections asked for and what they are held against, in order. Raises KeyError for an unknown one."""
    if only is None:
        return list(SECTIONS)
    wanted: set[str] = set()
    for name in only.split(","):
        if name not in SECTIONS and name not in GROUPS:
            raise KeyError(name)
        wanted |= GROUPS.get(name, {name}) | NEEDS.get(name, set())
    return [name for name in SECTIONS if name in wanted]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
