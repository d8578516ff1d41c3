"""Who may use a route: bearer tokens by role, and the name on a client's certificate."""

import hmac
from collections.abc import Sequence
from contextvars import ContextVar
from enum import StrEnum
from hashlib import sha256
from typing import Final

from galaxy_mail.domain.errors import GalaxyMailError

# The common name of the certificate that the connection's other end has shown, while TLS asks for one.
certificate_name: Final[ContextVar[str | None]] = ContextVar("certificate_name", default=None)

ANONYMOUS: Final = "anonymous"  # who somebody is of whom neither a token nor a certificate was asked

_SHOWN_DIGITS: Final = 8


class Role(StrEnum):
    """Whom a route is for."""

    INTAKE = "intake"
    OPERATOR = "operator"
    OPEN = "open"  # everybody; it holds nothing private


class Unauthorized(GalaxyMailError):
    """No token, or none that is known."""

    def __init__(self, detail: str, challenge: str) -> None:
        super().__init__(detail)
        self.challenge = challenge  # RFC 6750 §3


class Forbidden(GalaxyMailError):
    """A token that opens other routes, or this group of routes has no token and is closed."""


class Tokens:
    """The tokens of both roles, several each, so that one can be replaced while another still works."""

    def __init__(self, *, intake: Sequence[str] = (), operator: Sequence[str] = ()) -> None:
        self._digests: list[tuple[Role, bytes]] = [
            *((Role.INTAKE, _digest(token)) for token in intake),
            *((Role.OPERATOR, _digest(token)) for token in operator),
        ]
        self.asked_for = bool(self._digests)

    def admit(self, role: Role, authorization: Sequence[str]) -> str:
        """Who is let in to a route of this role, for the audit log. Raises Unauthorized, Forbidden.

        `authorization` holds the header's value, once for each line.
        """
        if role is Role.OPEN or not self.asked_for:
            return _without_token()
        if not authorization:
            raise Unauthorized("A bearer token is needed.", "Bearer")
        scheme, _, token = authorization[0].partition(" ")
        if len(authorization) > 1 or scheme.lower() != "bearer":
            raise Unauthorized("One bearer token is needed.", "Bearer")
        given = _digest(token.strip())
        # All are compared, whichever matches: time tells nothing about them (RFC 6750 §5.2, by guessing).
        roles = {one for one, digest in self._digests if hmac.compare_digest(digest, given)}
        if not roles:
            raise Unauthorized("This token is not known.", 'Bearer error="invalid_token"')
        if role not in roles:
            raise Forbidden("This token does not open this route.")
        name = certificate_name.get()
        return f"token:{given.hex()[:_SHOWN_DIGITS]}" + (f" certificate:{name}" if name else "")


def _without_token() -> str:
    name = certificate_name.get()
    return f"certificate:{name}" if name else ANONYMOUS


def _digest(token: str) -> bytes:
    """Equal lengths, whatever the token's, and nothing that is worth reading in a memory dump."""
    return sha256(token.encode("utf-8", "surrogateescape")).digest()
