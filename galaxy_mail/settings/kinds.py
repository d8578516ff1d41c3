"""Parsers and masks for the values of environment variables.

A parser returns the value or raises ValueError. Its message continues a sentence that begins with the variable's name and,
unless it is a secret, its text. The message itself doesn't repeat the text.
"""

import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from galaxy_mail.domain.addresses import BadAddress, parse_address, parse_allowlist
from galaxy_mail.domain.secrets import MASK, mentions_secret
from galaxy_mail.network.loopback import is_loopback
from galaxy_mail.settings.redis_address import InvalidRedisAddress, RedisAddress, parse_redis_address

T = TypeVar("T")
Choice = TypeVar("Choice", bound=str)


class HostPort(NamedTuple):
    """Where to listen or to connect. An empty host: every interface."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether the traffic stays on this machine."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def text(value: str) -> str:
    if not value.isprintable():
        raise ValueError("has control characters")
    return value


def optional(parse: Callable[[str], T]) -> Callable[[str], T | None]:
    """As `parse`, but None for an empty value."""
    return lambda value: parse(value) if value else None


def choice(*values: Choice) -> Callable[[str], Choice]:
    by_name = {value.lower(): value for value in values}

    def parse(value: str) -> Choice:
        try:
            return by_name[value.lower()]
        except KeyError:
            raise ValueError(f"is not one of {', '.join(values)}") from None

    return parse


def whole_number(*, at_least: int, at_most: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", value):
            raise ValueError("is not a whole number")
        if not at_least <= int(value) <= at_most:
            raise ValueError(f"is not between {at_least} and {at_most}")
        return int(value)

    return parse


_BYTES: Final = {"": 1, "KiB": 1024, "MiB": 1024**2}


def size_bytes(*, at_least: int, at_most: int) -> Callable[[str], int]:
    """A number of bytes: `10485760`, `512KiB`, `10MiB`."""

    def parse(value: str) -> int:
        match = re.fullmatch(r"([0-9]{1,15})(KiB|MiB|)", value)
        if match is None:
            raise ValueError("is not a number of bytes such as 10485760, 512KiB or 10MiB")
        size = int(match[1]) * _BYTES[match[2]]
        if not at_least <= size <= at_most:
            raise ValueError(f"is not between {at_least} and {at_most} bytes")
        return size

    return parse


_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION: Final = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,6})?(?:ms|s|m|h|d)){1,5}")
_DURATION_PART: Final = re.compile(r"([0-9.]+)(ms|s|m|h|d)")


def _milliseconds(value: str) -> int:
    if not _DURATION.fullmatch(value):
        raise ValueError("is not a duration such as 50ms, 15s, 5m or 168h")
    ms = sum(float(number) * _UNIT_MS[unit] for number, unit in _DURATION_PART.findall(value))
    if ms != int(ms):
        raise ValueError("is not a whole number of milliseconds")
    return int(ms)


def duration_ms(*, at_least: str, at_most: str) -> Callable[[str], int]:
    least_ms, most_ms = _milliseconds(at_least), _milliseconds(at_most)

    def parse(value: str) -> int:
        ms = _milliseconds(value)
        if not least_ms <= ms <= most_ms:
            raise ValueError(f"is not between {at_least} and {at_most}")
        return ms

    return parse


RETRIES_MAX: Final = 20
RETRY_DELAY_MAX: Final = "168h"


def retry_delays_ms(value: str) -> tuple[int, ...]:
    """`1m,5m,30m`; `none` for no retries."""
    if value.lower() == "none":
        return ()
    delays_ms = tuple(_milliseconds(part.strip()) for part in value.split(","))
    if len(delays_ms) > RETRIES_MAX:
        raise ValueError(f"has more than {RETRIES_MAX} delays")
    if max(delays_ms) > _milliseconds(RETRY_DELAY_MAX):
        raise ValueError(f"has a delay of more than {RETRY_DELAY_MAX}")
    return delays_ms


def listener(value: str) -> HostPort:
    """Where to listen: `:8080`, `127.0.0.1:8080`, `[::1]:8080`. Port 0 lets the system choose."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/@\[\]]*)):([0-9]{1,5})", value)
    if match is None:
        raise ValueError("is not host:port (an IPv6 address needs brackets, [::1]:8080)")
    if int(match[3]) > 65_535:
        raise ValueError("has a port above 65535")
    return HostPort(match[1] or match[2], int(match[3]))


def server(value: str) -> HostPort:
    """Where to connect: host and port are both required."""
    place = listener(value)
    if not place.host or not place.port:
        raise ValueError("is not host:port")
    return place


def address(value: str) -> str:
    try:
        return parse_address(value)
    except BadAddress as bad:
        raise ValueError(f"is not a mail address: {bad}") from None


def allowlist(value: str) -> frozenset[str]:
    try:
        entries = parse_allowlist(value)
    except BadAddress as bad:
        raise ValueError(f"is not a list of addresses and @domains: {bad}") from None
    if not entries:
        raise ValueError("is empty; unset the variable to allow all recipients")
    return entries


_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 §2.1: allowed in an Authorization header


def token(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError("has characters that are not allowed in a bearer token (RFC 6750)")
    return value


def tokens(value: str) -> tuple[str, ...]:
    """Separated by commas or, in a file, line breaks."""
    found = tuple(dict.fromkeys(part.strip() for part in re.split(r"[,\n]", value) if part.strip()))
    if not found:
        raise ValueError("contains no token; unset the variable to require none")
    return tuple(token(one) for one in found)


def http_url(value: str) -> str:
    wrong = "is not a URL such as http://127.0.0.1:8080"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:  # unmatched brackets or a bad port; its message repeats the text
        raise ValueError(wrong) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ValueError(wrong)
    if parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", value):
        raise ValueError(wrong)
    if "@" in parts.netloc:
        raise ValueError("may not contain credentials")
    return value.rstrip("/")


def existing_file(value: str) -> Path:
    path = Path(value)
    if not path.is_file():
        raise ValueError("is not a file")
    if not os.access(path, os.R_OK):
        raise ValueError("can't be read")
    return path


def certificates(value: str) -> Path:
    """A file of CA certificates, PEM."""
    path = existing_file(value)
    try:
        ssl.create_default_context(cafile=path)
    except OSError:  # SSLError, too, whose message doesn't help
        raise ValueError("has no PEM certificates") from None
    return path


def pair_problem(cert: Path, key: Path) -> str | None:
    """Why a certificate chain and a private key can't be used together. None: they can."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password=lambda: b"")  # instead of a prompt
    except (OSError, ValueError) as error:
        return getattr(error, "reason", None) or str(error)
    return None


def existing_folder(value: str) -> Path:
    path = Path(value)
    if not path.is_dir():
        raise ValueError("is not a folder")
    return path


def folder(value: str) -> Path:
    """A folder that is created when it is first needed."""
    path = Path(value)
    if path.exists() and not path.is_dir():
        raise ValueError("is not a folder")
    return path


def redis_name(value: str) -> str:
    if not re.fullmatch(r"[!-~]{1,200}", value):
        raise ValueError("is not a key name of 1 to 200 printable ASCII characters without spaces")
    return value


def redis_address(value: str) -> RedisAddress:
    try:
        address = parse_redis_address(value.strip())
    except InvalidRedisAddress as invalid:
        raise ValueError(str(invalid)) from None
    if address.tls:
        try:
            address.tls_context()
        except OSError as error:
            raise ValueError(f"names a file: {error}") from None
    return address


def hidden(value: str) -> str:
    """Shows only whether the secret is set."""
    return MASK if value else ""


def hidden_credentials(url: str) -> str:
    """The URL or host:port with the password before the last @ and secrets in its query masked."""
    scheme, separator, rest = url.rpartition("://")
    userinfo, at, place = rest.rpartition("@")
    place = re.sub(
        r"([^?&=]*)=([^&]*)",
        lambda pair: f"{pair[1]}={MASK if mentions_secret(pair[1].encode()) else pair[2]}",
        place,
    )
    user, colon, _ = userinfo.partition(":")
    if colon:
        userinfo = f"{user}:{MASK}"
    elif separator and at:
        userinfo = MASK  # a user name, or a password without its colon
    return f"{scheme}{separator}{userinfo}{at}{place}"
