"""`galaxy-mail publish`: publishes commands from a file to the stream, as Notification does.

Before it publishes the first command, it checks all of them as the service will.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

import click
import trio
from msgspec import Struct

from galaxy_mail.cli.progress import progress
from galaxy_mail.cli.redis_access import RedisUnreachable, connected_gateway, store_config
from galaxy_mail.config import StoreConfig
from galaxy_mail.domain.commands import CommandLimits, Malformed, decode_command
from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.records import Json
from galaxy_mail.domain.strict_json import StrictJsonError, loads
from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisFailure
from galaxy_mail.storage.links.gateway import Gateway
from galaxy_mail.storage.links.protocol import Command
from galaxy_mail.storage.links.replies import as_text

AT_A_TIME: Final = 50
BATCH_BYTES: Final = 8 * 1024 * 1024
PAYLOAD: Final = "payload"  # an object that is encoded as the field `payload_json`

Fields = list[tuple[bytes, bytes]]


class NotPublished(GalaxyMailError):
    """The file is not valid or holds a command that the service would reject. Nothing was published."""


class FileCommand(Struct, frozen=True):
    """A command of the file."""

    line: int
    fields: Fields

    @property
    def delivery_id(self) -> str:
        return dict(self.fields).get(b"delivery_id", b"").decode("utf-8", "replace")


@click.command("publish")
@click.argument("file", type=click.File("rb"))
@click.option("--no-check", is_flag=True, help="Publish commands that the service would reject, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def publish(file: Any, *, no_check: bool, as_json: bool) -> None:
    """Publish commands from FILE to the stream. `-` is standard input.

    The file holds one JSON object, or one per line. The members of an object are the fields of the stream entry;
    `payload` may hold an object in place of `payload_json`. The commands go to the Redis at MAIL_REDIS_ADDR.
    MAIL_PAYLOAD_MAX_BYTES and MAIL_RECIPIENTS_MAX must have the service's values. For each command, its entry id is
    printed. It is safe to publish a file again: the service accepts commands with the same idempotency key and
    content once.
    """
    config = store_config()
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


def read(data: bytes) -> list[FileCommand]:
    """The commands of a file. Raises NotPublished with every problem."""
    try:
        return [_command(1, loads(data))]  # one object, on one line or on several
    except StrictJsonError as error:
        whole = error
    lines = [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
    problems: list[str] = []
    commands: list[FileCommand] = []
    for number, line in lines:
        try:
            commands.append(_command(number, loads(line)))
        except NotPublished as problem:
            problems.append(str(problem))
        except StrictJsonError as error:
            if (
                number == lines[0][0]
            ):  # no object on the first line: take the whole file for one broken object
                raise NotPublished(f"the file is not a JSON object: {whole}") from None
            problems.append(f"line {number}: {error}")
    if problems or not commands:
        raise NotPublished("\n".join(problems) or "the file is empty")
    return commands


def check(commands: list[FileCommand], limits: CommandLimits) -> None:
    """Raises NotPublished for commands that the service would record as malformed."""
    problems: list[str] = []
    for command in commands:
        decoded = decode_command("0-1", command.fields, limits)
        if isinstance(decoded, Malformed):
            problems.append(f"line {command.line}: {decoded.failure_code}: {decoded.message}")
    if problems:
        raise NotPublished("\n".join(problems))


def _command(line: int, value: Json) -> FileCommand:
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
            raise NotPublished(f"line {line}: {name}: must be a string or an integer")
    return FileCommand(line, fields)


async def _publish(config: StoreConfig, commands: list[FileCommand]) -> list[str]:
    async with connected_gateway(config.redis_addr, load=()) as gateway:
        entry_ids: list[str] = []
        try:
            with progress(len(commands), "publishing") as bar:
                for batch in _batches(commands):
                    entry_ids += await _add(gateway, config, batch)
                    bar.update(len(batch))
        except RedisFailure as failure:
            least = "at least " if isinstance(failure, OutcomeUnknown) else ""
            done = (
                f"{least}{len(entry_ids)} of {len(commands)} were published; it is safe to publish all again"
            )
            raise RedisUnreachable(f"{failure} ({done})") from failure
    return entry_ids


def _batches(commands: list[FileCommand]) -> Iterator[list[FileCommand]]:
    """The commands in batches that fit into one round trip."""
    batch: list[FileCommand] = []
    room = BATCH_BYTES
    for command in commands:
        size = sum(len(value) for _, value in command.fields)
        if batch and (len(batch) == AT_A_TIME or size > room):
            yield batch
            batch, room = [], BATCH_BYTES
        batch.append(command)
        room -= size
    yield batch


async def _add(gateway: Gateway, config: StoreConfig, commands: list[FileCommand]) -> list[str]:
    added: list[Command] = [
        ("XADD", config.redis_command_stream, "*", *(part for field in command.fields for part in field))
        for command in commands
    ]
    return [as_text(reply) for reply in await gateway.pipeline(added)]
