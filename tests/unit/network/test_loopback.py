import pytest

from galaxy_mail.network.loopback import is_loopback


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LocalHost.", True),
        ("a.localhost", True),
        ("localhost.example.org", False),
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("127.999.1.1", False),
        ("127.1", False),
        ("127.0.0.1.nip.io", False),
        ("128.0.0.1", False),
        ("10.0.0.1", False),
        ("192.0.2.1", False),
        ("0.0.0.0", False),
        ("::1", True),
        ("[::1]", True),
        ("0:0:0:0:0:0:0:1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.1", False),
        ("::2", False),
        ("::", False),
        ("relay", False),
        ("", False),
    ],
)
def test_what_stays_on_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
