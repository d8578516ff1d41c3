"""The check of plain words, and that it would notice."""

from pathlib import Path

import pytest

from tests.docs import words

NEVER = "Never" + ":"  # in two parts, for this file is looked at too


def found(repository: Path, files: dict[str, str]) -> list[str]:
    """What is wrong with a repository of these files."""
    for name, text in files.items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(words.problems(repository))


def test_names_and_texts_are_plain() -> None:
    assert list(words.problems()) == []


@pytest.mark.parametrize(
    ("file", "text", "where", "name", "word"),
    [
        ("galaxy_mail/a.py", "class StoreEpoch: ...", "galaxy_mail/a.py:1", "StoreEpoch", "epoch"),
        (
            "tests/a.py",
            "\n\nasync def test_it_is_parked(): ...",
            "tests/a.py:3",
            "test_it_is_parked",
            "parked",
        ),
        ("galaxy_mail/a.py", "class A:\n  def _spelt(self): ...", "galaxy_mail/a.py:2", "_spelt", "spelt"),
        (
            "galaxy_mail/a.py",
            "def f():\n  def HTTPTrouble(): ...",
            "galaxy_mail/a.py:2",
            "HTTPTrouble",
            "trouble",
        ),
        ("galaxy_mail/a.lua", "local function mend(x)", "galaxy_mail/a.lua:1", "mend", "mend"),
        ("galaxy_mail/a.lua", "local mend = function(x)", "galaxy_mail/a.lua:1", "mend", "mend"),
        ("galaxy_mail/forget.lua", "", "galaxy_mail/forget.lua", "forget.lua", "forget"),
        ("tests/chaos/test_troubles.py", "", "tests/chaos/test_troubles.py", "test_troubles.py", "troubles"),
        ("tests/ring/x.py", "", "tests/ring", "ring", "ring"),
    ],
)
def test_a_planted_name_is_found(
    tmp_path: Path, file: str, text: str, where: str, name: str, word: str
) -> None:
    plainer = words.replacement_of()[word]
    assert found(tmp_path, {file: text}) == [f"{where}: {name} has the word {word}; plainer: {plainer}"]


@pytest.mark.parametrize(
    "text",
    [
        "def epoch_ms(): ...",
        "class EpochMilliseconds: ...",
        "def string_buffer_spring(): ...",
        "def awarded_lookup_unless_spelling(): ...",
        "looked = 'said in a string, spelt, parked'",
    ],
)
def test_time_other_words_and_other_texts_may_stay(tmp_path: Path, text: str) -> None:
    assert found(tmp_path, {"galaxy_mail/a.py": text}) == []


@pytest.mark.parametrize("file", ["galaxy_mail/a.lua", "tests/a.py", "docs/a.md", "docs/a.yaml", "README.md"])
def test_a_sentence_of_never_is_found(tmp_path: Path, file: str) -> None:
    text = f"# Something.\n# **{NEVER}** two of them.\n# Never two.\n"
    assert found(tmp_path, {file: text}) == [f"{file}:2: say what to do instead of what never is"]


def test_every_word_has_its_replacement() -> None:
    assert {word: plainer for word, plainer in words.replacement_of().items() if not plainer.strip()} == {}
    assert list(words.replacement_of()) == sorted(words.replacement_of())
