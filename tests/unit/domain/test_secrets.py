"""Which names are secret, in whatever spelling; and that no name of ours is taken for one."""

import ast
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

import galaxy_mail
from galaxy_mail.domain.commands import OPTIONAL_FIELDS, REQUIRED_FIELDS
from galaxy_mail.domain.secrets import OUR_NAMES, is_secret_name, mentions_secret

WORDS = [
    ["authorization"],
    ["code"],
    ["otp"],
    ["pin"],
    ["passcode"],
    ["password"],
    ["passwd"],
    ["pwd"],
    ["token"],
    ["secret"],
    ["credential"],
    ["api", "key"],
    ["secret", "key"],
    ["private", "key"],
]
SPELLINGS: dict[str, Callable[[list[str]], str]] = {
    "snake": "_".join,
    "kebab": "-".join,
    "dotted": ".".join,
    "capitals": lambda words: "_".join(words).upper(),
    "camel": lambda words: words[0] + "".join(map(str.title, words[1:])),
    "pascal": lambda words: "".join(map(str.title, words)),
    "title": lambda words: "-".join(map(str.title, words)),
}
PLACES: dict[str, Callable[[list[str]], list[str]]] = {
    "alone": lambda words: words,
    "first": lambda words: [*words, "old"],
    "last": lambda words: ["reset", *words],
    "between": lambda words: ["my", *words, "value"],
    "several": lambda words: ["backup", *words[:-1], words[-1] + "s"],
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("words", WORDS, ids="_".join)
def test_a_secret_word_is_found_in_any_spelling_at_any_place(words: list[str], spelling: str) -> None:
    for place in PLACES.values():
        name = SPELLINGS[spelling](place(words))
        assert is_secret_name(name), name


@pytest.mark.parametrize(
    "name",
    ["backup_code", "resetToken", "BACKUP_CODES", "pAssWord", "smtp_pAsSwOrD", "clientSecret2", "CODE_1",
     "newPASSWORD", "APIToken", "user.password", "apikey", "pass_word", "2fa_code", "otp2", "pinCode"],
)  # fmt: skip
def test_names_as_callers_write_them(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "name", "postcode", "barcode", "codec", "decoder", "encoded", "secretary", "tokenizer", "shipping",
     "optional", "opinion", "key", "idempotency_key", "monkey", "public_key", "private", "api", "pass", "коде"],
)  # fmt: skip
def test_what_only_sounds_like_a_secret_is_none(name: str) -> None:
    assert not is_secret_name(name)


def names_of_log_fields() -> set[str]:
    """Every name that a log line of the package is given by."""
    levels = {"debug", "info", "warning", "error", "exception", "critical", "bind"}
    calls = [
        node
        for path in Path(galaxy_mail.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in levels
    ]
    return {keyword.arg for call in calls for keyword in call.keywords if keyword.arg is not None}


def test_names_of_ours_that_hold_a_secrets_word_are_listed_and_no_others() -> None:
    names = names_of_log_fields()
    assert "delivery_id" in names
    assert {name for name in names if is_secret_name(name)} == OUR_NAMES


def test_no_field_of_a_command_has_a_secret_name() -> None:
    assert not any(is_secret_name(name) for name in (*REQUIRED_FIELDS, *OPTIONAL_FIELDS))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-be"])
def test_bytes_that_mention_a_secret_are_known_in_any_encoding(encoding: str) -> None:
    for words, spell in product(WORDS, SPELLINGS.values()):
        text = f'é {{"my{spell(words)}":"493027"}}'
        assert mentions_secret(text.encode(encoding)), text


def test_bytes_that_mention_none() -> None:
    assert not mentions_secret('é {"name":"Ann"}'.encode("latin-1"))
