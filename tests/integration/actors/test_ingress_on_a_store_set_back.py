"""The ingress after the store was set back under it."""

from typing import cast

import trio
from trio.testing import MockClock

from galaxy_mail.actors.ingress import Ingress
from galaxy_mail.actors.supervisor import Heartbeat
from tests.integration.intake.desk import Desk, entry
from tests.keys import k
from tests.storehouse import Storehouse

STREAM = "mail:delivery_commands"


async def test_what_a_set_back_store_lost_is_read_again_though_nothing_new_comes(
    house: Storehouse, autojump_clock: MockClock
) -> None:
    """A failover to a replica that lagged behind: the command's delivery is gone, and its entry is still there."""
    house.clock.follow_trio()
    desk = Desk(house)
    _, fields = entry("", "n1")
    house.run("XADD", STREAM, "*", *(part for field in fields for part in field))
    before = {key: house.run("DUMP", key) for key in cast("list[bytes]", house.run("KEYS", "*"))}
    ingress = Ingress(
        stream=house.stream,
        intake=desk.commands,
        block_ms=2_000,
        metrics=desk.metrics,
        heartbeat=Heartbeat(),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ingress.run)
        await trio.sleep(1)
        assert house.run("EXISTS", k.delivery("n1")) == 1
        house.run("FLUSHALL")
        for key, dumped in before.items():
            house.run("RESTORE", key, 0, cast("bytes", dumped))
        await trio.sleep(5)
        assert house.run("EXISTS", k.delivery("n1")) == 1
        nursery.cancel_scope.cancel()
