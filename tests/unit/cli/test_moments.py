"""Points in time as they are typed and as they are printed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.cli.options import MOMENT


@given(st.integers(0, 4_000_000_000_000))
def test_a_time_that_is_printed_means_the_same_when_it_is_typed(at_ms: int) -> None:
    assert MOMENT.convert(MOMENT.encoded(at_ms), None, None) == at_ms


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("1970-01-01", 0),
        ("2026-01-31T22:00", 1769896800000),
        ("2026-01-31T22:00:00.001Z", 1769896800001),
        ("2026-02-01T00:00+02:00", 1769896800000),
    ],
)
def test_a_time_is_utc_unless_it_says_otherwise(text: str, at_ms: int) -> None:
    assert MOMENT.convert(text, None, None) == at_ms
