"""A backlog of rendered commands taken from the stream, beside a raw replay of the very commands that accepted it.

What the service sends to Redis is recorded once, by a socket between the two, while it takes the same backlog.
"""

import hashlib
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import hiredis
from msgspec import msgpack
from msgspec.json import decode

from tests.bench.commands import publish, rendered_command
from tests.bench.figures import Figure
from tests.bench.process import OTHERS_CORE, PinnedProcess, run_json
from tests.bench.relay import Relay
from tests.bench.service import Service
from tests.bench.settings import Settings
from tests.bench.valkey import Valkey, pack

PIPELINE = 50


def measure(settings: Settings) -> list[Figure]:
    pipelines_path = settings.shared / "accept.pipelines"
    script_path = settings.shared / "accept.lua"
    if not pipelines_path.exists():
        _record(settings, pipelines_path, script_path)
    return [*_measure_service(settings), *_measure_replay(settings, pipelines_path, script_path)]


def _measure_service(settings: Settings) -> list[Figure]:
    number = settings.sizes.ingest
    with Valkey(settings.workdir) as valkey, Relay(settings.workdir) as relay:
        relay.hold()
        last_entry = publish(valkey, (rendered_command("ingest", n) for n in range(number)))
        with Service(settings.workdir, valkey, relay, wait_ready=False) as service:
            # It begins before it is ready; what the first look finds is not counted, nor the time until then.
            service.wait_scheduled(1)
            before, cpu_before_s, started_ns = service.scheduled(), service.cpu_s(), time.monotonic_ns()
            service.wait_consumed(last_entry)
            took_s = (time.monotonic_ns() - started_ns) / 1e9
            cpu_s = service.cpu_s() - cpu_before_s
            taken = number - before
            service.wait_ready()
            service.signal(signal.SIGKILL)  # its senders wait for a greeting that won't come
    return [
        Figure(key="ingest.rate", value=taken / took_s),
        Figure(key="ingest.cpu_ms", value=cpu_s * 1000 / taken),
    ]


def _measure_replay(settings: Settings, pipelines_path: Path, script_path: Path) -> list[Figure]:
    with Valkey(settings.workdir, name="valkey-replay") as valkey:
        valkey.connection.call("SCRIPT", "LOAD", script_path.read_bytes())
        per_s = run_json("tests.bench.yardsticks.replay", str(valkey.path), str(pipelines_path))
    return [Figure(key="replay.rate", value=decode(per_s, type=float))]


def _record(settings: Settings, pipelines_path: Path, script_path: Path) -> None:
    number = settings.sizes.ingest
    prefix = str(settings.workdir / "recorded-")
    listen_path = settings.workdir / "recorder.sock"
    with (
        Valkey(settings.workdir, name="valkey-recorded") as valkey,
        Relay(settings.workdir) as relay,
        PinnedProcess(
            "recorder",
            [sys.executable, "-m", "tests.bench.recorder", str(listen_path), str(valkey.path), prefix],
            core=OTHERS_CORE,
            log_path=settings.workdir / "recorder.log",
        ),
    ):
        relay.hold()
        while not listen_path.exists():
            time.sleep(0.01)
        last_entry = publish(valkey, (rendered_command("ingest", n) for n in range(number)))
        with Service(settings.workdir, valkey, relay, redis_url=f"unix://{listen_path}") as service:
            service.wait_consumed(last_entry)
            service.signal(signal.SIGKILL)
    connections = [_commands(path) for path in sorted(settings.workdir.glob("recorded-*"))]
    called = Counter(
        bytes(command[1])
        for commands in connections
        for command in commands
        if command[0].upper() == b"EVALSHA"
    )
    accept, _ = called.most_common(1)[0]  # one call a command: nothing else comes near
    [source] = {
        command[2]
        for commands in connections
        for command in commands
        if command[0].upper() == b"SCRIPT" and hashlib.sha1(command[-1]).hexdigest().encode() == accept
    }
    calls = [
        pack(command)
        for commands in connections
        for command in commands
        if command[0].upper() == b"EVALSHA" and command[1] == accept
    ]
    script_path.write_bytes(source)
    batches = (calls[at : at + PIPELINE] for at in range(0, len(calls), PIPELINE))
    pipelines = [(len(batch), b"".join(batch)) for batch in batches]
    pipelines_path.write_bytes(msgpack.encode(pipelines))


def _commands(recorded: Path) -> list[list[bytes]]:
    """A request has the form of an answer: an array of strings (RESP)."""
    reader = hiredis.Reader()
    reader.feed(recorded.read_bytes())
    commands: list[list[bytes]] = []
    while (command := reader.gets()) is not False:
        commands.append(command)
    return commands
