"""Counters and histograms as plain numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.telemetry.series import OTHER, SERIES_MAX, Counter, Histogram

BOUNDS = (0.1, 1, 10)


def samples(series: Counter | Histogram) -> dict[tuple[str, ...], float]:
    [family] = series.collect()
    return {(sample.name, *sample.labels.values()): sample.value for sample in family.samples}


def test_a_counter_counts_by_its_labels() -> None:
    counter = Counter("c", "help", ("source",), [("a",), ("b",)])
    counter.add("a")
    counter.add("a", count=3)
    counter.add("new")
    assert samples(counter) == {("c_total", "a"): 4, ("c_total", "b"): 0, ("c_total", "new"): 1}
    assert counter.value("a") == 4
    assert counter.value("unheard-of") == 0


def test_a_counter_without_labels_starts_at_zero() -> None:
    counter = Counter("c", "help")
    assert samples(counter) == {("c_total",): 0}
    counter.add()
    assert samples(counter) == {("c_total",): 1}


def test_nobody_can_fill_the_memory_with_labels() -> None:
    counter = Counter("c", "help", ("route", "status"), ())
    histogram = Histogram("h", "help", BOUNDS, "template")
    for number in range(3 * SERIES_MAX):
        counter.add(f"/{number}", "200")
        histogram.observe(0.5, f"t{number}")
    assert len(samples(counter)) == SERIES_MAX + 1
    assert counter.value(OTHER, OTHER) == 2 * SERIES_MAX
    assert histogram.count(OTHER) == 2 * SERIES_MAX
    assert counter.value("/0", "200") == histogram.count("t0") == 1


@pytest.mark.parametrize("labels", [(), ("a", "b")])
def test_a_label_too_many_or_too_few_is_a_bug(labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="has the labels"):
        Counter("c", "help", ("source",), ()).add(*labels)
    with pytest.raises(ValueError, match="has the label"):
        Histogram("h", "help", BOUNDS, None if labels else "lane").observe(1, "a" if labels else "")


@given(st.lists(st.floats(0, 100) | st.sampled_from(BOUNDS)))
def test_a_histogram_has_everything_it_observed_in_the_right_bucket(values: list[float]) -> None:
    histogram = Histogram("h", "help", BOUNDS)
    for value in values:
        histogram.observe(value)
    got = samples(histogram)
    for bound in BOUNDS:
        assert got["h_bucket", str(float(bound))] == sum(value <= bound for value in values)
    assert got["h_bucket", "+Inf"] == got["h_count",] == len(values) == histogram.count()
    assert got["h_sum",] == pytest.approx(sum(values))


def test_a_clock_that_was_set_back_counts_as_no_time() -> None:
    histogram = Histogram("h", "help", BOUNDS, "lane", ["normal"])
    histogram.observe(-5, "normal")
    assert samples(histogram)["h_sum", "normal"] == 0
    assert samples(histogram)["h_bucket", "normal", "0.1"] == 1


def test_a_block_is_timed_also_when_it_fails() -> None:
    histogram = Histogram("h", "help", (3600,))
    with histogram.time():
        pass
    with pytest.raises(ZeroDivisionError), histogram.time():
        raise ZeroDivisionError
    assert samples(histogram)["h_bucket", "3600.0"] == 2
    assert samples(histogram)["h_sum",] > 0
