"""`galaxy-mail healthcheck`, against a server that answers what it is told to."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner, Result

from galaxy_mail.cli import main

OK = (200, {"status": "ok", "failing": [], "checks": [{"name": "redis", "ok": True, "detail": None}]})
AWAY = (
    503,
    {
        "status": "failing",
        "failing": ["redis", "stopping"],
        "checks": [
            {"name": "redis", "ok": False, "detail": "connection refused"},
            {"name": "actors", "ok": True, "detail": None},
            {"name": "stopping", "ok": False, "detail": "a stop was asked for"},
        ],
    },
)


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {})


@contextmanager
def service(
    answers: Mapping[str, tuple[int, Any]], *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """Answers by path; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[self.path]
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
            pass

    class Server(HTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a handshake that fails is what some tests are about

        def get_request(self) -> tuple[socket.socket, Any]:
            link, address = super().get_request()
            return (tls.wrap_socket(link, server_side=True) if tls else link), address

    with Server((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def check(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(main, ["healthcheck", *arguments], env=env)


def test_a_service_that_is_ready_is_healthy() -> None:
    with service({"/readyz?verbose": OK, "/livez?verbose": AWAY}) as port:
        result = check(MAIL_INTERNAL_HTTP_ADDR=f"127.0.0.1:{port}")
    assert (result.exit_code, result.output) == (0, "ready\n")


def test_being_alive_is_another_question() -> None:
    with service({"/readyz?verbose": AWAY, "/livez?verbose": OK}) as port:
        result = check("--live", MAIL_INTERNAL_HTTP_ADDR=f"127.0.0.1:{port}")
    assert (result.exit_code, result.output) == (0, "alive\n")


def test_what_is_wrong_is_reported() -> None:
    with service({"/readyz?verbose": AWAY}) as port:
        result = check(MAIL_INTERNAL_HTTP_ADDR=f"127.0.0.1:{port}")
    assert result.exit_code == 1
    said = "galaxy-mail: /readyz: redis: connection refused; stopping: a stop was asked for\n"
    assert result.output == said


@pytest.mark.parametrize("body", [b"", b"gateway error", b"[]", b'{"checks":[7]}', b"\xff"])
def test_an_answer_that_is_not_the_service_s_is_no_health(body: bytes) -> None:
    with service({"/readyz?verbose": (502, body)}) as port:
        result = check(MAIL_INTERNAL_HTTP_ADDR=f"127.0.0.1:{port}")
    assert (result.exit_code, result.output) == (1, "galaxy-mail: /readyz: the answer is 502\n")


@pytest.mark.parametrize(
    ("listens", "host"),
    [("127.0.0.1", "0.0.0.0"), ("127.0.0.1", ""), ("::1", "[::]"), ("127.0.0.1", "localhost")],
)
def test_a_service_on_every_interface_is_reached_on_loopback(listens: str, host: str) -> None:
    with service({"/readyz?verbose": OK}, host=listens) as port:
        assert check(MAIL_INTERNAL_HTTP_ADDR=f"{host}:{port}").exit_code == 0


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        port = taken.getsockname()[1]
        result = check(MAIL_INTERNAL_HTTP_ADDR=f"127.0.0.1:{port}")
    assert result.exit_code == 1
    assert result.output == f"galaxy-mail: no answer from 127.0.0.1:{port}: Connection refused\n"


def test_a_service_that_hangs_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        result = check("--timeout", "0.1", MAIL_INTERNAL_HTTP_ADDR=f"127.0.0.1:{port}")
    assert result.exit_code == 1
    assert result.output == f"galaxy-mail: no answer from 127.0.0.1:{port} within 0.1 s\n"


@pytest.mark.parametrize(
    ("address", "said"), [("127.0.0.1:0", "has port 0"), ("nowhere", "MAIL_INTERNAL_HTTP_ADDR")]
)
def test_an_address_that_is_none_is_a_configuration_problem(address: str, said: str) -> None:
    result = check(MAIL_INTERNAL_HTTP_ADDR=address)
    assert result.exit_code == 2
    assert said in result.output


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    issued = authority.issue_cert("mail.test")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    return {
        "MAIL_TLS_CERT_FILE": str(tmp_path / "cert.pem"),
        "MAIL_TLS_KEY_FILE": str(tmp_path / "key.pem"),
    }


def server_side(files: dict[str, str], clients: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files["MAIL_TLS_CERT_FILE"], files["MAIL_TLS_KEY_FILE"])
    if clients:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_with_tls_the_certificate_may_be_for_any_name(files: dict[str, str]) -> None:
    with service({"/readyz?verbose": OK}, tls=server_side(files)) as port:
        assert check(MAIL_INTERNAL_HTTP_ADDR=f":{port}", **files).exit_code == 0


def test_where_certificates_are_asked_for_the_service_s_own_is_shown(
    files: dict[str, str], authority: trustme.CA
) -> None:
    with service({"/readyz?verbose": OK}, tls=server_side(files, authority)) as port:
        assert check(MAIL_INTERNAL_HTTP_ADDR=f":{port}", **files).exit_code == 0


def test_where_another_authority_is_trusted_another_certificate_is_needed(
    files: dict[str, str], tmp_path: Path
) -> None:
    clients = trustme.CA()
    probe = clients.issue_cert("probe@mail.test")
    pem = tmp_path / "probe.pem"
    probe.private_key_and_cert_chain_pem.write_to_path(pem)
    with service({"/readyz?verbose": OK}, tls=server_side(files, clients)) as port:
        refused = check(MAIL_INTERNAL_HTTP_ADDR=f":{port}", **files)
        taken = check("--cert", str(pem), "--key", str(pem), MAIL_INTERNAL_HTTP_ADDR=f":{port}", **files)
    assert refused.exit_code == 1
    assert "no answer from 127.0.0.1" in refused.output
    assert taken.exit_code == 0


def test_a_file_that_is_not_a_certificate_is_reported_plainly(files: dict[str, str], tmp_path: Path) -> None:
    result = check("--cert", str(tmp_path / "none.pem"), **files)
    assert result.exit_code == 1
    assert "can't load the certificate " in result.output
