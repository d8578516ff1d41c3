"""Options that several commands share."""

import getpass
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, Final

import click

from galaxy_mail.settings import kinds

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
idempotency_key = click.option(
    "--idempotency-key",
    "key",
    help="The resend's idempotency key: the same key does not resend twice.  [default: a new key, printed]",
)


def limited(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --limit and --all. The command gets `limit`, which is None for --all."""

    @click.option(
        "--limit", type=click.IntRange(1), default=50, show_default=True, help="Show at most this many."
    )
    @click.option("--all", "everything", is_flag=True, help="Show all. Overrides --limit.")
    @wraps(command)
    def with_limit(*, limit: int, everything: bool, **others: Any) -> None:
        command(limit=None if everything else limit, **others)

    return with_limit


def by(parameter: str, purpose: str) -> Callable[..., Any]:
    """--by: the operator's name."""
    return click.option(
        "--by",
        parameter,
        default=_user,
        metavar="NAME",
        help=f"Your name, for {purpose}.  [default: the system's user name]",
    )


def _user() -> str | None:
    """The name of the system's user, None if it is unknown."""
    try:
        return getpass.getuser()[:128] or None
    except (KeyError, OSError):
        return None


class Moment(click.ParamType):  # type: ignore[type-arg]  # before click 8.4 it takes no parameter
    """A point in time, typed as a duration before now or as an ISO 8601 time."""

    name = "time"
    _ago = staticmethod(kinds.duration_ms(at_least="1ms", at_most="87600h"))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Epoch milliseconds."""
        if isinstance(value, int):
            return value
        try:
            return int(time.time() * 1000) - self._ago(value)
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is neither a duration such as 90m or 2d nor a time such as 2026-01-31T22:00",
                param,
                ctx,
            )
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - EPOCH) // timedelta(milliseconds=1)

    @staticmethod
    def encoded(at_ms: int) -> str:
        """The moment as an absolute time that `convert` reads."""
        return (
            (EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )


MOMENT: Final = Moment()
