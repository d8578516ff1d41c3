"""Watches every script that Redis runs, and says at once what none of them may do.

It keeps its own books of who owns which delivery until when, when each is due, which stream entry comes next and who is
suppressed, from the calls and their answers alone. So it knows what a fence must refuse, whatever the script says.
"""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from re import findall
from typing import Final, Protocol, cast

import trio
from msgspec import Struct

from galaxy_mail.domain.acceptance import suppression_entries
from galaxy_mail.domain.holds import Hold
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Delivery,
    IdempotencyRecord,
    Lane,
    MalformedCommand,
    decode,
)
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.storage.links.protocol import Arg, Call, Reply
from galaxy_mail.storage.links.script import Script
from galaxy_mail.storage.operations.answers import Answer
from galaxy_mail.storage.records.encoding import decode_attempt, decode_delivery
from tests.keys import k

LOST_AFTER_S: Final = 2.0  # spec 3: an owner's work is taken over so long after its claim ran out
DUE_AFTER_S: Final = 1.1  # the scheduler looks every second
FEW: Final = 4  # so many are claimed as soon as they are due: the lanes have room for them
LOSSES_MAX: Final = 10  # spec 3: the tenth lost owner ends it
READ_AFTER_S: Final = 5.3  # spec 2.2: another reader takes over within 5 s, and then it reads
CLOCKS_APART_MS: Final = 5_000  # two processes' clocks, one of which has not noticed that Redis' clock jumped
PROBES_APART_S: Final = 0.95  # all processes together probe once a second, but for what their calls take
LEASED_FOR_S: Final = 5.0
VIOLATIONS_MAX: Final = 50


class Owner(Protocol):
    """What the witness knows of a process."""

    name: str

    @property
    def troubled_s(self) -> float:
        """trio.current_time() until which something went wrong between it and Redis, or it stood still."""
        ...

    @property
    def crashed_s(self) -> float:
        """trio.current_time() at which a part of it was ended."""
        ...

    @property
    def over(self) -> bool: ...


@dataclass
class Account:
    """One delivery, as far as the scripts may know it."""

    delivery_id: str
    lane: Lane
    due_ms: int
    attempt_no: int
    ended: bool
    parent: str | None = None
    owner: Owner | None = None
    token: str = ""
    expiry_ms: int = 0
    claimed_s: float = 0.0
    ttl_s: float = 0.0
    renewed_s: float = 0.0
    begun: bool = False  # by this owner
    losses: int = 0
    ended_ms: int = 0
    free_since_s: float = 0.0  # when it was last known to have no owner


@dataclass
class Begin:
    """An attempt that Redis says has begun."""

    attempt_no: int
    token: str
    order: int
    delivery: Delivery
    suppressed: set[str]  # entries of the list that concerned it then: it may be given back, and not sent
    renewed_s: float  # when its claim was last known to live for long


class Move(Struct, frozen=True):
    """Something that happened to a delivery, while all is calm."""

    what: str  # "accept", "claim", "begin", "suppressed" (instead of a begin), "end"
    delivery_id: str
    lane: Lane
    owner: Owner
    at_s: float


@dataclass
class Published:
    """An entry of the stream, and what must become of it: `accepted`, `duplicate`, or a failure code."""

    entry_id: str
    fate: str
    fields: dict[str, str]
    published_s: float


@dataclass
class Books:
    """What a snapshot of Redis brings back."""

    accounts: dict[str, Account] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)  # (source, idempotency key) -> delivery id
    suppressed: dict[str, str] = field(default_factory=dict)
    holds: dict[str, bytes] = field(default_factory=dict)  # "<cause>:<scope>" -> record
    stream: list[Published] = field(default_factory=list)
    consumed: int = 0
    leases: dict[str, tuple[str, int]] = field(default_factory=dict)  # key -> owner, expiry
    recorded: dict[tuple[str, int, str], bytes] = field(
        default_factory=dict
    )  # (id, attempt, token) -> record
    begun: dict[tuple[str, int, str], Begin] = field(default_factory=dict)  # (id, attempt, owner's name)

    def copied(self) -> "Books":
        return replace(
            self,
            accounts={key: copy.copy(account) for key, account in self.accounts.items()},
            keys=dict(self.keys),
            suppressed=dict(self.suppressed),
            holds=dict(self.holds),
            leases=dict(self.leases),
            stream=list(self.stream),
            recorded=dict(self.recorded),
            begun=dict(self.begun),
        )


class Witness:
    """Told of every call when Redis has run it. `violations` says what was wrong; an empty list is a sound run."""

    def __init__(self, *, now_ms: Callable[[], int], delivery_kept_ms: int) -> None:
        self._now_ms = now_ms
        self._delivery_kept_ms = delivery_kept_ms
        self.books = Books()
        self.order = 0  # of what Redis ran
        self.violations: list[str] = []
        self.calm_since_s: float | None = (
            None  # nothing fails any more, so everything has to be in time; None: not yet
        )
        self.reader_gone_s = float("-inf")  # when a process ended, which may have been the stream's reader
        self.clock_jumped_s = float("-inf")
        self.lost: list[tuple[int, int]] = []  # what ran between these orders was lost with Redis
        self.lost_ids: set[str] = set()
        self.forgotten: set[str] = set()
        self.moves: list[Move] = []
        self.probed: tuple[Owner, float] | None = None  # by whom, and when, the relay was last probed
        self.lifting: Counter[str] = Counter()  # holds that an operator is about to lift

    def wrong(self, what: str) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(f"{trio.current_time():.3f} {what}")

    # What Redis ran

    def saw(self, owner: Owner, call: Call, reply: list[Reply]) -> None:
        """One script, its arguments and its answer, in the order in which Redis ran them."""
        self.order += 1
        judge = _JUDGES.get(call.script.name)
        if judge is not None:
            judge(self, owner, Answered.of(call, reply))

    def _accept(self, owner: Owner, answered: "Answered") -> None:
        delivery = answered.delivery()
        key = (str(delivery.source), delivery.idempotency_key)
        match answered.answer:
            case Answer.DONE:
                self._accepted(owner, answered, delivery, key)
            case Answer.REPLAY:
                record = decode(cast("bytes", answered.reply[1]), IdempotencyRecord)
                if self.books.keys.get(key) != record.delivery_id:
                    self.wrong(f"{key} was answered {record.delivery_id}; it is {self.books.keys.get(key)}'s")
            case Answer.DELIVERY_EXISTS if delivery.delivery_id not in self.books.accounts:
                self.wrong(f"{delivery.delivery_id} was said to exist")
            case _:
                pass

    def _accepted(self, owner: Owner, answered: "Answered", delivery: Delivery, key: tuple[str, str]) -> None:
        books, delivery_id = self.books, delivery.delivery_id
        if key in books.keys:
            self.wrong(f"{delivery_id} was accepted with the key of {books.keys[key]}")
        if delivery_id in books.accounts:
            self.wrong(f"{delivery_id} was accepted, and it existed")
        if decode(answered.bytes("idempotency record"), IdempotencyRecord).delivery_id != delivery_id:
            self.wrong(f"{delivery_id} was accepted with an idempotency record of another")
        if delivery.parent_delivery_id is not None:
            parent = books.accounts.get(delivery.parent_delivery_id)
            if parent is None or not parent.ended:
                self.wrong(f"{delivery_id} resends what has not ended")
        ended = delivery.status in TERMINAL
        if ended is bool(answered.bytes("attempt record")):
            self.wrong(f"{delivery_id} is {delivery.status} and its attempt says otherwise")
        books.keys[key] = delivery_id
        books.accounts[delivery_id] = Account(
            delivery_id=delivery_id,
            lane=delivery.lane,
            due_ms=answered.number("created_at_ms"),
            attempt_no=0 if ended else 1,
            ended=ended,
            parent=delivery.parent_delivery_id,
            ended_ms=delivery.created_at_ms,
            free_since_s=trio.current_time(),
        )
        if answered.text("entry_id"):
            self._consumed(answered.text("entry_id"), "accepted")
        self._moved("accept", books.accounts[delivery_id], owner)

    def _record_malformed(self, owner: Owner, answered: "Answered") -> None:
        if answered.answer == Answer.DONE:
            record = decode(answered.bytes("record"), MalformedCommand)
            self._consumed(answered.text("entry_id"), record.failure_code)

    def _skip(self, owner: Owner, answered: "Answered") -> None:
        if answered.answer == Answer.DONE:
            self._consumed(answered.text("entry_id"), "duplicate")

    def _consumed(self, entry_id: str, fate: str) -> None:
        """The offset moved past this entry: it has to be the next one, and what became of it has to be right."""
        books = self.books
        if books.consumed >= len(books.stream):
            self.wrong(f"entry {entry_id} was consumed, and none was left")
            return
        entry = books.stream[books.consumed]
        if entry.entry_id != entry_id:
            self.wrong(f"entry {entry_id} was consumed, and {entry.entry_id} was next")
            return
        if fate != entry.fate:
            self.wrong(f"entry {entry_id} became {fate}, and not {entry.fate}: {entry.fields}")
        books.consumed += 1
        if self.calm_since_s is not None:
            since_s = max(entry.published_s, self.calm_since_s, self.reader_gone_s)
            if (late_s := trio.current_time() - since_s) > READ_AFTER_S:
                self.wrong(f"entry {entry_id} was read after {late_s:.3f} s")

    def _claim(self, owner: Owner, answered: "Answered") -> None:
        now_ms = answered.number("now_ms")
        few = sum(1 for account in self.books.accounts.values() if not account.ended) <= FEW
        tokens = {account.token for account in self.books.accounts.values()}
        for ticket in answered.reply[4:]:
            delivery_id, token, _lane, losses = (part.decode() for part in cast("list[bytes]", ticket))
            account = self.books.accounts.get(delivery_id)
            if account is None:
                continue  # what a newer release wrote
            if account.ended:
                self.wrong(f"{delivery_id} was claimed after its end")
            if account.owner is None:
                if account.due_ms > now_ms:
                    self.wrong(f"{delivery_id} was claimed {account.due_ms - now_ms} ms before it was due")
                if losses != "0":
                    self.wrong(f"{delivery_id} had no owner, and its claim says that one was lost")
                if few:
                    self._in_time(account, "claimed", account.due_ms, now_ms, DUE_AFTER_S)
            else:
                self._taken_over(account, account.owner, losses, now_ms)
            if token in tokens:
                self.wrong(f"{delivery_id} was given a token that was used before")
            account.owner, account.token, account.begun = owner, token, False
            account.ttl_s = answered.number("ttl_ms") / 1000
            account.expiry_ms = now_ms + answered.number("ttl_ms")
            account.claimed_s = account.renewed_s = trio.current_time()
            self._moved("claim", account, owner)

    def _taken_over(self, account: Account, lost: Owner, losses: str, now_ms: int) -> None:
        account.losses += 1
        if account.expiry_ms > now_ms:
            self.wrong(f"{account.delivery_id} was claimed while {lost.name} owned it")
        if losses != str(account.losses):
            self.wrong(f"{account.delivery_id} lost {account.losses} owners, and its claim says {losses}")
        self._in_time(account, "taken over", account.expiry_ms, now_ms, LOST_AFTER_S)
        if lost.over or max(lost.crashed_s, self.clock_jumped_s) >= account.claimed_s:
            return
        # Of a claim whose attempt has begun its owner knows; after a trouble it has time to renew it.
        after_trouble_s = (
            account.renewed_s + 0.75 * account.ttl_s - 0.5 if account.begun else account.claimed_s
        )
        if lost.troubled_s < after_trouble_s:
            self.wrong(f"{account.delivery_id}: {lost.name} lives, has no trouble, and lost its claim")

    def _in_time(self, account: Account, what: str, since_ms: int, now_ms: int, within_s: float) -> None:
        if self.calm_since_s is None:
            return
        calm_s = trio.current_time() - max(self.calm_since_s, account.free_since_s)
        late_s = min((now_ms - since_ms) / 1000, calm_s)
        if late_s > within_s:
            self.wrong(f"{account.delivery_id} was {what} {late_s:.3f} s after it could be")

    def _moved(self, what: str, account: Account, owner: Owner) -> None:
        if self.calm_since_s is not None:
            self.moves.append(Move(what, account.delivery_id, account.lane, owner, trio.current_time()))

    def _fence(self, owner: Owner, answered: "Answered") -> Account | None:
        """The account of a call that its token lets in; None where it was refused, or it is no delivery of ours."""
        delivery_id = answered.text("delivery_id")
        account = self.books.accounts.get(delivery_id)
        if account is None:
            return None
        rightful = account.owner is not None and account.token == answered.text("token")
        if answered.answer == Answer.STALE:
            if rightful:
                self.wrong(f"{answered.name} of {delivery_id} by {owner.name}, its owner, was refused")
            return None
        if not rightful:
            self.wrong(f"{answered.name} of {delivery_id} by {owner.name}, who does not own it, was obeyed")
        return account

    def _begin(self, owner: Owner, answered: "Answered") -> None:
        account = self._fence(owner, answered)
        if account is None:
            return
        now_ms = answered.number("now_ms")
        expired = account.expiry_ms <= now_ms
        if (answered.answer == Answer.EXPIRED) is not expired:
            self.wrong(f"begin of {account.delivery_id}: its claim {'had' if expired else 'had not'} expired")
        if answered.answer == Answer.SUPPRESSED:
            self._moved("suppressed", account, owner)
        if answered.answer != Answer.DONE:
            return
        delivery = answered.delivery()
        number = answered.attempt().attempt_no
        if number != account.attempt_no or account.ended:
            self.wrong(f"attempt {number} of {account.delivery_id} began, and {account.attempt_no} is next")
        if account.losses >= LOSSES_MAX:
            self.wrong(f"{account.delivery_id} lost {account.losses} owners, and went on")
        before = self.books.begun.get((account.delivery_id, number, owner.name))
        suppressed = {e for e in suppression_entries(delivery.envelope) if e in self.books.suppressed}
        if before is not None and (before.token, before.delivery) == (account.token, delivery):
            suppressed = before.suppressed  # the same once more
        account.begun = True
        account.expiry_ms = now_ms + answered.number("ttl_ms")
        account.renewed_s = trio.current_time()
        begin = Begin(number, account.token, self.order, delivery, suppressed, account.renewed_s)
        self.books.begun[account.delivery_id, number, owner.name] = begin
        self._moved("begin", account, owner)

    def _renew(self, owner: Owner, answered: "Answered") -> None:
        account = self._fence(owner, answered)
        if account is not None:
            account.expiry_ms = answered.number("now_ms") + answered.number("ttl_ms")
            account.renewed_s = trio.current_time()
            begin = self.books.begun.get((account.delivery_id, account.attempt_no, owner.name))
            if begin is not None:
                begin.renewed_s = account.renewed_s

    def _release(self, owner: Owner, answered: "Answered") -> None:
        account = self._fence(owner, answered)
        if account is None:
            return
        name, begun = account.delivery_id, answered.bytes("attempt record") != b""
        if answered.number("due_ms") != account.due_ms:
            self.wrong(f"{name} was given back as due {answered.text('due_ms')}, and was {account.due_ms}")
        if begun and answered.attempt().attempt_no != account.attempt_no:
            self.wrong(f"{name} was given back with another attempt than {account.attempt_no}")
        if account.begun and not begun:
            self.wrong(f"{name} was given back as if it had not begun")
        account.owner, account.begun = None, False
        account.free_since_s = trio.current_time()
        self._moved("end", account, owner)

    def _finish(self, owner: Owner, answered: "Answered") -> None:
        delivery_id, token = answered.text("delivery_id"), answered.text("token")
        record = answered.bytes("attempt record")
        attempt = answered.attempt()
        number = attempt.attempt_no
        if self.books.recorded.get((delivery_id, number, token)) == record:  # once more: nothing is written
            if answered.answer != Answer.DONE:
                self.wrong(f"attempt {number} of {delivery_id} was recorded, and said to be stale")
            return
        account = self._fence(owner, answered)
        if account is None:
            return
        if number != account.attempt_no or account.ended:
            self.wrong(f"attempt {number} of {delivery_id} was finished, and it is at {account.attempt_no}")
        if attempt.status in {AttemptStatus.SCHEDULED, AttemptStatus.IN_PROGRESS}:
            self.wrong(f"attempt {number} of {delivery_id} was finished as {attempt.status}")
        self.books.recorded[delivery_id, number, token] = record
        self._moved("end", account, owner)
        account.owner, account.begun = None, False
        if answered.bytes("next attempt record"):
            account.attempt_no += 1
            account.due_ms = answered.number("due_ms")
            account.free_since_s = trio.current_time()
        else:
            account.ended, account.ended_ms = True, answered.number("finished_at_ms")

    def _quarantine(self, owner: Owner, answered: "Answered") -> None:
        if self._fence(owner, answered) is not None:
            self.wrong(f"{answered.text('delivery_id')} was quarantined, and this release wrote it")

    def _reschedule(self, owner: Owner, answered: "Answered") -> None:
        if answered.answer == Answer.DONE and answered.text("delivery_id") in self.books.accounts:
            self.wrong(f"the schedule of {answered.text('delivery_id')} had to be repaired")

    def _note_lost(self, owner: Owner, answered: "Answered") -> None:
        if answered.answer == Answer.DONE:
            self.wrong(f"{answered.text('lost')} stream entries were said to be lost, and none was")

    def _purge(self, owner: Owner, answered: "Answered") -> None:
        if answered.answer != Answer.DONE:
            return
        delivery_id = answered.text("delivery_id")
        account = self.books.accounts.get(delivery_id)
        if account is None or not account.ended:
            self.wrong(f"{delivery_id} was purged before its end")
        elif account.ended_ms + self._delivery_kept_ms > self._now_ms() + CLOCKS_APART_MS:
            self.wrong(f"{delivery_id} was purged before its time")
        self.forgotten.add(delivery_id)

    def _lease(self, owner: Owner, answered: "Answered") -> None:
        name, now_ms, ttl_ms = answered.text("owner"), answered.number("now_ms"), answered.number("ttl_ms")
        key = answered.keys["lease"]
        holder, expiry_ms = self.books.leases.get(key, ("", 0))
        free = holder in {"", name} or expiry_ms <= now_ms
        given = answered.answer == Answer.DONE
        if given is not free:
            self.wrong(
                f"the lease {key} was {'given' if given else 'refused'}, and was {holder or 'nobody'}'s"
            )
        if given and ttl_ms > 0:
            self.books.leases[key] = (name, now_ms + ttl_ms)
        elif given and holder == name:
            del self.books.leases[key]

    def _save_hold(self, owner: Owner, answered: "Answered") -> None:
        field, record = answered.text("field"), answered.bytes("record")
        current = self.books.holds.get(field, b"")
        fits = current in {answered.bytes("expected"), record}
        if (answered.answer == Answer.DONE) is not fits:
            self.wrong(
                f"the hold {field} was {'kept' if fits else 'changed'}, and had {'not ' * fits}changed"
            )
        if answered.answer != Answer.DONE:
            return
        if record:
            self.books.holds[field] = record
            return
        self.books.holds.pop(field, None)
        by_probe = field.startswith("breaker:") and self._probed(field.rpartition(":")[2])
        if current and not self.lifting[field] and not by_probe:
            until_ms = decode(current, Hold).until_ms
            if until_ms is None or until_ms > self._now_ms() + CLOCKS_APART_MS:
                self.wrong(f"{owner.name} removed the hold {field} before its time")

    # What the relay sees

    def sent(self, delivery_id: str, attempt_no: int, owner: Owner) -> Begin | None:
        """A slot hands it to the relay now: it has to have begun, with nobody who was suppressed."""
        begin = self.books.begun.get((delivery_id, attempt_no, owner.name))
        if begin is None:
            if not self.lost:
                self.wrong(f"attempt {attempt_no} of {delivery_id} was sent before it began")
        elif begin.suppressed:
            self.wrong(f"{delivery_id} is sent to {sorted(begin.suppressed)}, who is suppressed")
        return begin

    def dot(self, delivery_id: str, attempt_no: int, owner: Owner) -> None:
        """The final dot leaves now: only an owner whose claim lives may write it."""
        account = self.books.accounts.get(delivery_id)
        begin = self.books.begun.get((delivery_id, attempt_no, owner.name))
        if account is None or begin is None:
            return  # what Redis knew of it is lost
        if self.clock_jumped_s > begin.renewed_s:
            return  # Redis' clock judges its claim, the owner's its own time
        if account.token != begin.token or account.owner is not owner or account.expiry_ms <= self._now_ms():
            self.wrong(f"{delivery_id}: the final dot of attempt {attempt_no} left without a claim")

    def probe(self, owner: Owner) -> None:
        """The relay is probed now: one process at a time does, once a second."""
        now_s = trio.current_time()
        before, self.probed = self.probed, (owner, now_s)
        if before is None or self.lost:
            return
        by, at_s = before
        troubled_s = max(
            by.troubled_s, owner.troubled_s, self.clock_jumped_s
        )  # then a lease may have run out
        if now_s - at_s < PROBES_APART_S and troubled_s < at_s - LEASED_FOR_S:
            self.wrong(f"{owner.name} probes {now_s - at_s:.3f} s after {by.name}")

    def _probed(self, relay: str) -> bool:
        """Whether some process has the right to probe this relay."""
        _, expiry_ms = self.books.leases.get(k.probe_lease(relay), ("", 0))
        return expiry_ms > self._now_ms() - CLOCKS_APART_MS

    # What else happens to Redis

    def restored(self, books: Books, since: int) -> None:
        """Redis is as it was then; what ran since was lost."""
        self.lost.append((since, self.order))
        self.lost_ids |= self.books.accounts.keys() - books.accounts.keys()
        self.books = books.copied()

    def was_lost(self, order: int) -> bool:
        return any(first < order <= last for first, last in self.lost)

    def owned_by(self, owner: Owner) -> list[Account]:
        return [account for account in self.books.accounts.values() if account.owner is owner]


class Answered(Struct, frozen=True):
    """A call by the names of its header, and what it was answered."""

    name: str
    keys: dict[str, str]
    args: dict[str, Arg]
    reply: list[Reply]

    @classmethod
    def of(cls, call: Call, reply: list[Reply]) -> "Answered":
        keys, args = names_of(call.script)
        return cls(
            call.script.name,
            dict(zip(keys, map(str, call.keys), strict=False)),
            dict(zip(args, call.args, strict=False)),
            reply,
        )

    @property
    def answer(self) -> int:
        return cast("int", self.reply[0])

    def bytes(self, name: str) -> bytes:
        value = self.args[name]
        return value if isinstance(value, bytes) else str(value).encode()

    def text(self, name: str) -> str:
        return self.bytes(name).decode()

    def number(self, name: str) -> int:
        return int(self.args[name])

    def delivery(self) -> Delivery:
        return decode_delivery(self.bytes("delivery record"), self.text("delivery_id"))

    def attempt(self) -> Attempt:
        delivery_id, _, number = self.keys["attempt"].removeprefix(k.attempts).rpartition(":")
        return decode_attempt(self.bytes("attempt record"), delivery_id, int(number))


@cache
def names_of(script: Script) -> tuple[list[str], list[str]]:
    """What the script's header calls its keys and its arguments, in order."""
    positions = findall(r"(?m)^  (KEYS|ARGV)\[\d+\] +(.+?)(?:  .*)?$", script.text)
    keys = [name for kind, name in positions if kind == "KEYS"]
    return keys, [name for kind, name in positions if kind == "ARGV"]


_JUDGES: Final[dict[str, Callable[[Witness, Owner, Answered], None]]] = {
    "accept": Witness._accept,
    "record_malformed": Witness._record_malformed,
    "skip": Witness._skip,
    "claim": Witness._claim,
    "begin": Witness._begin,
    "renew": Witness._renew,
    "release": Witness._release,
    "finish": Witness._finish,
    "quarantine": Witness._quarantine,
    "reschedule": Witness._reschedule,
    "note_lost": Witness._note_lost,
    "purge": Witness._purge,
    "lease": Witness._lease,
    "save_hold": Witness._save_hold,
}
