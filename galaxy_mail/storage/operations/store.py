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

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from galaxy_mail.domain.acceptance import Acceptance
from galaxy_mail.domain.conclusion import Begun, Conclusion, Returned
from galaxy_mail.domain.records import (
    Content,
    RenderedContent,
    encode,
)
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.links.protocol import Call, RedisLink
from galaxy_mail.storage.links.replies import answered, as_optional_bytes_list
from galaxy_mail.storage.operations.accept import ACCEPT, AcceptArgs, AcceptKeys
from galaxy_mail.storage.operations.answers import AcceptAnswer, NewlySuppressed, SuppressionsFound
from galaxy_mail.storage.operations.begin import BEGIN, BeginArgs, BeginKeys
from galaxy_mail.storage.operations.claim import CLAIM, ClaimArgs, ClaimKeys, Ticket
from galaxy_mail.storage.operations.claims import Claim, Claimed, ClaimedRecords, Quarantined, StaleClaim
from galaxy_mail.storage.operations.finish import FINISH, FinishArgs, FinishKeys
from galaxy_mail.storage.operations.identity import StoreIdentity
from galaxy_mail.storage.operations.quarantine import QUARANTINE, QuarantineArgs, QuarantineKeys
from galaxy_mail.storage.operations.release import RELEASE, ReleaseArgs, ReleaseKeys
from galaxy_mail.storage.operations.renew import RENEW, RenewArgs, RenewKeys
from galaxy_mail.storage.records.encoding import (
    encode_attempt,
    encode_delivery,
    readable,
)
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import BACKSTOP_MS, Retention

LOST_PLACES: Final = 50  # lost owners' work taken over in one claim at most


class StreamPosition(Struct, frozen=True):
    """Where an entry stands: accepted only when the stored offset is its predecessor."""

    entry_id: str
    predecessor: str  # "" for the first entry ever


class Store:
    """Applies what the domain decided."""

    def __init__(
        self,
        link: RedisLink,
        *,
        keys: Keys,
        retention: Retention,
        claim_ttl_ms: int,
        epoch: StoreIdentity,
        clock: Clock,
        durable: bool = False,
    ) -> None:
        self.claim_ttl_ms = claim_ttl_ms
        self.durable = durable  # an acceptance waits for the disk or for a replica
        self._link = link
        self._keys = keys
        self._retention = retention
        self._epoch = epoch
        self._clock = clock
        self._records = ClaimedRecords(link, keys)

    # Intake

    async def accept(
        self, acceptance: Acceptance, *, unless_suppressed: Sequence[str] = (), replaced: bytes = b""
    ) -> AcceptAnswer:
        """Makes it durable, or says why not. `unless_suppressed`: entries to look for in the suppression list first."""
        self._epoch.refuse_if_replaced()
        call = self.accept_call(acceptance, unless_suppressed=unless_suppressed, replaced=replaced)
        [reply] = await self._link.accept_pipeline([call])
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
            delivery.created_at_ms + self._retention.delivery_ms if acceptance.attempt is None else None
        )
        return ACCEPT.call(
            AcceptKeys(
                idempotency=self._keys.idempotency(delivery.source, delivery.idempotency_key),
                delivery=self._keys.delivery(delivery_id),
                payload=self._keys.payload(delivery_id),
                attempt=self._keys.attempt(delivery_id, 1),
                schedule=self._keys.lane(delivery.lane),
                suppressions=self._keys.suppressions,
                expires=self._keys.expires_index,
                offset=self._keys.offset,
                consumed=self._keys.consumed,
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
            more_keys=self._keys.indexes_of(delivery),
            more_args=unless_suppressed,
        )

    # Sending

    async def claim(self, *, priority_places: int, normal_places: int, check_lost: bool) -> Claimed:
        """Owns what is due, as far as there are places, and reads its records. Raises RedisFailure.

        When that fails after Redis has claimed, the claims expire and are taken over: `claim_ttl_ms` later.
        """
        tickets = await CLAIM.run(
            self._link,
            ClaimKeys(
                claims=self._keys.claims,
                sequence=self._keys.claim_sequence,
                losses=self._keys.claim_losses,
                priority=self._keys.priority_schedule,
                normal=self._keys.schedule,
            ),
            ClaimArgs(
                now_ms=self._clock.script_ms(),
                ttl_ms=self.claim_ttl_ms,
                priority_places=priority_places,
                normal_places=normal_places,
                lost_places=LOST_PLACES if check_lost else 0,
            ),
        )
        # Not before: what waited for a new connection was claimed in the store behind it.
        epoch = self._epoch.number
        for ticket in tickets.taken:
            self._epoch.saw_sequence(ticket.sequence)
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
        claims = await self._records.read(tickets, epoch)
        readable = {claim.token for claim in claims}
        parked = [ticket for ticket in tickets if ticket.token not in readable]
        if parked:
            await self._link.pipeline([self._quarantine_call(ticket) for ticket in parked])
        return claims, [ticket.delivery_id for ticket in parked]

    def _quarantine_call(self, of: Ticket | Claim) -> Call:
        return QUARANTINE.call(
            QuarantineKeys(claims=self._keys.claims, schedule=self._keys.lane(of.lane)),
            QuarantineArgs(delivery_id=of.delivery_id, token=of.token),
        )

    async def load(self, claim: Claim) -> Claim:
        """This claim with its content. Raises Quarantined, RedisFailure, and StaleClaim where the content is gone."""
        if claim.content is not None:
            return claim
        [reply] = await self._link.pipeline(
            [("HMGET", self._keys.payload(claim.delivery_id), "content", "rendered")]
        )
        raw_content, raw_rendered = as_optional_bytes_list(reply)
        if raw_content is None:  # the claim is gone too, then
            raise StaleClaim(claim.delivery_id)
        content = readable(raw_content, Content)
        rendered = None if raw_rendered is None else readable(raw_rendered, RenderedContent)
        if content is None or (raw_rendered is not None and rendered is None):
            [reply] = await self._link.pipeline([self._quarantine_call(claim)])
            answered(reply)
            raise Quarantined(claim.delivery_id)
        return msgspec.structs.replace(claim, content=content, rendered=rendered)

    async def begin(
        self,
        claim: Claim,
        begun: Begun,
        *,
        rendered: RenderedContent | None,
        unless_suppressed: Sequence[str] = (),
    ) -> NewlySuppressed | None:
        """Starts the attempt and renews the claim; from then on the provider may be called. Raises StaleClaim, RedisFailure.

        A NewlySuppressed answer means that nothing was written because of those entries of `unless_suppressed`.
        """
        self._refuse_if_dropped(claim)
        delivery = begun.delivery
        answer = await BEGIN.run(
            self._link,
            BeginKeys(
                claims=self._keys.claims,
                schedule=self._keys.lane(claim.lane),
                suppressions=self._keys.suppressions,
                delivery=self._keys.delivery(delivery.delivery_id),
                payload=self._keys.payload(delivery.delivery_id),
                attempt=self._keys.attempt(delivery.delivery_id, begun.attempt.attempt_no),
                status_from=self._keys.status_index(claim.delivery.status),
                status_to=self._keys.status_index(delivery.status),
            ),
            BeginArgs(
                delivery_id=claim.delivery_id,
                token=claim.token,
                now_ms=self._clock.script_ms(),
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
        """Records the outcome and drops the claim. Raises StaleClaim, RedisFailure."""
        self._refuse_if_dropped(claim)
        before, delivery, attempt = conclusion.before, conclusion.delivery, conclusion.attempt
        following, dead_letter = conclusion.next_attempt, conclusion.dead_letter
        terminal = delivery.status in TERMINAL
        finished_at_ms = delivery.updated_at_ms
        attempts_backstop_ms = finished_at_ms + self._retention.attempt_ms + BACKSTOP_MS
        purge_at_ms = self._retention.purge_at_ms(delivery)
        delivery_id = delivery.delivery_id
        recorded = await FINISH.run(
            self._link,
            FinishKeys(
                claims=self._keys.claims,
                schedule=self._keys.lane(claim.lane),
                losses=self._keys.claim_losses,
                delivery=self._keys.delivery(delivery_id),
                payload=self._keys.payload(delivery_id),
                attempt=self._keys.attempt(delivery_id, attempt.attempt_no),
                next_attempt=self._keys.attempt(delivery_id, attempt.attempt_no + 1),
                status_from=self._keys.status_index(before.status),
                status_to=self._keys.status_index(delivery.status),
                dead_letter=self._keys.dead_letter(delivery_id),
                dead_letters=self._keys.dead_letters_index,
                expires=self._keys.expires_index,
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
            more_keys=[self._keys.attempt(delivery_id, n) for n in range(1, attempt.attempt_no) if terminal],
        )
        _refuse_if_stale(claim, recorded=recorded)

    async def release(self, claim: Claim, returned: Returned) -> None:
        """Gives the work back: due when it was, same attempt. Raises StaleClaim, RedisFailure."""
        self._refuse_if_dropped(claim)
        began = returned.before is not returned.delivery
        recorded = await RELEASE.run(
            self._link,
            ReleaseKeys(
                claims=self._keys.claims,
                schedule=self._keys.lane(claim.lane),
                delivery=self._keys.delivery(claim.delivery_id),
                attempt=self._keys.attempt(claim.delivery_id, returned.attempt.attempt_no),
                status_from=self._keys.status_index(returned.before.status),
                status_to=self._keys.status_index(returned.delivery.status),
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
        """Keeps the claim for another TTL. Raises StaleClaim, RedisFailure."""
        self._refuse_if_dropped(claim)
        recorded = await RENEW.run(
            self._link,
            RenewKeys(claims=self._keys.claims, schedule=self._keys.lane(claim.lane)),
            RenewArgs(
                delivery_id=claim.delivery_id,
                token=claim.token,
                now_ms=self._clock.script_ms(),
                ttl_ms=self.claim_ttl_ms,
            ),
        )
        _refuse_if_stale(claim, recorded=recorded)

    def _refuse_if_dropped(self, claim: Claim) -> None:
        """After a roll-back of the store nobody knows what a claim of before is worth."""
        if claim.epoch != self._epoch.number:
            raise StaleClaim(claim.delivery_id)


def _refuse_if_stale(claim: Claim, *, recorded: bool) -> None:
    if not recorded:
        raise StaleClaim(claim.delivery_id)
