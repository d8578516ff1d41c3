"""The audit log: a line for each action of an operator, with who, what and why."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog

from galaxy_mail.http.connection import HttpRequest
from galaxy_mail.http.tokens import ANONYMOUS

log = structlog.get_logger()

Fact = str | int | bool | Mapping[str, object] | None


def known(request: HttpRequest) -> str | None:
    """The caller by token or certificate, None if anonymous: the default for a person who is not named."""
    return None if request.who == ANONYMOUS else request.who


@contextmanager
def audited(request: HttpRequest, name: str, **facts: Fact) -> Iterator[dict[str, Fact]]:
    """Logs `operator_action` when the block ends, with the outcome. The block may add facts to the line."""
    outcome = "cancelled"  # by the request's deadline: the action may have been done
    try:
        yield facts
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
            **facts,
        )
