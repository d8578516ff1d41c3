"""Promises against facts: what callers were told, what is stored, what arrived.

It is kept from outside, as Jepsen does: an answer of 200 and a published command are promises; an answer that is missing
or an error is none, and what it asked for may exist all the same.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from time import time
from typing import Any, Final, TypeVar, cast

import msgspec
from msgspec import Struct

from galaxy_mail.domain.records import Attempt, AttemptStatus, Delivery, DeliveryStatus
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.storage.links.protocol import Command, Reply
from galaxy_mail.storage.operations.identity import entry_number
from galaxy_mail.storage.records.encoding import decode_attempt, decode_delivery
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import Retention
from galaxy_mail.storage.verify import verify
from tests.blocking_link import BlockingLink
from tests.clocks import FixedClock
from tests.keys import k
from tests.service_process import WITHIN_S, eventually

STREAM: Final = "mail:delivery_commands"
LANES: Final = ("mail:attempt_schedule", "mail:attempt_schedule:priority")
AT_ONCE: Final = 500

_MESSAGE_ID: Final = re.compile(rb"(?mi)^Message-ID:\s*<(.+)@[^@>]+>")
T = TypeVar("T")


class Arrival(Struct, frozen=True):
    """One mail as it reached a relay or the stub's outbox."""

    delivery_id: str
    content: bytes


def arrival(content: bytes) -> Arrival:
    """This mail by its Message-ID, which names the delivery."""
    found = _MESSAGE_ID.search(content)
    assert found is not None, content[:500]
    return Arrival(found[1].decode(), content)


def outbox_arrivals(folder: Path) -> list[Arrival]:
    """What the stub keeps in its outbox: every attempt that it accepted."""
    return [arrival(file.read_bytes()) for file in sorted(folder.glob("*.eml"))]


class Findings(Struct, frozen=True):
    """What the books say at the end."""

    deliveries: dict[str, Delivery]
    attempts: dict[str, list[Attempt]]
    copies: Counter[str]  # delivery id -> mails that arrived
    wrong: list[str]  # promises that were broken, and what nothing explains

    @property
    def duplicates(self) -> dict[str, int]:
        """Delivery id -> copies beyond the first. In `wrong` too unless the spec's window explains them."""
        return {name: number - 1 for name, number in self.copies.items() if number > 1}

    def statuses(self) -> Counter[str]:
        return Counter(delivery.status.value for delivery in self.deliveries.values())

    @property
    def unknown(self) -> list[Attempt]:
        """Attempts whose outcome nobody knows."""
        return [attempt for made in self.attempts.values() for attempt in made if attempt.outcome_unknown]


class Ledger:
    """The books of one test, and its own look at the store on `socket_path`."""

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self.promised: set[str] = set()  # delivery ids
        self.keys: dict[str, str] = {}  # idempotency key of a login code -> the id that was promised
        self.perhaps: set[str] = set()  # idempotency keys of requests without a promise
        self.malformed: set[str] = set()  # stream entry ids
        self.last_entry_id = ""
        self.sources: list[Callable[[], Iterable[Arrival]]] = []  # where mail arrives

    # What callers do and learn

    def answered(self, key: str, delivery_id: str) -> None:
        """A login code was accepted. The same key may be answered again, and always with the same delivery."""
        assert self.keys.setdefault(key, delivery_id) == delivery_id, f"{key} has two deliveries"
        self.perhaps.discard(key)
        self.promised.add(delivery_id)

    def unanswered(self, key: str) -> None:
        """Nobody knows whether it was accepted."""
        if key not in self.keys:
            self.perhaps.add(key)

    def publish(self, *commands: Mapping[str, str | bytes], malformed: bool = False) -> list[str]:
        """Puts commands on the stream. Returns their entries' ids. Valid ones are promises as soon as Redis has them."""
        return self.publish_raw(
            [[part for pair in command.items() for part in pair] for command in commands],
            [None if malformed else str(command["delivery_id"]) for command in commands],
        )

    def publish_raw(
        self, entries: Sequence[Sequence[str | bytes]], promises: Sequence[str | None]
    ) -> list[str]:
        """Entries as flat fields, whatever they hold; a promise is the id of the delivery that the entry makes.

        None: it is malformed.
        """
        ids: list[str] = []
        for start in range(0, len(entries), AT_ONCE):
            replies = self.run([("XADD", STREAM, "*", *entry) for entry in entries[start : start + AT_ONCE]])
            ids += [cast("bytes", reply).decode() for reply in replies]
        for entry_id, promise in zip(ids, promises, strict=True):
            if promise is None:
                self.malformed.add(entry_id)
            else:
                self.promised.add(promise)
            self.last_entry_id = entry_id
        return ids

    # What the store holds

    def run(self, commands: Sequence[Command]) -> list[Reply]:
        """Commands on a connection of its own: the server may have been another one a moment ago."""
        link = BlockingLink(self.socket_path)
        try:
            return link.run(commands)
        finally:
            link.close()

    async def wait_loaded(self) -> None:
        """Returns once a server that was started has read its data."""

        def loaded() -> bool:
            [reply] = self.run([("PING",)])
            return reply == b"PONG"

        await eventually(loaded, "Redis has loaded its data")

    def outstanding(self) -> int:
        """Deliveries that have not come to their end."""
        return sum(cast("list[int]", self.run([("ZCARD", lane) for lane in LANES])))

    def claimed(self) -> int:
        """Deliveries that some process has claimed."""
        return cast("int", self.run([("HLEN", k.claims)])[0])

    def offset(self) -> str:
        [offset] = self.run([("GET", Keys().offset)])
        return offset.decode() if isinstance(offset, bytes) else ""

    def consumed(self) -> int:
        """How many entries need no more work."""
        [number] = self.run([("GET", Keys().consumed)])
        return int(cast("bytes | None", number) or 0)

    async def wait_consumed(self, within_s: float = WITHIN_S) -> None:
        """Returns once the stream's offset is at the last entry."""
        await eventually(
            lambda: self.offset() == self.last_entry_id, f"the offset is at {self.last_entry_id}", within_s
        )

    async def wait_quiet(self, within_s: float = WITHIN_S) -> None:
        """Returns once everything has come to its end."""
        if self.last_entry_id:
            await self.wait_consumed(within_s)
        await eventually(lambda: self.outstanding() == 0, "every delivery has ended", within_s)

    def deliveries(self) -> dict[str, Delivery]:
        [ids] = self.run([("ZRANGE", k.created_at_index, 0, -1)])
        names = [name.decode() for name in cast("list[bytes]", ids)]
        return {name: decode_delivery(data, name) for name, data in self._read(names, k.delivery).items()}

    def attempts(self, deliveries: Iterable[Delivery]) -> dict[str, list[Attempt]]:
        numbers = {delivery.delivery_id: delivery.attempt_count for delivery in deliveries}
        wanted = [(name, number) for name, count in numbers.items() for number in range(1, count + 1)]
        found = self._read(wanted, lambda one: k.attempt(*one))
        made: defaultdict[str, list[Attempt]] = defaultdict(list)
        for name, number in wanted:
            made[name].append(decode_attempt(found[name, number], name, number))
        return dict(made)

    async def violations(self, passes: int = 1) -> list[str]:
        """What verify-store would say; 1 look while nothing else writes."""
        link = BlockingLink(self.socket_path)
        try:
            found = await verify(
                link,
                keys=Keys(),
                retention=Retention(),
                clock=FixedClock(now_ms()),
                passes=passes,
            )
            return [str(violation) for violation in found]
        finally:
            link.close()

    # The judgement

    async def close(self, *, everything_ended: bool = True) -> Findings:
        """The books against the facts, while no service runs."""
        deliveries = self.deliveries()
        attempts = self.attempts(deliveries.values())
        arrived: defaultdict[str, list[bytes]] = defaultdict(list)
        for source in self.sources:
            for mail in source():
                arrived[mail.delivery_id].append(mail.content)
        wrong = [*await self.violations(), *self._intake(deliveries, arrived)]
        for name, delivery in deliveries.items():
            made = attempts.get(name, [])
            wrong += _judged(delivery, made, arrived.get(name, []), everything_ended=everything_ended)
        copies = Counter({name: len(mails) for name, mails in arrived.items()})
        return Findings(deliveries, attempts, copies, wrong)

    def _intake(
        self, deliveries: Mapping[str, Delivery], arrived: Mapping[str, Sequence[bytes]]
    ) -> Iterable[str]:
        for name in sorted(self.promised - deliveries.keys()):
            yield f"{name} was promised and is not stored"
        for name in sorted(deliveries.keys() - self.promised):
            if (
                deliveries[name].idempotency_key not in self.perhaps
                and not deliveries[name].parent_delivery_id
            ):
                yield f"{name} is stored and nobody asked for it"
        for name in sorted(arrived.keys() - deliveries.keys()):
            yield f"{name} arrived and is not stored"
        keys = Counter((delivery.source, delivery.idempotency_key) for delivery in deliveries.values())
        for (_, key), number in keys.items():
            if number > 1:
                yield f"{key} made {number} deliveries"
        [recorded] = self.run([("ZRANGE", k.malformed_index, 0, -1)])
        entries = Counter(entry.decode() for entry in cast("list[bytes]", recorded))
        for entry_id in sorted(self.malformed - entries.keys()):
            yield f"{entry_id} is malformed and was not recorded"
        for entry_id in sorted(entries.keys() - self.malformed):
            yield f"{entry_id} was recorded as malformed and is not"
        if self.last_entry_id and entry_number(self.offset()) > entry_number(self.last_entry_id):
            yield f"the offset {self.offset()} is ahead of the stream"

    def _read(self, names: Sequence[T], key: Callable[[T], str]) -> dict[T, bytes]:
        found: dict[T, bytes] = {}
        for start in range(0, len(names), AT_ONCE):
            some = names[start : start + AT_ONCE]
            [values] = self.run([("MGET", *map(key, some))])
            pairs = zip(some, cast("list[bytes | None]", values), strict=True)
            found |= {name: value for name, value in pairs if value is not None}
        return found


def _judged(
    delivery: Delivery, attempts: Sequence[Attempt], mails: Sequence[bytes], *, everything_ended: bool
) -> Iterable[str]:
    """What is wrong with one delivery: spec section 3, "The promise"."""
    name = delivery.delivery_id
    if everything_ended and delivery.status not in TERMINAL:
        yield f"{name} is {delivery.status}"
    accepted = sum(attempt.status is AttemptStatus.PROVIDER_ACCEPTED for attempt in attempts)
    unknown = sum(attempt.outcome_unknown for attempt in attempts)
    if [attempt.attempt_no for attempt in attempts] != list(range(1, delivery.attempt_count + 1)):
        yield f"{name} has the attempts {[attempt.attempt_no for attempt in attempts]}"
    if (delivery.status is DeliveryStatus.SENT) != (accepted == 1) or accepted > 1:
        yield f"{name} is {delivery.status} and {accepted} attempts were accepted"
    if len(mails) < accepted:
        yield f"{name} is {delivery.status} and arrived {len(mails)} times"
    # One that is being sent may have arrived already.
    sending = delivery.status not in TERMINAL and not everything_ended
    if len(mails) > accepted + unknown + sending:
        yield f"{name} arrived {len(mails)} times: {accepted} attempts accepted, {unknown} with an unknown outcome"
    if len(set(mails)) > 1:
        yield f"{name}: its copies differ"


def now_ms() -> int:
    """Epoch ms of this host, which is the server's too."""
    return round(time() * 1000)


def command(name: str, /, **changes: Any) -> dict[str, str]:
    """A valid command with ready content, to `<name>@example.org`. `payload` changes members of its payload."""
    payload = {
        "envelope": {"to": [f"{name}@example.org"]},
        "subject": f"Subject of {name}",
        "text_body": f"Text of {name}.\n",
        **changes.pop("payload", {}),
    }
    return {
        "delivery_id": name,
        "source": "notification",
        "payload_mode": "rendered",
        "idempotency_key": f"key-of-{name}",
        "requested_at_ms": "1732500000123",
        "payload_json": msgspec.json.encode(payload).decode(),
        **changes,
    }


def template_command(name: str, /, *, locale: str = "en", **changes: Any) -> dict[str, str]:
    """A valid command that is rendered from the bundled template."""
    payload = {
        "envelope": {"to": [f"{name}@example.org"]},
        "template_id": "auth.login_code",
        "locale": locale,
        "variables": {"code": "271828"},
        **changes.pop("payload", {}),
    }
    return {
        **command(name),
        "payload_mode": "template",
        "payload_json": msgspec.json.encode(payload).decode(),
        **changes,
    }
