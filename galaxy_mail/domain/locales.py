"""Locales as BCP 47 language tags: their syntax, their canonical case and the order of fallbacks.

The registry of languages is not checked: a tag is useful if a catalog has a template for it.
"""

import re
from functools import lru_cache
from typing import Final

from galaxy_mail.domain.errors import GalaxyMailError

DEFAULT_LOCALE: Final = "en"
LOCALE_MAX: Final = 64  # far above what RFC 5646 §4.4.1 asks software to hold (35)

# RFC 5646 §2.1 without `irregular`: seventeen old tags that no catalog uses.
_TAG: Final = re.compile(
    r"""
    (?: (?P<language> [a-z]{2,3} (?:-[a-z]{3}){0,3} | [a-z]{4,8} )
        (?: - [a-z]{4} )?                                       # script
        (?: - (?: [a-z]{2} | [0-9]{3} ) )?                      # region
        (?: - (?: [a-z0-9]{5,8} | [0-9][a-z0-9]{3} ) )*         # variants
        (?: - [0-9a-wy-z] (?: - [a-z0-9]{2,8} )+ )*             # extensions
        (?: - x (?: - [a-z0-9]{1,8} )+ )?                       # private use
      | x (?: - [a-z0-9]{1,8} )+
    )
    """,
    re.VERBOSE,
)


class BadLocale(GalaxyMailError, ValueError):
    """The text is not a language tag. The message gives the reason without the text."""


@lru_cache(maxsize=1_024)
def parse_locale(text: str) -> str:
    """The tag in its canonical case (`fr-CA`, `zh-Hant-TW`). Raises BadLocale if it is not well-formed."""
    if len(text) > LOCALE_MAX:
        raise BadLocale(f"a locale is at most {LOCALE_MAX} characters long")
    if not text.isascii() or not _TAG.fullmatch(text.lower()):
        raise BadLocale("a locale is a BCP 47 language tag such as en or fr-CA")
    return _canonical_case(text)


@lru_cache(maxsize=1_024)
def fallback_chain(locale: str) -> tuple[str, ...]:
    """The locales to try, best first: the locale, its language, then `en`, without duplicates. Raises BadLocale."""
    tag = parse_locale(locale)
    language, _, _ = tag.partition("-")
    # "x" begins a private use tag and is not a language.
    chain = (tag, DEFAULT_LOCALE) if language == "x" else (tag, language, DEFAULT_LOCALE)
    return tuple(dict.fromkeys(chain))


def _canonical_case(text: str) -> str:
    """RFC 5646 §2.1.1: REGION, Script, the rest in lower case, also everything after a singleton."""
    subtags = text.lower().split("-")
    for at, subtag in enumerate(subtags[1:], 1):
        if len(subtags[at - 1]) == 1:
            break
        if len(subtag) == 2:
            subtags[at] = subtag.upper()
        elif len(subtag) == 4 and subtag.isalpha():
            subtags[at] = subtag.capitalize()
    return "-".join(subtags)
