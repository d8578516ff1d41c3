"""`galaxy-mail healthcheck`: checks the health of the service on this host, for a platform's probes."""

import http.client
import json
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from galaxy_mail.config import Config, ConfigError, HostPort
from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.settings import SettingProblem

ADDRESS: Final = "MAIL_INTERNAL_HTTP_ADDR"
CERT: Final = "MAIL_TLS_CERT_FILE"
KEY: Final = "MAIL_TLS_KEY_FILE"
ANSWER_MAX_BYTES: Final = 64 * 1024
EVERY_INTERFACE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared, not bound


class NotHealthy(GalaxyMailError):
    """The service is not ready, not alive, or does not answer."""


@click.command("healthcheck")
@click.option(
    "--live", is_flag=True, help="Check that the service is alive (/livez) instead of ready (/readyz)."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 60),
    default=3.0,
    show_default=True,
    help="Seconds to wait for the answer.",
)
@click.option(
    "--cert",
    type=click.Path(path_type=Path),
    help="A client certificate, PEM, if the service requires one.  [default: the service's own certificate]",
)
@click.option("--key", type=click.Path(path_type=Path), help="The private key of --cert, PEM.")
def healthcheck(*, live: bool, timeout_s: float, cert: Path | None, key: Path | None) -> None:
    """Check that the service on this host is ready. The exit status is 0 if it is ready, else 1.

    The command reads the service's address from MAIL_INTERNAL_HTTP_ADDR and uses TLS if MAIL_TLS_CERT_FILE is set. If
    the service requires client certificates (MAIL_TLS_CLIENT_CA_FILE), the command presents the service's own
    certificate, or that of --cert and --key.
    """
    env = os.environ
    path = "/livez" if live else "/readyz"
    tls = _tls(env, cert, key) if env.get(CERT) else None
    failing = _failing_checks(_address(env), f"{path}?verbose", tls, timeout_s)
    if failing:
        raise NotHealthy(f"{path}: {'; '.join(failing)}")
    click.echo("alive" if live else "ready")


def _failing_checks(
    address: HostPort, target: str, tls: ssl.SSLContext | None, timeout_s: float
) -> list[str]:
    """The failing checks. Raises NotHealthy if there is no answer."""
    host, port = address
    link = (
        http.client.HTTPConnection(host, port, timeout=timeout_s)
        if tls is None
        else http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls)
    )
    try:
        link.request("GET", target, headers={"Connection": "close"})
        answer = link.getresponse()
        body = answer.read(ANSWER_MAX_BYTES)
    except TimeoutError:
        raise NotHealthy(f"no answer from {address} within {timeout_s:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise NotHealthy(f"no answer from {address}: {reason or type(error).__name__}") from None
    finally:
        link.close()
    if answer.status == http.client.OK:
        return []
    return _decode_failing(body) or [f"the answer is {answer.status}"]


def _decode_failing(body: bytes) -> list[str]:
    try:
        checks = json.loads(body)["checks"]
        return [f"{check['name']}: {check['detail']}" for check in checks if not check["ok"]]
    except (ValueError, LookupError, TypeError):
        return []


def _address(env: Mapping[str, str]) -> HostPort:
    """The service's address as seen from this host. Raises ConfigError."""
    [setting] = (one for one in Config.settings() if one.variable == ADDRESS)
    try:
        listener = setting.parse(env.get(ADDRESS, "").strip() or setting.default or "")
    except ValueError as error:
        raise ConfigError((SettingProblem(ADDRESS, str(error)),)) from None
    assert isinstance(listener, HostPort)
    if listener.port == 0:
        raise ConfigError((SettingProblem(ADDRESS, "has port 0: the service's real port is unknown"),))
    return listener._replace(host=EVERY_INTERFACE.get(listener.host, listener.host))


def _tls(env: Mapping[str, str], cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """A TLS context that verifies nothing: a certificate would not stop an impostor who can listen on this host."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        context.load_cert_chain(cert or env[CERT], key or env.get(KEY) or None)
    except (OSError, ssl.SSLError) as error:
        raise NotHealthy(
            f"can't load the certificate {cert or env[CERT]} and its key: {error.strerror or error}"
        ) from None
    return context
