"""What a run measures: named figures, and what several runs say together."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Final

from msgspec import Struct

MS_PER_S: Final = 1000.0
NS_PER_MS: Final = 1_000_000


class Figure(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measured number. Its `key` names it in every report; what it means stands in `catalog.py`."""

    key: str  # "drain_16.rate"
    value: float
    note: str | None = None  # what a reader must know to trust it


class Summary(Struct, frozen=True, kw_only=True):
    """One figure over all runs."""

    key: str
    median: float
    runs: tuple[float, ...]
    notes: tuple[str, ...] = ()


def summarise(runs: Sequence[Iterable[Figure]]) -> Mapping[str, Summary]:
    """The median of each figure, by key, in the order in which the figures first came."""
    values: dict[str, list[float]] = {}
    notes: dict[str, dict[str, None]] = {}
    for figures in runs:
        for figure in figures:
            values.setdefault(figure.key, []).append(figure.value)
            if figure.note is not None:
                notes.setdefault(figure.key, {})[figure.note] = None
    return {
        key: Summary(key=key, median=median(of_key), runs=tuple(of_key), notes=tuple(notes.get(key, ())))
        for key, of_key in values.items()
    }


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` per cent of them do not exceed (nearest rank).

    Raises ValueError without samples: a section that measured nothing must not report a zero.
    """
    if not samples:
        raise ValueError("no samples")
    rank = math.ceil(len(samples) * percent / 100)
    return sorted(samples)[max(rank, 1) - 1]


def latencies(prefix: str, samples_ms: Sequence[float], *, note: str | None = None) -> list[Figure]:
    """p50, p95 and p99 of some latencies, as figures `<prefix>.p50` and so on."""
    return [
        Figure(key=f"{prefix}.p{percent}", value=percentile(samples_ms, percent), note=note)
        for percent in (50, 95, 99)
    ]
