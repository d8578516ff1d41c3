"""A load of mixed commands with the process killed -9 on the way: every valid one is one delivery, every bad one is told.

`make test` runs 2,000 commands and three kills; GALAXY_CHAOS=full runs 20,000 and five.
"""

import os
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Final, cast

import msgspec
import pytest

from galaxy_mail.domain.commands import FailureCode
from galaxy_mail.domain.records import MalformedCommand, decode
from tests.keys import k
from tests.ledger import command, template_command
from tests.relays.hostile.server import Server
from tests.service_process import eventually
from tests.testbed import Bed

FULL: Final = os.environ.get("GALAXY_CHAOS") == "full"
COMMANDS, KILLS = (20_000, 5) if FULL else (2_000, 3)
DUPLICATES, MALFORMED = 0.05, 0.05
PAYLOAD_MAX: Final = 20_000
WITHIN_S: Final = 600 if FULL else 60

Entry = list[str | bytes]


class Mixture:
    """Entries in the order of their publication, and what each has to become."""

    def __init__(self, random: Random) -> None:
        self.entries: list[Entry] = []
        self.promises: list[str | None] = []  # the delivery that the entry makes or repeats; None: malformed
        self.codes: Counter[str] = Counter()
        self.valid: list[dict[str, str]] = []
        self._random = random

    def grow(self, number: int) -> None:
        """One more: new, a repeat of an earlier one in some spelling, or malformed in one of all ways."""
        chance = self._random.random()
        if chance < DUPLICATES and self.valid:
            earlier = self._random.choice(self.valid)
            self._add(self._repeat(earlier), earlier["delivery_id"])
        elif chance < DUPLICATES + MALFORMED and self.valid:
            code = next(
                (one for one in FailureCode if one not in self.codes), self._random.choice(list(FailureCode))
            )
            self.codes[code] += 1
            self._add(self._malformed(f"bad{number}", code), None)
        else:
            kind = template_command if self._random.random() < 0.2 else command
            fields = kind(f"n{number}", payload={"envelope": {"to": [f"n{number}@example.org"]}})
            self.valid.append(fields)
            self._add(_flat(fields), fields["delivery_id"])

    def _add(self, entry: Entry, promise: str | None) -> None:
        self.entries.append(entry)
        self.promises.append(promise)

    def _repeat(self, fields: dict[str, str]) -> Entry:
        shuffled = list(fields.items())
        self._random.shuffle(shuffled)
        payload = msgspec.json.format(
            fields["payload_json"].encode(), indent=self._random.choice([1, 4])
        ).decode()
        return _flat({**dict(shuffled), "payload_json": payload, "request_id": "again"})

    def _malformed(self, name: str, code: FailureCode) -> Entry:
        fields: dict[str, str | bytes] = dict(command(name))
        earlier = self._random.choice(self.valid)

        def pick(*values: str | bytes) -> str | bytes:
            return self._random.choice(values)

        match code:
            case FailureCode.MISSING_FIELD:
                del fields[self._random.choice(list(fields))]
            case FailureCode.UNKNOWN_FIELD:
                fields[self._random.choice(["priority", "Source", "\x00", "delivery_id "])] = "x"
            case FailureCode.INVALID_FIELD:
                name = self._random.choice(["delivery_id", "idempotency_key", "requested_at_ms"])
                fields[name] = pick("", "\n", "ü", b"\xff")
            case FailureCode.UNSUPPORTED_SOURCE:
                fields["source"] = pick("authsession", "operator_resend", "nobody", b"\xfe\xff")
            case FailureCode.UNSUPPORTED_PAYLOAD_MODE:
                fields["payload_mode"] = pick("Rendered", "html", b"\x80")
            case FailureCode.INVALID_PAYLOAD:
                fields["payload_json"] = pick(
                    "{}", "[]", "null", "{", '{"a":1,"a":2}', "NaN", "[" * 5000, '"\\ud800"', b"\xff\xfe"
                )
            case FailureCode.PAYLOAD_TOO_LARGE:
                fields["payload_json"] = "x" * (PAYLOAD_MAX + 1)
            case FailureCode.IDEMPOTENCY_CONFLICT:
                fields["idempotency_key"] = earlier["idempotency_key"]
            case FailureCode.DELIVERY_ID_CONFLICT:
                fields["delivery_id"] = earlier["delivery_id"]
        return _flat(fields)


@pytest.mark.timeout(1800)
async def test_every_command_of_a_mixed_load_is_done_once_whatever_dies(bed: Bed) -> None:
    random = Random(20_000)
    mixture = Mixture(random)
    for number in range(COMMANDS):
        mixture.grow(number)
    assert mixture.codes.keys() == set(FailureCode)
    relay = Server()
    async with bed.relay(relay) as settings:
        given = {**settings, "attempt_worker_concurrency": "8", "payload_max_bytes": str(PAYLOAD_MAX)}
        service = await bed.fleet.ready(**given)
        step = COMMANDS // (KILLS + 1)
        for start in range(0, COMMANDS, step):
            end = min(start + step, COMMANDS)
            bed.ledger.publish_raw(mixture.entries[start:end], mixture.promises[start:end])
            if end == COMMANDS:
                break
            # In the middle of reading, wherever that is.
            await has_read(bed, start + random.randint(1, end - start))
            service.kill()
            await service.wait_ended()
            service = await bed.fleet.ready(**given)
        await bed.ledger.wait_quiet(WITHIN_S)
        shown = Counter(codes_recorded(bed))
        findings = await bed.close()
    assert shown == mixture.codes
    assert findings.deliveries.keys() == {fields["delivery_id"] for fields in mixture.valid}
    assert set(findings.statuses()) == {"sent"}
    assert bed.ledger.offset() == bed.ledger.last_entry_id
    assert bed.ledger.consumed() == COMMANDS
    malformed, repeats = mixture.codes.total(), COMMANDS - len(findings.deliveries) - mixture.codes.total()
    print(
        f"{COMMANDS} commands and {KILLS} kills -9: {len(findings.deliveries)} deliveries, {repeats} repeats, "
        f"{malformed} malformed commands of {len(shown)} kinds; {sum(findings.duplicates.values())} second copies, "
        f"{len(findings.unknown)} attempts with an unknown outcome"
    )


async def has_read(bed: Bed, number: int) -> None:
    """Returns as soon as so many entries need no more work."""
    await eventually(lambda: bed.ledger.consumed() >= number, f"{number} are read", WITHIN_S, every_s=0.001)


def codes_recorded(bed: Bed) -> list[str]:
    """The failure code of every malformed command in the store."""
    entries = cast("list[bytes]", bed.ledger.run([("ZRANGE", k.malformed_index, 0, -1)])[0])
    records = bed.ledger.run([("GET", k.malformed(entry.decode())) for entry in entries])
    return [decode(cast("bytes", record), MalformedCommand).failure_code for record in records]


def _flat(fields: Mapping[str, str | bytes]) -> Entry:
    return [part for pair in fields.items() for part in pair]
