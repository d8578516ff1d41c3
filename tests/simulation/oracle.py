"""Says, when all has come to its end, whether every promise was kept."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, cast

from galaxy_mail.config import Config
from galaxy_mail.domain.conclusion import (
    CRASH_LOOP,
    FREE,
    OUTCOME_UNKNOWN,
    OWNERSHIP_LOST,
    RETRIES_EXHAUSTED,
)
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Blame,
    DeadLetter,
    Delivery,
    DeliveryStatus,
    Lane,
    Result,
    SendResult,
    decode,
)
from galaxy_mail.domain.resend_job import JobStatus, ResendJob
from galaxy_mail.domain.states import FINISHED, TERMINAL
from galaxy_mail.service.parts import Parts
from galaxy_mail.storage.records.encoding import decode_attempt, decode_delivery
from galaxy_mail.storage.verify import verify
from tests.keys import k
from tests.simulation.workload import Asked, Wanted
from tests.simulation.world import InstantLink, Mood, Offer, World

ALIKE: Final = 5  # spec 12: so many deliveries that fail alike blame the relay
RELAY_FAILURES_FREE: Final = 3  # spec 12: the fourth may be charged to the message
CHECKED_WITHIN_S: Final = 90.0  # a probe decides in this time whose fault a refused sender or login is
PROBED_AGAIN_IN_MS: Final = 60_000  # a delivery that probed a held relay and was refused
LOSSES_MAX: Final = 10  # spec 3: the tenth lost owner ends it,
BEGUN_LOSSES_MAX: Final = 3  # and the third of a begun attempt
FUTURE_ID: Final = "future-1"  # what a newer release wrote
FUTURE_RECORD: Final = b'{"v":2}'


def verified(world: World, parts: Parts) -> list[str]:
    """What is wrong with the store at this moment, whatever goes on around it."""
    checking = verify(InstantLink(world), keys=parts.keys, retention=parts.retention, clock=world, passes=1)
    return [str(violation) for violation in world.instantly(checking) if violation.where != FUTURE_ID]


class Oracle:
    """Judges one run. `violations` yields what is wrong with it."""

    def __init__(self, world: World, asked: Asked, config: Config) -> None:
        self.world = world
        self.books = world.witness.books
        self.asked = asked
        self.config = config
        self.fails_unknown = config.unknown_outcome == "fail"
        self.offers: dict[str, list[Offer]] = {}
        for offer in world.offers:
            self.offers.setdefault(offer.delivery_id, []).append(offer)

    def violations(self, parts: Parts) -> Iterator[str]:
        yield from verified(self.world, parts)
        stored = self._stored()
        known = self.books.accounts.keys()
        for delivery_id in stored.keys() ^ known:
            there = (
                "is stored and was never accepted" if delivery_id in stored else "was accepted and is gone"
            )
            yield f"{delivery_id} {there}"
        yield from self._promises(stored)
        yield from self._leftovers()
        for delivery_id, (delivery, attempts) in stored.items():
            for what in self._delivery(delivery, attempts):
                yield f"{delivery_id} {what}"
        for job_id in dict.fromkeys(self.asked.jobs):
            yield from self._job(job_id, stored)

    # The promises

    def _promises(self, stored: dict[str, tuple[Delivery, list[Attempt]]]) -> Iterator[str]:
        lost = self.world.witness.lost_ids
        for what, answers in (("promised", self.asked.promised), ("resent", self.asked.clones)):
            for key, ids in answers.items():
                for delivery_id in ids:
                    if delivery_id not in stored and delivery_id not in lost:
                        yield f"{key} was {what} as {delivery_id}, which is not stored"
                if len(set(ids) - lost) > 1:
                    yield f"{key} was {what} as several: {ids}"
        for entry in self.books.stream:
            if entry.fate == "accepted" and entry.fields["delivery_id"] not in stored:
                yield f"the command of {entry.fields['delivery_id']} made no delivery"
        if self.books.consumed != len(self.books.stream):
            yield f"{len(self.books.stream) - self.books.consumed} entries of the stream were not read"
        [malformed] = self.world.run(("ZRANGE", k.malformed_index, 0, -1))
        found = sorted(entry_id.decode() for entry_id in cast("list[bytes]", malformed))
        expected = sorted(e.entry_id for e in self.books.stream if e.fate not in {"accepted", "duplicate"})
        if found != expected and not self._purges:
            yield f"malformed: {found}, and not {expected}"

    @property
    def _purges(self) -> bool:
        return bool(self.world.forgotten)

    def _leftovers(self) -> Iterator[str]:
        """Nothing is claimed or due any more, and what nobody understands is where it was."""
        future, score, *rest = self.world.run(
            ("GET", k.delivery(FUTURE_ID)),
            ("ZSCORE", "mail:attempt_schedule", FUTURE_ID),
            ("HKEYS", k.claims),
            ("HKEYS", k.claim_losses),
            ("ZRANGE", "mail:attempt_schedule", 0, -1),
            ("ZRANGE", "mail:attempt_schedule:priority", 0, -1),
        )
        left_alone = (future, score) == (FUTURE_RECORD, b"inf")
        if self.world.counts["special_future"] and not left_alone and not self.world.witness.lost:
            yield f"what a newer release wrote is {future!r} now, and scheduled for {score!r}"
        for name, members in zip(("claimed", "counted as lost", "scheduled", "scheduled"), rest, strict=True):
            left = [m.decode() for m in cast("list[bytes]", members) if m != FUTURE_ID.encode()]
            if left:
                yield f"still {name}: {left}"

    def _job(self, job_id: str, stored: dict[str, tuple[Delivery, list[Attempt]]]) -> Iterator[str]:
        [data] = self.world.run(("GET", k.job(job_id)))
        if data is None:
            if not self.world.witness.lost and not self._purges:
                yield f"the job {job_id} is gone"
            return
        job = decode(cast("bytes", data), ResendJob)
        clones = [d for d, _ in stored.values() if d.idempotency_key.startswith(f"job:{job_id}:")]
        parents = [clone.parent_delivery_id for clone in clones]
        if len(set(parents)) != len(parents):
            yield f"the job {job_id} resent some more than once: {parents}"
        if job.status is JobStatus.FAILED and self.world.counts["crash_at_point"]:
            return  # an error that nobody foresaw, in the middle of its work, ends a job and says so
        if job.status is not JobStatus.DONE:
            yield f"the job {job_id} is {job.status}"
        elif job.resent < len(clones) and self._purges:
            pass  # a parent was forgotten between the crash that kept its clone from being counted and the next look
        elif job.resent != len(clones) and not self.world.witness.lost:
            yield f"the job {job_id} says that it resent {job.resent}, and there are {len(clones)}"

    # One delivery

    def _delivery(self, delivery: Delivery, attempts: list[Attempt]) -> Iterator[str]:
        offers = self.offers.get(delivery.delivery_id, [])
        if delivery.status not in TERMINAL:
            yield f"is {delivery.status}"
        if len(attempts) != delivery.attempt_count:
            yield f"has {len(attempts)} attempts, and its record counts {delivery.attempt_count}"
        yield from self._copies(delivery, attempts, offers)
        yield from self._content(delivery, offers)
        yield from self._recipients(delivery)
        yield from self._attempts(delivery, attempts)
        yield from self._dead_letter(delivery, attempts)
        for attempt in attempts:
            failures = [a for a in attempts[: attempt.attempt_no - 1] if a.blame is Blame.RELAY]
            yield from self._answer(attempt, offers, failures)
        if delivery.status in {DeliveryStatus.FAILED, DeliveryStatus.DEAD_LETTER}:
            ended_by = attempts[-1].blame if attempts else None
            if ended_by is Blame.RELAY:
                yield f"is {delivery.status} by the relay's fault"

    def _copies(self, delivery: Delivery, attempts: list[Attempt], offers: list[Offer]) -> Iterator[str]:
        """The relay got it if it is sent, and a second time only where the first outcome is unknown."""
        # Of what began in a time that Redis forgot, nothing can be known.
        taken = [
            offer
            for offer in offers
            if offer.taken and offer.begin is not None and not self.world.witness.was_lost(offer.begin.order)
        ]
        by_number = {attempt.attempt_no: attempt for attempt in attempts}
        accepted = {a.attempt_no for a in attempts if a.status is AttemptStatus.PROVIDER_ACCEPTED}
        if (delivery.status is DeliveryStatus.SENT) is not bool(accepted):
            yield f"is {delivery.status}, and the accepted attempts are {accepted}"
        if accepted - {offer.attempt_no for offer in taken}:
            yield f"the relay never took attempt {accepted}, which is recorded as accepted"
        numbers = [offer.attempt_no for offer in taken]
        for number in numbers:
            attempt = by_number.get(number)
            if attempt is None:
                yield f"the relay took attempt {number}, which nobody recorded"
            elif attempt.status is not AttemptStatus.PROVIDER_ACCEPTED and not attempt.outcome_unknown:
                yield f"the relay took attempt {number}, recorded as {attempt.status} and known"
        if len(set(numbers)) != len(numbers):
            yield f"the relay took an attempt more than once: {numbers}"
        if self.fails_unknown and len(numbers) > 1:
            yield f"the relay took it {len(numbers)} times, and a second copy is not wanted"

    def _content(self, delivery: Delivery, offers: list[Offer]) -> Iterator[str]:
        """Whatever left had one content, one Message-ID, one Date, and was what was asked for."""
        if not self.world.witness.lost and len({(o.message_id, o.date_ms, o.content) for o in offers}) > 1:
            yield "was offered with more than one content, Message-ID or Date"
        wanted = self._wanted(delivery)
        for offer in offers:
            if offer.date_ms != delivery.created_at_ms and not self.world.witness.lost:
                yield f"its Date is {offer.date_ms}, and it was accepted at {delivery.created_at_ms}"
            if wanted is not None and wanted.text not in offer.content.text_body:
                yield f"its text is not what was asked for: {offer.content.text_body[:80]}"
            if wanted is not None and set(offer.envelope.recipients()) - set(wanted.recipients):
                yield f"was offered to {offer.envelope.recipients()}, and {wanted.recipients} were asked for"
        parent = delivery.parent_delivery_id
        before = self.offers.get(parent, []) if parent is not None and not self.world.witness.lost else []
        if before and offers and before[0].content != offers[0].content:
            yield f"its content is not that of {parent}, whose resend it is"
        renderable = wanted is None or wanted.renderable
        if not renderable and (offers or delivery.status is DeliveryStatus.SENT):
            yield f"can't be rendered, is {delivery.status} and was offered {len(offers)} times"

    def _wanted(self, delivery: Delivery) -> Wanted | None:
        parent = delivery.parent_delivery_id
        if parent is not None:
            stored = self._records.get(parent)
            return None if stored is None else self._wanted(stored[0])
        if delivery.lane is Lane.PRIORITY:
            return self.asked.login_codes.get(delivery.idempotency_key)
        return self.asked.commands.get(delivery.delivery_id)

    def _recipients(self, delivery: Delivery) -> Iterator[str]:
        """Everyone who was asked for is mailed or was on the list once."""
        wanted = self._wanted(delivery)
        dropped = [s.address for s in delivery.suppressed_recipients]
        everyone = {*delivery.envelope.recipients(), *dropped}
        if wanted is not None and everyone != set(wanted.recipients):
            yield f"has the recipients {everyone}, and {wanted.recipients} were asked for"
        for address in dropped:
            domain = "@" + address.rpartition("@")[2].lower()
            if not {address.lower(), domain} & self.world.suppressed_once:
                yield f"lacks {address}, who was never suppressed"
        if (delivery.status is DeliveryStatus.SUPPRESSED) is bool(delivery.envelope.recipients()):
            if delivery.status is DeliveryStatus.SUPPRESSED:
                yield "is suppressed, and somebody was left to mail"
            elif delivery.status is DeliveryStatus.SENT:
                yield "is sent to nobody"

    def _attempts(self, delivery: Delivery, attempts: list[Attempt]) -> Iterator[str]:
        """Retries come when they should; what the relay or the service is to blame for uses up none."""
        delays_ms = self.config.retry_delays_ms
        used = free = 0
        for attempt, following in pairwise(attempts):
            if attempt.result is not Result.TRANSIENT_FAILURE or attempt.finished_at_ms is None:
                yield f"attempt {attempt.attempt_no} ended as {attempt.result}, and another followed"
                continue
            charged, lost = attempt.blame is Blame.MESSAGE, _is_loss(attempt)
            if charged and used >= len(delays_ms):
                yield f"attempt {following.attempt_no} is a retry more than the {len(delays_ms)} that there are"
                continue
            delay_ms = delays_ms[used] if charged else 0 if lost else min(60_000, 1_000 * 2**free)
            used, free = used + charged, free + (not charged and not lost)
            waited_ms = following.scheduled_for_ms - attempt.finished_at_ms
            probed = attempt.blame is Blame.RELAY and waited_ms == PROBED_AGAIN_IN_MS
            if waited_ms != delay_ms and not probed:
                yield f"attempt {following.attempt_no} was due after {waited_ms} ms, and not {delay_ms}"
            if self.fails_unknown and attempt.outcome_unknown:
                yield f"attempt {following.attempt_no} followed one of unknown outcome"
        for attempt in attempts:
            failed = attempt.result in (Result.TRANSIENT_FAILURE, Result.PERMANENT_FAILURE)
            if failed is (attempt.blame is None):
                yield f"attempt {attempt.attempt_no} ended as {attempt.result} and blames {attempt.blame}"
        if used != delivery.retries_used:
            yield f"used {used} retries, and its record says {delivery.retries_used}"

    def _dead_letter(self, delivery: Delivery, attempts: list[Attempt]) -> Iterator[str]:
        """It is given up when its retries are used up or its owners die of it, and not earlier."""
        if not attempts:
            return
        last = attempts[-1]
        losses = self.books.accounts[delivery.delivery_id].losses
        begun_losses = sum(1 for a in attempts if a.failure is not None and a.started_at_ms and _is_loss(a))
        if begun_losses > BEGUN_LOSSES_MAX:
            yield f"lost {begun_losses} owners after its begin, and went on"
        unknown = delivery.failure is not None and delivery.failure.code == OUTCOME_UNKNOWN
        if unknown is not (
            self.fails_unknown and last.outcome_unknown and delivery.status is DeliveryStatus.FAILED
        ):
            yield f"is {delivery.status} ({delivery.failure}), its last attempt {last.status}"
        if self.fails_unknown and last.outcome_unknown and delivery.status is not DeliveryStatus.FAILED:
            yield f"is {delivery.status} after an unknown outcome"
        if delivery.status is not DeliveryStatus.DEAD_LETTER:
            return
        if delivery.delivery_id in self.world.forgotten:
            return
        [data] = self.world.run(("GET", f"mail:dead_letters:{delivery.delivery_id}"))
        if data is None:
            yield "is a dead letter without a record of it"
            return
        reason = decode(cast("bytes", data), DeadLetter).reason
        if reason == RETRIES_EXHAUSTED and (
            delivery.retries_used != len(self.config.retry_delays_ms) or _is_loss(last)
        ):
            yield f"was given up after {delivery.retries_used} retries"
        if reason == CRASH_LOOP and begun_losses < BEGUN_LOSSES_MAX and losses < LOSSES_MAX:
            yield f"was given up after {losses} losses, {begun_losses} of them after its begin"

    def _answer(self, attempt: Attempt, offers: list[Offer], failures: list[Attempt]) -> Iterator[str]:
        """An attempt that ended by an answer has the relay's, as it was given."""
        if attempt.status not in FINISHED:
            yield f"attempt {attempt.attempt_no} is {attempt.status}"
        if _is_loss(attempt):
            if not attempt.outcome_unknown and attempt.started_at_ms:
                yield f"attempt {attempt.attempt_no} lost its owner, and its outcome is known"
            return
        if attempt.provider is None:
            return  # no call: a render failure, a late suppression, a crash loop before its begin
        free = attempt.blame in FREE  # due again, also where the relay refused it for good
        answers = [
            (
                Result.TRANSIENT_FAILURE if free else a.result,
                a.status,
                a.failure,
                a.provider_code,
                a.refused_recipients,
                a.outcome_unknown,
            )
            for offer in offers
            if offer.attempt_no == attempt.attempt_no and (a := offer.answer) is not None
        ]
        recorded = (
            attempt.result,
            attempt.status,
            attempt.failure,
            attempt.provider_code,
            attempt.refused_recipients,
            attempt.outcome_unknown,
        )
        if recorded not in answers:
            yield f"attempt {attempt.attempt_no} is recorded as {recorded}, and the relay said {answers}"
        # It may have been given back and offered again: one of the answers has to explain the blame.
        told = [
            self._misjudged(attempt, offer, offer.answer, failures)
            for offer in offers
            if offer.attempt_no == attempt.attempt_no and offer.answer is not None
        ]
        if told and all(told):
            yield str(told[0])

    def _misjudged(
        self, attempt: Attempt, offer: Offer, answer: SendResult, failures: list[Attempt]
    ) -> str | None:
        """What the relay is to blame for is charged to no mail, but for the fourth failure of a single odd one."""
        if attempt.blame is answer.blame:
            return None
        told = f"attempt {attempt.attempt_no} blames {attempt.blame}, and the relay's answer {answer.blame}"
        if (answer.blame, attempt.blame) == (Blame.MESSAGE, Blame.RELAY):  # everything fails alike
            alike = {
                other.delivery_id
                for other in self.world.offers
                if other.answer is not None
                and other.answered_s <= offer.answered_s
                and (other.answer.exchange, other.answer.provider_code)
                == (answer.exchange, answer.provider_code)
            }
            return told if len(alike) < ALIKE else None
        if (answer.blame, attempt.blame) == (Blame.RELAY, Blame.MESSAGE):
            until_s = offer.answered_s + CHECKED_WITHIN_S
            checked = offer.mood in {Mood.NO_SENDER, Mood.NO_LOGIN} and self.world.felt_otherwise(
                offer.mood, offer.answered_s, until_s
            )
            failed_s = max(
                (o.answered_s for o in self.offers[offer.delivery_id] if o.attempt_no < offer.attempt_no),
                default=0.0,
            )
            odd = len(failures) >= RELAY_FAILURES_FREE and any(
                o.taken and failed_s < o.answered_s <= offer.answered_s for o in self.world.offers
            )
            return None if checked or odd else told
        return told

    # What is stored

    def _stored(self) -> dict[str, tuple[Delivery, list[Attempt]]]:
        self._records: dict[str, tuple[Delivery, list[Attempt]]] = {}
        [ids] = self.world.run(("ZRANGE", k.created_at_index, 0, -1))
        for member in cast("list[bytes]", ids):
            delivery_id = member.decode()
            [data] = self.world.run(("GET", k.delivery(delivery_id)))
            delivery = decode_delivery(cast("bytes", data), delivery_id)
            keys = [k.attempt(delivery_id, number) for number in range(1, delivery.attempt_count + 1)]
            found = cast("list[bytes | None]", self.world.run(("MGET", *keys))[0]) if keys else []
            self._records[delivery_id] = delivery, _attempts(delivery_id, found)
        for delivery_id, (delivery, found) in self.world.forgotten.items():
            self._records[delivery_id] = delivery, _attempts(delivery_id, found)
        return self._records


def _attempts(delivery_id: str, found: Sequence[bytes | None]) -> list[Attempt]:
    return [decode_attempt(data, delivery_id, no) for no, data in enumerate(found, 1) if data is not None]


def _is_loss(attempt: Attempt) -> bool:
    return attempt.failure is not None and attempt.failure.code in {OWNERSHIP_LOST, CRASH_LOOP}
