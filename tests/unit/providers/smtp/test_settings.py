"""What an operator's choices lead to."""

from pathlib import Path

import pytest
import trustme

from galaxy_mail.providers.smtp.settings import BadCaFile, TlsMode, tls_context
from tests.unit.providers.smtp.wire import settings


@pytest.mark.parametrize(
    ("mode", "port", "username", "implicit", "required"),
    [
        (TlsMode.AUTO, 465, "", True, False),
        (TlsMode.AUTO, 465, "u", True, True),
        (TlsMode.AUTO, 587, "", False, False),
        (TlsMode.AUTO, 587, "u", False, True),
        (TlsMode.STARTTLS, 465, "", False, True),
        (TlsMode.STARTTLS, 25, "u", False, True),
        (TlsMode.IMPLICIT, 2525, "u", True, False),
        (TlsMode.NONE, 465, "u", False, False),
    ],
)
def test_mode_port_and_credentials_decide_about_tls(
    mode: TlsMode, port: int, username: str, implicit: bool, required: bool
) -> None:
    chosen = settings(tls=mode, port=port, username=username)
    assert (chosen.implicit_tls, chosen.requires_starttls) == (implicit, required)


def test_a_ca_file_replaces_the_systems_roots(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = tls_context(str(tmp_path / "ca.pem"))
    assert [entry["subject"] for entry in context.get_ca_certs()] == [
        entry["issuer"] for entry in context.get_ca_certs()
    ]
    assert len(context.get_ca_certs()) == 1
    assert context.check_hostname


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_ca_file_without_certificates_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    with pytest.raises(BadCaFile, match="MAIL_SMTP_CA_FILE"):
        tls_context(str(tmp_path / "ca.pem"))
