"""Patterns of the contracts that the code does not hold as such take what the code takes."""

from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain.addresses import parse_suppression_entry
from galaxy_mail.domain.invalid import idempotency_key
from galaxy_mail.domain.locales import BadLocale, parse_locale
from tests.contracts.documents import asyncapi, openapi, validator


def matching(pattern: str, max_length: int) -> st.SearchStrategy[str]:
    return st.from_regex(pattern.replace("$", r"\Z")).filter(lambda text: len(text) <= max_length)


LOCALE = asyncapi()["components"]["schemas"]["Locale"]
DOMAIN = openapi()["components"]["schemas"]["SuppressionAddress"]["anyOf"][1]
KEY = openapi()["components"]["parameters"]["IdempotencyKey"]["schema"]


@given(matching(LOCALE["pattern"], 99) | st.text("abcxABX019-", max_size=24))
def test_the_pattern_of_a_locale(text: str) -> None:
    judge = validator(asyncapi(), LOCALE)
    try:
        parse_locale(text)
    except BadLocale:
        assert not judge.is_valid(text)
    else:
        assert judge.is_valid(text)


@given(matching(DOMAIN["pattern"], DOMAIN["maxLength"]).filter(lambda text: "xn--" not in text.lower()))
def test_a_domain_by_its_pattern_can_be_suppressed(text: str) -> None:
    assert parse_suppression_entry(text) == text.lower()


@given(matching(KEY["pattern"], KEY["maxLength"]))
def test_a_key_by_the_header_s_pattern_loses_nothing_on_its_way(text: str) -> None:
    assert idempotency_key([text.strip()]) == text
