"""The base class of this package's exceptions, and the domain's shared exceptions."""

from collections.abc import Iterator


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


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group and its subgroups; for another exception, itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
