"""Which names are secret: the one list, for logs, for what operators are shown, and for settings.

A name is taken apart into words, however it is spelt: `reset_token`, `resetToken`, `RESET-TOKENS`. What callers name is
secret when one of its words is, or two that belong together, such as `api` and `key`.
"""

import re
from itertools import pairwise
from typing import Final

MASK: Final = "***"

_SECRET: Final = frozenset(
    {
        "authorization",
        "code",
        "otp",
        "pin",
        "passcode",
        "password",
        "passwd",
        "pwd",
        "token",
        "secret",
        "credential",
        "apikey",
        "secretkey",
        "privatekey",
    }
)
# Log fields whose names have a secret word but whose values are no secrets. A caller's variable of such a name is masked.
OUR_NAMES: Final = frozenset({"failure_code", "provider_code"})

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ANYWHERE: Final = re.compile(
    "|".join([*sorted(_SECRET), r"(?:api|secret|private)[^a-z0-9]key"]).encode(), re.IGNORECASE
)


def is_secret_name(name: str) -> bool:
    """Whether the value under this name is to be masked."""
    return _has_secret_word(name) or _has_secret_word(name.lower())


def mentions_secret(data: bytes) -> bool:
    """Whether a secret's word is anywhere in these bytes, be it in Latin-1 or UTF-16, and within other words too."""
    return _ANYWHERE.search(data.replace(b"\0", b"")) is not None


def _has_secret_word(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    words += [one + other for one, other in pairwise(words)]
    return any(word in _SECRET or word.removesuffix("s") in _SECRET for word in words)
