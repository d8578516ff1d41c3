"""The way of a delivery through Redis: accept, claim, begin, finish, release.

Each method applies what the domain decided in one script and turns the script's answer into a value or an exception.
All of them may be called twice with the same arguments: a lost reply (`OutcomeUnknown`) is followed by the same call.

Claims, in one picture (the schedule's scores are times from which a delivery may be claimed)::

    accept        due = now                                 schedule: now        claims: -
    claim         owner A, token 17                         schedule: now + ttl  claims: 17
    begin, renew  A goes on                                 schedule: now + ttl  claims: 17
    finish        A records, next attempt or none           schedule: due | -    claims: -
    A dies        nothing happens until now + ttl, then B claims: token 18; A's 17 is stale for ever
"""

from collections.abc import Callable, Sequence
from typing import Final, cast

import msgspec
from msgspec import Struct

from galaxy_mail.domain.acceptance import Acceptance
from galaxy_mail.domain.conclusion import Begun, Conclusion, Returned
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Content,
    Delivery,
    DeliveryStatus,
    Lane,
    RenderedContent,
    encode,
)
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.storage.links.protocol import Call, RedisLink, Reply
from galaxy_mail.storage.links.script import script
from galaxy_mail.storage.operations.answers import (
    AcceptAnswer,
    Answer,
    NewlySuppressed,
    accept_answer,
    answered,
    reasons,
)
from galaxy_mail.storage.operations.claims import (
    Claim,
    Claimed,
    Found,
    Quarantined,
    StaleClaim,
    Ticket,
    claim_of,
)
from galaxy_mail.storage.operations.identity import StoreIdentity
from galaxy_mail.storage.records import keys as k
from galaxy_mail.storage.records.encoding import (
    encode_attempt,
    encode_delivery,
    readable,
    readable_attempt,
)
from galaxy_mail.storage.records.keys import Keys

DAY_MS: Final = 24 * 60 * 60 * 1000
BACKSTOP_MS: Final = DAY_MS  # a key's TTL ends so much after the janitor should have forgotten it
CONTENT_WITH_CLAIM_BYTES: Final = (
    64 * 1024
)  # larger content is read by the slot that sends it, not with a batch
CONTENT_MAX_BYTES: Final = 2**29  # what one value in Redis may have: content of any size
LOST_PLACES: Final = 50  # lost owners' work taken over in one claim at most

ACCEPT: Final = script("accept")
SKIP: Final = script("skip")
CLAIM: Final = script("claim")
BEGIN: Final = script("begin")
FINISH: Final = script("finish")
RELEASE: Final = script("release")
RENEW: Final = script("renew")
QUARANTINE: Final = script("quarantine")
READ_CLAIMED: Final = script("read_claimed")


class Retention(Struct, frozen=True, kw_only=True):
    """How long records are kept, in ms; all but idempotency from the terminal state on."""

    idempotency_ms: int = 7 * DAY_MS
    delivery_ms: int = 30 * DAY_MS
    attempt_ms: int = 90 * DAY_MS  # dead letters, what died with them, and malformed commands too


class StreamPosition(Struct, frozen=True):
    """Where an entry stands: accepted only when the stored offset is its predecessor."""

    entry_id: str
    predecessor: str  # "" for the first entry ever


class Store:
    """Applies decisions. `script_now` replaces the server's clock in tests and in the simulation."""

    def __init__(
        self,
        link: RedisLink,
        *,
        keys: Keys,
        retention: Retention,
        claim_ttl_ms: int,
        epoch: StoreIdentity,
        durable: bool = False,
        script_now: Callable[[], int] | None = None,
    ) -> None:
        self.link = link
        self.keys = keys
        self.retention = retention
        self.claim_ttl_ms = claim_ttl_ms
        self.epoch = epoch
        self.durable = durable
        self._script_now = script_now

    def now_ms(self) -> int:
        """Epoch milliseconds on Redis' clock."""
        return self.link.now_ms()

    def _now_argument(self) -> int | str:
        return self._script_now() if self._script_now is not None else ""

    # Intake

    async def accept(
        self, acceptance: Acceptance, *, unless_suppressed: Sequence[str] = (), replaced: bytes = b""
    ) -> AcceptAnswer:
        """Makes it durable, or says why not. `unless_suppressed`: entries to look for in the suppression list first."""
        self.epoch.refuse_if_replaced()
        call = self.accept_call(acceptance, unless_suppressed=unless_suppressed, replaced=replaced)
        [reply] = await self.link.accept_pipeline([call])
        return accept_answer(reply, unless_suppressed)

    def accept_call(
        self,
        acceptance: Acceptance,
        *,
        unless_suppressed: Sequence[str] = (),
        replaced: bytes = b"",
        position: StreamPosition | None = None,
    ) -> Call:
        """The script call that `accept` makes, for those who send many in one pipeline."""
        delivery = acceptance.delivery
        delivery_id = delivery.delivery_id
        keys: list[str] = [
            k.idempotency(delivery.source, delivery.idempotency_key),
            k.delivery(delivery_id),
            k.payload(delivery_id),
            k.attempt(delivery_id, 1),
            self.keys.lane(delivery.lane),
            k.SUPPRESSIONS,
            k.IDX_EXPIRES,
            self.keys.offset,
            self.keys.consumed,
            k.status_index(delivery.status),
            *k.fixed_indexes(delivery),
        ]
        if delivery.parent_delivery_id is not None:
            keys.append(k.children_index(delivery.parent_delivery_id))
        purge_at_ms = (
            delivery.created_at_ms + self.retention.delivery_ms if acceptance.attempt is None else None
        )
        return Call(
            ACCEPT,
            tuple(keys),
            (
                delivery_id,
                encode(acceptance.idempotency),
                acceptance.idempotency.expires_at_ms + BACKSTOP_MS,
                encode_delivery(delivery),
                encode(acceptance.content),
                encode(acceptance.rendered) if acceptance.rendered is not None else b"",
                encode_attempt(acceptance.attempt) if acceptance.attempt is not None else b"",
                delivery.created_at_ms,
                "" if purge_at_ms is None else purge_at_ms,
                "" if purge_at_ms is None else purge_at_ms + BACKSTOP_MS,
                replaced,
                "1" if self.durable else "",
                "" if position is None else position.entry_id,
                "" if position is None else position.predecessor,
                *unless_suppressed,
            ),
        )

    # Sending

    async def claim(self, *, priority_places: int, normal_places: int, check_lost: bool) -> Claimed:
        """Owns what is due, as far as there are places, and reads its records. Raises RedisTrouble.

        When that fails after Redis has claimed, the claims expire and are taken over: `claim_ttl_ms` later.
        """
        [reply] = await self.link.pipeline(
            [
                Call(
                    CLAIM,
                    (
                        k.CLAIMS,
                        k.CLAIM_SEQUENCE,
                        k.CLAIM_LOSSES,
                        self.keys.priority_schedule,
                        self.keys.schedule,
                    ),
                    (
                        self._now_argument(),
                        self.claim_ttl_ms,
                        priority_places,
                        normal_places,
                        LOST_PLACES if check_lost else 0,
                    ),
                )
            ]
        )
        # Not before: what waited for a new connection was claimed in the store behind it.
        epoch = self.epoch.number
        now, next_due, priority_left, normal_left, *taken = cast("list[bytes]", answered(reply))
        tickets = [
            Ticket(
                delivery_id=delivery_id.decode(),
                token=token.decode(),
                lane=Lane.PRIORITY if lane == b"p" else Lane.NORMAL,
                losses=int(losses),
            )
            for delivery_id, token, lane, losses in cast("list[list[bytes]]", taken)
        ]
        for ticket in tickets:
            self.epoch.saw_sequence(int(ticket.token.rpartition("-")[2]))
        claims, parked = await self._read_claims(tickets, epoch) if tickets else ([], [])
        next_due_ms = int(next_due)
        left_over = {Lane.PRIORITY: priority_left, Lane.NORMAL: normal_left}
        return Claimed(
            claims=claims,
            now_ms=int(now),
            next_due_ms=None if next_due_ms < 0 else next_due_ms,
            more=frozenset(lane for lane, left in left_over.items() if left == b"1"),
            parked=parked,
        )

    async def _read_claims(self, tickets: list[Ticket], epoch: int) -> tuple[list[Claim], list[str]]:
        """The claims with their records, and the ids whose records can't be read: those are parked."""
        deliveries = [k.delivery(ticket.delivery_id) for ticket in tickets]
        payloads = [k.payload(ticket.delivery_id) for ticket in tickets]
        [reply] = await self.link.pipeline(
            [Call(READ_CLAIMED, (*deliveries, *payloads), (CONTENT_WITH_CLAIM_BYTES,))]
        )
        found = cast("list[Found]", answered(reply))
        read = [claim_of(ticket, one, epoch) for ticket, one in zip(tickets, found, strict=True)]
        claims = await self._with_attempts([claim for claim in read if claim is not None])
        readable = {claim.token for claim in claims}
        parked = [ticket for ticket in tickets if ticket.token not in readable]
        if parked:
            await self.link.pipeline([self._quarantine_call(ticket) for ticket in parked])
        return claims, [ticket.delivery_id for ticket in parked]

    def _quarantine_call(self, of: Ticket | Claim) -> Call:
        return Call(QUARANTINE, (k.CLAIMS, self.keys.lane(of.lane)), (of.delivery_id, of.token))

    async def _with_attempts(self, claims: list[Claim]) -> list[Claim]:
        """With the attempts that lost owners had begun, less what has none: the others follow from the delivery's record."""
        sending = [claim for claim in claims if claim.delivery.status is DeliveryStatus.SENDING]
        if not sending:
            return claims
        keys = [k.attempt(claim.delivery_id, claim.delivery.attempt_count) for claim in sending]
        [reply] = await self.link.pipeline([("MGET", *keys)])
        begun: dict[str, Attempt] = {}
        for claim, data in zip(sending, cast("list[bytes | None]", answered(reply)), strict=True):
            attempt = readable_attempt(data, claim.delivery_id, claim.delivery.attempt_count)
            if attempt is not None and attempt.status is AttemptStatus.IN_PROGRESS:
                begun[claim.delivery_id] = attempt
        return [
            claim
            if claim.delivery.status is not DeliveryStatus.SENDING
            else msgspec.structs.replace(claim, attempt=begun[claim.delivery_id])
            for claim in claims
            if claim.delivery.status is not DeliveryStatus.SENDING or claim.delivery_id in begun
        ]

    async def load(self, claim: Claim) -> Claim:
        """This claim with its content. Raises Parked, RedisTrouble, and StaleClaim where the content is gone."""
        if claim.content is not None:
            return claim
        [reply] = await self.link.pipeline([("HMGET", k.payload(claim.delivery_id), "content", "rendered")])
        raw_content, raw_rendered = cast("list[bytes | None]", answered(reply))
        if raw_content is None:  # the claim is gone too, then
            raise StaleClaim(claim.delivery_id)
        content = readable(raw_content, Content)
        rendered = None if raw_rendered is None else readable(raw_rendered, RenderedContent)
        if content is None or (raw_rendered is not None and rendered is None):
            [reply] = await self.link.pipeline([self._quarantine_call(claim)])
            answered(reply)
            raise Quarantined(claim.delivery_id)
        return msgspec.structs.replace(claim, content=content, rendered=rendered)

    async def can_be_claimed(self, delivery_id: str) -> bool:
        """Whether this release can read all that a claim of it needs, and would not park it. Raises RedisTrouble."""
        call = Call(READ_CLAIMED, (k.delivery(delivery_id), k.payload(delivery_id)), (CONTENT_MAX_BYTES,))
        [reply] = await self.link.pipeline([call])
        [found] = cast("list[Found]", answered(reply))
        ticket = Ticket(delivery_id=delivery_id, token="", lane=Lane.NORMAL, losses=0)
        claim = claim_of(ticket, found, self.epoch.number)
        return claim is not None and bool(await self._with_attempts([claim]))

    async def begin(
        self,
        claim: Claim,
        begun: Begun,
        *,
        rendered: RenderedContent | None,
        unless_suppressed: Sequence[str] = (),
    ) -> NewlySuppressed | None:
        """Starts the attempt and renews the claim; from then on the provider may be called. Raises StaleClaim, RedisTrouble.

        A NewlySuppressed answer means that nothing was written because of those entries of `unless_suppressed`.
        """
        self._refuse_if_dropped(claim)
        delivery = begun.delivery
        [reply] = await self.link.pipeline(
            [
                Call(
                    BEGIN,
                    (
                        k.CLAIMS,
                        self.keys.lane(claim.lane),
                        k.SUPPRESSIONS,
                        k.delivery(delivery.delivery_id),
                        k.payload(delivery.delivery_id),
                        k.attempt(delivery.delivery_id, begun.attempt.attempt_no),
                        k.status_index(claim.delivery.status),
                        k.status_index(delivery.status),
                    ),
                    (
                        claim.delivery_id,
                        claim.token,
                        self._now_argument(),
                        self.claim_ttl_ms,
                        encode_delivery(delivery),
                        encode_attempt(begun.attempt),
                        encode(rendered) if rendered is not None else b"",
                        delivery.created_at_ms,
                        *unless_suppressed,
                    ),
                )
            ]
        )
        answer, *rest = cast("list[int | bytes | None]", answered(reply))
        if answer == Answer.DONE:
            return None
        if answer == Answer.SUPPRESSED:
            return NewlySuppressed(reasons(unless_suppressed, cast("list[bytes | None]", rest)))
        raise StaleClaim(claim.delivery_id)

    async def finish(self, claim: Claim, conclusion: Conclusion) -> None:
        """Records the outcome and drops the claim. Raises StaleClaim, RedisTrouble."""
        self._refuse_if_dropped(claim)
        before, delivery, attempt = conclusion.before, conclusion.delivery, conclusion.attempt
        following, dead_letter = conclusion.next_attempt, conclusion.dead_letter
        terminal = delivery.status in TERMINAL
        finished_at_ms = delivery.updated_at_ms
        attempts_end_ms = finished_at_ms + self.retention.attempt_ms
        purge_at_ms = self.purge_at_ms(delivery)
        delivery_id = delivery.delivery_id
        [reply] = await self.link.pipeline(
            [
                Call(
                    FINISH,
                    (
                        k.CLAIMS,
                        self.keys.lane(claim.lane),
                        k.CLAIM_LOSSES,
                        k.delivery(delivery_id),
                        k.payload(delivery_id),
                        k.attempt(delivery_id, attempt.attempt_no),
                        k.attempt(delivery_id, attempt.attempt_no + 1),
                        k.status_index(before.status),
                        k.status_index(delivery.status),
                        self.keys.dead_letter(delivery_id),
                        k.IDX_DEAD_LETTERS,
                        k.IDX_EXPIRES,
                        *(
                            k.attempt(delivery_id, number)
                            for number in range(1, attempt.attempt_no)
                            if terminal
                        ),
                    ),
                    (
                        delivery_id,
                        claim.token,
                        encode_delivery(delivery),
                        encode_attempt(attempt),
                        encode_attempt(following) if following is not None else b"",
                        following.scheduled_for_ms if following is not None else "",
                        encode(dead_letter) if dead_letter is not None else b"",
                        delivery.created_at_ms,
                        finished_at_ms,
                        purge_at_ms if terminal else "",
                        purge_at_ms + BACKSTOP_MS if terminal else "",
                        attempts_end_ms + BACKSTOP_MS if terminal else "",
                    ),
                )
            ]
        )
        self._fenced(reply, claim)

    def purge_at_ms(self, delivery: Delivery) -> int:
        """When a terminal delivery is past its time; a dead letter is kept as long as its attempts, to be resent."""
        dead = delivery.status is DeliveryStatus.DEAD_LETTER
        kept_ms = (
            max(self.retention.delivery_ms, self.retention.attempt_ms) if dead else self.retention.delivery_ms
        )
        return (delivery.finished_at_ms or delivery.updated_at_ms) + kept_ms

    async def release(self, claim: Claim, returned: Returned) -> None:
        """Gives the work back: due when it was, same attempt. Raises StaleClaim, RedisTrouble."""
        self._refuse_if_dropped(claim)
        began = returned.before is not returned.delivery
        [reply] = await self.link.pipeline(
            [
                Call(
                    RELEASE,
                    (
                        k.CLAIMS,
                        self.keys.lane(claim.lane),
                        k.delivery(claim.delivery_id),
                        k.attempt(claim.delivery_id, returned.attempt.attempt_no),
                        k.status_index(returned.before.status),
                        k.status_index(returned.delivery.status),
                    ),
                    (
                        claim.delivery_id,
                        claim.token,
                        returned.attempt.scheduled_for_ms,
                        encode_delivery(returned.delivery) if began else b"",
                        encode_attempt(returned.attempt) if began else b"",
                        returned.delivery.created_at_ms,
                    ),
                )
            ]
        )
        self._fenced(reply, claim)

    async def renew(self, claim: Claim) -> None:
        """Keeps the claim for another TTL. Raises StaleClaim, RedisTrouble."""
        self._refuse_if_dropped(claim)
        [reply] = await self.link.pipeline(
            [
                Call(
                    RENEW,
                    (k.CLAIMS, self.keys.lane(claim.lane)),
                    (claim.delivery_id, claim.token, self._now_argument(), self.claim_ttl_ms),
                )
            ]
        )
        self._fenced(reply, claim)

    def _refuse_if_dropped(self, claim: Claim) -> None:
        """After a roll-back of the store nobody knows what a claim of before is worth."""
        if claim.epoch != self.epoch.number:
            raise StaleClaim(claim.delivery_id)

    def _fenced(self, reply: Reply, claim: Claim) -> None:
        [answer] = cast("list[int]", answered(reply))
        if answer != Answer.DONE:
            raise StaleClaim(claim.delivery_id)
