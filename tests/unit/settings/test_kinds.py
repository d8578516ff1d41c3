"""What an environment variable may hold."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.settings import kinds
from galaxy_mail.settings.kinds import HostPort

ANY_DURATION = kinds.duration_ms(at_least="0s", at_most="8760h")


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("50ms", 50),
        ("15s", 15_000),
        ("5m", 300_000),
        ("168h", 604_800_000),
        ("30d", 2_592_000_000),
        ("1.5h", 5_400_000),
        ("1h30m", 5_400_000),
        ("1m0.25s", 60_250),
        ("0s", 0),
    ],
)
def test_a_duration_is_a_number_of_milliseconds(text: str, ms: int) -> None:
    assert ANY_DURATION(text) == ms


@pytest.mark.parametrize(
    "text", ["", "15", "s", "15 s", "-1s", "1e3s", "15S", "15x", "1.5", ".5s", "5s,", "٣s", "0.0001s", "1s\n"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a"):
        ANY_DURATION(text)


@pytest.mark.parametrize(("text", "fits"), [("1s", False), ("2s", True), ("1h", True), ("61m", False)])
def test_a_duration_keeps_within_its_bounds(text: str, fits: bool) -> None:
    parse = kinds.duration_ms(at_least="2s", at_most="1h")
    if fits:
        assert parse(text) > 0
    else:
        with pytest.raises(ValueError, match="between 2s and 1h"):
            parse(text)


@given(st.integers(0, 10**9))
def test_every_number_of_milliseconds_can_be_written(ms: int) -> None:
    assert ANY_DURATION(f"{ms}ms") == ms


def test_retry_delays_are_a_list_of_durations() -> None:
    assert kinds.retry_delays_ms("1m, 5m,30m") == (60_000, 300_000, 1_800_000)
    assert kinds.retry_delays_ms("none") == ()


@pytest.mark.parametrize("text", ["1m,,5m", "1m;5m", "169h", ",".join(["1s"] * 21), ","])
def test_bad_retry_delays_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a|has "):
        kinds.retry_delays_ms(text)


@pytest.mark.parametrize(
    ("text", "size"), [("10485760", 10_485_760), ("10MiB", 10_485_760), ("512KiB", 524_288), ("1024", 1024)]
)
def test_a_size_is_a_number_of_bytes(text: str, size: int) -> None:
    assert kinds.size_bytes(at_least=1024, at_most=2**30)(text) == size


@pytest.mark.parametrize("text", ["", "10MB", "10 MiB", "1.5MiB", "-1", "1023", "2048MiB"])
def test_a_size_that_is_none_or_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not (a number of bytes|between)"):
        kinds.size_bytes(at_least=1024, at_most=2**30)(text)


@pytest.mark.parametrize("text", ["0", "11", "", "1.0", "+1", "0x1", "1_0", "¹"])
def test_a_whole_number_is_decimal_and_within_its_bounds(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not (a whole number|between)"):
        kinds.whole_number(at_least=1, at_most=10)(text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (":8080", HostPort("", 8080)),
        ("127.0.0.1:0", HostPort("127.0.0.1", 0)),
        ("[::1]:8080", HostPort("::1", 8080)),
        ("mail.example:25", HostPort("mail.example", 25)),
    ],
)
def test_a_listener_is_shown_as_it_was_written(text: str, place: HostPort) -> None:
    assert kinds.listener(text) == place
    assert str(place) == text


@pytest.mark.parametrize(
    "text", ["8080", "::1:8080", "host", "host:", "host:65536", "host:-1", "http://h:1", "a@h:1", "h :1"]
)
def test_a_listener_that_is_not_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|65535"):
        kinds.listener(text)


@pytest.mark.parametrize("text", [":25", "relay.example:0"])
def test_a_server_needs_its_host_and_its_port(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        kinds.server(text)


def test_a_place_is_loopback_when_its_host_is() -> None:
    assert HostPort("127.9.9.9", 1).is_loopback
    assert not HostPort("127.999.1.1", 1).is_loopback


def test_a_choice_ignores_case_and_knows_no_other() -> None:
    parse = kinds.choice("json", "console")
    assert parse("JSON") == "json"
    with pytest.raises(ValueError, match="not one of json, console"):
        parse("xml")


def test_tokens_come_by_commas_and_lines_once_each() -> None:
    assert kinds.tokens("abc, def\nabc\n\n") == ("abc", "def")


@pytest.mark.parametrize("text", ["", " ", ",", "with space", "ünicode", "a=b", 'quo"te'])
def test_tokens_that_no_header_can_carry_are_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="token") as refused:
        kinds.tokens(f"good,{text}" if text.strip(", ") else text)
    assert not text.strip(", ") or text not in str(refused.value)


def test_an_allowlist_holds_addresses_and_domains_in_their_normal_form() -> None:
    assert kinds.allowlist("Ann@Example.ORG, @Example.com") == {"ann@example.org", "@example.com"}
    for bad in ("", " ", ",", "example.com", "ann@"):
        with pytest.raises(ValueError, match=r"is empty|is not a list"):
            kinds.allowlist(bad)


@pytest.mark.parametrize("text", ["has space", "", "ключ", "x" * 201, "new\nline"])
def test_a_key_name_is_printable_ascii_without_spaces(text: str) -> None:
    with pytest.raises(ValueError, match="is not a key name"):
        kinds.redis_name(text)


@pytest.mark.parametrize(
    "text",
    [
        *("ftp://h", "127.0.0.1:8080", "http://", "http://u:p@h", "http://h/?q=1"),
        *("http://h:abc", "http://h:99999", "http://h:0", "http://[::1", "http://a b", "http://h/\x7f"),
    ],
)
def test_an_api_address_is_a_plain_http_url(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a URL|credentials"):
        kinds.http_url(text)
    assert kinds.http_url("https://mail.example/base/") == "https://mail.example/base"


def test_a_file_must_be_there_and_a_folder_be_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    assert kinds.existing_file(str(file)) == file
    assert kinds.existing_folder(str(tmp_path)) == tmp_path
    assert kinds.folder(str(tmp_path / "new")) == tmp_path / "new"
    bad: list[tuple[Callable[[str], Path], Path]] = [
        (kinds.existing_file, tmp_path),
        (kinds.existing_file, tmp_path / "none"),
        (kinds.existing_folder, file),
        (kinds.existing_folder, tmp_path / "none"),
        (kinds.folder, file),
    ]
    for parse, path in bad:
        with pytest.raises(ValueError, match="is not a "):
            parse(str(path))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:pw@host:1/0", "redis://user:***@host:1/0"),
        ("redis://:pw@host:1", "redis://:***@host:1"),
        ("redis://pw@host", "redis://***@host"),
        ("redis://u:p@ss/w@rd@host", "redis://u:***@host"),
        (
            "redis+sentinel://h:1/s?sentinel_password=pw&db=2",
            "redis+sentinel://h:1/s?sentinel_password=***&db=2",
        ),
        ("redis://h:1/0?myToken=pw&x=1&a_secret_b=pw", "redis://h:1/0?myToken=***&x=1&a_secret_b=***"),
        ("user:pw@host:1", "user:***@host:1"),
        ("host:1", "host:1"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("embedded:/data", "embedded:/data"),
        ("ann@example.org", "ann@example.org"),
    ],
)
def test_what_is_shown_of_a_url_has_no_password(url: str, shown: str) -> None:
    assert kinds.hidden_credentials(url) == shown


@given(st.from_regex(r"[A-Za-z0-9@:/?&=_.+-]{6,20}", fullmatch=True))
def test_no_password_is_shown_whatever_is_in_it(password: str) -> None:
    secret = f"S3{password}S3"
    assert secret not in kinds.hidden_credentials(f"redis://user:{secret}@redis.example:6379/0")
