"""What follows from what happened to an attempt: the table of spec section 3, row by row, and everything that could happen.

`Walk` plays a delivery's whole life with the domain alone, as the store would store it.
"""

from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from galaxy_mail.domain.conclusion import (
    BEGUN_LOSSES_MAX,
    CRASH_LOOP,
    LOSSES_MAX,
    OUTCOME_UNKNOWN,
    OWNERSHIP_LOST,
    RECIPIENTS_SUPPRESSED,
    RETRIES_EXHAUSTED,
    Begun,
    Conclusion,
    RetryPolicy,
    begin,
    blamed,
    conclude,
    conclude_late_suppression,
    conclude_lost_owner,
    conclude_render_failure,
    give_back,
    suppress_late,
)
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Blame,
    DeadLetter,
    Delivery,
    DeliveryStatus,
    Failure,
    RefusedRecipient,
    RenderedContent,
    Result,
    SendResult,
    SuppressedRecipient,
)
from galaxy_mail.domain.states import FINISHED, TERMINAL, IllegalMove
from tests.deliveries import (
    ACCEPTED,
    DEFERRED,
    FAILURE,
    HUNG_UP,
    NOW_MS,
    REFUSED,
    SILENT,
    SUPPRESSED,
    UNKNOWN,
    acceptance_of,
    attempt_of,
    delivery_of,
    login_code_of,
    request_of,
)

S, A = DeliveryStatus, AttemptStatus
POLICY: Final = RetryPolicy()
RENDERED: Final = RenderedContent(
    subject="Code 1", text_body="1", locale_used="en", locale_fallback_used=True
)
MINUTE_MS: Final = 60_000


@dataclass
class Walk:
    """One delivery and its attempts, as they are stored after each decision."""

    delivery: Delivery
    attempts: list[Attempt]
    policy: RetryPolicy = POLICY
    losses: int = 0
    now_ms: int = NOW_MS
    dead_letter: DeadLetter | None = None
    due_ms: int | None = NOW_MS
    ended: list[Conclusion] = field(default_factory=list)

    @classmethod
    def of(cls, policy: RetryPolicy = POLICY) -> "Walk":
        made = acceptance_of()
        assert made.attempt is not None
        return cls(made.delivery, [made.attempt], policy)

    @property
    def attempt(self) -> Attempt:
        return self.attempts[-1]

    def begin(self) -> None:
        self.now_ms = max(self.now_ms, self.due_ms or 0) + 1
        begun = begin(self.delivery, self.attempt, rendered=None, provider="stub", now_ms=self.now_ms)
        self.delivery, self.attempts[-1] = begun.delivery, begun.attempt

    def conclude(self, result: SendResult) -> Conclusion:
        self.now_ms += 1
        return self._write(conclude(self.delivery, self.attempt, result, self.policy, now_ms=self.now_ms))

    def lose(self) -> Conclusion | None:
        self.now_ms += 30_000
        self.losses += 1
        conclusion = conclude_lost_owner(
            self.delivery, self.attempt, self.policy, losses=self.losses, now_ms=self.now_ms
        )
        return None if conclusion is None else self._write(conclusion)

    def give_back(self) -> None:
        self.now_ms += 1
        returned = give_back(self.delivery, self.attempt, now_ms=self.now_ms)
        assert returned.before == self.delivery
        self.delivery, self.attempts[-1] = returned.delivery, returned.attempt
        self.due_ms = returned.attempt.scheduled_for_ms

    def _write(self, conclusion: Conclusion) -> Conclusion:
        assert conclusion.before == self.delivery, "the indexes move from what is stored"
        self.delivery, self.attempts[-1] = conclusion.delivery, conclusion.attempt
        self.due_ms = None
        if conclusion.next_attempt is not None:
            self.attempts.append(conclusion.next_attempt)
            self.due_ms = conclusion.next_attempt.scheduled_for_ms
        self.dead_letter = conclusion.dead_letter
        self.ended.append(conclusion)
        return conclusion


def begun_of(delivery: Delivery | None = None, attempt: Attempt | None = None) -> Begun:
    return begin(
        delivery or delivery_of(),
        attempt or attempt_of(),
        rendered=None,
        provider="stub",
        now_ms=NOW_MS + 10,
    )


# Begin


def test_a_begin_fixes_the_content_and_starts_the_attempt() -> None:
    begun = begin(
        delivery_of(login_code_of()),
        attempt_of(login_code_of()),
        rendered=RENDERED,
        provider="smtp",
        now_ms=NOW_MS + 10,
    )
    delivery, attempt = begun.delivery, begun.attempt
    assert delivery.status is S.SENDING
    assert (delivery.rendered_at_ms, delivery.updated_at_ms) == (NOW_MS + 10, NOW_MS + 10)
    assert (delivery.locale_used, delivery.locale_fallback_used) == ("en", True)
    assert delivery.next_attempt_at_ms is None
    assert delivery.subject is None, "a login code's subject may hold the code"
    assert attempt == replace(
        attempt_of(login_code_of()), status=A.IN_PROGRESS, started_at_ms=NOW_MS + 10, provider="smtp"
    )


def test_a_begin_shows_the_subject_that_it_rendered() -> None:
    begun = begin(delivery_of(), attempt_of(), rendered=RENDERED, provider="smtp", now_ms=NOW_MS)
    assert begun.delivery.subject == "Code 1"


def test_content_is_fixed_once() -> None:
    again = begun_of(replace(delivery_of(), rendered_at_ms=NOW_MS + 1, locale_used="de", subject="first"))
    assert (again.delivery.rendered_at_ms, again.delivery.locale_used, again.delivery.subject) == (
        NOW_MS + 1,
        "de",
        "first",
    )


@pytest.mark.parametrize("status", [S.SENDING, *sorted(TERMINAL)])
def test_what_is_sent_or_ended_does_not_begin(status: DeliveryStatus) -> None:
    with pytest.raises(IllegalMove):
        begun_of(replace(delivery_of(), status=status))


@pytest.mark.parametrize("status", [status for status in A if status is not A.SCHEDULED])
def test_an_attempt_begins_once(status: AttemptStatus) -> None:
    with pytest.raises(IllegalMove):
        begun_of(attempt=replace(attempt_of(), status=status))


# The provider's answers: spec section 3, the table, with retries left and without


@pytest.mark.parametrize("retries_left", [True, False], ids=["retries left", "retries used up"])
@pytest.mark.parametrize(
    ("answer", "attempt_ends", "delivery_ends"),
    [
        (ACCEPTED, A.PROVIDER_ACCEPTED, S.SENT),
        (SUPPRESSED, A.PROVIDER_REJECTED, S.SUPPRESSED),
        (REFUSED, A.PROVIDER_REJECTED, S.FAILED),
        (DEFERRED, A.PROVIDER_REJECTED, None),
        (HUNG_UP, A.TRANSPORT_FAILED, None),
        (SILENT, A.TIMED_OUT, None),
        (UNKNOWN, A.TIMED_OUT, None),
    ],
    ids=["accepted", "suppressed", "5xx", "4xx", "hung up", "time-out", "no answer to the dot"],
)
def test_each_answer_ends_attempt_and_delivery_as_the_table_says(
    answer: SendResult, attempt_ends: AttemptStatus, delivery_ends: DeliveryStatus | None, retries_left: bool
) -> None:
    begun = begun_of(replace(delivery_of(), retries_used=0 if retries_left else 3))
    ended = conclude(begun.delivery, begun.attempt, answer, POLICY, now_ms=NOW_MS + 99)
    expected = delivery_ends or (S.QUEUED if retries_left else S.DEAD_LETTER)
    assert (ended.attempt.status, ended.delivery.status) == (attempt_ends, expected)
    assert ended.before is begun.delivery
    assert (ended.next_attempt is not None) is (expected is S.QUEUED)
    assert (ended.dead_letter is not None) is (expected is S.DEAD_LETTER)
    assert (ended.delivery.finished_at_ms == NOW_MS + 99) is (expected in TERMINAL)
    assert ended.delivery.failure == (None if answer in (ACCEPTED, SUPPRESSED) else FAILURE)


def test_all_that_the_provider_answered_is_in_the_attempt() -> None:
    refused = (RefusedRecipient(address="a@x.example", provider_code="550 5.1.1", summary="no such user"),)
    answer = replace(UNKNOWN, provider_code="451 4.4.2", refused_recipients=refused)
    begun = begun_of()
    ended = conclude(begun.delivery, begun.attempt, answer, POLICY, now_ms=NOW_MS + 99).attempt
    assert ended == replace(
        begun.attempt,
        status=A.TIMED_OUT,
        finished_at_ms=NOW_MS + 99,
        result=Result.TRANSIENT_FAILURE,
        failure=FAILURE,
        provider_code="451 4.4.2",
        refused_recipients=refused,
        outcome_unknown=True,
    )


def test_success_clears_what_failed_before() -> None:
    walk = Walk.of()
    walk.begin()
    failures = [walk.conclude(DEFERRED).delivery.failure]
    walk.begin()
    failures.append(walk.conclude(ACCEPTED).delivery.failure)
    assert failures == [FAILURE, None]
    assert walk.attempts[0].failure == FAILURE


def test_an_answer_to_an_attempt_that_had_not_begun_is_a_bug_of_ours() -> None:
    with pytest.raises(IllegalMove):
        conclude(delivery_of(), attempt_of(), ACCEPTED, POLICY, now_ms=NOW_MS)


def test_a_provider_that_answers_with_what_is_no_end_is_a_bug_of_its_own() -> None:
    begun = begun_of()
    with pytest.raises(IllegalMove):
        conclude(
            begun.delivery, begun.attempt, replace(ACCEPTED, status=A.IN_PROGRESS), POLICY, now_ms=NOW_MS
        )


# Retries


def test_four_attempts_after_one_five_and_thirty_minutes_and_then_a_dead_letter() -> None:
    walk = Walk.of()
    waits_ms = []
    for _ in range(4):
        walk.begin()
        walk.conclude(DEFERRED)
        waits_ms.append(None if walk.due_ms is None else walk.due_ms - walk.now_ms)
    assert waits_ms == [MINUTE_MS, 5 * MINUTE_MS, 30 * MINUTE_MS, None]
    assert walk.delivery.status is S.DEAD_LETTER
    assert [attempt.attempt_no for attempt in walk.attempts] == [1, 2, 3, 4]
    assert walk.dead_letter == DeadLetter(
        delivery_id="d1",
        reason=RETRIES_EXHAUSTED,
        failure=FAILURE,
        attempt_count=4,
        created_at_ms=walk.now_ms,
    )


def test_the_next_attempt_is_due_when_the_delivery_says_so() -> None:
    walk = Walk.of()
    walk.begin()
    ended = walk.conclude(DEFERRED)
    assert ended.next_attempt == Attempt(
        delivery_id="d1", attempt_no=2, status=A.SCHEDULED, scheduled_for_ms=walk.now_ms + MINUTE_MS
    )
    assert ended.delivery.next_attempt_at_ms == walk.now_ms + MINUTE_MS
    assert (ended.delivery.attempt_count, ended.delivery.retries_used) == (2, 1)


def test_without_retries_the_first_failure_is_the_last() -> None:
    walk = Walk.of(RetryPolicy(delays_ms=()))
    walk.begin()
    assert walk.conclude(DEFERRED).delivery.status is S.DEAD_LETTER


# Blame (spec part 2, section 12)


@pytest.mark.parametrize("blame", [Blame.RELAY, Blame.SERVICE])
@pytest.mark.parametrize("answer", [REFUSED, DEFERRED, HUNG_UP, SILENT], ids=lambda one: one.status)
def test_what_is_not_the_messages_fault_uses_up_no_retry(answer: SendResult, blame: Blame) -> None:
    walk = Walk.of()
    waits_ms = []
    for _ in range(9):
        walk.begin()
        ended = walk.conclude(replace(answer, blame=blame))
        assert (ended.attempt.blame, ended.attempt.result) == (blame, Result.TRANSIENT_FAILURE)
        assert ended.attempt.status is answer.status
        assert walk.due_ms is not None
        waits_ms.append(walk.due_ms - walk.now_ms)
    assert waits_ms == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]
    assert (walk.delivery.status, walk.delivery.retries_used, walk.delivery.failure) == (S.QUEUED, 0, FAILURE)
    assert walk.delivery.relay_failures == (9 if blame is Blame.RELAY else 0)


def test_retries_are_as_long_as_ever_whatever_failed_between_them() -> None:
    walk = Walk.of()
    waits_ms = []
    for blame in (Blame.RELAY, Blame.MESSAGE, Blame.SERVICE, Blame.MESSAGE, Blame.RELAY, Blame.MESSAGE):
        walk.begin()
        walk.conclude(replace(DEFERRED, blame=blame))
        assert walk.due_ms is not None
        waits_ms.append(walk.due_ms - walk.now_ms)
    assert waits_ms == [1_000, MINUTE_MS, 2_000, 5 * MINUTE_MS, 4_000, 30 * MINUTE_MS]
    walk.begin()
    assert walk.conclude(replace(DEFERRED, blame=Blame.MESSAGE)).delivery.status is S.DEAD_LETTER


RELAY_REFUSED: Final = replace(REFUSED, blame=Blame.RELAY)


def failed_by_the_relay(times: int) -> Walk:
    walk = Walk.of()
    for _ in range(times):
        walk.begin()
        walk.conclude(RELAY_REFUSED)
    return walk


@pytest.mark.parametrize(
    ("failures", "accepted_after_ms", "charged"),
    [
        (3, 1, True),
        (7, 1, True),
        (2, 1, False),  # three of them are free
        (3, 0, False),  # not since the latest one
        (3, None, False),  # the relay accepts nothing: it is the relay's fault, however often
        (50, None, False),
    ],
)
def test_from_its_fourth_relay_failure_on_a_mail_pays_if_the_relay_takes_other_mail(
    failures: int, accepted_after_ms: int | None, charged: bool
) -> None:
    walk = failed_by_the_relay(failures)
    accepted_at_ms = None if accepted_after_ms is None else walk.now_ms + accepted_after_ms
    walk.begin()
    judged = blamed(walk.delivery, RELAY_REFUSED, relay_accepted_at_ms=accepted_at_ms)
    assert judged.blame is (Blame.MESSAGE if charged else Blame.RELAY)
    assert walk.conclude(judged).delivery.status is (S.FAILED if charged else S.QUEUED)


@pytest.mark.parametrize("result", [ACCEPTED, replace(REFUSED, blame=Blame.SERVICE)])
def test_only_the_relays_blame_is_looked_at_again(result: SendResult) -> None:
    walk = failed_by_the_relay(9)
    assert blamed(walk.delivery, result, relay_accepted_at_ms=walk.now_ms + 1) is result


# Unknown outcomes


def test_an_unknown_outcome_is_retried_by_default_and_uses_up_a_retry() -> None:
    walk = Walk.of()
    walk.begin()
    ended = walk.conclude(UNKNOWN)
    assert (ended.delivery.status, ended.delivery.retries_used) == (S.QUEUED, 1)
    assert ended.attempt.outcome_unknown


NO_SECOND_COPY: Final = RetryPolicy(fail_unknown_outcome=True)


def test_where_no_second_copy_is_wanted_an_unknown_outcome_ends_as_failed() -> None:
    walk = Walk.of(NO_SECOND_COPY)
    walk.begin()
    ended = walk.conclude(UNKNOWN)
    assert ended.delivery.status is S.FAILED
    assert ended.delivery.failure is not None
    assert ended.delivery.failure.code == OUTCOME_UNKNOWN
    assert (ended.attempt.status, ended.attempt.failure) == (A.TIMED_OUT, FAILURE)
    assert ended.attempt.outcome_unknown
    assert (ended.next_attempt, ended.dead_letter) == (None, None)


@pytest.mark.parametrize("answer", [DEFERRED, HUNG_UP, SILENT])
def test_where_no_second_copy_is_wanted_a_known_failure_is_retried_as_ever(answer: SendResult) -> None:
    walk = Walk.of(NO_SECOND_COPY)
    walk.begin()
    assert walk.conclude(answer).delivery.status is S.QUEUED


def test_where_no_second_copy_is_wanted_a_lost_owner_of_a_begun_attempt_ends_as_failed() -> None:
    walk = Walk.of(NO_SECOND_COPY)
    walk.begin()
    ended = walk.lose()
    assert ended is not None
    assert ended.delivery.status is S.FAILED
    assert ended.delivery.failure is not None
    assert ended.delivery.failure.code == OUTCOME_UNKNOWN
    assert ended.attempt.failure is not None
    assert (ended.attempt.status, ended.attempt.failure.code) == (A.TIMED_OUT, OWNERSHIP_LOST)
    assert ended.attempt.outcome_unknown


def test_where_no_second_copy_is_wanted_the_loss_of_an_unbegun_attempt_is_harmless() -> None:
    walk = Walk.of(NO_SECOND_COPY)
    assert walk.lose() is None
    assert walk.delivery.status is S.QUEUED


# Lost owners


def test_a_lost_owner_of_a_begun_attempt_closes_it_and_the_next_is_due_at_once() -> None:
    walk = Walk.of()
    walk.begin()
    ended = walk.lose()
    assert ended is not None
    assert ended.attempt.failure is not None
    assert (ended.attempt.status, ended.attempt.failure.code, ended.attempt.outcome_unknown) == (
        A.TIMED_OUT,
        OWNERSHIP_LOST,
        True,
    )
    assert ended.attempt.result is Result.TRANSIENT_FAILURE
    assert ended.next_attempt is not None
    assert (ended.next_attempt.attempt_no, ended.next_attempt.scheduled_for_ms) == (2, walk.now_ms)
    assert ended.attempt.blame is Blame.SERVICE
    assert ended.delivery.retries_used == 0, "lost owners use up no retry"
    assert (ended.delivery.status, ended.delivery.begun_losses) == (S.QUEUED, 1)
    assert ended.dead_letter is None


def test_the_third_loss_of_a_begun_attempt_is_a_crash_loop() -> None:
    walk = Walk.of()
    statuses = []
    for _ in range(3):
        walk.begin()
        ended = walk.lose()
        assert ended is not None
        statuses.append(ended.delivery.status)
    assert statuses == [S.QUEUED, S.QUEUED, S.DEAD_LETTER]
    assert walk.dead_letter is not None
    assert walk.dead_letter.reason == CRASH_LOOP
    assert walk.dead_letter.attempt_count == 3
    assert walk.delivery.failure is not None
    assert walk.delivery.failure.code == CRASH_LOOP
    assert walk.attempt.failure is not None
    assert walk.attempt.failure.code == OWNERSHIP_LOST, "the attempt says what happened to it"
    assert len(walk.attempts) == 3


def test_nine_losses_before_the_begin_change_nothing_and_the_tenth_is_a_crash_loop() -> None:
    walk = Walk.of()
    before = (walk.delivery, list(walk.attempts))
    assert [walk.lose() for _ in range(9)] == [None] * 9
    assert (walk.delivery, walk.attempts) == before
    ended = walk.lose()
    assert ended is not None
    assert ended.delivery.status is S.DEAD_LETTER
    assert ended.attempt.failure is not None
    assert (ended.attempt.status, ended.attempt.failure.code) == (A.TIMED_OUT, CRASH_LOOP)
    assert not ended.attempt.outcome_unknown, "it was never sent"
    assert ended.dead_letter is not None
    assert (ended.dead_letter.reason, ended.dead_letter.attempt_count) == (CRASH_LOOP, 1)


@pytest.mark.parametrize("begun_first", [True, False])
def test_the_tenth_loss_in_all_ends_it_whatever_the_losses_were(begun_first: bool) -> None:
    walk = Walk.of()
    begun_at = {1, 2} if begun_first else {9, 10}
    statuses = []
    for number in range(1, 11):
        if number in begun_at:
            walk.begin()
        walk.lose()
        statuses.append(walk.delivery.status)
    assert statuses[:9] == [S.QUEUED] * 9
    assert statuses[9] is S.DEAD_LETTER
    assert walk.delivery.begun_losses == 2


def test_losses_and_retries_are_counted_apart() -> None:
    walk = Walk.of()
    for answer in (DEFERRED, None, HUNG_UP, None, SILENT, DEFERRED):
        walk.begin()
        if answer is None:
            walk.lose()
        else:
            walk.conclude(answer)
    assert (walk.delivery.begun_losses, walk.delivery.retries_used) == (2, 3)
    assert walk.delivery.status is S.DEAD_LETTER
    assert walk.dead_letter is not None
    assert walk.dead_letter.reason == RETRIES_EXHAUSTED
    assert [attempt.attempt_no for attempt in walk.attempts] == [1, 2, 3, 4, 5, 6]


# Work returned


def test_what_had_not_begun_goes_back_as_it_is() -> None:
    delivery, attempt = delivery_of(), attempt_of()
    returned = give_back(delivery, attempt, now_ms=NOW_MS + 5)
    assert returned.before is returned.delivery is delivery
    assert returned.attempt is attempt


def test_what_had_begun_goes_back_with_its_number_its_due_time_and_its_content() -> None:
    begun = begun_of()
    returned = give_back(begun.delivery, begun.attempt, now_ms=NOW_MS + 20)
    assert returned.before is begun.delivery
    assert returned.attempt == attempt_of(), "as if it had never begun"
    assert returned.delivery == replace(
        delivery_of(), status=S.RENDERED, updated_at_ms=NOW_MS + 20, rendered_at_ms=NOW_MS + 10
    )


def test_a_retry_that_is_given_back_is_due_when_it_was() -> None:
    walk = Walk.of()
    walk.begin()
    walk.conclude(DEFERRED)
    due_ms = walk.due_ms
    walk.begin()
    walk.give_back()
    assert walk.due_ms == walk.delivery.next_attempt_at_ms == due_ms
    assert (walk.attempt.attempt_no, walk.attempt.status) == (2, A.SCHEDULED)
    assert walk.delivery.attempt_count == 2
    walk.begin()
    assert walk.conclude(ACCEPTED).delivery.status is S.SENT


@pytest.mark.parametrize("status", [A.PROVIDER_ACCEPTED, A.TIMED_OUT])
def test_an_attempt_that_ended_is_not_given_back(status: AttemptStatus) -> None:
    with pytest.raises(IllegalMove):
        give_back(begun_of().delivery, replace(attempt_of(), status=status), now_ms=NOW_MS)


# Ends without a call


def test_a_render_failure_fails_the_delivery_without_a_call() -> None:
    failure = Failure(code="missing_variables", summary="code")
    ended = conclude_render_failure(delivery_of(), attempt_of(), failure, now_ms=NOW_MS + 5)
    assert (ended.delivery.status, ended.delivery.failure) == (S.FAILED, failure)
    assert ended.attempt == replace(
        attempt_of(),
        status=A.PROVIDER_REJECTED,
        finished_at_ms=NOW_MS + 5,
        result=Result.PERMANENT_FAILURE,
        failure=failure,
        blame=Blame.MESSAGE,
    )
    assert ended.attempt.provider is None
    assert (ended.next_attempt, ended.dead_letter, ended.attempt.started_at_ms) == (None, None, None)


def test_late_suppression_of_everybody_ends_the_delivery_without_a_call() -> None:
    delivery = suppress_late(delivery_of(), {"d1@example.org": "bounced since"})
    assert delivery.envelope.recipients() == ()
    assert delivery.status is S.QUEUED
    ended = conclude_late_suppression(delivery, attempt_of(), now_ms=NOW_MS + 5)
    assert ended.delivery.status is S.SUPPRESSED
    assert ended.delivery.suppressed_recipients == (
        SuppressedRecipient(address="d1@example.org", reason="bounced since"),
    )
    assert (ended.attempt.status, ended.attempt.result) == (A.PROVIDER_REJECTED, Result.SUPPRESSED)
    assert ended.delivery.failure is None
    assert ended.attempt.failure is not None
    assert (ended.attempt.failure.code, ended.attempt.blame) == (RECIPIENTS_SUPPRESSED, None)
    assert (ended.attempt.provider, ended.attempt.started_at_ms) == (None, None)


def test_late_suppression_adds_to_what_was_suppressed_before() -> None:
    request = request_of(to=("a@x.example", "b@x.example", "c@x.example"))
    accepted = acceptance_of(request, suppressed={"a@x.example": "one"}).delivery
    later = suppress_late(accepted, {"b@x.example": "two"})
    assert later.envelope.recipients() == ("c@x.example",)
    assert [(s.address, s.reason) for s in later.suppressed_recipients] == [
        ("a@x.example", "one"),
        ("b@x.example", "two"),
    ]


def test_a_returned_delivery_may_be_suppressed_late() -> None:
    begun = begun_of()
    returned = give_back(begun.delivery, begun.attempt, now_ms=NOW_MS + 20)
    ended = conclude_late_suppression(returned.delivery, returned.attempt, now_ms=NOW_MS + 30)
    assert ended.delivery.status is S.SUPPRESSED


# Anything that could happen, in any order

EVENTS: Final = st.sampled_from(
    ["begin", "accepted", "suppressed", "5xx", "4xx", "hung_up", "silent", "unknown", "lose", "give_back"]
)
ANSWERS: Final = {
    "accepted": ACCEPTED,
    "suppressed": SUPPRESSED,
    "5xx": REFUSED,
    "4xx": DEFERRED,
    "hung_up": HUNG_UP,
    "silent": SILENT,
    "unknown": UNKNOWN,
}
POLICIES: Final = st.builds(
    RetryPolicy,
    delays_ms=st.lists(st.integers(1, 10_000_000), max_size=5).map(tuple),
    fail_unknown_outcome=st.booleans(),
)


def play(walk: Walk, event: str) -> None:
    """What this event does to the delivery now; one that can't happen now doesn't."""
    begun = walk.attempt.status is A.IN_PROGRESS
    if event == "begin" and not begun:
        walk.begin()
    elif event == "lose":
        walk.lose()
    elif event == "give_back":
        walk.give_back()
    elif event in ANSWERS and begun:
        walk.conclude(ANSWERS[event])


def check(walk: Walk) -> None:
    delivery, attempts = walk.delivery, walk.attempts
    assert [attempt.attempt_no for attempt in attempts] == list(range(1, delivery.attempt_count + 1))
    assert all(attempt.status in FINISHED for attempt in attempts[:-1]), "one active attempt at most"
    assert all((attempt.finished_at_ms is not None) is (attempt.status in FINISHED) for attempt in attempts)
    assert delivery.retries_used <= len(walk.policy.delays_ms)
    assert delivery.begun_losses <= min(walk.losses, BEGUN_LOSSES_MAX)
    assert (attempts[-1].status in FINISHED) is (delivery.status in TERMINAL)
    assert (walk.dead_letter is not None) is (delivery.status is S.DEAD_LETTER)
    if delivery.status in TERMINAL:
        assert delivery.finished_at_ms is not None
        assert walk.due_ms is None
        assert delivery.next_attempt_at_ms is None
    elif delivery.status is S.SENDING:
        assert attempts[-1].status is A.IN_PROGRESS
        assert delivery.next_attempt_at_ms is None
    else:
        assert attempts[-1].status is A.SCHEDULED
        assert attempts[-1].scheduled_for_ms == walk.due_ms == delivery.next_attempt_at_ms
        assert (attempts[-1].started_at_ms, attempts[-1].provider) == (None, None)
    if delivery.status is S.SENT:
        assert attempts[-1].status is A.PROVIDER_ACCEPTED
    if walk.policy.fail_unknown_outcome:
        assert not any(attempt.outcome_unknown for attempt in attempts[:-1]), "no second copy"


@settings(max_examples=300, deadline=None)
@given(policy=POLICIES, events=st.lists(EVENTS, max_size=60))
def test_whatever_happens_the_records_agree(policy: RetryPolicy, events: list[str]) -> None:
    walk = Walk.of(policy)
    check(walk)
    for event in events:
        if walk.delivery.status in TERMINAL:
            break
        play(walk, event)
        check(walk)


@settings(max_examples=200, deadline=None)
@given(policy=POLICIES, data=st.data())
def test_every_delivery_ends_within_a_bound_whatever_ends_its_attempts(
    policy: RetryPolicy, data: st.DataObject
) -> None:
    """Attempts that are only given back may be given back for ever: nothing has happened to them, then."""
    walk = Walk.of(policy)
    bound = len(policy.delays_ms) + 1 + LOSSES_MAX
    for _ in range(bound):
        if walk.delivery.status in TERMINAL:
            break
        if data.draw(st.booleans()):
            walk.begin()
            play(walk, data.draw(st.sampled_from(["4xx", "hung_up", "silent", "unknown", "lose"])))
        else:
            play(walk, "lose")
    assert walk.delivery.status in TERMINAL
    assert len(walk.attempts) <= len(policy.delays_ms) + 1 + BEGUN_LOSSES_MAX
