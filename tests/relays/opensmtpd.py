"""OpenSMTPD: 8BITMIME, SIZE, DSN, STARTTLS and implicit TLS with AUTH; no PIPELINING, no SMTPUTF8, 100 mails a session."""

import subprocess
from collections.abc import Sequence

from tests.relays.real import PASSWORD, USERNAME, Ports, Root

SMTPD_UID, SMTPQ_UID = 30_301, 30_302


class OpenSmtpd:
    name = "opensmtpd"
    has_implicit_tls = True

    def lay_out(self, root: Root, ports: Ports) -> None:
        root.accounts({"opensmtpd": SMTPD_UID, "opensmtpq": SMTPQ_UID})
        root.write("/etc/mailname", "opensmtpd.test\n")
        hashed = subprocess.run(
            ["openssl", "passwd", "-6", "-salt", "galaxymail", PASSWORD],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        root.write("/etc/credentials", f"{USERNAME} {hashed}\n", mode=0o644)
        root.write(
            "/etc/smtpd.conf",
            f"""
pki opensmtpd.test cert "/etc/tls/chain.pem"
pki opensmtpd.test key "/etc/tls/key.pem"
table credentials file:/etc/credentials
table refused {{ "refused@example.org" }}
listen on 127.0.0.1 port {ports.plain} tls pki opensmtpd.test auth-optional <credentials> hostname opensmtpd.test
listen on 127.0.0.1 port {ports.implicit} smtps pki opensmtpd.test auth-optional <credentials> hostname opensmtpd.test
smtp max-message-size 20M
action "onward" relay host smtp://127.0.0.1:{ports.next_hop}
match from any for rcpt-to <refused> reject
match from any for any action "onward"
""",
            mode=0o600,
        )
        for folder in ("/run", "/var/run", "/var/lib/opensmtpd/empty"):
            root.folder(folder)
        root.folder("/var/spool/smtpd", mode=0o711)
        for name, uid, gid, mode in (
            ("corrupt", SMTPQ_UID, 0, 0o700),
            ("incoming", SMTPQ_UID, 0, 0o700),
            ("offline", 0, SMTPQ_UID, 0o770),
            ("purge", SMTPQ_UID, 0, 0o700),
            ("queue", SMTPQ_UID, 0, 0o700),
            ("temporary", SMTPQ_UID, 0, 0o700),
        ):
            root.folder(f"/var/spool/smtpd/{name}", uid=uid, gid=gid, mode=mode)

    def command(self) -> Sequence[str]:
        return ("/usr/sbin/smtpd", "-d", "-f", "/etc/smtpd.conf")
