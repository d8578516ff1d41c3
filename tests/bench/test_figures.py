"""What is computed from measurements, and how it is reported."""

import pytest

from tests.bench.catalog import PARTS, RATIOS, Limit, at_least, at_most, with_ratios
from tests.bench.figures import Figure, percentile, summarise
from tests.bench.report import Result, markdown, missed


def _result(*runs: list[Figure]) -> Result:
    return Result(
        quick=False, measured_at="", machine={}, runs=tuple(tuple(with_ratios(run)) for run in runs)
    )


def test_a_percentile_is_a_sample_that_enough_others_do_not_exceed() -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert [percentile(samples, percent) for percent in (1, 50, 99, 100)] == [1.0, 50.0, 99.0, 100.0]
    assert percentile([3.0], 99) == 3.0


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


def test_the_median_run_counts_and_all_are_kept() -> None:
    runs = [[Figure(key="a", value=value, note="n")] for value in (3.0, 1.0, 2.0)]
    summary = summarise(runs)["a"]
    assert (summary.median, summary.runs, summary.notes) == (2.0, (3.0, 1.0, 2.0), ("n",))


def test_a_ratio_is_of_one_run_and_then_the_median() -> None:
    """The median of ratios is not the ratio of medians: 2, 4 and 1 here."""
    runs = [
        [Figure(key="drain_16.rate", value=ours), Figure(key="celery.rate", value=theirs)]
        for ours, theirs in ((200.0, 100.0), (400.0, 100.0), (300.0, 300.0))
    ]
    assert summarise(_result(*runs).runs)["ratio.drain_16"].median == 2.0


@pytest.mark.parametrize(
    ("limit", "value", "met"),
    [(at_least(5), 5, True), (at_least(5), 4.99, False), (at_most(5), 5, True), (at_most(5), 5.01, False)],
)
def test_a_limit_includes_its_bound(limit: Limit, value: float, met: bool) -> None:
    assert limit.is_met(value) is met


def test_the_report_says_which_limits_are_missed_and_by_how_much() -> None:
    result = _result(
        [
            Figure(key="drain_16.rate", value=600.0),
            Figure(key="drain_4.rate", value=600.0),
            Figure(key="celery.rate", value=100.0),
            Figure(key="rest.rss", value=100e6),
        ]
    )
    report = markdown(result)
    assert "| 16 slots, to Celery | 6.00 × |  | ≥ 8.00 × | **missed** by 25% |" in report
    assert "| 4 slots (default), to Celery | 6.00 × |  | ≥ 5.00 × | **met** |" in report
    assert "| resident memory at rest | 100.0 MB |  | ≤ 80.0 MB | aim missed by 25% |" in report
    assert len(missed(result)) == 2


def test_a_section_that_failed_is_in_the_report() -> None:
    result = Result(quick=True, measured_at="", machine={}, runs=((),), failures=("drain, run 1: WorkLost",))
    assert "drain, run 1: WorkLost" in markdown(result)


def test_no_figure_is_in_the_report_twice_within_a_part() -> None:
    for part in PARTS:
        keys = [row.key for row in part.rows]
        assert len(keys) == len(set(keys)), part.title


def test_every_ratio_has_its_row() -> None:
    assert set(RATIOS) <= {row.key for part in PARTS for row in part.rows}
