"""Every row of the table of outcomes, each against a relay that behaves so."""

import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Final

import pytest
import trio
import trio.testing

from galaxy_mail.domain.records import Attachment, AttemptStatus, Result, SendResult
from galaxy_mail.providers.smtp.outcomes import (
    GOES_ON,
    OUTCOMES,
    Ending,
    Exchange,
    SmtpOutcome,
    classify,
    costs_no_attempt,
)
from galaxy_mail.providers.smtp.replies import Reply
from galaxy_mail.providers.smtp.settings import TlsMode
from tests.relays.hostile.answers import Answers
from tests.relays.hostile.hangs_up import HangsUp
from tests.relays.hostile.injected import Injected
from tests.relays.hostile.interrupts import Interrupts, Then
from tests.relays.hostile.refuses_hello import RefusesHello
from tests.relays.hostile.says_nothing import SaysNothing
from tests.relays.hostile.server import Server, Talk
from tests.unit.providers.smtp.wire import Authority, Joined, in_lockstep, joined, message

X, E, R, A = Exchange, Ending, Result, AttemptStatus
AUTHORITY: Final = Authority()
STRANGER: Final = Authority()
LONG: Final = "A line of a long message, long enough to be written in several parts.\n" * 2_000

Act = Callable[[Joined], Awaitable[SendResult]]


# What is tried


async def just_send(there: Joined) -> SendResult:
    return await there.send()


async def send_long(there: Joined) -> SendResult:
    return await there.send(message(text=LONG))


async def send_beyond_ascii(there: Joined) -> SendResult:
    return await there.send(message("jürgen@example.org"))


async def send_malformed(there: Joined) -> SendResult:
    injected = Attachment(filename="a\r\nBcc: b", content_type="text/plain", content_base64="")
    return await there.send(message(attachments=(injected,)))


async def send_short_of_time(there: Joined) -> SendResult:
    return await there.send(finish=lambda: False)


async def send_after_a_refusal(there: Joined) -> SendResult:
    """The first message's transaction stays open, so that the second begins with RSET."""
    await there.send(message("nobody@example.org", "reader@example.org"))
    return await there.send()


async def send_and_stop(there: Joined) -> SendResult:
    """Cancelled once all wait for the answer to the final dot."""
    results: list[SendResult] = []

    async def send() -> None:
        results.append(await there.send())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return results[0]


async def send_where_connecting_fails(there: Joined, error: Exception | None) -> SendResult:
    """The first connection fails with this error; without one, it never comes about."""

    async def connect() -> trio.abc.Stream:
        there.way.connections += 1
        there.provider._connect = there.way.connect
        await trio.sleep(0 if error else float("inf"))
        raise error or AssertionError("awake")

    there.provider._connect = connect
    return await there.send()


# Whom it is tried with, beyond `tests/relays/hostile`


class LeavesBeforeTls(Server):
    async def converse(self, talk: Talk) -> None:
        await talk.more()  # the client's hello


class SilentBeforeTls(Server):
    async def converse(self, talk: Talk) -> None:
        await trio.sleep_forever()


PERMANENT, TRANSIENT, CLOSING, ILLEGAL = (
    b"550 5.7.1 no",
    b"450 4.7.1 not now",
    b"421 4.3.2 going down",
    b"650 what",
)
STARTTLS: Final = {"mode": TlsMode.STARTTLS, "tls": AUTHORITY.client}
IMPLICIT: Final = {"mode": TlsMode.IMPLICIT, "tls": AUTHORITY.client}
AUTH: Final = {"username": "user", "password": "pass"}
AUTH_OFFERS: Final = ("PIPELINING", "AUTH PLAIN LOGIN")
LOCKSTEP: Final = {"pair": in_lockstep}


def tls(kind: Callable[..., Server], *args: object) -> Callable[[], Server]:
    return lambda: kind(*args, tls=AUTHORITY.server)


def auth(kind: Callable[..., Server], *args: object) -> Callable[[], Server]:
    return lambda: kind(*args, offers=AUTH_OFFERS, secrets=(b"AHVzZXIAcGFzcw==",))  # \0user\0pass


@dataclass(frozen=True)
class Row:
    exchange: Exchange
    ending: Ending
    peer: Callable[[], Server]
    result: Result
    status: AttemptStatus
    code: str | None
    unknown: bool = False
    keeps: bool = False
    recovers: bool = True  # behaves the next time
    act: Act = just_send
    how: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.exchange}-{self.ending}".replace(" ", "-")


def row(
    exchange: Exchange, ending: Ending, peer: Callable[[], Server], *expected: object, **more: object
) -> Row:
    return Row(exchange, ending, peer, *expected, **more)  # type: ignore[arg-type] # spelt below, column by column


KEEPS: Final = {"keeps": True}
UNKNOWN: Final = {"unknown": True}
LASTS: Final = {"recovers": False}
T, P = R.TRANSIENT_FAILURE, R.PERMANENT_FAILURE
FAILED, REJECTED, LATE = A.TRANSPORT_FAILED, A.PROVIDER_REJECTED, A.TIMED_OUT

ROWS: Final = [
    row(X.CONNECT, E.UNRESOLVED, Server, T, FAILED, "name_not_resolved",
        act=partial(send_where_connecting_fails, error=socket.gaierror(-2, "Name or service not known"))),
    row(X.CONNECT, E.UNREACHABLE, Server, T, FAILED, "connect_failed",
        act=partial(send_where_connecting_fails, error=ConnectionRefusedError(111, "Connection refused"))),
    row(X.CONNECT, E.TIMED_OUT, Server, T, LATE, "connect_timed_out",
        act=partial(send_where_connecting_fails, error=None)),
    row(X.TLS, E.UNVERIFIED, tls(Server), T, FAILED, "tls_unverified", **LASTS, how={**STARTTLS, "tls": STRANGER.client}),
    row(X.TLS, E.BROKEN, Server, T, FAILED, "tls_failed", **LASTS, how=IMPLICIT),  # greets in clear
    row(X.TLS, E.HUNG_UP, LeavesBeforeTls, T, FAILED, "disconnected", **LASTS, how=IMPLICIT),
    row(X.TLS, E.TIMED_OUT, SilentBeforeTls, T, LATE, "tls_timed_out", **LASTS, how=IMPLICIT),
    #
    row(X.GREETING, E.PERMANENT, partial(Answers, X.GREETING, PERMANENT), T, FAILED, "greeting_refused"),
    row(X.GREETING, E.TRANSIENT, partial(Answers, X.GREETING, TRANSIENT), T, FAILED, "greeting_refused"),
    row(X.GREETING, E.CLOSING, partial(Answers, X.GREETING, CLOSING), T, FAILED, "greeting_refused"),
    row(X.GREETING, E.BAD_REPLY, partial(Answers, X.GREETING, ILLEGAL), T, FAILED, "bad_reply"),
    row(X.GREETING, E.HUNG_UP, partial(HangsUp, X.GREETING), T, FAILED, "disconnected"),
    row(X.GREETING, E.TIMED_OUT, partial(SaysNothing, X.GREETING), T, LATE, "greeting_timed_out"),
    #
    row(X.EHLO, E.PERMANENT, partial(RefusesHello, takes_helo=False), T, FAILED, "ehlo_refused", **LASTS),
    row(X.EHLO, E.TRANSIENT, partial(Answers, X.EHLO, TRANSIENT), T, FAILED, "ehlo_refused"),
    row(X.EHLO, E.CLOSING, partial(Answers, X.EHLO, CLOSING), T, FAILED, "ehlo_refused"),
    row(X.EHLO, E.BAD_REPLY, partial(Answers, X.EHLO, ILLEGAL), T, FAILED, "bad_reply"),
    row(X.EHLO, E.HUNG_UP, partial(HangsUp, X.EHLO), T, FAILED, "disconnected"),
    row(X.EHLO, E.TIMED_OUT, partial(SaysNothing, X.EHLO), T, LATE, "ehlo_timed_out"),
    #
    row(X.STARTTLS, E.NOT_OFFERED, Server, T, FAILED, "starttls_unavailable", **LASTS, how=STARTTLS),
    row(X.STARTTLS, E.INJECTED, tls(Injected), T, FAILED, "starttls_injection", how=STARTTLS),
    row(X.STARTTLS, E.PERMANENT, tls(Answers, X.STARTTLS, PERMANENT), T, FAILED, "starttls_refused", how=STARTTLS),
    row(X.STARTTLS, E.TRANSIENT, tls(Answers, X.STARTTLS, TRANSIENT), T, FAILED, "starttls_refused", how=STARTTLS),
    row(X.STARTTLS, E.CLOSING, tls(Answers, X.STARTTLS, CLOSING), T, FAILED, "service_closing", how=STARTTLS),
    row(X.STARTTLS, E.BAD_REPLY, tls(Answers, X.STARTTLS, ILLEGAL), T, FAILED, "bad_reply", how=STARTTLS),
    row(X.STARTTLS, E.HUNG_UP, tls(HangsUp, X.STARTTLS), T, FAILED, "disconnected", how=STARTTLS),
    row(X.STARTTLS, E.TIMED_OUT, tls(SaysNothing, X.STARTTLS), T, LATE, "starttls_timed_out", how=STARTTLS),
    #
    row(X.AUTH, E.NOT_OFFERED, Server, T, FAILED, "auth_unavailable", **LASTS, how=AUTH),
    row(X.AUTH, E.IN_CLEAR, auth(Server), T, FAILED, "auth_in_clear", **LASTS, how={**AUTH, "host": "relay.example"}),
    row(X.AUTH, E.PERMANENT, auth(Answers, X.AUTH, b"535 5.7.8 bad"), T, FAILED, "auth_refused", how=AUTH),
    row(X.AUTH, E.TRANSIENT, auth(Answers, X.AUTH, b"454 4.7.0 later"), T, FAILED, "auth_deferred", how=AUTH),
    row(X.AUTH, E.CLOSING, auth(Answers, X.AUTH, CLOSING), T, FAILED, "service_closing", how=AUTH),
    row(X.AUTH, E.BAD_REPLY, auth(Answers, X.AUTH, ILLEGAL), T, FAILED, "bad_reply", how=AUTH),
    row(X.AUTH, E.HUNG_UP, auth(HangsUp, X.AUTH), T, FAILED, "disconnected", how=AUTH),
    row(X.AUTH, E.TIMED_OUT, auth(SaysNothing, X.AUTH), T, LATE, "auth_timed_out", how=AUTH),
    #
    row(X.RSET, E.TIMED_OUT, partial(SaysNothing, X.RSET), T, LATE, "envelope_timed_out", act=send_after_a_refusal),
    #
    row(X.MAIL, E.NOT_OFFERED, partial(Server, offers=("PIPELINING",)), P, REJECTED, "smtputf8_unsupported",
        **KEEPS, act=send_beyond_ascii),
    row(X.MAIL, E.TOO_LARGE, partial(Server, offers=("SIZE 9000",)), P, REJECTED, "message_too_large",
        **KEEPS, act=send_long),
    row(X.MAIL, E.MALFORMED, Server, P, REJECTED, "message_malformed", **KEEPS, act=send_malformed),
    row(X.MAIL, E.PERMANENT, partial(Answers, X.MAIL, PERMANENT), P, REJECTED, "sender_refused", **KEEPS),
    row(X.MAIL, E.TRANSIENT, partial(Answers, X.MAIL, TRANSIENT), T, REJECTED, "sender_deferred", **KEEPS),
    row(X.MAIL, E.CLOSING, partial(Answers, X.MAIL, CLOSING), T, REJECTED, "service_closing"),
    row(X.MAIL, E.BAD_REPLY, partial(Answers, X.MAIL, ILLEGAL), T, FAILED, "bad_reply"),
    row(X.MAIL, E.HUNG_UP, partial(HangsUp, X.MAIL), T, FAILED, "disconnected"),
    row(X.MAIL, E.TIMED_OUT, partial(SaysNothing, X.MAIL), T, LATE, "envelope_timed_out"),
    #
    row(X.RCPT, E.PERMANENT, partial(Answers, X.RCPT, PERMANENT), P, REJECTED, "recipient_refused", **KEEPS),
    row(X.RCPT, E.TRANSIENT, partial(Answers, X.RCPT, TRANSIENT), T, REJECTED, "recipient_deferred", **KEEPS),
    row(X.RCPT, E.CLOSING, partial(Answers, X.RCPT, CLOSING), T, REJECTED, "service_closing"),
    row(X.RCPT, E.BAD_REPLY, partial(Answers, X.RCPT, ILLEGAL), T, FAILED, "bad_reply"),
    row(X.RCPT, E.HUNG_UP, partial(HangsUp, X.RCPT), T, FAILED, "disconnected"),
    row(X.RCPT, E.TIMED_OUT, partial(SaysNothing, X.RCPT), T, LATE, "envelope_timed_out"),
    #
    row(X.DATA, E.PERMANENT, partial(Answers, X.DATA, PERMANENT), P, REJECTED, "data_refused", **KEEPS),
    row(X.DATA, E.TRANSIENT, partial(Answers, X.DATA, TRANSIENT), T, REJECTED, "data_deferred", **KEEPS),
    row(X.DATA, E.CLOSING, partial(Answers, X.DATA, CLOSING), T, REJECTED, "service_closing"),
    row(X.DATA, E.BAD_REPLY, partial(Answers, X.DATA, b"250 ok"), T, FAILED, "bad_reply"),
    row(X.DATA, E.HUNG_UP, partial(HangsUp, X.DATA), T, FAILED, "disconnected"),
    row(X.DATA, E.TIMED_OUT, partial(SaysNothing, X.DATA), T, LATE, "envelope_timed_out"),
    #
    row(X.BODY, E.PERMANENT, partial(Interrupts, b"552 5.3.4 too big", Then.HANGS_UP), P, REJECTED, "message_refused",
        act=send_long, how=LOCKSTEP),
    row(X.BODY, E.TRANSIENT, partial(Interrupts, b"452 4.3.1 full", Then.HANGS_UP), T, REJECTED, "message_deferred",
        act=send_long, how=LOCKSTEP),
    row(X.BODY, E.CLOSING, partial(Interrupts, CLOSING, Then.STOPS_READING), T, REJECTED, "service_closing",
        act=send_long, how=LOCKSTEP),
    row(X.BODY, E.BAD_REPLY, partial(Interrupts, b"250 early", Then.STOPS_READING), T, FAILED, "bad_reply",
        act=send_long, how=LOCKSTEP),
    row(X.BODY, E.HUNG_UP, partial(Interrupts, b"", Then.HANGS_UP), T, FAILED, "disconnected",
        act=send_long, how=LOCKSTEP),
    row(X.BODY, E.TIMED_OUT, partial(Interrupts, b"", Then.STOPS_READING), T, LATE, "body_timed_out",
        act=send_long, how=LOCKSTEP),
    row(X.BODY, E.CLAIM_SHORT, Server, T, FAILED, "claim_running_out", act=send_short_of_time),
    #
    row(X.FINAL, E.ACCEPTED, Server, R.ACCEPTED, A.PROVIDER_ACCEPTED, None, **KEEPS),
    row(X.FINAL, E.PERMANENT, partial(Answers, X.FINAL, PERMANENT), P, REJECTED, "message_refused", **KEEPS),
    row(X.FINAL, E.TRANSIENT, partial(Answers, X.FINAL, TRANSIENT), T, REJECTED, "message_deferred", **KEEPS),
    row(X.FINAL, E.CLOSING, partial(Answers, X.FINAL, CLOSING), T, REJECTED, "service_closing"),
    row(X.FINAL, E.BAD_REPLY, partial(Answers, X.FINAL, b"354 more?"), T, FAILED, "bad_reply", **UNKNOWN),
    row(X.FINAL, E.HUNG_UP, partial(HangsUp, X.FINAL), T, FAILED, "disconnected", **UNKNOWN),
    row(X.FINAL, E.TIMED_OUT, partial(SaysNothing, X.FINAL), T, LATE, "final_timed_out", **UNKNOWN),
    row(X.FINAL, E.CUT_OFF, partial(SaysNothing, X.FINAL), T, LATE, "stop_cut_off", **UNKNOWN, act=send_and_stop),
]  # fmt: skip


def test_every_row_of_the_table_is_tried_and_no_other() -> None:
    tried = [(row.exchange, row.ending) for row in ROWS]
    assert len(tried) == len(set(tried))
    assert set(tried) == set(OUTCOMES)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
async def test_an_exchange_that_ends_so_means_this(row: Row, autojump_clock: trio.testing.MockClock) -> None:
    peer = row.peer()
    if row.how.get("mode") is TlsMode.IMPLICIT and peer.tls is not None:
        peer.implicit_tls = True
    async with joined(peer, **row.how) as there:  # type: ignore[arg-type] # the row's own keywords
        ended = await row.act(there)
        assert (ended.result, ended.status, ended.failure and ended.failure.code, ended.outcome_unknown) == (
            row.result,
            row.status,
            row.code,
            row.unknown,
        )
        if ended.failure:
            assert ended.failure.summary.startswith(row.exchange)
        assert OUTCOMES[row.exchange, row.ending] == SmtpOutcome(
            row.result, row.status, row.code, row.unknown, row.keeps
        )
        before = there.connections
        again = await there.send()
        assert there.connections == before + (not row.keeps)
        assert (again.result is Result.ACCEPTED) is row.recovers


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.exchange in (X.BODY, X.FINAL)], ids=lambda row: row.name
)
async def test_the_outcome_is_unknown_only_where_the_relay_got_the_dot_and_did_not_answer(
    row: Row, autojump_clock: trio.testing.MockClock
) -> None:
    peer = row.peer()
    async with joined(peer, **row.how) as there:  # type: ignore[arg-type] # the row's own keywords
        await row.act(there)
    assert not (row.exchange is X.BODY and (peer.messages or row.unknown))


def test_each_exchange_goes_on_with_its_own_digit() -> None:
    assert {exchange for exchange, digit in GOES_ON.items() if digit == 3} == {X.DATA}
    assert {exchange for exchange, digit in GOES_ON.items() if digit == 2} == set(X) - {
        X.CONNECT,
        X.TLS,
        X.DATA,
        X.BODY,
        X.QUIT,
    }


@pytest.mark.parametrize(("exchange", "digit"), list(product(GOES_ON, range(10))))
def test_a_code_counts_by_its_first_digit_where_that_is_legal(exchange: Exchange, digit: int) -> None:
    ending = classify(exchange, Reply(digit * 100 + 99, (b"",)))
    if digit == GOES_ON[exchange]:
        assert ending is Ending.ACCEPTED
    else:
        assert ending is {4: Ending.TRANSIENT, 5: Ending.PERMANENT}.get(digit, Ending.BAD_REPLY)


@pytest.mark.parametrize(("exchange", "ending", "first"), list(product(Exchange, Ending, (True, False))))
def test_only_a_connection_that_was_lost_before_it_was_used_costs_no_attempt(
    exchange: Exchange, ending: Ending, first: bool
) -> None:
    free = costs_no_attempt(exchange, ending, first=first)
    if exchange is Exchange.RSET:
        assert free is (ending is not Ending.TIMED_OUT)
    else:
        assert free is (first and ending in (Ending.HUNG_UP, Ending.CLOSING))
