"""Log lines: their form, what they withhold, and where they come from."""

import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace
from structlog.testing import capture_logs

from galaxy_mail.domain.records import Delivery, DeliveryStatus, Envelope, PayloadMode, Source
from galaxy_mail.telemetry import logs

SECRET = "S3cretMark"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Lines:
    """What was written since the last look."""

    def __init__(self) -> None:
        self.stream = io.BytesIO()
        self.undo: list[Callable[[], None]] = []

    def configure(self, level: str = "info", form: logs.Format = "json") -> None:
        self.undo.append(logs.configure(level, form, self.stream))

    def text(self) -> str:
        text = self.stream.getvalue().decode()
        self.stream.seek(0)
        self.stream.truncate()
        return text

    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    made = Lines()
    made.configure()
    yield made
    for undo in reversed(made.undo):
        undo()


log = structlog.get_logger()  # as modules have it: made long before anything is configured


def test_a_line_is_one_json_object(lines: Lines) -> None:
    log.info("delivery_accepted", delivery_id="d1", attempt_no=1, template_id=None, ok=True, seconds=0.5)
    text = lines.text()
    assert text.endswith("}\n")
    line = json.loads(text)
    assert list(line) == [
        "timestamp",
        "level",
        "event",
        "delivery_id",
        "attempt_no",
        "template_id",
        "ok",
        "seconds",
    ]
    assert (line["level"], line["event"], line["seconds"], line["template_id"]) == (
        "info",
        "delivery_accepted",
        0.5,
        None,
    )


@pytest.mark.parametrize(
    ("now_s", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000.9996, "2023-11-14T22:13:20.999Z"),
        (1_700_000_001.0, "2023-11-14T22:13:21.000Z"),
        (1_700_000_000.25, "2023-11-14T22:13:20.250Z"),
    ],
)
def test_a_timestamp_is_utc_with_milliseconds(now_s: float, text: str) -> None:
    assert logs._timestamp(now_s) == text


@pytest.mark.parametrize("threshold", ["debug", "info", "warning", "error"])
def test_lines_below_the_level_are_not_written(lines: Lines, threshold: str) -> None:
    lines.configure(threshold)
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)(level)
    written = [line["level"] for line in lines.json()]
    assert written == [level for level, rank in logs.LEVELS.items() if rank >= logs.LEVELS[threshold]]


def test_a_logger_in_use_follows_a_new_configuration(lines: Lines) -> None:
    bound = log.bind(delivery_id="d1")
    bound.info("one")
    lines.configure("warning", "console")
    bound.info("two")
    bound.warning("three")
    one, three = lines.text().splitlines()
    assert json.loads(one)["delivery_id"] == "d1"
    assert three.endswith("warning  three delivery_id=d1")
    with capture_logs() as captured:
        bound.warning("four")
    assert [line["event"] for line in captured] == ["four"]
    assert lines.text() == ""


@pytest.mark.parametrize(
    "name",
    [
        "code",
        "Code",
        "password",
        "smtp_password",
        "token",
        "api_token",
        "tokens",
        "secret",
        "client_secret",
        "authorization",
        "smtp_pAsSwOrD",
        "backup_code",
        "resetToken",
        "api-key",
        "variables",
        "text_body",
        "html_body",
        "content",
        "payload_json",
    ],
)
@pytest.mark.parametrize("form", ["json", "console"])
def test_what_is_secret_by_its_name_is_masked(lines: Lines, form: logs.Format, name: str) -> None:
    lines.configure("info", form)
    log.info("event", **{name: SECRET})
    log.bind(**{name: SECRET}).info("event")
    log.info("event", **{name: {"inner": SECRET}})
    log.info("event", around={"list": [{name: SECRET}]}, beside=[{name: [SECRET]}])
    text = lines.text()
    assert SECRET not in text
    assert text.count("***") == 5


@pytest.mark.parametrize(
    "name",
    [
        "failure_code",
        "provider_code",
        "idempotency_key",
        "codec",
        "tokenizer",
        "content_type",
        "payload_mode",
    ],
)
def test_what_only_sounds_like_a_secret_is_shown(lines: Lines, name: str) -> None:
    log.info("event", **{name: "shown"})
    assert lines.json()[0][name] == "shown"


class Colour(StrEnum):
    RED = "red"


class Holder(Struct):
    value: str


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Colour.RED, "red"),
        (("a", 1), ["a", 1]),
        ({"x": Colour.RED}, {"x": "red"}),
        (Path("/a/b"), "/a/b"),
        (Holder(SECRET), "<Holder>"),
        ([Holder(SECRET)], ["<Holder>"]),
        (SECRET.encode(), "<bytes>"),
        (ValueError("why"), "ValueError: why"),
        (2**70, 2**70),
        (float("nan"), None),
        ("\ud800", "\ud800"),
        ("ünï\n", "ünï\n"),
    ],
)
def test_a_value_is_data_or_else_the_name_of_its_type(lines: Lines, value: object, shown: object) -> None:
    log.info("event", value=value)
    assert lines.json()[0]["value"] == shown


def test_what_is_too_long_is_cut_in_the_middle(lines: Lines) -> None:
    log.info("event", value="a" * 5_000 + "z", inner=["b" * 5_000])
    [line] = lines.json()
    assert len(line["value"]) < 4_100
    assert line["value"].startswith("aaa")
    assert "[1001 characters left out]" in line["value"]
    assert line["value"].endswith("aaz")
    assert len(line["inner"][0]) < 4_100


def fail(password: str) -> None:
    raise ZeroDivisionError("division")


@pytest.mark.parametrize("how", ["exception", "true", "instance"])
def test_a_crash_is_told_without_the_values_of_its_variables(lines: Lines, how: str) -> None:
    try:
        fail(SECRET)
    except ZeroDivisionError as crash:
        if how == "exception":
            log.exception("crashed")
        else:
            log.error("crashed", exc_info=True if how == "true" else crash)  # noqa: TRY400  # what is tested
    [line] = lines.json()
    assert line["level"] == "error"
    assert "in fail\n" in line["exception"]
    assert line["exception"].endswith("ZeroDivisionError: division\n")
    assert SECRET not in line["exception"]
    assert "exc_info" not in line


def test_a_group_of_crashes_is_told_whole(lines: Lines) -> None:
    log.error("crashed", exc_info=ExceptionGroup("nursery", [ValueError("one"), OSError("two")]))
    [line] = lines.json()
    assert "ValueError: one" in line["exception"]
    assert "OSError: two" in line["exception"]


def test_the_console_form_is_for_people_and_cannot_be_made_to_command_their_terminal(lines: Lines) -> None:
    lines.configure("info", "console")
    log.warning(
        "slow relay", host="mail.example", evil="\x1b[2J", nothing=None, empty="", number=3, nested={"a": 1}
    )
    log.error("crashed", exc_info=ValueError("\x1b[31mred"))
    first, *rest = lines.text().splitlines()
    assert (
        first[12:]
        == " warning  slow relay host=mail.example evil='\\x1b[2J' empty='' number=3 nested={\"a\": 1}"
    )
    assert rest[-1] == "ValueError: \\x1b[31mred"


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def test_only_a_terminal_gets_colours(lines: Lines) -> None:
    terminal = Terminal()
    lines.undo.append(logs.configure("info", "console", terminal))
    log.info("hello")
    assert b"\x1b[32minfo    \x1b[0m hello\n" in terminal.getvalue()
    lines.undo.append(logs.configure("info", "json", terminal))
    terminal.truncate(0)
    log.info("hello")
    assert b"\x1b" not in terminal.getvalue()


class Broken(io.BytesIO):
    def write(self, line: Any) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("closed", [True, False])
def test_a_line_that_cannot_be_written_is_nobodys_error(lines: Lines, closed: bool) -> None:
    stream = io.BytesIO() if closed else Broken()
    lines.undo.append(logs.configure("info", "json", stream))
    if closed:
        stream.close()
    log.info("lost")
    logging.getLogger("x").warning("lost too")
    assert logs._OUT.lost == 2


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,12}", fullmatch=True),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text(st.characters(codec=None))
            | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
            max_leaves=8,
        ),
    ),
    st.sampled_from(["json", "console"]),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_makes_a_line_fail(lines: Lines, fields: dict[str, object], form: logs.Format) -> None:
    lines.undo.append(logs.configure("info", form, lines.stream))
    lines.text()
    log.info("event", **{f"f_{name}": value for name, value in fields.items()})
    text = lines.stream.getvalue()
    assert text.count(b"\n") == 1
    lines.text()


# Where lines come from


def test_what_libraries_log_becomes_lines(lines: Lines) -> None:
    logging.getLogger("hypercorn.error").warning("%s refused", "it")
    [refused] = lines.json()
    assert (refused["level"], refused["event"], refused["logger"]) == (
        "warning",
        "it refused",
        "hypercorn.error",
    )
    try:
        fail(SECRET)
    except ZeroDivisionError:
        logging.getLogger("redis").exception("oh")
    [crash] = lines.json()
    assert "ZeroDivisionError" in crash["exception"]


def test_a_library_that_logs_wrongly_is_told_as_far_as_possible(lines: Lines) -> None:
    [handler] = [one for one in logging.root.handlers if type(one).__module__ == logs.__name__]
    handler.emit(logging.LogRecord("lib", 5, __file__, 1, "%d %d", (1,), None))
    [line] = lines.json()
    assert (line["event"], line["level"]) == ("%d %d", "info")


def test_libraries_debug_lines_stay_unwritten_because_they_hold_what_is_carried(lines: Lines) -> None:
    lines.configure("debug")
    logging.getLogger("hpack").debug("header %s", SECRET)
    logging.getLogger("hpack").info("shown")
    assert [line["event"] for line in lines.json()] == ["shown"]
    lines.configure("error")
    logging.getLogger("hpack").warning("not shown")
    assert lines.text() == ""


def test_warnings_become_lines(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)  # within, since catch_warnings puts the old function back
        warnings.warn("old API", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    [line] = lines.json()
    assert "old API" in line["event"]
    assert line["logger"] == "py.warnings"


def test_a_thread_that_crashes_is_told(lines: Lines) -> None:
    thread = threading.Thread(target=fail, args=(SECRET,), name="exporter")
    thread.start()
    thread.join()
    [line] = lines.json()
    assert (line["event"], line["level"], line["thread"]) == ("thread_crashed", "critical", "exporter")
    assert "ZeroDivisionError" in line["exception"]
    assert SECRET not in str(line)


def test_what_nobody_catches_is_told(lines: Lines) -> None:
    crash = ValueError("why")
    sys.excepthook(ValueError, crash, None)

    class Finalised:
        def __del__(self) -> None:
            fail(SECRET)

    Finalised()
    uncaught, unraisable = lines.json()
    assert (uncaught["event"], uncaught["level"]) == ("uncaught_exception", "critical")
    assert unraisable["event"] == "unraisable_exception"
    assert unraisable["where"].endswith("__del__")
    assert SECRET not in str(unraisable)


def test_ctrl_c_is_no_crash(lines: Lines, capsys: pytest.CaptureFixture[str]) -> None:
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert lines.text() == ""
    assert "KeyboardInterrupt" in capsys.readouterr().err


def test_undoing_it_puts_everything_back() -> None:
    def state() -> list[object]:
        config = structlog.get_config()
        return [
            config["wrapper_class"],
            list(config["processors"]),
            list(logging.root.handlers),
            logging.root.level,
            sys.excepthook,
            sys.unraisablehook,
            threading.excepthook,
        ]

    before = state()
    undo = logs.configure("error", "console", io.BytesIO())
    assert all(now != then for now, then in zip(state(), before, strict=True))
    undo()
    assert state() == before


def test_lines_go_to_standard_output_by_default() -> None:
    script = (
        "import structlog; from galaxy_mail.telemetry import logs;"
        "logs.configure(); structlog.get_logger().info('hello', code='123456'); raise ValueError('end')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=50
    )
    hello, end = (json.loads(line) for line in done.stdout.splitlines())
    assert (hello["event"], hello["code"]) == ("hello", "***")
    assert end["event"] == "uncaught_exception"
    assert (done.stderr, done.returncode) == ("", 1)


# About a delivery

DELIVERY = Delivery(
    delivery_id="d1",
    source=Source.NOTIFICATION,
    status=DeliveryStatus.QUEUED,
    payload_mode=PayloadMode.TEMPLATE,
    template_id="welcome",
    envelope=Envelope(to=("a@example.org",)),
    idempotency_key="k",
    message_id="d1@example.org",
    request_id="r1",
    trace_id="t1",
    traceparent=TRACEPARENT,
    created_at_ms=1,
    updated_at_ms=1,
)


def test_every_line_about_a_delivery_says_which_one(lines: Lines) -> None:
    log.info("attempt_finished", **logs.delivery_fields(DELIVERY, attempt_no=2), status=DeliveryStatus.SENT)
    [line] = lines.json()
    assert line.pop("timestamp")
    assert line == {
        "level": "info",
        "event": "attempt_finished",
        "delivery_id": "d1",
        "source": "notification",
        "template_id": "welcome",
        "attempt_no": 2,
        "request_id": "r1",
        "trace_id": "t1",
        "status": "sent",
    }


def test_the_trace_is_the_callers_by_either_name() -> None:
    without = replace(DELIVERY, trace_id=None)
    assert logs.delivery_fields(without)["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert logs.delivery_fields(replace(without, traceparent=None))["trace_id"] is None
