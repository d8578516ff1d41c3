"""Exim: PIPELINING, 8BITMIME, SIZE, AUTH in clear on loopback, STARTTLS, implicit TLS (GnuTLS); no SMTPUTF8 asked.

As by default, what comes after ten mails of a connection waits for the queue runner, which does not come during a test.
"""

from collections.abc import Sequence

from tests.relays.real import PASSWORD, USERNAME, Ports, Root

EXIM_UID = 30_201


class Exim:
    name = "exim"
    has_implicit_tls = True

    def lay_out(self, root: Root, ports: Ports) -> None:
        root.accounts({"Debian-exim": EXIM_UID})
        root.write(
            "/etc/exim4/exim4.conf",
            f"""
primary_hostname = exim.test
exim_user = Debian-exim
exim_group = Debian-exim
spool_directory = /var/spool/exim4
log_file_path = /var/log/exim4/%slog
never_users = root
daemon_smtp_ports = {ports.plain} : {ports.implicit} : {ports.demanding}
tls_on_connect_ports = {ports.implicit}
local_interfaces = 127.0.0.1
host_lookup =
rfc1413_query_timeout = 0s
message_size_limit = 20M
tls_advertise_hosts = *
tls_certificate = /etc/exim4/chain.pem
tls_privatekey = /etc/exim4/key.pem
smtputf8_advertise_hosts = *
acl_smtp_mail = check_mail
acl_smtp_rcpt = check_rcpt
acl_smtp_data = accept
untrusted_set_sender = *
bounce_return_message = false

begin acl
check_mail:
  deny condition = ${{if eq{{$received_port}}{{{ports.demanding}}}}}
       !authenticated = *
       message = 530 5.7.0 Authentication required
  accept
check_rcpt:
  deny recipients = refused@example.org
       message = No such reader
  defer recipients = later@example.org
       message = Not now
  accept

begin routers
onward:
  driver = manualroute
  domains = *
  transport = onward
  route_list = * 127.0.0.1 byname
  self = send

begin transports
onward:
  driver = smtp
  port = {ports.next_hop}
  allow_localhost
  hosts_avoid_tls = *
  hosts_try_chunking =

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{{USERNAME}}}}}{{eq{{$auth3}}{{{PASSWORD}}}}}}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = <| Username: | Password:
  server_condition = ${{if and{{{{eq{{$auth1}}{{{USERNAME}}}}}{{eq{{$auth2}}{{{PASSWORD}}}}}}}}}
  server_set_id = $auth1
""",
        )
        for name in ("chain", "key"):
            pem = (root.path / f"etc/tls/{name}.pem").read_bytes()
            root.write(f"/etc/exim4/{name}.pem", pem, mode=0o644)  # Exim reads them as its own user
        for folder in ("/var/spool/exim4", "/var/log/exim4"):
            root.folder(folder, uid=EXIM_UID, gid=EXIM_UID, mode=0o750)

    def command(self) -> Sequence[str]:
        return ("/usr/sbin/exim4", "-bdf", "-q1h")  # with -C it would drop its privileges
