"""The base class of this package's exceptions, and the domain's shared exceptions."""

from collections.abc import Iterator
from contextlib import contextmanager


class GalaxyMailError(Exception):
    """The base class of all expected errors of Galaxy Mail."""


class FieldError(GalaxyMailError):
    """A value of a request is invalid.

    `field` is a path such as `envelope.to[1]`. `message` gives the problem without the value.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


@contextmanager
def ungrouped(kind: type[Exception]) -> Iterator[None]:
    """If this block raises a group of exceptions of `kind` only, raises the first of them instead.

    If the group has others, such as a cancellation, raises those.
    """
    failure: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        of_kind, others = group.split(kind)
        if of_kind is None:
            raise
        if others is not None:
            raise others from None
        failure = next(leaves(of_kind))
    if failure is not None:
        raise failure from failure.__cause__


def root_cause(error: BaseException) -> BaseException:
    """The innermost cause. For a group, the first exception counts."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif error.__cause__ is not None:
            error = error.__cause__
        else:
            return error


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group and its subgroups, or the exception itself if it is not a group."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
