"""`make bench ARGS="--against COMMIT"`: what this checkout costs beside another commit, in CPU per unit of work.

Both run in turn, pair by pair, so that both have the same minute of the same machine. What counts is the median of the
pairs' ratios. The other commit runs with the packages installed here.
"""

import io
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from msgspec import Struct

from tests.bench.backlog import drain, load
from tests.bench.figures import MS_PER_S
from tests.bench.http_load import at_full_speed, require_status
from tests.bench.login_codes import login_code_requests
from tests.bench.relay import Relay
from tests.bench.service import Service
from tests.bench.settings import CONNECTIONS, REPOSITORY, Sizes
from tests.bench.valkey import Valkey

PAIRS: Final = 10
LOGIN_CODE: Final = "login code request"
REDIS: Final = "Redis, per delivery"


class UnknownCommit(Exception):
    """Git does not know this commit."""


class Compared(Struct, frozen=True, kw_only=True):
    """One kind of work: CPU in ms, here and there, a pair each."""

    work: str
    pairs: tuple[tuple[float, float], ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Below 1, this checkout costs less."""
        return tuple(here / there for here, there in self.pairs)


def extract(commit: str, into: Path) -> Path:
    """The code of a commit in a folder of its own. Raises UnknownCommit."""
    archived = subprocess.run(
        ["git", "-C", str(REPOSITORY), "archive", "--format=tar", commit, "galaxy_mail", "templates"],
        capture_output=True,
        check=False,
    )
    if archived.returncode != 0:
        raise UnknownCommit(archived.stderr.decode(errors="replace").strip())
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as tar:
        tar.extractall(into, filter="data")
    return into


def compare(commit: str, sizes: Sizes, *, pairs: int, workdir: Path) -> list[Compared]:
    """Measures both in turn. Raises UnknownCommit, and what a broken run raises."""
    other = extract(commit, workdir / "other")
    measured: dict[str, list[tuple[float, float]]] = {}
    for number in range(pairs):
        order = (REPOSITORY, other) if number % 2 == 0 else (other, REPOSITORY)
        costs: dict[Path, dict[str, float]] = {}
        for checkout in order:
            place = workdir / f"{number}-{'other' if checkout is other else 'here'}"
            place.mkdir()
            costs[checkout] = measure_costs(checkout, sizes, place)
        for work, here in costs[REPOSITORY].items():
            measured.setdefault(work, []).append((here, costs[other][work]))
    return [Compared(work=work, pairs=tuple(costs)) for work, costs in measured.items()]


def table(commit: str, compared: Sequence[Compared]) -> str:
    """As Markdown."""
    lines = [
        f"CPU in ms of this checkout beside {commit}, {len(compared[0].pairs)} pairs; below 1, this one costs less.",
        "",
        "| work | here | there | ratio, median | min | max |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in compared:
        here, there = (median(side) for side in zip(*one.pairs, strict=True))
        lines.append(
            f"| {one.work} | {here:.3f} | {there:.3f} | {median(one.ratios):.3f} | {min(one.ratios):.3f}"
            f" | {max(one.ratios):.3f} |"
        )
    return "\n".join(lines)


def measure_costs(checkout: Path, sizes: Sizes, workdir: Path) -> dict[str, float]:
    """CPU in ms of each kind of work, by one checkout."""
    costs = {LOGIN_CODE: _login_code_ms(checkout, sizes, workdir)}
    for slots in (4, 16):
        with (
            Valkey(workdir, name=f"valkey-{slots}") as valkey,
            Relay(workdir) as relay,
            Service(workdir, valkey, relay, slots=slots, checkout=checkout) as service,
        ):
            relay.hold()
            load(valkey, service, "drain", sizes.drain)
            drained = drain(valkey, relay, service, sizes.drain)
            costs[f"delivery, {slots} slots"] = drained.cpu_ms
            if slots == 4:
                costs[REDIS] = drained.redis_cpu_s * MS_PER_S / sizes.drain
    return costs


def _login_code_ms(checkout: Path, sizes: Sizes, workdir: Path) -> float:
    requests = login_code_requests("auth")
    with (
        Valkey(workdir, name="valkey-auth") as valkey,
        Relay(workdir) as relay,
        Service(workdir, valkey, relay, checkout=checkout) as service,
    ):
        relay.hold()  # so that only the requests are measured
        at_full_speed(service.address, requests, connections=CONNECTIONS, number=sizes.intake_warm_up)
        before_s = service.cpu_s()
        answers, _ = at_full_speed(service.address, requests, connections=CONNECTIONS, number=sizes.intake)
        cpu_s = service.cpu_s() - before_s
        require_status(answers, 200)
        relay.release()
        service.wait_drained()
    return cpu_s * MS_PER_S / sizes.intake
