"""Reads environment variables into a validated record of settings."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Self, TypeVar

from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.settings.kinds import hidden_credentials

T = TypeVar("T")

FILE_SUFFIX: Final = "_FILE"  # of a variable that names a file with the secret, as containers mount them
SECRET_FILE_MAX_BYTES: Final = 64 * 1024
_SETTING: Final = "galaxy_mail.setting"


class SettingProblem(NamedTuple):
    """A problem of one variable. The message contains no secret."""

    variable: str
    message: str


class ConfigError(GalaxyMailError):
    """The configuration is invalid. `problems` has all problems in the order of the settings."""

    exit_status: Final = 2

    def __init__(self, problems: tuple[SettingProblem, ...]) -> None:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = (f"  {problem.variable}: {problem.message}" for problem in problems)
        super().__init__("\n".join((f"the configuration has {count}", *lines)))
        self.problems = problems


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One variable, for parsing, masking, `check-config` and the docs."""

    field: str
    variable: str
    parse: Callable[[str], object]
    default: str | None  # as in the environment; None: the variable is required
    meaning: str
    mask: Callable[[str], str] | None  # for a secret, which may also come from a file
    is_gate: bool

    @property
    def file_variable(self) -> str | None:
        return self.variable + FILE_SUFFIX if self.mask else None


def setting(
    variable: str,
    parse: Callable[[str], T],
    default: str | None,
    meaning: str,
    *,
    mask: Callable[[str], str] | None = None,
) -> T:
    """A field that is read from `variable`. `default` is written as in the environment; None: required.

    `mask` marks a secret and returns what may be shown of it.
    """
    about = partial(
        Setting, variable=variable, parse=parse, default=default, meaning=meaning, mask=mask, is_gate=False
    )
    value = MISSING if default is None else parse(default)
    made: T = field(default=value, repr=mask is None, metadata={_SETTING: about})  # type: ignore[assignment]  # MISSING
    return made


def gate(
    variable: str,
    parse: Callable[[str], T],
    absent: T,
    meaning: str,
    *,
    mask: Callable[[str], str] | None = None,
) -> T:
    """A field that restricts access. It is `absent` only if its variable is not set.

    An empty value is a problem: a mistake in a deployment's templates must not grant access.
    """
    about = partial(
        Setting, variable=variable, parse=parse, default="", meaning=meaning, mask=mask, is_gate=True
    )
    made: T = field(default=absent, repr=mask is None, metadata={_SETTING: about})
    return made


class Effective(NamedTuple):
    """A variable's effective value, masked if it is a secret."""

    variable: str
    shown: str
    origin: str  # "default", "environment", or the variable that named the file


class Settings:
    """Base of the settings classes."""

    given: frozenset[str] = frozenset()  # the variables that do not have their default
    accepts: ClassVar[str]  # prefix of our variables: one that no class reads is reported as a typo

    @classmethod
    def settings(cls) -> tuple[Setting, ...]:
        """All settings in the order of the docs."""
        own = fields(cls)  # type: ignore[arg-type]  # every class of settings is a dataclass
        return tuple(one.metadata[_SETTING](field=one.name) for one in own)

    @classmethod
    def variables(cls) -> tuple[str, ...]:
        """Every variable that is read, including those that name files of secrets."""
        names = ((one.variable, one.file_variable) for one in cls.settings())
        return tuple(name for pair in names for name in pair if name)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """The effective settings. Raises ConfigError with all problems."""
        settings = cls.settings()
        problems: list[SettingProblem] = []
        wrong: set[str] = set()
        given: set[str] = set()
        values: dict[str, object] = {}
        for one in settings:
            if one.default is None:
                values[one.field] = ""  # a placeholder for the checks below
            try:
                raw, origin = _raw(one, env)
                if raw is not None:
                    given.add(one.variable)
                    values[one.field] = _parsed(one, raw, origin)
                elif one.default is None:
                    raise _Bad(one.variable, "is required")
            except _Bad as bad:
                problems.append(bad.problem)
                wrong.add(one.variable)
        made = cls(**values)
        object.__setattr__(made, "given", frozenset(given))
        # A conflict with an invalid value is not reported.
        problems += [
            SettingProblem(about[0], message)
            for about, message in made.conflicts()
            if wrong.isdisjoint(about)
        ]
        order = {name: number for number, name in enumerate(cls.variables())}
        problems.sort(key=lambda problem: order[problem.variable])
        problems += _unknown(env, cls.accepts)
        if problems:
            raise ConfigError(tuple(problems))
        return made

    @classmethod
    def effective(cls, env: Mapping[str, str]) -> tuple[Effective, ...]:
        """Each variable's effective value, secrets masked. For an environment that `from_env` accepts."""
        shown: list[Effective] = []
        for one in cls.settings():
            raw, origin = _raw(one, env)
            value = raw if raw is not None else one.default or ""
            shown.append(Effective(one.variable, one.mask(value) if one.mask else value, origin))
        return tuple(shown)

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Contradictions between values: the variables concerned (the first one is reported) and the message."""
        yield from ()


class _Bad(Exception):
    """A variable's value is missing or invalid."""

    def __init__(self, variable: str, message: str) -> None:
        super().__init__(variable, message)
        self.problem = SettingProblem(variable, message)


def _raw(one: Setting, env: Mapping[str, str]) -> tuple[str | None, str]:
    """A setting's given value (None: not given) and its origin. Raises _Bad for a bad file."""
    raw = env.get(one.variable)
    if one.file_variable and (path := env.get(one.file_variable)):
        if raw:
            raise _Bad(one.variable, f"is set together with {one.file_variable}; set only one")
        return _secret_from(one.file_variable, path), one.file_variable
    if raw is None or not (raw.strip() or one.is_gate):
        return None, "default"  # an empty value counts as not set
    return raw if one.mask else raw.strip(), "environment"


def _secret_from(variable: str, path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(SECRET_FILE_MAX_BYTES + 1)
    except OSError as error:
        raise _Bad(variable, f"{path!r} can't be read: {error.strerror}") from None
    if len(content) > SECRET_FILE_MAX_BYTES:
        raise _Bad(variable, f"{path!r} has more than {SECRET_FILE_MAX_BYTES} bytes")
    try:
        value = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise _Bad(variable, f"{path!r} is not UTF-8") from None
    if not value:
        raise _Bad(variable, f"{path!r} is empty")
    return value


def _parsed(one: Setting, raw: str, origin: str) -> object:
    try:
        return one.parse(raw)
    except ValueError as error:
        variable = one.variable if origin == "environment" else origin
        if one.mask or not raw:
            raise _Bad(variable, str(error)) from None
        seen = hidden_credentials(raw)  # the value may be meant for another variable
        raise _Bad(variable, f"{seen if len(seen) <= 60 else seen[:57] + '...'!r} {error}") from None


def _unknown(env: Mapping[str, str], accepts: str) -> Iterator[SettingProblem]:
    known = {variable for kind in _kinds_of(Settings) for variable in kind.variables()}
    for variable in sorted(env):
        if variable.startswith(accepts) and variable not in known:
            import difflib  # imported only for an error

            near = difflib.get_close_matches(variable, sorted(known), n=1)
            yield SettingProblem(
                variable, f"is not a setting; did you mean {near[0]}?" if near else "is not a setting"
            )


def _kinds_of(cls: type[Settings]) -> Iterator[type[Settings]]:
    for kind in cls.__subclasses__():
        yield kind
        yield from _kinds_of(kind)


def markdown_table(settings: tuple[Setting, ...]) -> str:
    """The settings as a table for the docs."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for one in settings:
        default = "*required*" if one.default is None else f"`{one.default}`" if one.default else ""
        also = f"; secret, may be in the file named by `{one.file_variable}`" if one.file_variable else ""
        rows.append(f"| `{one.variable}` | {default} | {one.meaning}{also} |")
    return "\n".join(rows) + "\n"
