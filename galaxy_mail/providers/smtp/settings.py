"""What an operator decides about the relay."""

import ssl
from enum import StrEnum
from typing import Final

from msgspec import Struct

from galaxy_mail.domain.errors import GalaxyMailError

IMPLICIT_TLS_PORT: Final = 465  # RFC 8314 §7.3


class TlsMode(StrEnum):
    AUTO = "auto"  # implicit on port 465, else STARTTLS where offered, required with credentials
    STARTTLS = "starttls"
    IMPLICIT = "implicit"
    NONE = "none"


class BadCaFile(GalaxyMailError):
    """MAIL_SMTP_CA_FILE holds no certificates that can be read."""


class SmtpSettings(Struct, frozen=True, kw_only=True):
    host: str
    port: int
    from_email: str
    from_name: str = ""
    username: str = ""  # empty: no AUTH
    password: str = ""
    tls: TlsMode = TlsMode.AUTO
    ca_file: str | None = None  # instead of the system's roots
    timeout_s: float = 15.0  # for connect + TLS + AUTH, for the envelope, and for the body without progress
    final_timeout_s: float = 60.0  # for the answer to the final dot
    stop_grace_s: float = 2.0  # of that, how much is left once the attempt is cancelled
    quit_timeout_s: float = 1.0
    # Postfix and Exchange hang up after five minutes, some clouds after one. A connection is better left than lost.
    idle_max_s: float = 30.0
    messages_max: int = 100  # on one connection: where OpenSMTPD's default ends; costs 4 round trips in 200

    def __repr__(self) -> str:
        return f"SmtpSettings({self.host}:{self.port}, tls={self.tls})"  # never the password

    @property
    def implicit_tls(self) -> bool:
        return self.tls is TlsMode.IMPLICIT or (self.tls is TlsMode.AUTO and self.port == IMPLICIT_TLS_PORT)

    @property
    def requires_starttls(self) -> bool:
        return self.tls is TlsMode.STARTTLS or (self.tls is TlsMode.AUTO and self.username != "")


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Verifies the relay's name and chain. One is enough for all slots: it takes long to load. Raises BadCaFile."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as bad:  # ssl.SSLError is an OSError
        raise BadCaFile(
            f"MAIL_SMTP_CA_FILE: no certificates can be read from it ({type(bad).__name__})"
        ) from bad
