"""The root of this package's exceptions, and those that the domain raises."""

from collections.abc import Iterator


class GalaxyMailError(Exception):
    """Everything that Galaxy Mail raises on purpose."""


class FieldError(GalaxyMailError):
    """One value of a request is not acceptable.

    `field` is a path such as `envelope.to[1]`, `message` says what is wrong with the value and never repeats it.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


def leaves(error: BaseException) -> Iterator[BaseException]:
    """What an exception consists of: itself, or what is in the group, however deep."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
