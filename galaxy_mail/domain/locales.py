"""Locales as BCP 47 language tags: their syntax, their one spelling, what to try in which order.

Whether a tag means anything shows when a catalog has a template for it.
"""

import re
from functools import lru_cache
from typing import Final

from galaxy_mail.domain.errors import GalaxyMailError

DEFAULT_LOCALE: Final = "en"
LOCALE_MAX: Final = 64  # far above what RFC 5646 §4.4.1 asks software to hold (35)

# RFC 5646 §2.1 but for `irregular`, seventeen tags from before that grammar which no catalog would have.
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
    """The text is not a language tag. The message says why and never repeats the text."""


@lru_cache(maxsize=1_024)
def parse_locale(text: str) -> str:
    """The tag in its canonical case (`fr-CA`, `zh-Hant-TW`). Raises BadLocale where it is not well-formed."""
    if len(text) > LOCALE_MAX:
        raise BadLocale(f"a locale is at most {LOCALE_MAX} characters long")
    if not text.isascii() or not _TAG.fullmatch(text.lower()):
        raise BadLocale("a locale is a BCP 47 language tag such as en or fr-CA")
    return _canonical_case(text)


@lru_cache(maxsize=1_024)
def fallback_chain(locale: str) -> tuple[str, ...]:
    """The locales to look for, best first: itself, its language, then `en`; each once. Raises BadLocale."""
    tag = parse_locale(locale)
    language, _, _ = tag.partition("-")
    # "x" opens a tag of private use and is no language.
    chain = (tag, DEFAULT_LOCALE) if language == "x" else (tag, language, DEFAULT_LOCALE)
    return tuple(dict.fromkeys(chain))


def _canonical_case(text: str) -> str:
    """RFC 5646 §2.1.1: REGION, Script, all else in lower case; so is all that follows a singleton."""
    subtags = text.lower().split("-")
    for at, subtag in enumerate(subtags[1:], 1):
        if len(subtags[at - 1]) == 1:
            break
        if len(subtag) == 2:
            subtags[at] = subtag.upper()
        elif len(subtag) == 4 and subtag.isalpha():
            subtags[at] = subtag.capitalize()
    return "-".join(subtags)
