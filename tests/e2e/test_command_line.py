"""The other commands as an operator types them: processes of their own, their words and their exit status."""

import signal
from pathlib import Path

import msgspec

from tests.keys import k
from tests.ledger import command
from tests.servers import run_command
from tests.testbed import Bed


async def test_dev_shows_both_samples_on_their_way_and_the_mail_itself(bed: Bed, tmp_path: Path) -> None:
    """On an empty machine, and again on what the first run left behind."""
    folder = tmp_path / "dev"
    for _ in range(2):
        dev = await bed.fleet.run(
            "dev", "--once", "--dir", str(folder), redis_addr=None, stub_outbox=None, internal_http_addr=None
        )
        assert dev.status == 0, dev.story()
        shown = dev.output
        assert '200 {"outcome":"sent"}' in shown
        assert "XADD mail:delivery_commands" in shown
        assert shown.count(" is sent") == 2
        assert "314159" in shown  # the mail to Ada, in which the code belongs
        assert "All twelve ships are in orbit" in shown
        assert "Traceback" not in shown
    assert len(list((folder / "outbox").glob("*.eml"))) == 4
    assert "314159" not in (folder / "galaxy-mail.log").read_text()


async def test_dev_goes_on_serving_until_it_is_stopped(bed: Bed, tmp_path: Path) -> None:
    dev = bed.fleet.start(
        "dev",
        "--dir",
        str(tmp_path / "dev"),
        redis_addr=None,
        stub_outbox=None,
        internal_http_addr="127.0.0.1:0",
    )
    await dev.wait_output("Ctrl-C stops the service")
    dev.signal(signal.SIGINT)
    assert await dev.wait_ended() == 0, dev.story()
    assert "Traceback" not in dev.output


async def test_check_config_shows_what_is_in_effect_and_no_secret(bed: Bed) -> None:
    good = await bed.fleet.run(
        "check-config",
        claim_ttl="45s",
        operator_tokens="hunter2-hunter2-hunter2",
        smtp_username="user",
        smtp_password="hunter3",
    )
    assert good.status == 0
    assert "MAIL_CLAIM_TTL=45s\n" in good.output
    assert "MAIL_RETRY_DELAYS=1s,1s,1s\n" in good.output
    assert "MAIL_SHUTDOWN_GRACE=20s" in good.output
    assert "hunter" not in good.output
    bad = await bed.fleet.run("check-config", claim_ttl="soon", shutdown_grace="never")
    assert bad.status == 2
    assert "MAIL_CLAIM_TTL" in bad.output
    assert "MAIL_SHUTDOWN_GRACE" in bad.output
    assert "Traceback" not in bad.output


async def test_verify_store_finds_what_is_broken_beside_a_live_service_and_mends_what_it_can(
    bed: Bed,
) -> None:
    service = await bed.fleet.ready()
    bed.ledger.publish(command("n1"))
    await service.wait_status("n1", "sent")
    sound = await bed.fleet.run("verify-store")
    assert (sound.status, sound.output) == (0, "the store is sound\n")

    run_command(bed.valkey.socket, "ZREM", "mail:idx:status:sent", "n1")
    broken = await bed.fleet.run("verify-store", "--json")
    assert broken.status == 1
    [found] = map(msgspec.json.decode, [msgspec.json.encode(line) for line in broken.lines])
    assert found == {"where": "n1", "what": "is not in mail:idx:status:sent", "mended": False, "did": None}
    repaired = await bed.fleet.run("verify-store", "--repair")
    assert repaired.status == 0
    assert "n1: is not in mail:idx:status:sent (repaired: added to the index)" in repaired.output

    run_command(bed.valkey.socket, "DEL", k.attempt("n1", 1))
    lost = await bed.fleet.run("verify-store", "--repair")
    assert lost.status == 1
    assert "attempt 1 is missing" in lost.output
    bed.closed = True  # the store is broken for good, as it should be
    await service.stop()


async def test_what_publish_puts_on_the_stream_is_sent(bed: Bed, tmp_path: Path) -> None:
    service = await bed.fleet.ready()
    file = tmp_path / "commands.jsonl"
    file.write_text("".join(msgspec.json.encode(command(f"n{n}")).decode() + "\n" for n in range(3)))
    published = await bed.fleet.run("publish", str(file))
    assert published.status == 0, published.story()
    bed.ledger.promised |= {f"n{n}" for n in range(3)}
    for number in range(3):
        await service.wait_status(f"n{number}", "sent")
