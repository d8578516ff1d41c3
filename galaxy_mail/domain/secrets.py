"""The names of secret values, for logs, operators' views and settings.

A name is split into words in every spelling: `reset_token`, `resetToken`, `RESET-TOKENS`. It is secret if one of its
words is, or two words in a row, such as `api` and `key`.
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
# Log fields with a secret word in their name but a harmless value. A caller's variable of such a name is masked.
OUR_NAMES: Final = frozenset({"failure_code", "provider_code"})

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ANYWHERE: Final = re.compile(
    "|".join([*sorted(_SECRET), r"(?:api|secret|private)[^a-z0-9]key"]).encode(), re.IGNORECASE
)


def is_secret_name(name: str) -> bool:
    """Whether a value with this name must be masked."""
    return _has_secret_word(name) or _has_secret_word(name.lower())


def mentions_secret(data: bytes) -> bool:
    """Whether these bytes contain a secret word, in Latin-1 or UTF-16, also inside of another word."""
    return _ANYWHERE.search(data.replace(b"\0", b"")) is not None


def _has_secret_word(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    words += [one + other for one, other in pairwise(words)]
    return any(word in _SECRET or word.removesuffix("s") in _SECRET for word in words)
