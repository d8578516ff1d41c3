"""One run of the simulation: a seed gives a workload, faults and an end; the oracle says whether the promise held."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, cast

import msgspec
import trio
import trio._core._run as trio_run
from trio.testing import MockClock

from galaxy_mail.config import Config
from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.ids import new_delivery_id
from galaxy_mail.domain.login_code import decode_login_code
from galaxy_mail.domain.records import Attempt, AttemptStatus, Delivery, DeliveryStatus, decode
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.storage import keys as k
from galaxy_mail.storage.errors import RedisRefused
from galaxy_mail.storage.verify import verify
from tests.blocking_link import BlockingLink
from tests.simulation.world import NO_FAULTS, Odds, Process, World

QUIET_WITHIN_S: Final = 4 * 3600.0
RETRY_DELAYS: Final = ("1s,2s,5s", "5s,30s,1m", "10s,1m", "1m,5m,30m")
RETRY_WEIGHTS: Final = (5, 3, 3, 1)


class Broken(AssertionError):
    """The promise did not hold. The run's history says how it came to that."""


@dataclass
class Run:
    """What a run left behind."""

    seed: int
    digest: str
    history: list[str]
    counts: Counter[str]
    virtual_s: float
    violations: list[str]


@dataclass
class Asked:
    """What was asked of the service, and what it promised."""

    promised: dict[str, str] = field(
        default_factory=dict
    )  # idempotency key -> delivery id that was answered `sent`
    commands: dict[str, dict[str, str]] = field(
        default_factory=dict
    )  # delivery id -> fields, of valid first ones
    malformed: list[str] = field(default_factory=list)  # entry ids
    last_entry_id: str = ""


def simulate(seed: int, link: BlockingLink, catalog: Catalog) -> Run:
    """Runs one seed from an empty store. Never raises for a broken promise: that is in `violations`."""
    # Trio shuffles tasks that are ready together: with its own seed it does so the same way again.
    trio_run._r = Random(seed)
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # private and final, but for exactly this
    link.run([("FLUSHALL",)])
    simulation = Simulation(seed, link, catalog)
    trio.run(simulation.run, clock=MockClock(autojump_threshold=0))
    world = simulation.world
    return Run(
        seed=seed,
        digest=world.digest(),
        history=world.history,
        counts=world.counts,
        virtual_s=simulation.virtual_s,
        violations=simulation.violations,
    )


class Simulation:
    def __init__(self, seed: int, link: BlockingLink, catalog: Catalog) -> None:
        self.rng = rng = Random(seed)
        self.claim_ttl_s = rng.choice([2, 5, 10, 30])
        self.delays = rng.choices(RETRY_DELAYS, RETRY_WEIGHTS)[0]
        self.fail_unknown = rng.random() < 0.2
        self.deliveries = rng.randint(20, 50)
        self.chaos_s = rng.uniform(20, 120)
        self.world = World(
            rng=rng,
            link=link,
            catalog=catalog,
            odds=Odds(relay=rng.choice([0.05, 0.3, 0.6]), stall=rng.choice([0, 0.003, 0.01])),
            claim_ttl_s=self.claim_ttl_s,
        )
        link._now_ms = self.world.now_ms
        self.config = Config.from_env(
            {
                "MAIL_REDIS_ADDR": "unix:///nowhere",
                "MAIL_CLAIM_TTL": f"{self.claim_ttl_s}s",
                "MAIL_RETRY_DELAYS": self.delays,
                "MAIL_UNKNOWN_OUTCOME": "fail" if self.fail_unknown else "retry",
                "MAIL_ATTEMPT_WORKER_CONCURRENCY": str(rng.choice([1, 2, 4])),
                "MAIL_SHUTDOWN_GRACE": f"{rng.choice([0, 1, 20])}s",
                "MAIL_STREAM_BLOCK_TIMEOUT": "10s",
            }
        )
        self.asked = Asked()
        self.processes: list[Process] = []
        self.started = 0
        self.virtual_s = 0.0
        self.violations: list[str] = []

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(self.rng.randint(1, 3)):
                self._start(nursery)
            async with trio.open_nursery() as storm:
                storm.start_soon(self._ask)
                storm.start_soon(self._publish)
                storm.start_soon(self._wreck, nursery)
            # The storm is over: whatever was promised must come true now.
            self.world.odds = NO_FAULTS
            self.world.redis_up = True
            if not self._living():
                self._start(nursery)
            quiet = await self._quiet()
            for process in self._living():
                process.stop()
                with trio.move_on_after(300):
                    await process.ended.wait()
                if not process.ended.is_set():
                    self.violations.append(f"{process.name} did not stop")
            nursery.cancel_scope.cancel()
        self.virtual_s = trio.current_time()
        if not quiet:
            self.violations.append("not everything reached a terminal state")
        await self._judge()

    # The workload

    async def _ask(self) -> None:
        """A caller of the auth route: the same key again until it is answered."""
        async with trio.open_nursery() as nursery:
            for number in range(self.deliveries // 2):
                await trio.sleep(self.rng.expovariate(self.deliveries / self.chaos_s))
                nursery.start_soon(self._ask_for, f"key-{number}")

    async def _ask_for(self, key: str) -> None:
        body = msgspec.json.encode(
            {"email": f"{key}@a.example", "code": "123456", "locale": self.rng.choice(["en", "de", "fr-CA"])}
        )
        for _ in range(200):
            living = self._living()
            if living and living[0].service.gateway.connected:
                process = self.rng.choice(living)
                request = decode_login_code(
                    [key],
                    body,
                    content_type="application/json",
                    delivery_id=new_delivery_id(self.world.now_ms(), self.rng.randbytes(10)),
                )
                try:
                    outcome = await process.service.intake.accept(request)
                except GalaxyMailError:
                    pass
                else:
                    self.asked.promised[key] = outcome.delivery_id
                    self.world.tell(f"promised {key}: {outcome.delivery_id}")
                    return
            await trio.sleep(self.rng.uniform(0.2, 3))
        raise AssertionError("the service could not be asked at all")

    async def _publish(self) -> None:
        """Notification's side of the stream: commands, repeats, conflicts, and what is no command."""
        for number in range(self.deliveries // 2):
            await trio.sleep(self.rng.expovariate(self.deliveries / self.chaos_s))
            kind = self.rng.choices(
                ["new", "repeat", "key_conflict", "id_conflict", "garbage"], [12, 2, 1, 1, 2]
            )[0]
            fields = _command(number, self.rng)
            known = list(self.asked.commands.values())
            if kind != "new" and kind != "garbage" and not known:
                kind = "new"
            match kind:
                case "new":
                    self.asked.commands[fields["delivery_id"]] = fields
                case "repeat":
                    fields = dict(self.rng.choice(known), request_id="again")
                case "key_conflict":
                    fields["idempotency_key"] = self.rng.choice(known)["idempotency_key"]
                case "id_conflict":
                    fields["delivery_id"] = self.rng.choice(known)["delivery_id"]
                case _:
                    fields = {"delivery_id": "x", "\x00": "y"}
            flat = [part for pair in fields.items() for part in pair]
            # An id of its own: the server's clock is not the simulation's.
            entry_id = f"{self.world.now_ms()}-{number}"
            if self.asked.last_entry_id and _number(entry_id) <= _number(self.asked.last_entry_id):
                entry_id = (
                    f"{_number(self.asked.last_entry_id)[0]}-{_number(self.asked.last_entry_id)[1] + 1}"
                )
            [reply] = self.world.link.run([("XADD", "mail:delivery_commands", entry_id, *flat)])
            assert not isinstance(reply, RedisRefused), reply
            self.asked.last_entry_id = entry_id
            if kind not in {"new", "repeat"}:
                self.asked.malformed.append(entry_id)

    # The faults

    async def _wreck(self, nursery: trio.Nursery) -> None:
        rng = self.rng
        until_s = trio.current_time() + self.chaos_s
        while trio.current_time() < until_s:
            await trio.sleep(rng.expovariate(1 / 8))
            living = self._living()
            event = rng.choices(
                ["kill_actor", "die", "stop", "start", "redis_away", "clock"], [8, 3, 2, 4, 2, 1]
            )[0]
            match event:
                case "kill_actor" if living:
                    supervisor = rng.choice(living).service.supervisor
                    names = [report.name for report in supervisor.statistics()]
                    name = rng.choice(names)
                    self.world.tell(f"kills {name}")
                    supervisor.kill(name)
                case "die" if living:
                    rng.choice(living).die()
                case "stop" if living:
                    rng.choice(living).stop()
                case "start" if len(living) < 3:
                    self._start(nursery)
                case "redis_away":
                    self.world.tell("Redis is away")
                    self.world.redis_up = False
                    await trio.sleep(rng.uniform(0.5, 2 * self.claim_ttl_s))
                    self.world.redis_up = True
                    self.world.tell("Redis is back")
                case "clock":
                    self.world.clock_offset_ms += rng.randint(-1500, 3000)
                    self.world.tell("the clock jumps")
                case _:
                    pass
            self.world.counts[event] += 1
        if not self._living():  # whoever asks goes on until it is answered
            self._start(nursery)

    def _start(self, nursery: trio.Nursery) -> None:
        self.started += 1
        process = Process(self.world, f"p{self.started}", self.config)
        self.processes.append(process)
        nursery.start_soon(process.run)

    def _living(self) -> list[Process]:
        return [p for p in self.processes if not p.dead and not p.service.stopping and not p.ended.is_set()]

    async def _quiet(self) -> bool:
        """Whether all that is stored has come to its end, and the stream too, within a bounded time."""
        until_s = trio.current_time() + QUIET_WITHIN_S
        while trio.current_time() < until_s:
            if not self._living():
                return False
            scheduled, priority, offset = self.world.link.run(
                [
                    ("ZCARD", "mail:attempt_schedule"),
                    ("ZCARD", "mail:attempt_schedule:priority"),
                    ("GET", "mail:stream_offsets:mail:delivery_commands"),
                ]
            )
            reached = offset.decode() if isinstance(offset, bytes) else ""
            if (scheduled, priority) == (0, 0) and reached == self.asked.last_entry_id:
                return True
            await trio.sleep(5)
        return False

    # The oracle

    async def _judge(self) -> None:
        link, store = self.world.link, self.processes[-1].service.store
        calm = _Calm(link)
        real, store.link = store.link, calm
        try:
            self.violations += [str(violation) for violation in await verify(store, looks=1)]
        finally:
            store.link = real
        ids = [
            _text(member)
            for member in cast("list[bytes]", link.run([("ZRANGE", k.IDX_CREATED_AT, 0, -1)])[0])
        ]
        by_id = {delivery_id: self._load(delivery_id) for delivery_id in ids}
        for key, delivery_id in self.asked.promised.items():
            if delivery_id not in by_id:
                self.violations.append(f"promised and not stored: {key} as {delivery_id}")
        expected = set(self.asked.promised.values()) | set(self.asked.commands)
        for delivery_id in by_id.keys() - expected:
            self.violations.append(f"nobody was promised {delivery_id}, and it is stored")
        for delivery_id in self.asked.commands.keys() - by_id.keys():
            self.violations.append(f"the command of {delivery_id} made no delivery")
        malformed = link.run([("ZRANGE", k.IDX_MALFORMED, 0, -1)])[0]
        if sorted(map(_text, cast("list[bytes]", malformed))) != sorted(self.asked.malformed):
            self.violations.append(f"malformed: {malformed!r}, and not {self.asked.malformed}")
        for delivery, attempts in by_id.values():
            self._judge_delivery(delivery, attempts)
        for (delivery_id, attempt), tokens in self.world.recorded.items():
            if len(tokens) > 1:
                self.violations.append(f"{delivery_id}: {len(tokens)} owners recorded {attempt}")

    def _judge_delivery(self, delivery: Delivery, attempts: list[Attempt]) -> None:
        name = delivery.delivery_id
        wrong = self.violations.append
        if delivery.status not in TERMINAL:
            wrong(f"{name} is {delivery.status}")
        taken = [message for message in self.world.taken if message.delivery_id == name]
        if delivery.status is DeliveryStatus.SENT and not taken:
            wrong(f"{name} is sent, and the relay never took it")
        by_number = {attempt.attempt_no: attempt for attempt in attempts}
        for number, times in Counter(message.attempt_no for message in taken).items():
            attempt = by_number.get(number)
            if attempt is None:
                wrong(f"{name}: the relay took attempt {number}, which nobody recorded")
            elif attempt.status is not AttemptStatus.PROVIDER_ACCEPTED and not attempt.outcome_unknown:
                wrong(f"{name}: the relay took attempt {number}, recorded as {attempt.status} and known")
            if times > 1:
                wrong(f"{name}: attempt {number} reached the relay {times} times")
        if len({(m.message_id, m.date_ms) for m in taken}) > 1:
            wrong(f"{name}: its copies differ")
        for attempt in attempts:
            if attempt.started_at_ms is not None and attempt.started_at_ms < attempt.scheduled_for_ms - 3_500:
                wrong(f"{name}: attempt {attempt.attempt_no} began before its time")
        used = sum(
            1
            for attempt in attempts
            if attempt.failure is not None and attempt.failure.code not in {"ownership_lost", "crash_loop"}
        )
        if used > len(self.config.retry_delays_ms) + 1:
            wrong(f"{name}: {used} failures, and {len(self.config.retry_delays_ms)} retries are allowed")

    def _load(self, delivery_id: str) -> tuple[Delivery, list[Attempt]]:
        [data] = self.world.link.run([("GET", k.delivery(delivery_id))])
        assert isinstance(data, bytes)
        delivery = decode(data, Delivery)
        keys = [k.attempt(delivery_id, number) for number in range(1, delivery.attempt_count + 1)]
        records = cast("list[bytes | None]", self.world.link.run([("MGET", *keys)])[0]) if keys else []
        return delivery, [decode(record, Attempt) for record in records if record is not None]


class _Calm:
    """The link without its faults: for the oracle."""

    def __init__(self, link: BlockingLink) -> None:
        self._link = link

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


def _command(number: int, rng: Random) -> dict[str, str]:
    payload = msgspec.json.encode(
        {
            "envelope": {"to": [f"user{number}@b.example"]},
            "subject": f"Number {number}",
            "text_body": "x" * rng.randint(1, 200),
        }
    )
    return {
        "delivery_id": f"n{number}",
        "source": "notification",
        "payload_mode": "rendered",
        "idempotency_key": f"n-{number}",
        "requested_at_ms": "1732500000000",
        "payload_json": payload.decode(),
    }


def _number(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def _text(value: bytes) -> str:
    return value.decode()
