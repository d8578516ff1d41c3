"""Access control: bearer tokens by role, and the name on the client's certificate."""

import hmac
from collections.abc import Sequence
from contextvars import ContextVar
from enum import StrEnum
from hashlib import sha256
from typing import Final

from galaxy_mail.domain.errors import GalaxyMailError

# The common name of the client's certificate, if TLS requires client certificates.
certificate_name: Final[ContextVar[str | None]] = ContextVar("certificate_name", default=None)

ANONYMOUS: Final = "anonymous"  # a caller without token and certificate

_SHOWN_DIGITS: Final = 8


class Role(StrEnum):
    """The callers that a route is for."""

    INTAKE = "intake"
    OPERATOR = "operator"
    OPEN = "open"  # everybody: the route shows nothing private


class Unauthorized(GalaxyMailError):
    """There is no token, or it is unknown."""

    def __init__(self, detail: str, challenge: str) -> None:
        super().__init__(detail)
        self.challenge = challenge  # RFC 6750 §3


class Forbidden(GalaxyMailError):
    """The token is for other routes. A role without tokens admits nobody if the other role has some."""


class Tokens:
    """The tokens of both roles. A role may have several, so that they can be rotated."""

    def __init__(self, *, intake: Sequence[str] = (), operator: Sequence[str] = ()) -> None:
        self._digests: list[tuple[Role, bytes]] = [
            *((Role.INTAKE, _digest(token)) for token in intake),
            *((Role.OPERATOR, _digest(token)) for token in operator),
        ]
        self.asked_for = bool(self._digests)

    def admit(self, role: Role, authorization: Sequence[str]) -> str:
        """The caller's name for the audit log. Raises Unauthorized or Forbidden.

        `authorization` holds the values of all headers of this name.
        """
        if role is Role.OPEN or not self.asked_for:
            name = certificate_name.get()
            return f"certificate:{name}" if name else ANONYMOUS
        if not authorization:
            raise Unauthorized("A bearer token is needed.", "Bearer")
        scheme, _, token = authorization[0].partition(" ")
        if len(authorization) > 1 or scheme.lower() != "bearer":
            raise Unauthorized("One bearer token is needed.", "Bearer")
        given = _digest(token.strip())
        # Compares all of them, so that the time tells nothing about a match.
        roles = {one for one, digest in self._digests if hmac.compare_digest(digest, given)}
        if not roles:
            raise Unauthorized("This token is not known.", 'Bearer error="invalid_token"')
        if role not in roles:
            raise Forbidden("This token does not open this route.")
        name = certificate_name.get()
        return f"token:{given.hex()[:_SHOWN_DIGITS]}" + (f" certificate:{name}" if name else "")


def _digest(token: str) -> bytes:
    """A digest hides the token's length, and a memory dump then holds no token."""
    return sha256(token.encode("utf-8", "surrogateescape")).digest()
