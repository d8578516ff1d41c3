"""The table of mutants keeps up with the code; `python -m tests.simulation.mutants` says what notices each of them."""

from importlib import import_module
from typing import Final
from unittest.mock import patch

import pytest

from galaxy_mail.storage.links.script import Script
from tests.simulation.mutants import (
    CHECKOUT,
    NOT_YET,
    NOTHING,
    PAGE,
    ROW,
    Misplaced,
    Mutant,
    edited,
    read_mutants,
    read_page,
)
from tests.simulation.pool import run_seeds

ALL = read_mutants()
FIRST_SEEDS: Final = 60


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_a_mutant_still_finds_its_place(mutant: Mutant) -> None:
    texts = edited(mutant, CHECKOUT)
    assert texts
    assert all(text != path.read_text(encoding="utf-8") for path, text in texts.items())


def test_mutants_have_names_of_their_own_and_say_what_they_break() -> None:
    assert len({mutant.name for mutant in ALL}) == len(ALL)
    assert all(mutant.breaks for mutant in ALL)


def test_the_page_says_of_each_mutant_what_noticed_it() -> None:
    """`python -m tests.simulation.mutants --write` makes it so."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert [(name, breaks) for name, breaks, _ in rows] == [(mutant.name, mutant.breaks) for mutant in ALL]
    assert [name for name, _, noticed in rows if noticed in {NOT_YET, NOTHING}] == []


@pytest.mark.parametrize(
    "test",
    [
        (noticed.partition("::")[0], noticed.rpartition("::")[2])
        for noticed in read_page().values()
        if "::" in noticed
    ],
    ids=lambda test: test[1],
)
def test_a_test_that_noticed_one_is_still_there(test: tuple[str, str]) -> None:
    file, name = test
    assert f"def {name}(" in (CHECKOUT / file).read_text(encoding="utf-8")


def test_a_mutant_whose_place_is_gone_is_told() -> None:
    [mutant, *_] = ALL
    [edit] = mutant.edits
    moved = Mutant(mutant.name, mutant.breaks, (type(edit)(edit.file, "no such line\n", ""),))
    with pytest.raises(Misplaced):
        edited(moved, CHECKOUT)


@pytest.mark.parametrize(
    "name",
    ["begin-unfenced", "finish-unfenced", "release-unfenced", "renew-unfenced", "claim-ignores-owners"],
)
def test_a_script_without_its_fence_is_noticed(name: str) -> None:
    """The proof can fail: of the first seeds one does, where a script lets everybody in."""
    [mutant] = [mutant for mutant in ALL if mutant.name == name]
    [(path, text)] = edited(mutant, CHECKOUT).items()
    operation = getattr(import_module(f"galaxy_mail.storage.operations.{path.stem}"), path.stem.upper())
    with patch.object(operation, "script", Script.of(path.stem, text)):
        assert any(run.violations for seed in range(FIRST_SEEDS) for run in run_seeds([seed]))
