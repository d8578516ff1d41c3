"""Commands against the API on a real socket."""

from collections.abc import AsyncIterator, Mapping

import pytest
import trio
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from galaxy_mail.cli import main
from galaxy_mail.http.tokens import Tokens
from tests.integration.http.served import served
from tests.integration.http.world import World, world
from tests.servers import ValkeyServer

TOKEN = "ops-4711"


class Shell:
    """Where commands are typed. The service keeps running meanwhile."""

    def __init__(self, api: World, url: str) -> None:
        self.api = api
        self.url = url
        self.env: dict[str, str] = {"MAIL_API_URL": url, "MAIL_API_TOKEN": TOKEN, "COLUMNS": "200"}

    async def run(
        self, *arguments: str, stdin: str | bytes | None = None, env: Mapping[str, str] | None = None
    ) -> Result:
        """One command, whatever its exit status."""
        runner = CliRunner(env={**self.env, **(env or {})})

        def invoke() -> Result:
            return runner.invoke(main, arguments, input=stdin)

        result = await trio.to_thread.run_sync(invoke)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    async def out(self, *arguments: str, stdin: str | bytes | None = None) -> str:
        """What a command that has to succeed prints."""
        result = await self.run(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.stdout


@pytest.fixture
async def shell(valkey: ValkeyServer) -> AsyncIterator[Shell]:
    # The service's lines would stand among those of the command, whose output is the process's here.
    with capture_logs():
        async with world(valkey, tokens=Tokens(operator=[TOKEN])) as api, served(api.app) as running:
            yield Shell(api, running.server.url)
