"""What a real process is given around it."""

import pytest

from galaxy_mail.config import Config
from galaxy_mail.service.dependencies import ProductionDependencies
from galaxy_mail.settings.redis_address import RedisAddress


@pytest.mark.parametrize(
    ("request_timeout", "redis_timeout_s"),
    [("50ms", 1.0), ("1s", 1.0), ("2s", 1.2), ("5s", 3.0), ("5m", 3.0)],
)
def test_redis_has_a_part_of_a_requests_time_and_always_enough_for_a_batch(
    request_timeout: str, redis_timeout_s: float
) -> None:
    config = Config.from_env(
        {"MAIL_REDIS_ADDR": "unix:///nowhere", "MAIL_OPERATOR_REQUEST_TIMEOUT": request_timeout}
    )
    assert ProductionDependencies(
        config, RedisAddress(unix_path="/nowhere")
    ).redis_timeout_s == pytest.approx(redis_timeout_s)
