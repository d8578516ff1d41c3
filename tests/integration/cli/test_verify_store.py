"""`verify-store` says 1 only of a store that it has looked at."""

import pytest
from click.testing import CliRunner

from galaxy_mail.cli import main
from galaxy_mail.storage.links.errors import OutcomeUnknown
from tests.servers import ValkeyServer


def test_a_connection_lost_on_the_way_says_nothing_of_the_store(
    empty_valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: object, **__: object) -> None:
        raise OutcomeUnknown("the connection was lost")

    monkeypatch.setattr("galaxy_mail.cli.verify_store.verify", lost)
    result = CliRunner().invoke(main, ["verify-store"], env={"MAIL_REDIS_ADDR": empty_valkey.url})
    assert result.exit_code == 3
    assert (
        result.stderr
        == "galaxy-mail: the connection to Redis broke during the check: the connection was lost\n"
    )
