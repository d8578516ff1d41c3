"""One run of the simulation: a seed gives a workload, faults and an end; the oracle says whether the promise held.

A storm, in which everything fails; then a calm, in which everything has to come true, and in time.
"""

import traceback
from collections import Counter
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final, cast
from unittest.mock import patch

import trio
import trio._core._run as trio_run
from trio.testing import MockClock

from galaxy_mail.actors import resend_jobs
from galaxy_mail.config import Config
from galaxy_mail.domain.records import decode
from galaxy_mail.domain.resend_job import ResendJob
from galaxy_mail.intake import resend_job_runner, resending, stream_intake
from galaxy_mail.rendering.catalog import Catalog
from tests.blocking_link import BlockingLink
from tests.keys import k
from tests.simulation.calm import Calm
from tests.simulation.oracle import FUTURE_ID, FUTURE_RECORD, Oracle, verified
from tests.simulation.process import Process
from tests.simulation.storm import Storm, plan
from tests.simulation.witness import Witness
from tests.simulation.workload import Workload
from tests.simulation.world import NO_FAULTS, Mood, Odds, World

QUIET_WITHIN_S: Final = 4 * 3600.0
FORGOTTEN_WITHIN_S: Final = 1800.0
SETTLED_AFTER_S: Final = 1.5  # two fresh processes are connected, and one of them reads the stream
RETRY_DELAYS: Final = {"1s,2s,5s": 5, "5s,30s,1m": 3, "10s,1m": 3, "1m,5m,30m": 1}
QUICK: Final = ("1s,2s,5s", "10s,1m")  # used up soon enough for every run
SCENARIOS: Final = {"storm": 20, "roll_back": 2, "wipe": 1}
SPECIAL: Final = {
    "": 14,
    "busy": 4,
    "gone": 1,
    "crashes": 2,
    "kills": 1,
    "unloadable": 1,
    "future": 1,
    "forgets": 3,
}
POISON: Final = {"crashes", "kills", "unloadable"}


@dataclass
class Run:
    """What a run left behind."""

    seed: int
    digest: str
    history: list[str]
    counts: Counter[str]
    virtual_s: float
    violations: list[str]


class Seeded:
    """What `secrets` gives, made from the seed."""

    def __init__(self, rng: Random) -> None:
        self.token_bytes = rng.randbytes

    def token_hex(self, count: int) -> str:
        return self.token_bytes(count).hex()


def simulate(seed: int, link: BlockingLink, catalog: Catalog) -> Run:
    """Runs one seed from an empty store. Never raises for a broken promise: that is in `violations`."""
    # Trio shuffles tasks that are ready together: with its own seed it does so the same way again.
    trio_run._r = Random(seed)
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # private and final, but for exactly this
    link.run([("FLUSHALL",)])
    simulation = Simulation(seed, link, catalog)
    seeded = Seeded(Random(seed))
    with (
        patch.object(resending, "secrets", seeded),
        patch.object(resend_job_runner, "secrets", seeded),
        patch.object(resend_jobs, "CHECK_EVERY_S", 1.0),  # mostly there is no job, and looking costs
        # A batch here is small, and is to have several pipelines.
        patch.object(stream_intake, "APPLIED_AT_A_TIME", 3),
    ):
        try:
            trio.run(simulation.run, clock=MockClock(autojump_threshold=0))
        except Exception:  # noqa: BLE001  # whatever broke belongs to this seed and its history
            simulation.world.witness.violations.append(traceback.format_exc())
    world = simulation.world
    return Run(
        seed=seed,
        digest=world.digest(),
        history=world.history,
        counts=world.counts,
        virtual_s=simulation.virtual_s,
        violations=world.witness.violations,
    )


class Simulation:
    nursery: trio.Nursery

    def __init__(self, seed: int, link: BlockingLink, catalog: Catalog) -> None:
        rng = Random(seed)
        self.scenario = _choice(rng, SCENARIOS)
        self.special = _choice(rng, SPECIAL)
        self.deliveries = rng.randint(16, 44)
        self.chaos_s = rng.uniform(15, 90)
        claim_ttl_s = rng.choice([2, 3, 5, 10, 30])
        delays = _choice(rng, RETRY_DELAYS)
        if self.special == "busy" and delays not in QUICK and rng.random() < 0.8:
            delays = rng.choice(QUICK)
        self.config = Config.from_env(
            {
                "MAIL_REDIS_ADDR": "unix:///nowhere",
                "MAIL_CLAIM_TTL": f"{claim_ttl_s}s",
                "MAIL_RETRY_DELAYS": delays,
                "MAIL_UNKNOWN_OUTCOME": "fail" if rng.random() < 0.2 else "retry",
                "MAIL_ATTEMPT_WORKER_CONCURRENCY": str(rng.choice([1, 2, 4])),
                "MAIL_SHUTDOWN_GRACE": f"{rng.choice([0, 1, 20])}s",
                "MAIL_STREAM_BLOCK_TIMEOUT": "10s",
                "MAIL_STREAM_RETENTION": rng.choice(["24h", "10s"]),
                **(
                    {"MAIL_DELIVERY_TTL": "60s", "MAIL_ATTEMPT_TTL": "150s"}
                    if self.special == "forgets"
                    else {}
                ),
            }
        )
        self.world = World(
            rng=rng,
            link=link,
            catalog=catalog,
            odds=Odds(relay=rng.choice([0.05, 0.3, 0.6]), stall=rng.choice([0, 0.003, 0.01])),
            claim_ttl_s=claim_ttl_s,
        )
        self.world.witness = Witness(now_ms=self.world.now_ms, delivery_kept_ms=self.config.delivery_ttl_ms)
        self.workload = Workload(
            self.world,
            self.living,
            may_conflict=self.scenario == "storm",
            forgets=self.special == "forgets",
        )
        self.processes: list[Process] = []
        self.virtual_s = 0.0

    async def run(self) -> None:
        witness = self.world.witness
        async with trio.open_nursery() as self.nursery:
            self._make_special()
            for _ in range(self.world.rng.randint(1, 3)):
                self.start()
            await self._storm()
            await self._settle()
            async with trio.open_nursery() as platform:
                platform.start_soon(self._keep_one_living, 1)
                await Calm(self).play()
                if not await self._quiet():
                    witness.wrong("not everything reached its end")
                platform.cancel_scope.cancel()
            for process in self.processes:
                if stuck := () if process.over else process.service.parts.supervisor.stuck():
                    witness.wrong(f"{process.name}: {stuck} did not turn")
                process.stop()
                with trio.move_on_after(300):
                    await process.ended.wait()
                if not process.ended.is_set():
                    witness.wrong(f"{process.name} did not stop")
            self.nursery.cancel_scope.cancel()
        self.virtual_s = trio.current_time()
        parts = self.processes[-1].service.parts
        for violation in Oracle(self.world, self.workload.asked, self.config).violations(parts):
            witness.wrong(violation)

    # Its parts

    async def _storm(self) -> None:
        storm, seconds = Storm(self), self.chaos_s
        async with trio.open_nursery() as platform:
            platform.start_soon(self._keep_one_living, 10)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.workload.ask, self.deliveries // 2, seconds)
                nursery.start_soon(self.workload.publish, self.deliveries // 2, seconds)
                jobs = 1 if self.world.rng.random() < 0.15 else 0
                nursery.start_soon(partial(self.workload.operate, seconds, jobs=jobs))
                nursery.start_soon(storm.rage, seconds)
                if self.scenario == "roll_back":
                    nursery.start_soon(storm.roll_back, seconds)
                elif self.scenario == "wipe":
                    nursery.start_soon(storm.wipe, seconds)
            platform.cancel_scope.cancel()

    async def _settle(self) -> None:
        """Nothing fails any more, and two fresh processes replace what the storm has left: a deployment."""
        world = self.world
        self.check_store()
        world.odds = NO_FAULTS
        world.feels(Mood.WELL)
        world.lift_all()
        world.calm.set()
        old = self.living()
        for _ in range(2):
            self.start(fated=False)
        for process in old:
            process.stop()
        world.tell("calm")
        await trio.sleep(SETTLED_AFTER_S)
        if self.special not in POISON:
            world.witness.calm_since_s = trio.current_time()

    def _make_special(self) -> None:
        """One delivery, or one setting, that makes this run special."""
        world = self.world
        if self.special:
            world.counts[f"special_{self.special}"] += 1
        match self.special:
            case "busy" | "gone" | "crashes" | "kills":
                self.workload.publish_once(to=f"{self.special}@b.example", content="rendered")
            case "unloadable":
                self.workload.publish_once(delivery_id="unloadable", content="rendered")
            case "future":
                world.run(
                    ("SET", k.delivery(FUTURE_ID), FUTURE_RECORD),
                    ("ZADD", "mail:attempt_schedule", world.now_ms(), FUTURE_ID),
                )
            case _:
                pass

    def start(self, *, fated: bool = True) -> None:
        fate = plan(self.world.rng) if fated else None
        process = Process(self.world, f"p{len(self.processes) + 1}", self.config, fate)
        self.processes.append(process)
        self.nursery.start_soon(process.run)

    def living(self) -> list[Process]:
        return [process for process in self.processes if not process.over]

    def check_store(self) -> None:
        """The store is sound at this moment, too, whatever is going on."""
        for violation in verified(self.world, self.processes[-1].service.parts):
            self.world.witness.wrong(f"in between: {violation}")

    async def _keep_one_living(self, every_s: float) -> None:
        """The platform replaces what ended."""
        while True:
            await trio.sleep(every_s)
            if not self.living():
                self.start(fated=False)

    async def _quiet(self) -> bool:
        """Whether all that is stored has come to its end, and the stream too, within a bounded time."""
        until_s = trio.current_time() + QUIET_WITHIN_S
        while trio.current_time() < until_s:
            if self._is_quiet():
                return self.special != "forgets" or await self._purged()
            await trio.sleep(5)
        return False

    def _is_quiet(self) -> bool:
        books = self.world.witness.books
        scheduled, priority, future = self.world.run(
            ("ZCARD", "mail:attempt_schedule"),
            ("ZCARD", "mail:attempt_schedule:priority"),
            ("ZSCORE", "mail:attempt_schedule", FUTURE_ID),  # not there after a wipe
        )
        left = cast("int", scheduled) + cast("int", priority) - (future is not None)
        return (
            left <= 0
            and not any(field.startswith("breaker:") for field in books.holds)
            and books.consumed == len(books.stream)
            and all(map(self._is_over, self.workload.asked.jobs))
        )

    def _is_over(self, job_id: str) -> bool:
        [data] = self.world.run(("GET", k.job(job_id)))
        return data is None or not decode(cast("bytes", data), ResendJob).running

    async def _purged(self) -> bool:
        """Whether the janitor forgets all of it, attempts last."""
        until_s = trio.current_time() + FORGOTTEN_WITHIN_S
        while trio.current_time() < until_s:
            left = self.world.run(
                ("KEYS", "mail:deliveries:*"), ("KEYS", "mail:attempts:*"), ("KEYS", "mail:idx:*")
            )
            if not any(cast("list[bytes]", keys) for keys in left):
                return True
            await trio.sleep(20)
        return False


def _choice(rng: Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
