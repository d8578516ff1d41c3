"""What a finished delivery holds in Redis besides its content: a notification, and a login code.

What the first deliveries cost once and for all (scripts, buffers) is not counted. Redis doubles its tables when they are
full, so a delivery's share of them depends on how many there are: the figure is the mean over one doubling.
"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Final

from tests.bench.commands import publish, template_command
from tests.bench.figures import Figure
from tests.bench.http_load import at_full_speed, require_status
from tests.bench.login_codes import login_code_requests
from tests.bench.memory import PAYLOADS, bytes_by_kind, content_bytes
from tests.bench.relay import Relay
from tests.bench.service import STREAM, Service
from tests.bench.settings import CONNECTIONS, Settings
from tests.bench.valkey import Valkey

WARM_UP: Final = 100
STEPS: Final = 4  # of one doubling

Send = Callable[[int], Sequence[str]]  # so many mails; their delivery ids, once they are asked for


def measure(settings: Settings) -> list[Figure]:
    return [*_notifications(settings), *_login_codes(settings)]


def _notifications(settings: Settings) -> list[Figure]:
    with (
        Valkey(settings.workdir, name="valkey-notifications") as valkey,
        Relay(settings.workdir) as relay,
        Service(settings.workdir, valkey, relay) as service,
    ):
        sent = 0

        def send(number: int) -> Sequence[str]:
            nonlocal sent
            first, sent = sent, sent + number
            publish(valkey, (template_command("order", n) for n in range(first, sent)))
            return [f"order.{n}" for n in range(first, sent)]

        _settle(valkey, relay, service, send)
        kinds_before = bytes_by_kind(valkey)
        before = _used_bytes(valkey)
        held, content, number = _grow(settings, valkey, relay, service, send, before)
        growth = {
            kind: (bytes_ - kinds_before.get(kind, 0)) / number - (content if kind == PAYLOADS + "*" else 0)
            for kind, bytes_ in bytes_by_kind(valkey).items()
            if bytes_ >= number  # what every delivery has a part in
        }
        in_all = (_used_bytes(valkey) - before) / number - content
        return [
            Figure(key="memory.delivery", value=held),
            Figure(key="memory.delivery_content", value=content),
            # The stream's entries are trimmed by their age and belong to no delivery.
            Figure(key="memory.stream_entry", value=_stream_bytes(valkey) / sent),
            *(Figure(key=f"memory/{kind}", value=value) for kind, value in growth.items()),
            Figure(key="memory/tables of keys, buffers", value=in_all - sum(growth.values())),
        ]


def _login_codes(settings: Settings) -> list[Figure]:
    requests = login_code_requests("auth")
    with (
        Valkey(settings.workdir, name="valkey-codes") as valkey,
        Relay(settings.workdir) as relay,
        Service(settings.workdir, valkey, relay) as service,
    ):

        def send(number: int) -> Sequence[str]:
            answers, _ = at_full_speed(service.address, requests, connections=CONNECTIONS, number=number)
            require_status(answers, 200)
            return [answer.header("Delivery-Id") or "" for answer in answers]

        _settle(valkey, relay, service, send)
        held, content, _ = _grow(settings, valkey, relay, service, send, _used_bytes(valkey))
        return [
            Figure(key="memory.login_code", value=held),
            Figure(key="memory.login_code_content", value=content),
        ]


def _settle(valkey: Valkey, relay: Relay, service: Service, send: Send) -> None:
    """What is allocated once, is."""
    _finish(relay, service, len(send(WARM_UP)))


def _grow(
    settings: Settings, valkey: Valkey, relay: Relay, service: Service, send: Send, before: float
) -> tuple[float, float, int]:
    """Mean bytes of a delivery without its content; of its content; and how many deliveries there are in the end."""
    held: list[float] = []
    ids: list[str] = []
    for step in range(STEPS):
        more = round(settings.sizes.kept * 2 ** (step / STEPS)) - len(ids)
        ids += send(more)
        _finish(relay, service, more)
        held.append((_used_bytes(valkey) - before) / len(ids) - content_bytes(valkey, ids))
    return fmean(held), content_bytes(valkey, ids), len(ids)


def _finish(relay: Relay, service: Service, number: int) -> None:
    relay.wait_count(number, within_s=300)
    service.wait_drained()
    relay.reset()


def _used_bytes(valkey: Valkey) -> int:
    """All that Redis holds, without the stream."""
    return valkey.used_memory_bytes() - _stream_bytes(valkey)


def _stream_bytes(valkey: Valkey) -> int:
    return int(valkey.connection.call("MEMORY", "USAGE", STREAM, "SAMPLES", 0) or 0)
