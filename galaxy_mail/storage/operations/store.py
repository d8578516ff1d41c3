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
from typing import Final

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
from galaxy_mail.storage.links.protocol import Call, RedisLink
from galaxy_mail.storage.links.replies import answered, as_optional_bytes_list
from galaxy_mail.storage.operations.accept import ACCEPT, AcceptArgs, AcceptKeys
from galaxy_mail.storage.operations.answers import AcceptAnswer, NewlySuppressed, SuppressionsFound
from galaxy_mail.storage.operations.begin import BEGIN, BeginArgs, BeginKeys
from galaxy_mail.storage.operations.claim import CLAIM, ClaimArgs, ClaimKeys, Ticket
from galaxy_mail.storage.operations.claims import Claim, Claimed, Quarantined, StaleClaim, claim_of
from galaxy_mail.storage.operations.finish import FINISH, FinishArgs, FinishKeys
from galaxy_mail.storage.operations.identity import StoreIdentity
from galaxy_mail.storage.operations.operation import NoKeys
from galaxy_mail.storage.operations.quarantine import QUARANTINE, QuarantineArgs, QuarantineKeys
from galaxy_mail.storage.operations.read_claimed import READ_CLAIMED, ReadClaimedArgs, StoredRecords
from galaxy_mail.storage.operations.release import RELEASE, ReleaseArgs, ReleaseKeys
from galaxy_mail.storage.operations.renew import RENEW, RenewArgs, RenewKeys
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

    def _script_now_ms(self) -> int | None:
        """What scripts are told; None: they ask the server's clock."""
        return None if self._script_now is None else self._script_now()

    # Intake

    async def accept(
        self, acceptance: Acceptance, *, unless_suppressed: Sequence[str] = (), replaced: bytes = b""
    ) -> AcceptAnswer:
        """Makes it durable, or says why not. `unless_suppressed`: entries to look for in the suppression list first."""
        self.epoch.refuse_if_replaced()
        call = self.accept_call(acceptance, unless_suppressed=unless_suppressed, replaced=replaced)
        [reply] = await self.link.accept_pipeline([call])
        answer = ACCEPT.decode(reply)
        return answer.named(unless_suppressed) if isinstance(answer, SuppressionsFound) else answer

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
        purge_at_ms = (
            delivery.created_at_ms + self.retention.delivery_ms if acceptance.attempt is None else None
        )
        return ACCEPT.call(
            AcceptKeys(
                idempotency=self.keys.idempotency(delivery.source, delivery.idempotency_key),
                delivery=self.keys.delivery(delivery_id),
                payload=self.keys.payload(delivery_id),
                attempt=self.keys.attempt(delivery_id, 1),
                schedule=self.keys.lane(delivery.lane),
                suppressions=self.keys.suppressions,
                expires=self.keys.expires_index,
                offset=self.keys.offset,
                consumed=self.keys.consumed,
            ),
            AcceptArgs(
                delivery_id=delivery_id,
                idempotency_record=encode(acceptance.idempotency),
                idempotency_expires_ms=acceptance.idempotency.expires_at_ms + BACKSTOP_MS,
                delivery_record=encode_delivery(delivery),
                content=encode(acceptance.content),
                rendered=None if acceptance.rendered is None else encode(acceptance.rendered),
                attempt_record=None if acceptance.attempt is None else encode_attempt(acceptance.attempt),
                created_at_ms=delivery.created_at_ms,
                purge_at_ms=purge_at_ms,
                backstop_ms=None if purge_at_ms is None else purge_at_ms + BACKSTOP_MS,
                replaced=replaced,
                touch="1" if self.durable else "",
                entry_id=None if position is None else position.entry_id,
                predecessor=None if position is None else position.predecessor,
            ),
            more_keys=self.keys.indexes_of(delivery),
            more_args=unless_suppressed,
        )

    # Sending

    async def claim(self, *, priority_places: int, normal_places: int, check_lost: bool) -> Claimed:
        """Owns what is due, as far as there are places, and reads its records. Raises RedisTrouble.

        When that fails after Redis has claimed, the claims expire and are taken over: `claim_ttl_ms` later.
        """
        tickets = await CLAIM.run(
            self.link,
            ClaimKeys(
                claims=self.keys.claims,
                sequence=self.keys.claim_sequence,
                losses=self.keys.claim_losses,
                priority=self.keys.priority_schedule,
                normal=self.keys.schedule,
            ),
            ClaimArgs(
                now_ms=self._script_now_ms(),
                ttl_ms=self.claim_ttl_ms,
                priority_places=priority_places,
                normal_places=normal_places,
                lost_places=LOST_PLACES if check_lost else 0,
            ),
        )
        # Not before: what waited for a new connection was claimed in the store behind it.
        epoch = self.epoch.number
        for ticket in tickets.taken:
            self.epoch.saw_sequence(ticket.sequence)
        claims, parked = await self._read_claims(tickets.taken, epoch) if tickets.taken else ([], [])
        return Claimed(
            claims=claims,
            now_ms=tickets.now_ms,
            next_due_ms=tickets.next_due_ms,
            more=tickets.more,
            parked=parked,
        )

    async def _read_claims(self, tickets: list[Ticket], epoch: int) -> tuple[list[Claim], list[str]]:
        """The claims with their records, and the ids whose records can't be read: those are parked."""
        found = await self._stored_records(
            [ticket.delivery_id for ticket in tickets], content_max_bytes=CONTENT_WITH_CLAIM_BYTES
        )
        read = [claim_of(ticket, one, epoch) for ticket, one in zip(tickets, found, strict=True)]
        claims = await self._with_attempts([claim for claim in read if claim is not None])
        readable = {claim.token for claim in claims}
        parked = [ticket for ticket in tickets if ticket.token not in readable]
        if parked:
            await self.link.pipeline([self._quarantine_call(ticket) for ticket in parked])
        return claims, [ticket.delivery_id for ticket in parked]

    async def _stored_records(
        self, delivery_ids: Sequence[str], *, content_max_bytes: int
    ) -> list[StoredRecords]:
        return await READ_CLAIMED.run(
            self.link,
            NoKeys(),
            ReadClaimedArgs(content_max_bytes=content_max_bytes),
            more_keys=[*map(self.keys.delivery, delivery_ids), *map(self.keys.payload, delivery_ids)],
        )

    def _quarantine_call(self, of: Ticket | Claim) -> Call:
        return QUARANTINE.call(
            QuarantineKeys(claims=self.keys.claims, schedule=self.keys.lane(of.lane)),
            QuarantineArgs(delivery_id=of.delivery_id, token=of.token),
        )

    async def _with_attempts(self, claims: list[Claim]) -> list[Claim]:
        """With the attempts that lost owners had begun, less what has none: the others follow from the delivery's record."""
        sending = [claim for claim in claims if claim.delivery.status is DeliveryStatus.SENDING]
        if not sending:
            return claims
        keys = [self.keys.attempt(claim.delivery_id, claim.delivery.attempt_count) for claim in sending]
        [reply] = await self.link.pipeline([("MGET", *keys)])
        begun: dict[str, Attempt] = {}
        for claim, data in zip(sending, as_optional_bytes_list(reply), strict=True):
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
        [reply] = await self.link.pipeline(
            [("HMGET", self.keys.payload(claim.delivery_id), "content", "rendered")]
        )
        raw_content, raw_rendered = as_optional_bytes_list(reply)
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
        [found] = await self._stored_records([delivery_id], content_max_bytes=CONTENT_MAX_BYTES)
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
        answer = await BEGIN.run(
            self.link,
            BeginKeys(
                claims=self.keys.claims,
                schedule=self.keys.lane(claim.lane),
                suppressions=self.keys.suppressions,
                delivery=self.keys.delivery(delivery.delivery_id),
                payload=self.keys.payload(delivery.delivery_id),
                attempt=self.keys.attempt(delivery.delivery_id, begun.attempt.attempt_no),
                status_from=self.keys.status_index(claim.delivery.status),
                status_to=self.keys.status_index(delivery.status),
            ),
            BeginArgs(
                delivery_id=claim.delivery_id,
                token=claim.token,
                now_ms=self._script_now_ms(),
                ttl_ms=self.claim_ttl_ms,
                delivery_record=encode_delivery(delivery),
                attempt_record=encode_attempt(begun.attempt),
                rendered=None if rendered is None else encode(rendered),
                created_at_ms=delivery.created_at_ms,
            ),
            more_args=unless_suppressed,
        )
        if isinstance(answer, SuppressionsFound):
            return answer.named(unless_suppressed)
        _refuse_if_stale(claim, recorded=answer)
        return None

    async def finish(self, claim: Claim, conclusion: Conclusion) -> None:
        """Records the outcome and drops the claim. Raises StaleClaim, RedisTrouble."""
        self._refuse_if_dropped(claim)
        before, delivery, attempt = conclusion.before, conclusion.delivery, conclusion.attempt
        following, dead_letter = conclusion.next_attempt, conclusion.dead_letter
        terminal = delivery.status in TERMINAL
        finished_at_ms = delivery.updated_at_ms
        attempts_backstop_ms = finished_at_ms + self.retention.attempt_ms + BACKSTOP_MS
        purge_at_ms = self.purge_at_ms(delivery)
        delivery_id = delivery.delivery_id
        recorded = await FINISH.run(
            self.link,
            FinishKeys(
                claims=self.keys.claims,
                schedule=self.keys.lane(claim.lane),
                losses=self.keys.claim_losses,
                delivery=self.keys.delivery(delivery_id),
                payload=self.keys.payload(delivery_id),
                attempt=self.keys.attempt(delivery_id, attempt.attempt_no),
                next_attempt=self.keys.attempt(delivery_id, attempt.attempt_no + 1),
                status_from=self.keys.status_index(before.status),
                status_to=self.keys.status_index(delivery.status),
                dead_letter=self.keys.dead_letter(delivery_id),
                dead_letters=self.keys.dead_letters_index,
                expires=self.keys.expires_index,
            ),
            FinishArgs(
                delivery_id=delivery_id,
                token=claim.token,
                delivery_record=encode_delivery(delivery),
                attempt_record=encode_attempt(attempt),
                next_attempt_record=None if following is None else encode_attempt(following),
                due_ms=None if following is None else following.scheduled_for_ms,
                dead_letter_record=None if dead_letter is None else encode(dead_letter),
                created_at_ms=delivery.created_at_ms,
                finished_at_ms=finished_at_ms,
                purge_at_ms=purge_at_ms if terminal else None,
                delivery_backstop_ms=purge_at_ms + BACKSTOP_MS if terminal else None,
                attempts_backstop_ms=attempts_backstop_ms if terminal else None,
            ),
            more_keys=[self.keys.attempt(delivery_id, n) for n in range(1, attempt.attempt_no) if terminal],
        )
        _refuse_if_stale(claim, recorded=recorded)

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
        recorded = await RELEASE.run(
            self.link,
            ReleaseKeys(
                claims=self.keys.claims,
                schedule=self.keys.lane(claim.lane),
                delivery=self.keys.delivery(claim.delivery_id),
                attempt=self.keys.attempt(claim.delivery_id, returned.attempt.attempt_no),
                status_from=self.keys.status_index(returned.before.status),
                status_to=self.keys.status_index(returned.delivery.status),
            ),
            ReleaseArgs(
                delivery_id=claim.delivery_id,
                token=claim.token,
                due_ms=returned.attempt.scheduled_for_ms,
                delivery_record=encode_delivery(returned.delivery) if began else None,
                attempt_record=encode_attempt(returned.attempt) if began else None,
                created_at_ms=returned.delivery.created_at_ms,
            ),
        )
        _refuse_if_stale(claim, recorded=recorded)

    async def renew(self, claim: Claim) -> None:
        """Keeps the claim for another TTL. Raises StaleClaim, RedisTrouble."""
        self._refuse_if_dropped(claim)
        recorded = await RENEW.run(
            self.link,
            RenewKeys(claims=self.keys.claims, schedule=self.keys.lane(claim.lane)),
            RenewArgs(
                delivery_id=claim.delivery_id,
                token=claim.token,
                now_ms=self._script_now_ms(),
                ttl_ms=self.claim_ttl_ms,
            ),
        )
        _refuse_if_stale(claim, recorded=recorded)

    def _refuse_if_dropped(self, claim: Claim) -> None:
        """After a roll-back of the store nobody knows what a claim of before is worth."""
        if claim.epoch != self.epoch.number:
            raise StaleClaim(claim.delivery_id)


def _refuse_if_stale(claim: Claim, *, recorded: bool) -> None:
    if not recorded:
        raise StaleClaim(claim.delivery_id)
