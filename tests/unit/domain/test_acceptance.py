"""From a valid request to the records that make it durable."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from galaxy_mail.domain.acceptance import (
    NOT_ALLOWED,
    OUTCOME_SENT,
    OUTCOME_SUPPRESSED,
    drop_suppressed,
    not_allowed,
    suppression_entries,
)
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Content,
    DeliveryStatus,
    Envelope,
    IdempotencyRecord,
    Lane,
    RenderedContent,
    Source,
    SuppressedRecipient,
)
from tests.deliveries import DAY_MS, NOW_MS, acceptance_of, login_code_of, request_of


def test_mail_is_queued_and_due_at_once() -> None:
    made = acceptance_of()
    delivery = made.delivery
    assert delivery.status is DeliveryStatus.QUEUED
    assert (delivery.attempt_count, delivery.retries_used, delivery.begun_losses) == (1, 0, 0)
    assert delivery.next_attempt_at_ms == NOW_MS
    assert (delivery.created_at_ms, delivery.updated_at_ms) == (NOW_MS, NOW_MS)
    assert (delivery.finished_at_ms, delivery.rendered_at_ms, delivery.failure) == (None, None, None)
    assert made.attempt == Attempt(
        delivery_id="d1", attempt_no=1, status=AttemptStatus.SCHEDULED, scheduled_for_ms=NOW_MS
    )
    assert made.outcome == OUTCOME_SENT


def test_the_idempotency_record_says_what_the_first_request_was_answered() -> None:
    assert acceptance_of().idempotency == IdempotencyRecord(
        fingerprint="fingerprint of d1",
        delivery_id="d1",
        outcome=OUTCOME_SENT,
        expires_at_ms=NOW_MS + 7 * DAY_MS,
    )


def test_what_was_asked_for_is_kept_as_it_was() -> None:
    request = request_of(
        to=("a@x.example", "b@x.example"),
        request_id="r",
        trace_id="t",
        traceparent="tp",
        requested_at_ms=17,
        parent_delivery_id="p",
        resent_by="op",
    )
    made = acceptance_of(request, suppressed={"a@x.example": "bounced"})
    assert made.content == request.content, "a resend starts from the original envelope"
    for member in (
        "delivery_id",
        "source",
        "lane",
        "payload_mode",
        "idempotency_key",
        "request_id",
        "trace_id",
        "traceparent",
        "requested_at_ms",
        "parent_delivery_id",
        "resent_by",
    ):
        assert getattr(made.delivery, member) == getattr(request, member)


def test_the_message_id_is_made_from_the_delivery_id() -> None:
    assert acceptance_of(request_of("a.b")).delivery.message_id == "a.b@mail.example"


def test_the_subject_is_shown_unless_it_could_hold_a_login_code() -> None:
    rendered = RenderedContent(subject="Your code is 042137", text_body="t", locale_used="en")
    assert acceptance_of(request_of()).delivery.subject == "Subject of d1"
    assert acceptance_of(login_code_of()).delivery.subject is None
    assert acceptance_of(login_code_of(rendered=rendered)).delivery.subject is None
    resend = request_of(rendered=rendered, source=Source.OPERATOR_RESEND)
    assert acceptance_of(resend).delivery.subject == "Your code is 042137"


def test_a_resend_keeps_what_its_parent_rendered() -> None:
    rendered = RenderedContent(subject="s", text_body="t", locale_used="fr", locale_fallback_used=True)
    made = acceptance_of(login_code_of(rendered=rendered))
    assert made.rendered == rendered
    assert (made.delivery.locale_used, made.delivery.locale_fallback_used) == ("fr", True)


def test_no_template_no_locale() -> None:
    delivery = acceptance_of().delivery
    assert (delivery.template_id, delivery.locale, delivery.locale_used) == (None, None, None)
    delivery = acceptance_of(login_code_of()).delivery
    assert (delivery.template_id, delivery.locale, delivery.locale_used) == ("auth.login_code", "en", None)


# Suppression


def test_nobody_left_to_mail_is_an_end_without_an_attempt_and_no_failure_of_ours() -> None:
    made = acceptance_of(suppressed={"d1@example.org": "bounced"})
    delivery = made.delivery
    assert delivery.status is DeliveryStatus.SUPPRESSED
    assert made.attempt is None
    assert (delivery.attempt_count, delivery.next_attempt_at_ms, delivery.finished_at_ms) == (0, None, NOW_MS)
    assert delivery.failure is None
    assert delivery.suppressed_recipients == (
        SuppressedRecipient(address="d1@example.org", reason="bounced"),
    )
    assert made.outcome == OUTCOME_SUPPRESSED


def test_the_suppressed_are_dropped_and_the_others_are_mailed() -> None:
    content = Content(
        envelope=Envelope(
            to=("a@x.example", "b@y.example"),
            cc=("c@x.example",),
            bcc=("d@z.example",),
            reply_to=("a@x.example",),
        ),
        subject="s",
        text_body="t",
    )
    made = acceptance_of(
        request_of(content=content), suppressed={"@x.example": "domain", "d@z.example": "asked for it"}
    )
    assert made.delivery.envelope == Envelope(to=("b@y.example",), reply_to=("a@x.example",))
    assert made.delivery.suppressed_recipients == (
        SuppressedRecipient(address="a@x.example", reason="domain"),
        SuppressedRecipient(address="c@x.example", reason="domain"),
        SuppressedRecipient(address="d@z.example", reason="asked for it"),
    )
    assert made.delivery.status is DeliveryStatus.QUEUED


def test_an_address_of_its_own_says_the_reason_before_its_domain_does() -> None:
    _, dropped = drop_suppressed(
        Envelope(to=("a@x.example",)), {"a@x.example": "its own", "@x.example": "the domain's"}
    )
    assert dropped == (SuppressedRecipient(address="a@x.example", reason="its own"),)


def test_case_does_not_save_anybody_from_suppression() -> None:
    envelope, dropped = drop_suppressed(Envelope(to=("Ann.LEE@x.example",)), {"ann.lee@x.example": "r"})
    assert envelope.recipients() == ()
    assert dropped == (SuppressedRecipient(address="Ann.LEE@x.example", reason="r"),)


def test_a_domain_does_not_suppress_its_subdomains() -> None:
    envelope = Envelope(to=("a@sub.x.example",))
    assert drop_suppressed(envelope, {"@x.example": "r"}) == (envelope, ())


def test_entries_that_would_concern_an_envelope_come_once_each_in_order() -> None:
    envelope = Envelope(to=("B@x.example",), cc=("a@x.example",), bcc=("b@x.example", "c@y.example"))
    assert suppression_entries(envelope) == (
        "b@x.example",
        "@x.example",
        "a@x.example",
        "c@y.example",
        "@y.example",
    )


def test_whom_to_reply_to_is_no_recipient() -> None:
    envelope = Envelope(to=("a@x.example",), reply_to=("r@y.example",))
    assert "r@y.example" not in suppression_entries(envelope)
    assert drop_suppressed(envelope, {"r@y.example": "r"}) == (envelope, ())


def test_the_allowlist_applies_to_every_recipient_bcc_included() -> None:
    envelope = Envelope(
        to=("A@x.example", "b@x.example"),
        cc=("c@y.example", "d@z.example"),
        bcc=("e@y.example", "f@z.example"),
        reply_to=("r@z.example",),
    )
    assert not_allowed(envelope, frozenset({"a@x.example", "@y.example"})) == {
        "b@x.example": NOT_ALLOWED,
        "d@z.example": NOT_ALLOWED,
        "f@z.example": NOT_ALLOWED,
    }
    assert not_allowed(envelope, frozenset()) == {}


ADDRESSES = st.sampled_from([f"{name}@{domain}.example" for name in "aBc" for domain in "xyz"])
PARTS = st.lists(ADDRESSES, max_size=4).map(tuple)


@settings(deadline=None)
@given(
    envelope=st.builds(Envelope, to=PARTS, cc=PARTS, bcc=PARTS, reply_to=PARTS),
    suppressed=st.dictionaries(
        st.sampled_from(
            [f"{name}@{domain}.example" for name in "abc" for domain in "xyz"] + ["@x.example", "@z.example"]
        ),
        st.text(min_size=1, max_size=3),
    ),
    lane=st.sampled_from(Lane),
)
def test_everyone_asked_for_is_either_mailed_or_named_as_suppressed(
    envelope: Envelope, suppressed: dict[str, str], lane: Lane
) -> None:
    content = Content(envelope=envelope, subject="s", text_body="t")
    made = acceptance_of(replace(request_of(), content=content, lane=lane), suppressed=suppressed)
    mailed = made.delivery.envelope.recipients()
    dropped = [recipient.address for recipient in made.delivery.suppressed_recipients]
    assert sorted([*mailed, *dropped]) == sorted(envelope.recipients())
    for address in mailed:
        assert not {address.lower(), "@" + address.partition("@")[2]} & suppressed.keys()
    for recipient in made.delivery.suppressed_recipients:
        assert recipient.reason in suppressed.values()
    assert (made.attempt is None) is (not mailed)
    assert made.delivery.envelope.reply_to == envelope.reply_to
    assert suppressed.keys() & set(suppression_entries(envelope)) or not dropped
