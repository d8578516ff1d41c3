"""A rolling restart under load: two instances replace one another while mail comes in by both ways, and nothing is lost."""

from collections import Counter
from pathlib import Path

import trio

from tests.servers import run_commands, valkey_server
from tests.service_process import Fleet, ServiceProcess, eventually, fleet_of

LOGIN_CODES = 150
COMMANDS = 150
ROUNDS = 3  # how often each of the two instances is replaced


async def test_nothing_is_lost_or_sent_twice(tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    async with (
        valkey_server("--appendonly", "yes") as valkey,
        fleet_of(
            {"MAIL_REDIS_ADDR": valkey.url, "MAIL_STUB_OUTBOX": str(outbox), "MAIL_SHUTDOWN_GRACE": "5s"}
        ) as fleet,
    ):
        await fleet.ready()
        await fleet.ready()
        promised: dict[str, str] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ask, fleet, promised)
            nursery.start_soon(_publish, valkey.socket)
            for _ in range(ROUNDS):
                for old in fleet.living():
                    await fleet.ready()
                    await old.stop()
        expected = {*promised.values(), *(f"roll.{number}" for number in range(COMMANDS))}
        assert len(expected) == LOGIN_CODES + COMMANDS

        [survivor, _] = fleet.living()

        async def all_sent() -> bool:
            [sent] = run_commands(valkey.socket, [("ZCARD", "mail:idx:status:sent")])
            return sent == len(expected)

        await eventually(all_sent, "everything is sent", 60)
        sound = await fleet.run("verify-store")
        assert sound.status == 0, sound.output
        assert await survivor.metric("galaxy_mail_attempts_outcome_unknown_total") == 0
        await fleet.stop()
    copies = Counter(path.name.rpartition(".")[0].rpartition(".")[0] for path in outbox.glob("*.eml"))
    assert copies == dict.fromkeys(expected, 1)


async def _ask(fleet: Fleet, promised: dict[str, str]) -> None:
    """A caller as the contract wants it: what was not answered is asked again, with the same key."""
    for number in range(LOGIN_CODES):
        key = f"key-{number}"
        while key not in promised:
            process: ServiceProcess = fleet.living()[-1]
            try:
                answer = await process.post_login_code(key)
            except Exception:  # noqa: BLE001  # whatever a connection that ends looks like
                await trio.lowlevel.checkpoint()
                continue
            if answer.status_code == 200:
                promised[key] = answer.headers["delivery-id"]


async def _publish(socket: str) -> None:
    payload = '{"envelope":{"to":["grace@example.org"]},"subject":"s","text_body":"t"}'
    for number in range(COMMANDS):
        fields = (
            *("delivery_id", f"roll.{number}", "source", "notification", "payload_mode", "rendered"),
            *(
                "idempotency_key",
                f"roll-{number}",
                "requested_at_ms",
                "1732500000000",
                "payload_json",
                payload,
            ),
        )
        await trio.to_thread.run_sync(
            run_commands, socket, [("XADD", "mail:delivery_commands", "*", *fields)]
        )
