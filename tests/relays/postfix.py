"""Postfix: PIPELINING, 8BITMIME, SMTPUTF8, SIZE, DSN, STARTTLS, implicit TLS; strict about pipelining and dots."""

from collections.abc import Sequence

from tests.relays.real import Ports, Root

POSTFIX_UID, POSTDROP_UID = 30_101, 30_102


class Postfix:
    name = "postfix"
    has_implicit_tls = True

    def lay_out(self, root: Root, ports: Ports) -> None:
        root.accounts({"postfix": POSTFIX_UID, "postdrop": POSTDROP_UID})
        root.write(
            "/etc/postfix/main.cf",
            f"""
compatibility_level = 3.6
maillog_file = /var/log/postfix.log
queue_directory = /var/spool/postfix
data_directory = /var/lib/postfix
daemon_directory = /usr/lib/postfix/sbin
command_directory = /usr/sbin
shlib_directory = /usr/lib/postfix
mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.test
mydestination =
alias_maps =
alias_database =
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:{ports.next_hop}
smtp_connection_cache_on_demand = no
smtp_tls_security_level = none
smtp_host_lookup = native
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = check_recipient_access inline:{{ {{ refused@example.org = 550 5.1.1 No such reader }},
  {{ later@example.org = 450 4.2.1 Not now }} }}
smtpd_tls_chain_files = /etc/tls/key.pem, /etc/tls/chain.pem
smtpd_tls_security_level = may
smtpd_timeout = 60s
message_size_limit = 20000000
""",
        )
        root.write(
            "/etc/postfix/master.cf",
            f"""
127.0.0.1:{ports.plain} inet n - n - - smtpd
127.0.0.1:{ports.demanding} inet n - n - - smtpd -o smtpd_tls_security_level=encrypt
127.0.0.1:{ports.implicit} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
proxymap unix - - n - - proxymap
postlog unix-dgram n - n - 1 postlogd
""",
        )
        root.folder("/var/log")
        root.folder("/var/lib/postfix", uid=POSTFIX_UID, gid=POSTFIX_UID, mode=0o700)
        root.folder("/var/spool/postfix")
        queues = "active bounce corrupt defer deferred flush hold incoming private saved trace"
        for queue in queues.split():
            root.folder(f"/var/spool/postfix/{queue}", uid=POSTFIX_UID, mode=0o700)
        root.folder("/var/spool/postfix/public", uid=POSTFIX_UID, gid=POSTDROP_UID, mode=0o710)
        root.folder("/var/spool/postfix/maildrop", uid=POSTFIX_UID, gid=POSTDROP_UID, mode=0o730)
        root.folder("/var/spool/postfix/pid")

    def command(self) -> Sequence[str]:
        return ("/usr/lib/postfix/sbin/master", "-c", "/etc/postfix", "-d")
