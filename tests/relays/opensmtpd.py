"""OpenSMTPD: 8BITMIME, SIZE, DSN; no PIPELINING, no SMTPUTF8, no quoted local parts, 100 mails a session.

It offers STARTTLS, but Debian 12's release (6.8.0p2 with OpenSSL 3, OpenSMTPD's issues 1171 and 1239) fails in every
handshake: so it stands for relays whose TLS is broken.
"""

from collections.abc import Sequence

from tests.relays.real import Ports, Root

SMTPD_UID, SMTPQ_UID = 30_301, 30_302


class OpenSmtpd:
    name = "opensmtpd"
    has_implicit_tls = False

    def lay_out(self, root: Root, ports: Ports) -> None:
        root.accounts({"opensmtpd": SMTPD_UID, "opensmtpq": SMTPQ_UID})
        root.write("/etc/mailname", "opensmtpd.test\n")
        root.write(
            "/etc/smtpd.conf",
            f"""
pki opensmtpd.test cert "/etc/tls/chain.pem"
pki opensmtpd.test key "/etc/tls/key.pem"
table refused {{ "refused@example.org" }}
listen on 127.0.0.1 port {ports.plain} tls pki opensmtpd.test hostname opensmtpd.test
listen on 127.0.0.1 port {ports.demanding} tls-require pki opensmtpd.test hostname opensmtpd.test
smtp max-message-size 20M
mta limit conn-delay-host 0 conn-delay-source 0 conn-delay-connector 0 conn-delay-relay 0 conn-delay-domain 0
mta limit reconn-delay-route 0 session-transaction-delay 0
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
