"""Every mutant still finds its place, and of each commit some are tried: `python -m tests.mutants` tries all."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final

import pytest

from tests.mutants.mutants import Watched, checkout, noticed, read_watched
from tests.simulation.mutants import CHECKOUT, edited

ALL: Final = read_watched()
SAMPLE: Final = 4  # two or three seconds each


def sample() -> list[Watched]:
    """Other ones for each commit, the same ones for each run of it."""
    head = b""
    with suppress(FileNotFoundError):  # no git, or no repository: always the same ones
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=CHECKOUT, capture_output=True, check=False
        ).stdout
    return Random(head).sample(ALL, SAMPLE)


@pytest.mark.parametrize("watched", ALL, ids=lambda watched: watched.name)
def test_a_mutant_still_finds_its_place_and_its_test(watched: Watched) -> None:
    texts = edited(watched.mutant, CHECKOUT)
    assert texts
    assert all(text != path.read_text(encoding="utf-8") for path, text in texts.items())
    file, name = watched.test.partition("[")[0].split("::")
    assert f"def {name}(" in (CHECKOUT / file).read_text(encoding="utf-8")


def test_mutants_have_names_of_their_own_and_say_what_they_break() -> None:
    assert len({watched.name for watched in ALL}) == len(ALL)
    assert all(watched.mutant.breaks for watched in ALL)


@pytest.fixture(scope="module")
def copied_checkout() -> Iterator[Path]:
    with checkout() as root:
        yield root


@pytest.mark.parametrize("watched", sample(), ids=lambda watched: watched.name)
def test_a_mutant_is_noticed(watched: Watched, copied_checkout: Path) -> None:
    assert noticed(watched, copied_checkout)
