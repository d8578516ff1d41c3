"""Log lines: structlog's, in JSON or for people, and what libraries log in the same form.

Modules keep their logger as `log = structlog.get_logger()`. A line is one event with fields. Fields with a secret name and
fields with content are masked. A value that is not plain data is shown as its type alone, because the `repr` of a record
shows everything in it. A line that can't be written is lost; its writer gets no error.
"""

import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, StrEnum
from functools import lru_cache
from pathlib import PurePath
from typing import Any, BinaryIO, Final, Literal

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from galaxy_mail.domain.ids import trace_id_in
from galaxy_mail.domain.records import Delivery
from galaxy_mail.domain.secrets import MASK, OUR_NAMES, is_secret_name

Format = Literal["json", "console"]

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
CONTENT_NAMES: Final = frozenset(
    {"body", "text_body", "html_body", "content", "payload", "payload_json", "variables"}
)
TEXT_MAX: Final = 4_000  # characters of one field
TRACEBACK_MAX: Final = 16_000

_ENCODER: Final = msgspec.json.Encoder()
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})


def delivery_fields(delivery: Delivery, attempt_no: int | None = None) -> dict[str, str | int | None]:
    """The fields of every line about a delivery. The trace is the caller's `trace_id`, or else that of its traceparent."""
    trace_id = delivery.trace_id
    if trace_id is None and delivery.traceparent is not None:
        trace_id = trace_id_in(delivery.traceparent)
    return {
        "delivery_id": delivery.delivery_id,
        "source": delivery.source,
        "template_id": delivery.template_id,
        "attempt_no": attempt_no,
        "request_id": delivery.request_id,
        "trace_id": trace_id,
    }


def configure(
    level: str = "info", form: Format = "json", stream: BinaryIO | None = None
) -> Callable[[], None]:
    """Sends every line of this process to `stream`, by default standard output. Tests call the result to undo it.

    This includes loggers that exist already. Uncaught exceptions become lines, also those of threads and finalisers.
    """
    undo = _undo()
    stream = stream or sys.stdout.buffer
    _OUT.stream = stream
    _OUT.level = LEVELS[level]
    colours = form == "console" and stream.isatty()
    _OUT.render = _json if form == "json" else _coloured if colours else _console
    # Changed in place: loggers that were used before keep this list.
    structlog.get_config()["processors"][:] = [_line]
    structlog.configure(wrapper_class=Log, logger_factory=lambda *_args: _OUT, cache_logger_on_first_use=True)
    logging.root.handlers[:] = [_FromLibraries()]
    # No debug lines of libraries: HTTP and SMTP parsers log there what they parse.
    logging.root.setLevel(max(_OUT.level, logging.INFO))
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _thread_crashed
    return undo


class Log(structlog.BoundLoggerBase):
    """A logger whose level can change after it was made."""

    def debug(self, event: str, **fields: Any) -> None:
        if _OUT.level <= 10:
            self._proxy_to_logger("debug", event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        if _OUT.level <= 20:
            self._proxy_to_logger("info", event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        if _OUT.level <= 30:
            self._proxy_to_logger("warning", event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        self._proxy_to_logger("error", event, **fields)

    def exception(self, event: str, **fields: Any) -> None:
        self._proxy_to_logger("error", event, **{"exc_info": True, **fields})

    def critical(self, event: str, **fields: Any) -> None:
        self._proxy_to_logger("critical", event, **fields)


class _Output:
    """Where lines go. All loggers share one, so that `configure` reaches all of them."""

    def __init__(self) -> None:
        self.stream: BinaryIO | None = None  # None: standard output as it is then
        self.level = LEVELS["debug"]
        self.render: Callable[[dict[str, object], str | None], bytes] = _json
        self.lost = 0  # lines that could not be written

    def write(self, line: bytes | str) -> None:
        stream = self.stream or sys.stdout.buffer
        try:
            stream.write(
                line if isinstance(line, bytes) else line.encode("utf-8", "backslashreplace") + b"\n"
            )
            stream.flush()
        except (OSError, ValueError):  # a full disk, a reader that went away, a closed file
            self.lost += 1

    debug = info = warning = error = critical = write  # structlog calls the level's name


def _line(_logger: WrappedLogger, level: str, event: EventDict) -> bytes:
    """The only processor: turns fields into a line."""
    crash = event.pop("exc_info", None)
    line: dict[str, object] = {
        "timestamp": _timestamp(time.time()),
        "level": level,
        "event": event.pop("event", ""),
    }
    for name, value in event.items():
        if _is_withheld(name):
            line[name] = MASK if value else value
        elif type(value) in _PLAIN:
            line[name] = value if type(value) is not str or len(value) <= TEXT_MAX else _cut(value, TEXT_MAX)
        elif isinstance(value, StrEnum):
            line[name] = value  # encoded as the string that it is
        else:
            line[name] = _plain(value)
    return _OUT.render(line, _traceback(crash) if crash else None)


def _json(line: dict[str, object], trace: str | None) -> bytes:
    if trace is not None:
        line["exception"] = trace
    try:
        return _ENCODER.encode(line) + b"\n"
    except (TypeError, ValueError, OverflowError):  # half a surrogate pair, a number of more than 64 bits
        return json.dumps(line, default=repr).encode() + b"\n"


def _console(line: dict[str, object], trace: str | None, *, before: str = "", after: str = "") -> bytes:
    head = f"{str(line.pop('timestamp'))[11:23]} {before}{line.pop('level'):<8}{after} {_shown(line.pop('event'))}"
    fields = "".join(f" {name}={_shown(value)}" for name, value in line.items() if value is not None)
    text = head + fields + "\n"
    if trace is not None:
        text += "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in trace)
    return text.encode("utf-8", "backslashreplace")


_COLOURS: Final = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m"}


def _coloured(line: dict[str, object], trace: str | None) -> bytes:
    return _console(line, trace, before=_COLOURS.get(str(line["level"]), "\x1b[31m"), after="\x1b[0m")


def _shown(value: object) -> str:
    """The value without characters that a terminal would obey."""
    text = value if isinstance(value, str) else json.dumps(value, default=repr)
    return text if text.isprintable() and text else ascii(text)


_second: tuple[int, str] = (0, "")


def _timestamp(now_s: float) -> str:
    """RFC 3339 in UTC with milliseconds. The part down to the second is formatted once a second."""
    global _second  # noqa: PLW0603  # a cache of one
    whole_s = int(now_s)
    if _second[0] != whole_s:
        _second = (whole_s, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole_s)))
    return f"{_second[1]}.{int((now_s - whole_s) * 1000):03d}Z"


@lru_cache(maxsize=1024)
def _is_withheld(name: str) -> bool:
    if name in OUR_NAMES:
        return False
    return name.lower() in CONTENT_NAMES or is_secret_name(name)


def _plain(value: object) -> object:
    """The value as JSON data with secrets masked at any depth; the type's name where it is not plain data."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return _cut(value, TEXT_MAX)
    if isinstance(value, Mapping):
        return {
            str(name): MASK if _is_withheld(str(name)) and inner else _plain(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, BaseException):
        return _cut(f"{type(value).__name__}: {value}", TEXT_MAX)
    if isinstance(value, PurePath):
        return str(value)
    return f"<{type(value).__name__}>"


def _cut(text: str, longest: int) -> str:
    """The text, or both ends of it where it is too long."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} [{len(text) - 2 * half} characters left out] {text[-half:]}"


def _traceback(crash: object) -> str:
    """The traceback with its message, without local variables: those hold mail."""
    if crash is True:
        crash = sys.exc_info()[1]
    elif isinstance(crash, tuple):
        crash = crash[1]
    if not isinstance(crash, BaseException):
        return ""
    return _cut("".join(traceback.format_exception(crash)), TRACEBACK_MAX)


class _FromLibraries(logging.Handler):
    """The standard library's logging, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # the arguments don't fit the format
            message = str(record.msg)
        level = record.levelname.lower()
        fields = {"event": message, "logger": record.name, "exc_info": record.exc_info}
        _OUT.write(_line(None, level if level in LEVELS else "info", fields))


def _tell(event: str, crash: BaseException | None, **fields: object) -> None:
    _OUT.write(_line(None, "critical", {"event": event, **fields, "exc_info": crash}))


def _uncaught(kind: type[BaseException], crash: BaseException, trace: Any) -> None:
    if isinstance(crash, KeyboardInterrupt):
        sys.__excepthook__(kind, crash, trace)
    else:
        _tell("uncaught_exception", crash)


def _unraisable(problem: "sys.UnraisableHookArgs") -> None:
    where = getattr(problem.object, "__qualname__", type(problem.object).__name__)
    _tell("unraisable_exception", problem.exc_value, where=where)


def _thread_crashed(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        _tell("thread_crashed", args.exc_value, thread=args.thread.name if args.thread else None)


def _undo() -> Callable[[], None]:
    """Saves what `configure` changes; the result restores it."""
    output = vars(_OUT).copy()
    old = structlog.get_config()
    processors = list(old["processors"])
    handlers, level = list(logging.root.handlers), logging.root.level
    hooks: Iterable[Any] = (sys.excepthook, sys.unraisablehook, threading.excepthook)

    def undo() -> None:
        vars(_OUT).update(output)
        old["processors"][:] = processors
        structlog.configure(
            wrapper_class=old["wrapper_class"],
            logger_factory=old["logger_factory"],
            cache_logger_on_first_use=old["cache_logger_on_first_use"],
        )
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        logging.captureWarnings(capture=False)
        sys.excepthook, sys.unraisablehook, threading.excepthook = hooks

    return undo


_OUT: Final = _Output()
