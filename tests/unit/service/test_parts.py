"""What the service makes of its settings."""

import pytest

from galaxy_mail.config import Config
from galaxy_mail.service.parts import send_within_s


@pytest.mark.parametrize(
    ("settings", "at_least_s"),
    [
        ({}, 600),
        ({"MAIL_SMTP_FINAL_TIMEOUT": "30m"}, 30 * 60),
        ({"MAIL_SMTP_TIMEOUT": "10m", "MAIL_SMTP_FINAL_TIMEOUT": "30m"}, (4 * 10 + 30) * 60),
    ],
)
def test_a_slot_that_waits_as_long_as_it_may_is_not_called_hung(
    settings: dict[str, str], at_least_s: float
) -> None:
    """Else `/livez` would have the process killed while a relay thinks, and a second copy sent."""
    config = Config.from_env({"MAIL_REDIS_ADDR": "unix:///nowhere", **settings})
    assert send_within_s(config) >= at_least_s
