"""Ten thousand exchanges with a relay that does anything: every one ends, in time, and nobody is lied to."""

import random
from collections import Counter

import pytest
import trio
import trio.testing

from galaxy_mail.domain.records import AttemptStatus, Result
from galaxy_mail.providers.smtp.outcomes import OUTCOMES, Exchange
from tests.relays.hostile.server import OFFERS, HangUp, Server, Talk
from tests.unit.providers.smtp.wire import joined, message

EXCHANGES = 10_000
CODES = {outcome.failure_code for outcome in OUTCOMES.values()}
WAYS = {"behaves": 200, "refuses": 12, "other code": 6, "multi-line": 6, "splits": 8, "early": 3, "garbage": 2,
        "hangs up": 4, "leaves": 3, "half a line": 2, "silence": 2, "late": 5}  # fmt: skip


class Unpredictable(Server):
    """At each exchange it does one of `WAYS`. `took` has the texts of the messages that it said yes to."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(offers=[offer for offer in OFFERS if rng.random() < 0.8])
        self.rng = rng
        self.took: set[str] = set()
        self.is_plain = True  # its answers can be told from its monologues
        self.exchanges: Counter[str] = Counter()

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if exchange is Exchange.BODY:
            return
        rng = self.rng
        (way,) = rng.choices(list(WAYS), list(WAYS.values()))
        self.exchanges[way] += 1
        yes = await self._usual(talk, exchange, said)
        match way:
            case "refuses":
                answer = rng.choice(
                    [b"450 4.2.0 later\r\n", b"550 5.1.0 never\r\n", b"554 no\r\n", b"452 full\r\n"]
                )
            case "other code":
                answer = b"%03d whatever\r\n" % rng.randrange(1_000)
            case "multi-line":
                answer = yes[:3] + b"-first\r\n" + yes
            case "early":
                self.is_plain = False
                answer = yes + rng.choice([b"250 early\r\n", b"2", b"354 x\r\n", b"421 bye\r\n", b"\r\n"])
            case "garbage":
                answer = rng.randbytes(rng.randrange(1, 60)) + b"\r\n"
            case "leaves":
                answer = b"421 4.3.2 leaving\r\n"
            case "half a line":
                answer = yes[: rng.randrange(1, len(yes) - 1)]
            case "silence":
                await trio.sleep_forever()
                raise AssertionError("awake")
            case _:
                answer = yes
        if way == "late":
            await trio.sleep(rng.choice([0.1, 1, 14, 20, 70]))
        if way == "hangs up":
            raise HangUp
        talk.waits_for_message = exchange is Exchange.DATA and answer.startswith(b"3")
        if (
            exchange is Exchange.FINAL
            and answer.startswith(b"2")
            and answer.endswith(b"\r\n")
            and answer[3:4] in b" -"
        ):
            self.took.add(said.decode().rpartition("number ")[2].split(".")[0])
        pieces = [answer]
        if way == "splits":
            cut = rng.randrange(len(answer))
            pieces = [answer[:cut], answer[cut:]]
        for piece in pieces:
            await talk.say_raw(piece)
            await trio.sleep(rng.choice([0, 0, 0.01]))
        if way in ("leaves", "half a line"):
            raise HangUp

    async def _usual(self, talk: Talk, exchange: Exchange, said: bytes) -> bytes:
        said_by_us: list[bytes] = []

        class Kept:
            async def send_all(self, data: bytes) -> None:
                said_by_us.append(data)

        stream, talk.stream = talk.stream, Kept()  # type: ignore[assignment] # only send_all is called meanwhile
        try:
            await self.behave(talk, exchange, said)
        finally:
            talk.stream = stream
        return b"".join(said_by_us)


@pytest.mark.parametrize("seed", range(4))
async def test_every_random_exchange_ends_in_time_and_the_outcome_is_what_it_was(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    rng = random.Random(seed)
    done, seen = Counter[str](), Counter[str | None]()
    number = 0
    while done.total() < EXCHANGES // 4:
        server = Unpredictable(rng)
        async with joined(server) as there:
            for _ in range(8):
                number += 1
                to = [
                    rng.choice(["a", "b", "nobody", "later"]) + "@example.org"
                    for _ in range(rng.choice([1, 1, 1, 3]))
                ]
                with trio.fail_after(
                    2 * (15 + 15) + 15 + 60 + 1
                ):  # an opening and an envelope may come twice
                    result = await there.send(message(*to, text=f"number {number}.\n"))
                code = result.failure.code if result.failure else None
                seen[code] += 1
                assert code in CODES
                if result.result is Result.ACCEPTED:
                    assert result.status is AttemptStatus.PROVIDER_ACCEPTED
                if server.is_plain:
                    took = str(number) in server.took
                    assert took or result.result is not Result.ACCEPTED
                    assert not took or result.result is Result.ACCEPTED or result.outcome_unknown
        done += server.exchanges
    assert set(done) == set(WAYS)
    assert len(seen) > 12
    assert seen[None] > 30
