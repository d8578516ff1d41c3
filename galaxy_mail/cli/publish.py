"""`galaxy-mail publish`: commands from a file onto the stream, as Notification would put them.

All are checked as the service will check them before the first one goes out.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any, Final, cast

import click
import trio
from msgspec import Struct

from galaxy_mail.cli.errors import Unreachable
from galaxy_mail.cli.progress import progress
from galaxy_mail.config import StoreConfig
from galaxy_mail.domain.commands import CommandLimits, Malformed, decode_command
from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.records import Json
from galaxy_mail.domain.strict_json import StrictJsonError, loads
from galaxy_mail.storage.embedded import EmbeddedValkey
from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisFailure
from galaxy_mail.storage.links.gateway import Gateway
from galaxy_mail.storage.links.protocol import Command
from galaxy_mail.storage.operations.answers import answered
from galaxy_mail.telemetry import logs

CONNECT_WITHIN_S: Final = 10.0
AT_A_TIME: Final = 50
BATCH_BYTES: Final = 8 * 1024 * 1024
PAYLOAD: Final = "payload"  # an object, which becomes the field `payload_json`

Fields = list[tuple[bytes, bytes]]


class NotPublished(GalaxyMailError):
    """The file is no file of commands, or has one that would be malformed. Nothing was published."""


class Read(Struct, frozen=True):
    """One command of the file."""

    line: int
    fields: Fields

    @property
    def delivery_id(self) -> str:
        return dict(self.fields).get(b"delivery_id", b"").decode("utf-8", "replace")


@click.command("publish")
@click.argument("file", type=click.File("rb"))
@click.option("--no-check", is_flag=True, help="Publish what would be malformed, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def publish(file: Any, *, no_check: bool, as_json: bool) -> None:
    """Put commands from a file on the stream; `-` is standard input.

    The file holds JSON objects, one, or one a line, with the stream's fields as members. `payload`, an object, may stand
    for `payload_json`. MAIL_REDIS_ADDR says where; MAIL_PAYLOAD_MAX_BYTES and MAIL_RECIPIENTS_MAX must be those of the
    service. Each command is printed with its entry's id. Publishing a file again is safe: commands with the same
    idempotency key and content are taken once.
    """
    config = StoreConfig.from_env(os.environ)
    click.get_current_context().call_on_close(logs.configure("error", "console", sys.stderr.buffer))
    commands = read(file.read())
    if not no_check:
        limits = CommandLimits(
            payload_max_bytes=config.payload_max_bytes, recipients_max=config.recipients_max
        )
        check(commands, limits)
    for command, entry_id in zip(commands, trio.run(_publish, config, commands), strict=True):
        if as_json:
            click.echo(json.dumps({"entry_id": entry_id, "delivery_id": command.delivery_id}))
        else:
            click.echo(f"{entry_id}  {command.delivery_id}")


def read(data: bytes) -> list[Read]:
    """The commands of a file. Raises NotPublished with every problem."""
    try:
        return [_command(1, loads(data))]  # one object, however many lines it takes
    except StrictJsonError as error:
        whole = error
    lines = [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
    problems: list[str] = []
    commands: list[Read] = []
    for number, line in lines:
        try:
            commands.append(_command(number, loads(line)))
        except NotPublished as problem:
            problems.append(str(problem))
        except StrictJsonError as error:
            if number == lines[0][0]:  # not one a line, then: the file as a whole was meant to be one
                raise NotPublished(f"the file is no JSON object: {whole.message}") from None
            problems.append(f"line {number}: {error.message}")
    if problems or not commands:
        raise NotPublished("\n".join(problems) or "the file is empty")
    return commands


def check(commands: list[Read], limits: CommandLimits) -> None:
    """Raises NotPublished for commands that the service would record as malformed."""
    problems: list[str] = []
    for command in commands:
        judged = decode_command("0-1", command.fields, limits)
        if isinstance(judged, Malformed):
            problems.append(f"line {command.line}: {judged.failure_code}: {judged.message}")
    if problems:
        raise NotPublished("\n".join(problems))


def _command(line: int, value: Json) -> Read:
    if not isinstance(value, dict):
        raise NotPublished(f"line {line}: not a JSON object")
    if PAYLOAD in value and "payload_json" in value:
        raise NotPublished(f"line {line}: has both payload and payload_json")
    fields: Fields = []
    for name, member in value.items():
        if name == PAYLOAD:
            text = json.dumps(member, ensure_ascii=False, separators=(",", ":"))
            fields.append((b"payload_json", text.encode()))
        elif isinstance(member, str) or (isinstance(member, int) and not isinstance(member, bool)):
            fields.append((name.encode(), str(member).encode()))
        else:
            raise NotPublished(
                f"line {line}: {name}: must be text or a whole number, as a stream's fields are"
            )
    return Read(line, fields)


async def _publish(config: StoreConfig, commands: list[Read]) -> list[str]:
    address = config.redis_addr
    if address.embedded_dir is not None:
        address = EmbeddedValkey(address.embedded_dir).address
    gateway = Gateway(address, load=())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.run)
        with trio.move_on_after(CONNECT_WITHIN_S):
            await gateway.wait_connected()
        if not gateway.connected:
            raise Unreachable(f"Redis can't be reached: {gateway.statistics().last_error}")
        entry_ids: list[str] = []
        try:
            with progress(len(commands), "publishing") as bar:
                for batch in _batches(commands):
                    entry_ids += await _add(gateway, config, batch)
                    bar.update(len(batch))
        except RedisFailure as trouble:
            some = "more may have been, too" if isinstance(trouble, OutcomeUnknown) else "no more"
            done = (
                f"{len(entry_ids)} of {len(commands)} were published, {some}; publishing them again is safe"
            )
            raise Unreachable(f"{trouble} ({done})") from trouble
        nursery.cancel_scope.cancel()
    return entry_ids


def _batches(commands: list[Read]) -> Iterator[list[Read]]:
    """Few enough, and small enough, for one round trip."""
    batch: list[Read] = []
    room = BATCH_BYTES
    for command in commands:
        size = sum(len(value) for _, value in command.fields)
        if batch and (len(batch) == AT_A_TIME or size > room):
            yield batch
            batch, room = [], BATCH_BYTES
        batch.append(command)
        room -= size
    yield batch


async def _add(gateway: Gateway, config: StoreConfig, commands: list[Read]) -> list[str]:
    added: list[Command] = [
        ("XADD", config.redis_command_stream, "*", *(part for field in command.fields for part in field))
        for command in commands
    ]
    return [cast("bytes", answered(reply)).decode() for reply in await gateway.pipeline(added)]
