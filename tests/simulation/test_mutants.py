"""The table of mutants keeps up with the code; `python -m tests.simulation.mutants` says what notices each of them."""

import pytest

from tests.simulation.mutants import CHECKOUT, Misplaced, Mutant, edited, read_mutants

ALL = read_mutants()


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_a_mutant_still_finds_its_place(mutant: Mutant) -> None:
    texts = edited(mutant, CHECKOUT)
    assert texts
    assert all(text != path.read_text(encoding="utf-8") for path, text in texts.items())


def test_mutants_have_names_of_their_own_and_say_what_they_break() -> None:
    assert len({mutant.name for mutant in ALL}) == len(ALL)
    assert all(mutant.breaks for mutant in ALL)


def test_a_mutant_whose_place_is_gone_is_told() -> None:
    [mutant, *_] = ALL
    [edit] = mutant.edits
    moved = Mutant(mutant.name, mutant.breaks, (type(edit)(edit.file, "no such line\n", ""),))
    with pytest.raises(Misplaced):
        edited(moved, CHECKOUT)
