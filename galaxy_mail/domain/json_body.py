"""The decoder of JSON bodies: a parser checks each named value.

All problems of a request are reported together, each with its field and without the value.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Self, TypeVar

from galaxy_mail.domain.addresses import parse_address
from galaxy_mail.domain.errors import FieldError, GalaxyMailError
from galaxy_mail.domain.invalid import BODY, Fault, InvalidRequest, too_large
from galaxy_mail.domain.locales import parse_locale
from galaxy_mail.domain.media_type import name_of
from galaxy_mail.domain.records import Json
from galaxy_mail.domain.strict_json import StrictJsonError, loads, shown_name

T = TypeVar("T")

# Raises a ValueError, usually WrongValue, with a message such as "must be a number".
Parse = Callable[[Json], T]


class WrongValue(GalaxyMailError, ValueError):
    """A value is invalid. The message does not repeat it."""


class Members:
    """The named values of a request. Problems are collected until `finish` raises them."""

    def __init__(
        self, values: Mapping[str, Json], *, what: str, path: str = "", errors: list[FieldError] | None = None
    ) -> None:
        self.values = values
        self._what = what  # as in "is not a parameter of this route"
        self._path = path
        self._taken: set[str] = set()
        self._errors: list[FieldError] = [] if errors is None else errors

    @classmethod
    def of_body(
        cls,
        body: bytes,
        *,
        content_type: str | None,
        max_bytes: int,
        errors: Sequence[FieldError] = (),
    ) -> Self:
        """The members of a JSON object. Raises InvalidRequest for any other body.

        `errors` were found earlier in the same request and are reported with the body's.
        """
        try:
            values = json_object(body, content_type=content_type, max_bytes=max_bytes)
        except InvalidRequest as invalid:
            raise InvalidRequest([*errors, *invalid.errors], invalid.fault) from None
        return cls(values, what="a member of this request", errors=[*errors])

    def take(self, name: str, parse: Parse[T], default: T) -> T:
        """The value. The default if it is absent, or if it is invalid, which `finish` reports."""
        self._taken.add(name)
        if name not in self.values:
            return default
        return self._parsed(name, parse, default)

    def need(self, name: str, parse: Parse[T], placeholder: T) -> T:
        """The value, which is required. The placeholder if it is absent or invalid, which `finish` reports."""
        self._taken.add(name)
        if name not in self.values:
            self._errors.append(FieldError(self._path + name, "is required"))
            return placeholder
        return self._parsed(name, parse, placeholder)

    def need_members(self, name: str) -> "Members":
        """The members of the object with this name. Their problems are reported here."""
        values: Mapping[str, Json] = self.need(name, json_members, {})
        is_object = isinstance(self.values.get(name), dict)
        return Members(
            values,
            what=self._what,
            path=f"{self._path}{name}.",
            errors=self._errors if is_object else [],  # one error is enough for a value that is not an object
        )

    def finish(self) -> None:
        """Raises InvalidRequest with all problems, also unknown names."""
        self.refuse_unknown()
        if self._errors:
            raise InvalidRequest(self._errors)

    def refuse_unknown(self) -> None:
        for name in self.values:
            if name not in self._taken:
                self._errors.append(FieldError(self._path + shown_name(name), f"is not {self._what}"))

    def _parsed(self, name: str, parse: Parse[T], otherwise: T) -> T:
        try:
            return parse(self.values[name])
        except ValueError as wrong:
            self._errors.append(FieldError(self._path + name, str(wrong)))
            return otherwise


def json_object(body: bytes, *, content_type: str | None, max_bytes: int) -> dict[str, Json]:
    """The members of a strict JSON object. Raises InvalidRequest for any other body."""
    if not _is_json(content_type):
        problem = FieldError("Content-Type", "must be application/json")
        raise InvalidRequest([problem], Fault.UNSUPPORTED_MEDIA_TYPE)
    if len(body) > max_bytes:
        raise too_large(max_bytes)
    try:
        value = loads(body)
    except StrictJsonError as error:
        raise InvalidRequest([FieldError(BODY, str(error))]) from None
    if not isinstance(value, dict):
        raise InvalidRequest([FieldError(BODY, "must be a JSON object")])
    return value


def text_value(value: Json) -> str:
    if not isinstance(value, str):
        raise WrongValue("must be text")
    return value


def mail_address(value: Json) -> str:
    return parse_address(text_value(value))  # BadAddress is a ValueError


def locale(value: Json) -> str:
    return parse_locale(text_value(value))  # BadLocale is a ValueError


def json_members(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, dict):
        raise WrongValue("must be a JSON object")
    return value


def _is_json(content_type: str | None) -> bool:
    """RFC 8259 defines no `charset`, but many clients send one. Only UTF-8 is correct."""
    if name_of(content_type) != "application/json":
        return False
    names = (parameter.partition("=") for parameter in (content_type or "").split(";")[1:])
    charsets = (value.strip().strip('"') for name, _, value in names if name.strip().lower() == "charset")
    return all(charset.lower() in {"utf-8", "utf8"} for charset in charsets)
