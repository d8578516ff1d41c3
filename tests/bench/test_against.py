"""`--against` compares the code of two commits, and says so in ratios."""

import sys
from pathlib import Path

import pytest

from tests.bench.against import LOGIN_CODE, REDIS, Compared, UnknownCommit, extract, measure_costs, table
from tests.bench.process import ProcessEnded
from tests.bench.relay import Relay
from tests.bench.service import Service
from tests.bench.settings import REPOSITORY
from tests.bench.test_sections import TINY
from tests.bench.valkey import Valkey

linux = pytest.mark.skipif(sys.platform != "linux", reason="the bench pins cores and reads /proc")


def test_ratios_are_taken_pair_by_pair() -> None:
    compared = Compared(work="a delivery", pairs=((1.0, 2.0), (3.0, 2.0), (2.0, 2.0)))
    assert compared.ratios == (0.5, 1.5, 1.0)
    assert "| a delivery | 2.000 | 2.000 | 1.000 | 0.500 | 1.500 |" in table("abc", [compared])


def test_a_commit_that_git_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownCommit, match="no-such-commit"):
        extract("no-such-commit", tmp_path)


@linux
@pytest.mark.timeout(120)
def test_the_service_of_the_other_checkout_is_what_runs(tmp_path: Path) -> None:
    other = extract("HEAD", tmp_path / "other")
    (other / "galaxy_mail" / "__main__.py").write_text('raise SystemExit("this is the other one")\n')
    with (
        Valkey(tmp_path) as valkey,
        Relay(tmp_path) as relay,
        pytest.raises(ProcessEnded, match="this is the other one"),
    ):
        Service(tmp_path, valkey, relay, checkout=other)


@linux
@pytest.mark.timeout(180)
def test_every_kind_of_work_is_measured(tmp_path: Path) -> None:
    costs = measure_costs(REPOSITORY, TINY, tmp_path)
    assert set(costs) == {LOGIN_CODE, "delivery, 4 slots", "delivery, 16 slots", REDIS}
