import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain.locales import BadLocale, fallback_chain, parse_locale


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("en", "en"),
        ("EN", "en"),
        ("fr-ca", "fr-CA"),
        ("FR-CA", "fr-CA"),
        ("zh-hant-tw", "zh-Hant-TW"),
        ("SR-LATN-RS", "sr-Latn-RS"),
        ("es-419", "es-419"),
        ("zh-yue-hk", "zh-yue-HK"),
        ("de-de-1996", "de-DE-1996"),
        ("sl-Rozaj-Biske", "sl-rozaj-biske"),
        ("de-DE-U-CO-phonebk", "de-DE-u-co-phonebk"),
        ("en-CA-X-CA", "en-CA-x-ca"),
        ("az-latn-x-latn", "az-Latn-x-latn"),
        ("X-Pirate", "x-pirate"),
        ("tlh", "tlh"),
    ],
)
def test_a_tag_gets_its_canonical_case(text: str, tag: str) -> None:
    assert parse_locale(text) == tag
    assert parse_locale(tag) == tag


@pytest.mark.parametrize(
    "text",
    [
        *("", "e", "en_US", "en-", "-en", "en--US", "en US", " en", "en\n", "abcdefghi", "en-u", "en-x", "x"),
        *("en-US-de", "../en", "en/..", "fr-CA.UTF-8", "ру", "en-\N{KELVIN SIGN}", "en\x00"),
        *("a" * 100, "en" + "-abcdefgh" * 8),
    ],
)
def test_what_is_no_tag_is_refused(text: str) -> None:
    with pytest.raises(BadLocale) as refusal:
        parse_locale(text)
    assert isinstance(refusal.value, ValueError)
    assert len(text) < 5 or text not in str(refusal.value)


@pytest.mark.parametrize(
    ("locale", "chain"),
    [
        ("fr-CA", ("fr-CA", "fr", "en")),
        ("fr", ("fr", "en")),
        ("en", ("en",)),
        ("en-GB", ("en-GB", "en")),
        ("ZH-hant-TW", ("zh-Hant-TW", "zh", "en")),
        ("x-pirate", ("x-pirate", "en")),
    ],
)
def test_the_exact_locale_comes_first_then_its_language_then_english(
    locale: str, chain: tuple[str, ...]
) -> None:
    assert fallback_chain(locale) == chain


@given(st.from_regex(r"[a-zA-Z0-9-]{1,40}", fullmatch=True))
def test_a_tag_in_any_case_is_the_same_tag(text: str) -> None:
    try:
        tag = parse_locale(text)
    except BadLocale:
        return
    assert tag.lower() == text.lower()
    assert parse_locale(text.upper()) == parse_locale(text.lower()) == tag
