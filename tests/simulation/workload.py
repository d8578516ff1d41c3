"""Who uses the service in a simulation: callers of the auth route, publishers of commands, an operator.

What they are promised is written down as they are told it, for the oracle.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from galaxy_mail.domain.commands import FailureCode
from galaxy_mail.domain.holds import DEFAULT_RELAY, Cause, Hold, all_scopes, hold_field
from galaxy_mail.domain.ids import new_delivery_id
from galaxy_mail.domain.login_code import decode_login_code
from galaxy_mail.domain.records import DeliveryStatus
from galaxy_mail.domain.resend import ResendNotAllowed
from galaxy_mail.domain.resend_job import ResendFilter, ResendJobRequest
from galaxy_mail.intake.intake import IdempotencyConflict
from galaxy_mail.intake.resending import UnknownParent
from galaxy_mail.storage.links.errors import RedisFailure
from tests.simulation.process import Crash, Process
from tests.simulation.witness import Published
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Awaitable

TRIES: Final = 400
DEADLINE_S: Final = 5.0  # of a caller
ASKS: Final = {"plain": 8, "twice": 2, "again": 2, "conflict": 1}
PUBLISHES: Final = {"new": 12, "repeat": 2, "key_conflict": 1, "id_conflict": 1, "garbage": 2}
CONTENTS: Final = {"rendered": 8, "template": 3, "large": 1, "unrenderable": 1}
SCOPES: Final = tuple(all_scopes([DEFAULT_RELAY]))
OPERATES: Final = {"suppress": 4, "allow": 1, "resend": 4, "resend_twice": 2, "hold": 3, "lift": 2}


@dataclass
class Wanted:
    """What somebody asked for: the mail that may leave, if it leaves."""

    recipients: tuple[str, ...]
    text: str  # is in the mail
    renderable: bool = True
    parent: str | None = None


@dataclass
class Asked:
    """What was asked of the service, and what it promised."""

    login_codes: dict[str, Wanted] = field(default_factory=dict)  # by idempotency key
    promised: dict[str, list[str]] = field(
        default_factory=dict
    )  # idempotency key -> every id that was answered
    commands: dict[str, Wanted] = field(default_factory=dict)  # by delivery id
    parents: dict[str, str] = field(default_factory=dict)  # key of a resend -> parent
    clones: dict[str, list[str]] = field(
        default_factory=dict
    )  # key of a resend -> every id that was answered
    jobs: list[str] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)


class Workload:
    """`processes` are those that could be asked at the moment.

    Where Redis may forget a key, nobody asks for something else with it (`may_conflict`): it could become either.
    `forgets`: what has ended is soon gone.
    """

    def __init__(
        self, world: World, processes: Callable[[], list[Process]], *, may_conflict: bool, forgets: bool
    ) -> None:
        self.world = world
        self.rng: Random = world.rng
        self.asked = Asked()
        self._processes = processes
        self._may_conflict = may_conflict
        self._purges = forgets
        self._numbers: dict[str, int] = {}

    # Auth

    async def ask(self, count: int, within_s: float) -> None:
        """Callers of the auth route, each with its own key, until each is answered."""
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                await trio.sleep(self.rng.expovariate(count / within_s))
                nursery.start_soon(self.ask_once, _choice(self.rng, ASKS))

    async def ask_once(self, kind: str = "plain") -> None:
        number = self._number("key")
        key, email, code = f"key-{number}", f"key-{number}@a.example", f"{number:06}"
        self.asked.login_codes[key] = Wanted((email,), code)
        self.asked.recipients.append(email)
        body = {"email": email, "code": code, "locale": self.rng.choice(["en", "de", "fr-CA"])}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_for, key, body)
            if kind == "twice":
                nursery.start_soon(self._ask_for, key, body)
        if kind == "again":
            await trio.sleep(self.rng.uniform(0, 30))
            await self._ask_for(key, body)
        conflicts = kind == "conflict" and self._may_conflict
        if conflicts and await self._ask_for(key, {**body, "code": "other"}):
            self.world.witness.wrong(f"{key} was accepted for another request, too")

    async def _ask_for(self, key: str, body: dict[str, str]) -> bool:
        """The same key again and again until it is answered; False where it was another request's."""
        rng = self.rng

        async def once(process: Process) -> bool:
            request = decode_login_code(
                [key],
                msgspec.json.encode(body),
                content_type="application/json",
                delivery_id=new_delivery_id(self.world.now_ms(), rng.randbytes(10)),
            )
            outcome = await process.service.parts.intake.accept(request)
            self.asked.promised.setdefault(key, []).append(outcome.delivery_id)
            self.world.tell(f"promised {key}: {outcome.delivery_id} {outcome.outcome}")
            return True

        try:
            return await self._until_answered(once)
        except IdempotencyConflict:
            if body["code"] != "other":
                self.world.witness.wrong(f"{key} was refused as another request's")
            return False

    async def _until_answered(self, ask: "Callable[[Process], Awaitable[bool]]") -> bool:
        rng = self.rng
        for _ in range(TRIES):
            processes = self._processes()
            if processes:
                hasty = rng.random() < 0.1
                with trio.move_on_after(rng.uniform(0, 0.01) if hasty else DEADLINE_S):
                    try:
                        return await ask(rng.choice(processes))
                    except (RedisFailure, Crash):
                        pass
            await trio.sleep(rng.uniform(0.2, 3))
        raise AssertionError("the service could not be asked at all")

    # Notification

    async def publish(self, count: int, within_s: float) -> None:
        """Commands, repeats, conflicts, and what is no command."""
        for _ in range(count):
            await trio.sleep(self.rng.expovariate(count / within_s))
            self.publish_once(_choice(self.rng, PUBLISHES))

    def publish_once(
        self, kind: str = "new", *, to: str = "", delivery_id: str = "", content: str = ""
    ) -> str:
        """One entry; the delivery id that it names."""
        rng = self.rng
        known = [entry for entry in self.world.witness.books.stream if entry.fate == "accepted"]
        # The id of what was forgotten without an attempt may be used again: nobody knows when that is.
        if (not known and kind != "garbage") or (self._purges and kind == "id_conflict"):
            kind = "new"
        fields, wanted = self._command(to=to, delivery_id=delivery_id, content=content)
        match kind:
            case "repeat":
                fields = dict(rng.choice(known).fields, request_id="again")
            case "key_conflict":
                fields["idempotency_key"] = rng.choice(known).fields["idempotency_key"]
            case "id_conflict":
                fields["delivery_id"] = rng.choice(known).fields["delivery_id"]
            case "garbage":
                fields = {"delivery_id": "x", "\x00": "y"}
            case _:
                self.asked.commands[fields["delivery_id"]] = wanted
                self.asked.recipients += wanted.recipients
        fate = _fate(fields, known)
        now_s = trio.current_time()
        self.world.publish(fields, lambda entry_id: Published(entry_id, fate, fields, published_s=now_s))
        return fields["delivery_id"]

    def _command(self, *, to: str, delivery_id: str, content: str) -> tuple[dict[str, str], Wanted]:
        rng, number = self.rng, self._number("n")
        content = content or _choice(rng, CONTENTS)
        envelope: dict[str, list[str]] = {"to": [to or f"User{number}@b.example"]}
        if rng.random() < 0.3:
            envelope["cc"] = [f"copy{number}@c.example"]
        if rng.random() < 0.1:
            envelope["bcc"] = [f"hidden{number}@d.example", f"copy{number}@c.example"]
        payload: dict[str, Any] = {"envelope": envelope}
        text = f"number {number}"
        if content in {"rendered", "large"}:
            size = rng.randint(1, 200) if content == "rendered" else 70_000
            payload |= {"subject": f"Number {number}", "text_body": text + " " + "x" * size}
        else:
            text = f"{number:06}"
            variables = {"code": text} if content == "template" else {}
            payload |= {"template_id": "auth.login_code", "locale": "en", "variables": variables}
        recipients = tuple(dict.fromkeys(address for part in envelope.values() for address in part))
        fields = {
            "delivery_id": delivery_id or f"n{number}",
            "source": "notification",
            "payload_mode": "rendered" if content in {"rendered", "large"} else "template",
            "idempotency_key": f"n-{number}",
            "requested_at_ms": "1732500000000",
            "payload_json": msgspec.json.encode(payload).decode(),
        }
        return fields, Wanted(recipients, text, renderable=content != "unrenderable")

    # The operator

    async def operate(self, within_s: float, *, jobs: int) -> None:
        """Suppresses, allows again, holds, lifts, sends again: one, the same one twice at once, or many by a job."""
        until_s = trio.current_time() + within_s
        async with trio.open_nursery() as nursery:
            for _ in range(jobs):
                nursery.start_soon(self._start_job, self.rng.uniform(0.3, 0.9) * within_s)
            while True:
                await trio.sleep(self.rng.expovariate(1 / 8))
                if trio.current_time() >= until_s:
                    return
                self._operate_once(nursery)

    def _operate_once(self, nursery: trio.Nursery) -> None:
        rng, books = self.rng, self.world.witness.books
        match _choice(rng, OPERATES):
            case "suppress" if self.asked.recipients:
                entry = rng.choice(self.asked.recipients[-12:]).lower()
                self.world.suppress("@c.example" if rng.random() < 0.15 else entry)
            case "allow" if books.suppressed:
                self.world.suppress(rng.choice(list(books.suppressed)), reason=None)
            case "hold":
                lasts_s = rng.uniform(1, 20) if rng.random() < 0.5 else None
                nursery.start_soon(self.hold, rng.choice(SCOPES), lasts_s)
            case "lift" if books.holds:
                nursery.start_soon(self.lift, rng.choice(sorted(books.holds)).partition(":")[2])
            case "resend" | "resend_twice" as kind if books.accounts:
                ended = [account.delivery_id for account in books.accounts.values() if account.ended]
                parent = rng.choice(ended if ended and rng.random() < 0.8 else list(books.accounts))
                key = f"resend-{self._number('resend')}"
                for _ in range(2 if kind == "resend_twice" else 1):
                    nursery.start_soon(self._resend, parent, key)
            case _:
                pass

    async def hold(self, scope: str, lasts_s: float | None = None) -> None:
        """Nothing begins in this scope until it is lifted, or the time is over."""
        reason = f"hold {self._number('hold')}"

        async def once(process: Process) -> bool:
            now_ms = process.service.parts.clock.now_ms()
            until_ms = None if lasts_s is None else now_ms + round(lasts_s * 1000)
            hold = Hold(scope=scope, cause=Cause.OPERATOR, reason=reason, since_ms=now_ms, until_ms=until_ms)
            await process.service.parts.hold_store.put(hold)
            self.world.counts["hold"] += 1
            self.world.tell(f"{scope} is held until {until_ms}")
            return True

        await self._until_answered(once)

    async def lift(self, scope: str) -> None:
        """The operator's hold of this scope ends."""
        witness = self.world.witness
        field = hold_field(Cause.OPERATOR, scope)

        async def once(process: Process) -> bool:
            now_ms = process.service.parts.clock.now_ms()
            await process.service.parts.hold_store.lift(Cause.OPERATOR, scope, now_ms=now_ms)
            self.world.counts["lift"] += 1
            self.world.tell(f"{scope} is lifted")
            return True

        witness.lifting[field] += 1
        await self._until_answered(once)
        witness.lifting[field] -= 1

    async def _resend(self, parent: str, key: str) -> None:
        witness = self.world.witness

        async def once(process: Process) -> bool:
            account = witness.books.accounts.get(parent)
            ended = account is not None and account.ended
            try:
                resent = await process.service.parts.resending.resend(
                    parent, idempotency_key=key, resent_by="ops"
                )
            except (ResendNotAllowed, UnknownParent) as refusal:
                if ended and not witness.lost and not self._purges:
                    witness.wrong(f"{parent} could not be resent: {refusal}")
                return False
            self.asked.parents[key] = parent
            self.asked.clones.setdefault(key, []).append(resent.delivery_id)
            self.world.counts["resend"] += 1
            self.world.tell(f"resent {parent} as {resent.delivery_id}")
            return True

        await self._until_answered(once)

    async def _start_job(self, after_s: float) -> None:
        await trio.sleep(after_s)
        key = f"job-{self._number('job')}"
        status = self.rng.choice([DeliveryStatus.SENT, DeliveryStatus.FAILED, DeliveryStatus.DEAD_LETTER])
        request = ResendJobRequest(
            filter=ResendFilter(status=status), reason="outage", per_second=self.rng.choice([1, 5, 50])
        )

        async def once(process: Process) -> bool:
            job, _ = await process.service.parts.resend_job_runner.start(
                request, {"key": key}, idempotency_key=key
            )
            self.asked.jobs.append(job.job_id)
            self.world.counts["resend_job"] += 1
            return True

        await self._until_answered(once)

    def _number(self, of: str) -> int:
        self._numbers[of] = number = self._numbers.get(of, 0) + 1
        return number


def _fate(fields: dict[str, str], known: list[Published]) -> str:
    """What has to become of this entry behind those that were accepted."""
    if "\x00" in fields:
        return FailureCode.UNKNOWN_FIELD
    same_key = [entry for entry in known if entry.fields["idempotency_key"] == fields["idempotency_key"]]
    if same_key:
        same = _untraced(same_key[0].fields) == _untraced(fields)
        return "duplicate" if same else FailureCode.IDEMPOTENCY_CONFLICT
    if any(entry.fields["delivery_id"] == fields["delivery_id"] for entry in known):
        return FailureCode.DELIVERY_ID_CONFLICT
    return "accepted"


def _untraced(fields: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if name != "request_id"}


def _choice(rng: Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
