"""The audit log: one line for each thing that an operator does, with who, what and why."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog

from galaxy_mail.http.connection import HttpRequest
from galaxy_mail.http.tokens import ANONYMOUS

log = structlog.get_logger()

Fact = str | int | bool | Mapping[str, object] | None


def known(request: HttpRequest) -> str | None:
    """Who it is, as far as the connection tells: for what a caller leaves out."""
    return None if request.who == ANONYMOUS else request.who


class Action:
    """What is being done; `found` adds what is known only afterwards."""

    def __init__(self, **facts: Fact) -> None:
        self.facts = facts

    def found(self, **facts: Fact) -> None:
        self.facts.update(facts)


@contextmanager
def audited(request: HttpRequest, name: str, **facts: Fact) -> Iterator[Action]:
    """Logs `operator_action` when the block ends, with what prevented it where it did not succeed."""
    action = Action(**facts)
    outcome = "cancelled"  # the request's deadline: it may have been done all the same
    try:
        yield action
        outcome = "done"
    except Exception as error:
        outcome = type(error).__name__
        raise
    finally:
        log.info(
            "operator_action",
            action=name,
            who=request.who,
            client=request.remote_addr,
            outcome=outcome,
            **action.facts,
        )
