"""The address of Redis with its login and TLS parameters: MAIL_REDIS_ADDR."""

import ssl
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.secrets import MASK, is_secret_name

REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
FORMS: Final = (
    "host:port, redis://, rediss://, unix://, redis+sentinel://host,host/service/database or embedded:DIR"
)
_SCHEMES: Final = frozenset({"redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"})
_TLS_PARAMETERS: Final = {"ssl_ca_certs": "ca_file", "ssl_certfile": "cert_file", "ssl_keyfile": "key_file"}
_SENTINEL_PARAMETERS: Final = {
    "sentinel_username": "sentinel_username",
    "sentinel_password": "sentinel_password",
}


class InvalidRedisAddress(GalaxyMailError, ValueError):
    """Not a valid address. The message doesn't repeat the text, which may contain a password."""


class RedisAddress(Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Has one of: `hosts` (one server), `unix_path`, `sentinel_service` (its sentinels are `hosts`), `embedded_dir`."""

    hosts: tuple[tuple[str, int], ...] = ()
    unix_path: str | None = None
    sentinel_service: str | None = None
    embedded_dir: str | None = None
    username: str | None = None
    password: str | None = None
    database: int = 0
    tls: bool = False
    ca_file: str | None = None  # None: the system's roots
    cert_file: str | None = None
    key_file: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None

    def __repr__(self) -> str:
        shown = (
            f"{name}={MASK if is_secret_name(name) else repr(value)}"
            for name in self.__struct_fields__
            if (value := getattr(self, name)) not in (None, (), False, 0)
        )
        return f"RedisAddress({', '.join(shown)})"

    def __str__(self) -> str:
        """The address for people, without user, password and files."""
        if self.embedded_dir is not None:
            return f"embedded:{self.embedded_dir}"
        if self.unix_path is not None:
            return f"unix://{self.unix_path}"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return hosts if self.sentinel_service is None else f"{hosts}/{self.sentinel_service}"

    def at(self, host: str, port: int) -> "RedisAddress":
        """The server that a sentinel named, with the login of this address."""
        return replace(self, hosts=((host, port),), sentinel_service=None)

    def tls_context(self) -> ssl.SSLContext:
        """A context that verifies name and chain. Raises OSError with the file's name if a file can't be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise OSError(f"{self.ca_file} can't be used: {error}") from None
        if self.cert_file is not None:
            try:
                context.load_cert_chain(self.cert_file, self.key_file, password=lambda: b"")
            except OSError as error:
                raise OSError(
                    f"{self.cert_file}, {self.key_file or 'no key file'} can't be used: {error}"
                ) from None
        return context


def parse_redis_address(text: str) -> RedisAddress:
    """Decodes MAIL_REDIS_ADDR. Raises InvalidRedisAddress."""
    if not text or text != text.strip() or not text.isprintable():
        raise InvalidRedisAddress(f"must be {FORMS}")
    if text.startswith("embedded:"):
        return _embedded(text.removeprefix("embedded:"))
    scheme, separator, _ = text.partition("://")
    if not separator:
        if "@" in text or "/" in text or "?" in text:
            raise InvalidRedisAddress(
                "user, password and database need the form redis://user:password@host:port/0"
            )
        return RedisAddress(hosts=(_host_and_port(text, REDIS_PORT),))
    if scheme not in _SCHEMES:
        raise InvalidRedisAddress(f"must be {FORMS}")
    try:
        url = urlsplit(text)
    except ValueError as error:  # its message would repeat the text
        raise InvalidRedisAddress("is not a valid URL") from error.__class__("malformed URL")
    if url.fragment:
        raise InvalidRedisAddress("has a '#', which must be written as %23 in a password")
    return _from_url(url)


def _embedded(folder: str) -> RedisAddress:
    folder = folder.removeprefix("//")
    if not folder:
        raise InvalidRedisAddress("embedded: needs a folder, such as embedded:/var/lib/galaxy-mail")
    return RedisAddress(embedded_dir=folder)


def _from_url(url: SplitResult) -> RedisAddress:
    userinfo, _, location = url.netloc.rpartition("@")
    username, password = _login(userinfo)
    address = RedisAddress(username=username, password=password, tls=url.scheme.startswith("rediss"))
    if url.scheme == "unix":
        if location or not url.path.startswith("/"):
            raise InvalidRedisAddress("unix:// needs an absolute path, such as unix:///run/redis.sock")
        return _with_parameters(replace(address, unix_path=unquote(url.path)), url.query)
    if not location:
        raise InvalidRedisAddress("has no host")
    if url.scheme.endswith("+sentinel"):
        service, _, database = url.path.removeprefix("/").partition("/")
        if not service:
            raise InvalidRedisAddress("has no service: redis+sentinel://host:port,host:port/service/database")
        address = replace(
            address,
            hosts=tuple(_host_and_port(host, SENTINEL_PORT) for host in location.split(",")),
            sentinel_service=unquote(service),
            database=_database(database),
        )
        return _with_parameters(address, url.query)
    address = replace(
        address, hosts=(_host_and_port(location, REDIS_PORT),), database=_database(url.path.removeprefix("/"))
    )
    return _with_parameters(address, url.query)


def _login(userinfo: str) -> tuple[str | None, str | None]:
    if not userinfo:
        return None, None
    username, separator, password = userinfo.partition(":")
    if not separator or not password:
        raise InvalidRedisAddress("has a user without a password")
    return unquote(username) or None, unquote(password)


def _host_and_port(text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
        if not bracket or (rest and not rest.startswith(":")) or (rest and not port):
            raise InvalidRedisAddress("has a host in brackets that does not end as [host]:port")
    else:
        host, colon, port = text.partition(":")
        if ":" in port:
            raise InvalidRedisAddress("has more than one ':' in host:port; IPv6 addresses need brackets")
        if colon and not port:
            raise InvalidRedisAddress("has no port after the ':'")
    if not host:
        raise InvalidRedisAddress("has no host")
    if not port:
        return host, default_port
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidRedisAddress("has a port that is not a number from 1 to 65535")
    return host, int(port)


def _database(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise InvalidRedisAddress("has a database that is not a number")
    return int(text)


def _with_parameters(address: RedisAddress, query: str) -> RedisAddress:
    known: dict[str, str] = {}
    if address.tls:
        known |= _TLS_PARAMETERS
    if address.sentinel_service is not None:
        known |= _SENTINEL_PARAMETERS
    changes: dict[str, str | int] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "db":
            changes["database"] = _database(value)
        elif name in known and value:
            changes[known[name]] = value
        else:
            # The message doesn't repeat the name, because part of an unescaped password could be here.
            raise InvalidRedisAddress(
                f"has a parameter other than {', '.join(['db', *sorted(known)])}, or an empty one"
            )
    if "key_file" in changes and "cert_file" not in changes:
        raise InvalidRedisAddress("has ssl_keyfile without ssl_certfile")
    return replace(address, **changes)
