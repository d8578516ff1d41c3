"""The settings of the relay and of its TLS."""

import ssl
from enum import StrEnum
from typing import Final

from msgspec import Struct

from galaxy_mail.domain.errors import GalaxyMailError

IMPLICIT_TLS_PORT: Final = 465  # RFC 8314 §7.3


class TlsMode(StrEnum):
    AUTO = "auto"  # implicit on port 465, else STARTTLS if offered; with credentials TLS is required
    STARTTLS = "starttls"
    IMPLICIT = "implicit"
    NONE = "none"


class BadCaFile(GalaxyMailError):
    """MAIL_SMTP_CA_FILE holds no readable certificates."""


class SmtpSettings(Struct, frozen=True, kw_only=True):
    host: str
    port: int
    from_email: str
    from_name: str = ""
    username: str = ""  # empty: no AUTH
    password: str = ""
    tls: TlsMode = TlsMode.AUTO
    ca_file: str | None = None  # instead of the system's roots
    timeout_s: float = 15.0  # each: connect + TLS + AUTH; the envelope; a body without progress
    final_timeout_s: float = 60.0  # for the reply to the final dot
    stop_grace_s: float = 2.0  # how much longer a cancelled attempt waits for that reply
    quit_timeout_s: float = 1.0
    # Postfix and Exchange disconnect after five idle minutes, some cloud relays after one. We disconnect before them.
    idle_max_s: float = 30.0
    messages_max: int = (
        100  # per connection; OpenSMTPD's default limit. Reconnecting adds 4 round trips to 200
    )

    def __repr__(self) -> str:
        return f"SmtpSettings({self.host}:{self.port}, tls={self.tls})"  # without the password

    @property
    def implicit_tls(self) -> bool:
        return self.tls is TlsMode.IMPLICIT or (self.tls is TlsMode.AUTO and self.port == IMPLICIT_TLS_PORT)

    @property
    def requires_starttls(self) -> bool:
        return self.tls is TlsMode.STARTTLS or (self.tls is TlsMode.AUTO and self.username != "")


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """A context that verifies the relay's name and certificate chain. Raises BadCaFile.

    Loading takes long, so all slots share one.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as bad:  # ssl.SSLError is an OSError
        raise BadCaFile(
            f"MAIL_SMTP_CA_FILE: the file has no readable certificates ({type(bad).__name__})"
        ) from bad
