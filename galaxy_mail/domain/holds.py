"""Holds: what stops sending for everything, for one lane or for one relay, until it is lifted or its time is over."""

import re
from collections.abc import Collection
from enum import StrEnum
from typing import Final

from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.records import DomainRecord, Failure, Lane

DEFAULT_RELAY: Final = "default"
ALL: Final = "all"  # the scope of everything
SCOPE_SYNTAX: Final = rf"(all|lane:({'|'.join(Lane)})|relay:[a-z0-9_-]{{1,32}})"
_SCOPE: Final = re.compile(SCOPE_SYNTAX)


class Cause(StrEnum):
    """Who holds."""

    BREAKER = "breaker"  # a relay fails
    OPERATOR = "operator"


class Hold(DomainRecord, frozen=True, kw_only=True):
    """Nothing in its scope begins while it is in force. What has begun goes on."""

    scope: str  # `all`, `lane:<lane>`, `relay:<name>`
    cause: Cause
    reason: str
    failure: Failure | None = None  # what a breaker saw
    since_ms: int
    until_ms: int | None = None  # it ends then; None: when somebody lifts it
    created_by: str | None = None
    pause_ms: int | None = (
        None  # of a breaker: before the next probe, without its spread. Operators are not shown it
    )

    @property
    def field(self) -> str:
        """Its name in the store. There is one hold for each cause and scope."""
        return hold_field(self.cause, self.scope)

    def in_force(self, now_ms: int) -> bool:
        return self.until_ms is None or self.until_ms > now_ms


class UnknownScope(GalaxyMailError):
    """There is no such scope."""

    def __init__(self, relays: Collection[str]) -> None:
        super().__init__(f"There is no such scope. Scopes: {', '.join(all_scopes(relays))}.")


def hold_field(cause: Cause, scope: str) -> str:
    return f"{cause}:{scope}"


def lane_scope(lane: Lane) -> str:
    return f"lane:{lane}"


def relay_scope(relay: str) -> str:
    return f"relay:{relay}"


def all_scopes(relays: Collection[str]) -> list[str]:
    """Every scope of a service with these relays."""
    return [ALL, *map(lane_scope, Lane), *map(relay_scope, relays)]


def is_scope(text: str) -> bool:
    """Whether this has the form of a scope. A relay of this name need not exist."""
    return _SCOPE.fullmatch(text) is not None


def parse_field(field: str) -> tuple[Cause, str] | None:
    """The cause and the scope of a name in the store. None where this release knows no such cause or scope."""
    cause, _, scope = field.partition(":")
    return (Cause(cause), scope) if cause in set(Cause) and is_scope(scope) else None
