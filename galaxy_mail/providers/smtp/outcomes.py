"""How every exchange with a relay can end, and what each ending means for the attempt: the table `OUTCOMES`.

An exchange is one step between resolving the host name and the reply to the final dot. An ending is how a step went.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct

from galaxy_mail.domain.records import AttemptStatus, Blame, Failure, RefusedRecipient, Result, SendResult
from galaxy_mail.providers.smtp.replies import Reply


class Exchange(StrEnum):
    """The steps in the order of a connection's first message. People read the values."""

    CONNECT = "connect"
    TLS = "TLS handshake"
    GREETING = "greeting"
    EHLO = "EHLO"  # and HELO
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    RSET = "RSET"  # only of a probe: no row below
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    BODY = (
        "message"  # from the 354 until the final dot was written completely: the relay can't have the message
    )
    FINAL = "final dot"  # from then on until the reply: the relay may have the message
    QUIT = "QUIT"  # after the last message; not in OUTCOMES, because it ends no attempt


class Ending(StrEnum):
    ACCEPTED = "accepted"
    PERMANENT = "permanent"  # 5yz
    TRANSIENT = "transient"  # 4yz
    CLOSING = "closing"  # 421: the relay closes the connection; the message may be retried
    BAD_REPLY = "bad_reply"  # not SMTP, a first digit that is not allowed here, or an unexpected reply
    HUNG_UP = "hung_up"
    TIMED_OUT = "timed_out"
    UNRESOLVED = "unresolved"  # the relay's name
    UNREACHABLE = "unreachable"
    NO_RESOURCES = "no_resources"  # this host has no file descriptor, port, memory or thread left
    UNVERIFIED = "unverified"  # the relay's certificate
    BROKEN = "broken"  # the TLS handshake failed, but not because of the certificate
    INJECTED = "injected"  # clear-text bytes that would have been read as protected by TLS
    NOT_OFFERED = "not_offered"
    IN_CLEAR = "in_clear"  # the password would be sent without TLS
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"  # recipients in one transaction
    MALFORMED = "malformed"  # our side: the message can't be encoded as a mail
    CLAIM_SHORT = "claim_short"  # the claim ends too soon for the final dot, which can't be undone
    CUT_OFF = "cut_off"  # the grace of a stop ended


class SmtpOutcome(Struct, frozen=True):
    result: Result
    status: AttemptStatus
    failure_code: str | None
    blame: Blame | None = Blame.MESSAGE  # the codes of a reply may change it (`Ended.blame`)
    outcome_unknown: bool = False  # the relay may have the message in spite of the failure
    intact: bool = False  # the connection: QUIT can be sent


def _refused(code: str, blame: Blame = Blame.MESSAGE, *, early: bool = False) -> SmtpOutcome:
    """A permanent refusal. `early`: in the middle of the message; the relay would read the rest of it as commands."""
    return SmtpOutcome(
        Result.PERMANENT_FAILURE, AttemptStatus.PROVIDER_REJECTED, code, blame, intact=not early
    )


def _deferred(code: str, blame: Blame = Blame.MESSAGE, *, early: bool = False) -> SmtpOutcome:
    """A temporary refusal. `early` as for `_refused`, or the relay closes the connection."""
    return SmtpOutcome(
        Result.TRANSIENT_FAILURE, AttemptStatus.PROVIDER_REJECTED, code, blame, intact=not early
    )


def _closing() -> SmtpOutcome:
    return _deferred("service_closing", Blame.RELAY, early=True)


def _failed(code: str, blame: Blame = Blame.RELAY, *, unknown: bool = False) -> SmtpOutcome:
    return SmtpOutcome(Result.TRANSIENT_FAILURE, AttemptStatus.TRANSPORT_FAILED, code, blame, unknown)


def _late(code: str, blame: Blame = Blame.RELAY, *, unknown: bool = False) -> SmtpOutcome:
    return SmtpOutcome(Result.TRANSIENT_FAILURE, AttemptStatus.TIMED_OUT, code, blame, unknown)


X = Exchange
OUTCOMES: Final[Mapping[tuple[Exchange, Ending], SmtpOutcome]] = {
    (X.CONNECT, Ending.UNRESOLVED): _failed("name_not_resolved"),
    (X.CONNECT, Ending.UNREACHABLE): _failed("connect_failed"),
    (X.CONNECT, Ending.NO_RESOURCES): _failed("out_of_resources", Blame.SERVICE),
    (X.CONNECT, Ending.TIMED_OUT): _late("connect_timed_out"),
    #
    (X.TLS, Ending.UNVERIFIED): _failed("tls_unverified"),
    (X.TLS, Ending.BROKEN): _failed("tls_failed"),
    (X.TLS, Ending.HUNG_UP): _failed("disconnected"),
    (X.TLS, Ending.TIMED_OUT): _late("tls_timed_out"),
    # The relay or the configuration is at fault, whatever the digit, so the message is retried.
    (X.GREETING, Ending.PERMANENT): _failed("greeting_refused"),
    (X.GREETING, Ending.TRANSIENT): _failed("greeting_refused"),
    (X.GREETING, Ending.CLOSING): _failed("greeting_refused"),
    (X.GREETING, Ending.BAD_REPLY): _failed("bad_reply"),
    (X.GREETING, Ending.HUNG_UP): _failed("disconnected"),
    (X.GREETING, Ending.TIMED_OUT): _late("greeting_timed_out"),
    #
    (X.EHLO, Ending.PERMANENT): _failed("ehlo_refused"),  # HELO too
    (X.EHLO, Ending.TRANSIENT): _failed("ehlo_refused"),
    (X.EHLO, Ending.CLOSING): _failed("ehlo_refused"),
    (X.EHLO, Ending.BAD_REPLY): _failed("bad_reply"),
    (X.EHLO, Ending.HUNG_UP): _failed("disconnected"),
    (X.EHLO, Ending.TIMED_OUT): _late("ehlo_timed_out"),
    #
    (X.STARTTLS, Ending.NOT_OFFERED): _failed("starttls_unavailable"),
    (X.STARTTLS, Ending.INJECTED): _failed("starttls_injection"),
    (X.STARTTLS, Ending.PERMANENT): _failed("starttls_refused"),
    (X.STARTTLS, Ending.TRANSIENT): _failed("starttls_refused"),
    (X.STARTTLS, Ending.CLOSING): _failed("service_closing"),
    (X.STARTTLS, Ending.BAD_REPLY): _failed("bad_reply"),
    (X.STARTTLS, Ending.HUNG_UP): _failed("disconnected"),
    (X.STARTTLS, Ending.TIMED_OUT): _late("starttls_timed_out"),
    #
    (X.AUTH, Ending.NOT_OFFERED): _failed("auth_unavailable"),
    (X.AUTH, Ending.IN_CLEAR): _failed("auth_in_clear"),
    (X.AUTH, Ending.PERMANENT): _failed("auth_refused"),
    (X.AUTH, Ending.TRANSIENT): _failed("auth_deferred"),
    (X.AUTH, Ending.CLOSING): _failed("service_closing"),
    (X.AUTH, Ending.BAD_REPLY): _failed("bad_reply"),
    (X.AUTH, Ending.HUNG_UP): _failed("disconnected"),
    (X.AUTH, Ending.TIMED_OUT): _late("auth_timed_out"),
    #
    (X.MAIL, Ending.NOT_OFFERED): _refused("smtputf8_unsupported"),
    (X.MAIL, Ending.TOO_LARGE): _refused("message_too_large"),
    (X.MAIL, Ending.TOO_MANY): _refused("too_many_recipients"),
    (X.MAIL, Ending.MALFORMED): _refused("message_malformed"),
    (X.MAIL, Ending.PERMANENT): _refused("sender_refused", Blame.RELAY),
    (X.MAIL, Ending.TRANSIENT): _deferred("sender_deferred", Blame.RELAY),
    (X.MAIL, Ending.CLOSING): _closing(),
    (X.MAIL, Ending.BAD_REPLY): _failed("bad_reply"),
    (X.MAIL, Ending.HUNG_UP): _failed("disconnected"),
    (X.MAIL, Ending.TIMED_OUT): _late("envelope_timed_out"),
    #
    (X.RCPT, Ending.TOO_MANY): _refused("too_many_recipients"),
    (X.RCPT, Ending.PERMANENT): _refused("recipient_refused"),
    (X.RCPT, Ending.TRANSIENT): _deferred("recipient_deferred"),
    (X.RCPT, Ending.CLOSING): _closing(),
    (X.RCPT, Ending.BAD_REPLY): _failed("bad_reply"),
    (X.RCPT, Ending.HUNG_UP): _failed("disconnected", Blame.MESSAGE),
    (X.RCPT, Ending.TIMED_OUT): _late("envelope_timed_out", Blame.MESSAGE),
    #
    (X.DATA, Ending.PERMANENT): _refused("data_refused"),
    (X.DATA, Ending.TRANSIENT): _deferred("data_deferred"),
    (X.DATA, Ending.CLOSING): _closing(),
    (X.DATA, Ending.BAD_REPLY): _failed("bad_reply"),
    (X.DATA, Ending.HUNG_UP): _failed("disconnected", Blame.MESSAGE),
    (X.DATA, Ending.TIMED_OUT): _late("envelope_timed_out", Blame.MESSAGE),
    # Replies that come before the relay has the complete message.
    (X.BODY, Ending.PERMANENT): _refused("message_refused", early=True),
    (X.BODY, Ending.TRANSIENT): _deferred("message_deferred", early=True),
    (X.BODY, Ending.CLOSING): _closing(),
    (X.BODY, Ending.BAD_REPLY): _failed("bad_reply"),
    (X.BODY, Ending.HUNG_UP): _failed("disconnected", Blame.MESSAGE),
    (X.BODY, Ending.TIMED_OUT): _late("body_timed_out", Blame.MESSAGE),
    (X.BODY, Ending.CLAIM_SHORT): _failed("claim_running_out", Blame.SERVICE),
    # RFC 1047: a retry after a lost reply may send a second copy.
    (X.FINAL, Ending.ACCEPTED): SmtpOutcome(
        Result.ACCEPTED, AttemptStatus.PROVIDER_ACCEPTED, None, None, intact=True
    ),
    (X.FINAL, Ending.PERMANENT): _refused("message_refused"),
    (X.FINAL, Ending.TRANSIENT): _deferred("message_deferred"),
    (X.FINAL, Ending.CLOSING): _closing(),
    (X.FINAL, Ending.BAD_REPLY): _failed("bad_reply", Blame.MESSAGE, unknown=True),
    (X.FINAL, Ending.HUNG_UP): _failed("disconnected", Blame.MESSAGE, unknown=True),
    (X.FINAL, Ending.TIMED_OUT): _late("final_timed_out", Blame.MESSAGE, unknown=True),
    (X.FINAL, Ending.CUT_OFF): _late("stop_cut_off", Blame.MESSAGE, unknown=True),
}

# The first digit of the reply that accepts. For AUTH, 3yz asks for more.
GOES_ON: Final[Mapping[Exchange, int]] = {
    **dict.fromkeys((X.GREETING, X.EHLO, X.STARTTLS, X.AUTH, X.RSET, X.MAIL, X.RCPT, X.FINAL), 2),
    X.DATA: 3,
}


def classify(exchange: Exchange, reply: Reply) -> Ending:
    """How the reply ends the exchange. Codes that RFC 5321 doesn't define count by their first digit."""
    if reply.code == 421:
        return Ending.CLOSING
    digit = reply.code // 100
    if digit == GOES_ON.get(exchange):
        return Ending.ACCEPTED
    return {4: Ending.TRANSIENT, 5: Ending.PERMANENT}.get(digit, Ending.BAD_REPLY)


def may_be_stale(ended: "Ended", *, first: bool) -> bool:
    """Whether a reused connection, and not the message, may be the cause. Then the message is sent on a new connection.

    The relay closed it before it answered the first command of the message (`first`); or it refused MAIL, as some do after
    too many messages or too long a time; or it reported a network status (X.4.z). It can't have the message in any case.
    """
    if first and ended.ending in (Ending.HUNG_UP, Ending.CLOSING):
        return True
    if ended.ending not in (Ending.TRANSIENT, Ending.PERMANENT) or ended.reply is None:
        return False
    if ended.exchange is Exchange.MAIL:
        return True
    enhanced = ended.reply.enhanced or ""
    return ended.exchange in (Exchange.RCPT, Exchange.DATA, Exchange.BODY) and enhanced.startswith("4.4.")


class Answered(Struct, frozen=True):
    """One command of the envelope and its reply."""

    exchange: Exchange
    address: str  # of RCPT; else empty
    reply: Reply
    ending: Ending


class Ended(Struct, frozen=True, kw_only=True):
    """How an attempt ended: at which exchange, how, and with which reply."""

    exchange: Exchange
    ending: Ending
    reply: Reply | None = None
    refused: tuple[RefusedRecipient, ...] = ()
    detail: str = ""  # for people: from us or the operating system, not from the relay

    @property
    def outcome(self) -> SmtpOutcome:
        return OUTCOMES[self.exchange, self.ending]

    @property
    def blame(self) -> Blame | None:
        """Whose fault it is; None if the relay has taken the message."""
        blame = self.outcome.blame
        if self.reply is None or self.ending not in (Ending.PERMANENT, Ending.TRANSIENT):
            return blame
        return _blame_by_reply(self.exchange, self.reply) or blame

    def result(self, summary: str) -> SendResult:
        outcome = self.outcome
        return SendResult(
            result=outcome.result,
            status=outcome.status,
            failure=Failure(code=outcome.failure_code, summary=summary) if outcome.failure_code else None,
            blame=self.blame,
            exchange=self.exchange,
            provider_code=self.reply.label if self.reply else None,
            refused_recipients=self.refused,
            outcome_unknown=outcome.outcome_unknown,
        )


# The relay wants a login, TLS or fewer connections, or its login service is away.
RELAY_CODES: Final = frozenset({432, 454, 530, 534, 535, 538})
TOO_LARGE: Final = frozenset({"2.3", "3.4"})  # RFC 3463 §3.3, §3.4: subject and detail
NO_SMTPUTF8: Final = "6.7"  # RFC 6531 §3.5


def _blame_by_reply(exchange: Exchange, reply: Reply) -> Blame | None:
    """The blame that follows from the codes of a refusal. None: the table's blame stays."""
    if reply.code in RELAY_CODES:
        return Blame.RELAY
    status = reply.enhanced[2:] if reply.enhanced else ""
    if status in TOO_LARGE:
        return Blame.MESSAGE
    if exchange is Exchange.MAIL and (reply.code in (552, 555) or status == NO_SMTPUTF8):
        return Blame.MESSAGE  # 555 refuses a parameter of this MAIL, such as BODY (RFC 5321 §4.1.1.11)
    if exchange is not Exchange.RCPT and reply.code < 500 and status.startswith(("3.", "4.")):
        return Blame.RELAY  # mail system or network status: a full disk, a route that is down
    return None


def envelope_verdict(answers: Sequence[Answered]) -> Ended | None:
    """The refusal in the answers so far. None: there is no refusal.

    MAIL comes first, because a relay that refused it answers 503 to the commands pipelined behind it. Among recipients,
    a permanent refusal comes before a temporary one: if one recipient is refused permanently, nobody gets the message.
    DATA comes last, because a relay that accepted no recipient refuses it, too.
    """
    if too_many := _too_many_recipients(answers):
        return too_many
    for exchange in (Exchange.MAIL, Exchange.RCPT, Exchange.DATA):
        for ending in (Ending.PERMANENT, Ending.TRANSIENT):
            for answered in answers:
                if answered.exchange is exchange and answered.ending is ending:
                    refused = _refused_recipients(answers) if exchange is Exchange.RCPT else ()
                    return Ended(exchange=exchange, ending=ending, reply=answered.reply, refused=refused)
    return None


def _too_many_recipients(answers: Sequence[Answered]) -> Ended | None:
    """The refusal of recipients because there are too many (RFC 5321 §4.5.3.1.10). None: there is none."""
    recipients = [a for a in answers if a.exchange is Exchange.RCPT]
    taken = sum(1 for a in recipients if a.ending is Ending.ACCEPTED)
    for answered in recipients:
        reply = answered.reply
        by_status = reply.enhanced is not None and reply.enhanced[2:] == "5.3" and len(recipients) > 1
        by_code = reply.enhanced is None and reply.code in (452, 552) and taken > 0
        if answered.ending is not Ending.ACCEPTED and (by_status or by_code):
            return Ended(
                exchange=Exchange.RCPT,
                ending=Ending.TOO_MANY,
                reply=reply,
                refused=_refused_recipients(answers),
                detail=f"the relay took {taken} of {len(recipients)} recipients in one message",
            )
    return None


def _refused_recipients(answers: Sequence[Answered]) -> tuple[RefusedRecipient, ...]:
    return tuple(
        RefusedRecipient(address=a.address, provider_code=a.reply.label, summary=a.reply.text)
        for a in answers
        if a.exchange is Exchange.RCPT and a.ending is not Ending.ACCEPTED
    )
