"""How a connection is opened, used, used again and left."""

import base64
from collections.abc import Sequence

import pytest
import trio
import trio.testing

from galaxy_mail.domain.records import AttemptStatus, Blame, Envelope, Result, SendResult
from galaxy_mail.providers.smtp.opening import Connect
from galaxy_mail.providers.smtp.outcomes import Exchange
from galaxy_mail.providers.smtp.settings import TlsMode
from tests.relays.hostile.answers import Answers
from tests.relays.hostile.answers_late import AnswersLate
from tests.relays.hostile.babbles import Babbles
from tests.relays.hostile.drips import Drips
from tests.relays.hostile.hangs_up import HangsUp
from tests.relays.hostile.leaves_idle import LeavesIdle
from tests.relays.hostile.never_ends import NeverEnds
from tests.relays.hostile.refuses_hello import RefusesHello
from tests.relays.hostile.says_nothing import SaysNothing
from tests.relays.hostile.server import OFFERS, HangUp, Server, Talk
from tests.relays.hostile.speaks_early import SpeaksEarly
from tests.relays.hostile.takes_data_for_nobody import TakesDataForNobody
from tests.relays.hostile.takes_recipients import TakesRecipients
from tests.unit.providers.smtp.recording import recorded
from tests.unit.providers.smtp.wire import Authority, Joined, in_lockstep, joined, message

X = Exchange
AUTHORITY = Authority()
LOCKSTEP_OFFERS = [offer for offer in OFFERS if offer != "PIPELINING"]
PLAIN = base64.b64encode(b"\0user\0pass")
USER, PASS = base64.b64encode(b"user"), base64.b64encode(b"pass")


def code_of(result: SendResult) -> str | None:
    return result.failure.code if result.failure else None


def verbs(server: Server, connection: int = 0) -> list[str]:
    return [line.split(b" ")[0].decode() for line in server.talks[connection].lines]


# Round trips


async def test_a_pipelined_message_to_one_is_two_writes() -> None:
    writes: list[bytes] = []
    async with joined(Server(), pair=recorded(writes)) as there:
        await there.send()
        writes.clear()
        assert (await there.send()).result is Result.ACCEPTED
        assert [write.split(b"\r\n")[0].split(b":")[0] for write in writes] == [b"MAIL FROM", b"Date"]
        assert writes[0].count(b"\r\n") == 3
        assert writes[0].endswith(b"\r\nDATA\r\n")
        assert writes[1].endswith(b"\r\n.\r\n")


async def test_data_waits_for_the_answers_where_there_are_several_recipients() -> None:
    writes: list[bytes] = []
    async with joined(Server(), pair=recorded(writes)) as there:
        await there.send()
        writes.clear()
        await there.send(message("a@example.org", "b@example.org"))
        assert [write.split(b" ")[0].split(b"\r\n")[0] for write in writes] == [b"MAIL", b"DATA", b"Date:"]
        assert writes[0].count(b"\r\n") == 3


async def test_without_pipelining_every_command_waits_for_its_answer() -> None:
    writes: list[bytes] = []
    async with joined(Server(offers=LOCKSTEP_OFFERS), pair=recorded(writes)) as there:
        await there.send()
        writes.clear()
        await there.send(message("a@example.org", "b@example.org"))
        assert [write[:4] for write in writes] == [b"MAIL", b"RCPT", b"RCPT", b"DATA", b"Date"]


async def test_nothing_is_reset_between_messages() -> None:
    server = Server()
    async with joined(server) as there:
        for _ in range(3):
            await there.send()
    assert "RSET" not in verbs(server)
    assert (len(server.messages), there.connections) == (3, 1)


@pytest.mark.parametrize("offers", [OFFERS, LOCKSTEP_OFFERS])
@pytest.mark.parametrize(
    ("at", "reply"), [(X.RCPT, b"550 5.1.1 who?"), (X.RCPT, b"450 4.2.0 x"), (X.FINAL, b"550 5.7.1 spam")]
)
async def test_a_connection_ends_politely_after_a_refusal(
    at: Exchange, reply: bytes, offers: Sequence[str]
) -> None:
    """Postfix slows down a client that it refused, and others count."""
    server = Answers(at, reply, offers=offers)
    async with joined(server) as there:
        await there.send()
        assert server.talks[0].lines[-1] == b"QUIT"
        assert (await there.send()).result is Result.ACCEPTED
        assert there.connections == 2


class RefusesWhatComesLater(Server):
    """Refuses at one exchange whatever is not the first message of its connection."""

    def __init__(self, at: Exchange, reply: bytes, **behaved: object) -> None:
        super().__init__(**behaved)  # type: ignore[arg-type] # Server's own parameters, passed on
        self.at, self.reply = at, reply

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if exchange is self.at and sum(line.startswith(b"MAIL") for line in talk.lines) > 1:
            await talk.say(self.reply)
        else:
            await self.behave(talk, exchange, said)


@pytest.mark.parametrize(
    ("at", "reply"),
    [
        (X.MAIL, b"452 4.3.2 too many messages"),
        (X.MAIL, b"550 5.5.0 too many messages"),
        (X.MAIL, b"451 4.4.2 timeout"),
        (X.RCPT, b"451 4.4.2 timeout"),
        (X.DATA, b"451 4.4.2 timeout"),
    ],
)
async def test_what_a_relay_refuses_on_a_reused_connection_costs_no_attempt(
    at: Exchange, reply: bytes
) -> None:
    server = RefusesWhatComesLater(at, reply, offers=LOCKSTEP_OFFERS)
    async with joined(server) as there:
        for _ in range(4):
            assert (await there.send()).result is Result.ACCEPTED
    assert len(server.messages) == 4


@pytest.mark.parametrize(
    ("at", "reply"), [(X.RCPT, b"451 4.2.0 x"), (X.DATA, b"451 4.3.0 x"), (X.FINAL, b"451 4.4.2 x")]
)
async def test_what_is_about_the_message_is_not_tried_twice_at_once(at: Exchange, reply: bytes) -> None:
    server = RefusesWhatComesLater(at, reply, offers=LOCKSTEP_OFFERS)
    async with joined(server) as there:
        assert (await there.send()).result is Result.ACCEPTED
        assert (await there.send()).result is Result.TRANSIENT_FAILURE
        assert there.connections == 1


# Several addresses


async def test_an_address_that_fails_before_ehlo_is_followed_by_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    for peer in (SaysNothing(X.GREETING), Answers(X.GREETING, b"421 4.3.2 full"), HangsUp(X.EHLO)):
        async with joined(peer) as bad, joined(Server()) as good:

            async def addresses(bad: Joined = bad, good: Joined = good) -> list[Connect]:
                return [bad.way.connect, good.way.connect]

            good.provider._addresses = addresses
            started_s = trio.current_time()
            assert (await good.send()).result is Result.ACCEPTED
            assert trio.current_time() - started_s <= 15 / 3
            assert (bad.connections, good.connections) == (1, 1)


async def test_a_refused_login_is_the_same_at_every_address() -> None:
    peer = Answers(X.AUTH, b"535 5.7.8 bad", offers=("AUTH PLAIN",))
    async with joined(peer, username="user", password="pass") as there:

        async def addresses() -> list[Connect]:
            return [there.way.connect, there.way.connect]

        there.provider._addresses = addresses
        assert code_of(await there.send()) == "auth_refused"
        assert there.connections == 1


# Too many recipients


@pytest.mark.parametrize(
    "reply", [b"452 4.5.3 too many", b"452 too many", b"552 too many", b"550 5.5.3 too many"]
)
@pytest.mark.parametrize("offers", [OFFERS, LOCKSTEP_OFFERS])
async def test_more_recipients_than_the_relay_takes_end_the_delivery(
    reply: bytes, offers: Sequence[str]
) -> None:
    async with joined(TakesRecipients(2, reply, offers=offers)) as there:
        ended = await there.send(message("a@example.org", "b@example.org", "c@example.org"))
    assert (ended.result, ended.blame, code_of(ended)) == (
        Result.PERMANENT_FAILURE,
        Blame.MESSAGE,
        "too_many_recipients",
    )
    assert ended.failure is not None
    assert "took 2 of 3 recipients" in ended.failure.summary
    assert [refused.address for refused in ended.refused_recipients] == ["c@example.org"]


@pytest.mark.parametrize(
    ("taken", "reply", "code"),
    [
        (0, b"452 4.5.3 too many", "recipient_deferred"),
        (0, b"452", "recipient_deferred"),
        (0, b"552", "recipient_refused"),
    ],
)
async def test_a_single_recipient_is_never_too_many(taken: int, reply: bytes, code: str) -> None:
    async with joined(TakesRecipients(taken, reply)) as there:
        assert code_of(await there.send()) == code


# An idle connection


async def test_a_connection_that_idles_is_left_while_nothing_is_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = Server()
    async with joined(server) as there:
        await there.send()
        for idle_s, left in ((7.9, False), (0.2, True)):
            await trio.sleep(idle_s)
            await there.provider.close_idle()
            assert (server.talks[0].lines[-1] == b"QUIT") is left


async def test_a_connection_that_idles_is_left_at_once_when_asked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = Server()
    async with joined(server) as there:
        await there.send()
        await there.provider.close_idle(at_once=True)
        assert server.talks[0].lines[-1] == b"QUIT"


async def test_a_connection_on_which_a_message_is_being_sent_is_not_idle(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with joined(SaysNothing(X.FINAL), final_timeout_s=60) as there, trio.open_nursery() as nursery:
        await there.send(message("nobody@example.org"))
        nursery.start_soon(there.send)
        await trio.sleep(30)
        await there.provider.close_idle(at_once=True)
        assert there.provider._session is not None
        nursery.cancel_scope.cancel()


# Introduction


async def test_helo_is_the_way_of_a_relay_that_does_not_know_ehlo() -> None:
    server = RefusesHello(takes_helo=True)
    async with joined(server) as there:
        assert (await there.send()).result is Result.ACCEPTED
    assert verbs(server) == ["EHLO", "HELO", "MAIL", "RCPT", "DATA", "QUIT"]
    assert server.talks[0].lines[2] == b"MAIL FROM:<sender@example.com>"


async def test_a_relay_that_refuses_ehlo_and_leaves_is_quoted() -> None:
    async with joined(RefusesHello(takes_helo=False, hangs_up=True)) as there:
        refused = await there.send()
    assert (code_of(refused), refused.provider_code) == ("ehlo_refused", "554 5.7.1")


class OffersFewerUnderTls(Server):
    def ehlo_lines(self) -> list[bytes]:
        self.offers = ["8BITMIME"] if self.is_secure else ["PIPELINING", "SIZE 10"]
        return super().ehlo_lines()


async def test_what_was_offered_in_clear_is_dropped_under_tls() -> None:
    server = OffersFewerUnderTls(tls=AUTHORITY.server)
    async with joined(server, mode=TlsMode.STARTTLS, tls=AUTHORITY.client) as there:
        assert (await there.send()).result is Result.ACCEPTED
    assert server.is_secure
    assert verbs(server)[:3] == ["EHLO", "STARTTLS", "EHLO"]
    assert b"SIZE" not in server.talks[0].lines[3]


@pytest.mark.parametrize(
    ("mode", "port", "credentials", "offered", "ends"),
    [
        (TlsMode.AUTO, 25, False, True, "secure"),
        (TlsMode.AUTO, 25, False, False, "clear"),
        (TlsMode.AUTO, 25, True, True, "secure"),
        (TlsMode.AUTO, 25, True, False, "starttls_unavailable"),
        (TlsMode.AUTO, 465, True, True, "implicit"),
        (TlsMode.AUTO, 465, False, True, "implicit"),
        (TlsMode.STARTTLS, 465, False, True, "secure"),
        (TlsMode.STARTTLS, 25, False, False, "starttls_unavailable"),
        (TlsMode.IMPLICIT, 25, True, True, "implicit"),
        (TlsMode.NONE, 25, False, True, "clear"),
        (TlsMode.NONE, 465, True, True, "clear"),
    ],
)
async def test_the_mode_decides_about_tls(
    mode: TlsMode, port: int, credentials: bool, offered: bool, ends: str
) -> None:
    server = Server(
        offers=[*OFFERS, "AUTH PLAIN"],
        tls=AUTHORITY.server if offered else None,
        implicit_tls=ends == "implicit",
        secrets=[PLAIN],
    )
    username, password = ("user", "pass") if credentials else ("", "")
    async with joined(
        server, mode=mode, port=port, tls=AUTHORITY.client, username=username, password=password
    ) as there:
        result = await there.send()
    if ends == "starttls_unavailable":
        assert code_of(result) == ends
        assert server.messages == []
    else:
        assert result.result is Result.ACCEPTED
        assert server.is_secure is (ends != "clear")
        assert ("STARTTLS" in verbs(server)) is (ends == "secure")
        assert ("AUTH" in verbs(server)) is credentials


async def test_a_certificate_for_another_name_is_not_accepted() -> None:
    server = Server(tls=AUTHORITY.server)
    async with joined(server, mode=TlsMode.STARTTLS, tls=AUTHORITY.client, host="relay.test") as there:
        result = await there.send()
    assert code_of(result) == "tls_unverified"
    assert verbs(server) == ["EHLO", "STARTTLS"]


@pytest.mark.parametrize(
    ("offer", "lines"),
    [
        ("AUTH LOGIN PLAIN", [b"AUTH PLAIN " + PLAIN]),
        ("AUTH=LOGIN PLAIN", [b"AUTH PLAIN " + PLAIN]),
        ("auth cram-md5 login", [b"AUTH LOGIN", USER, PASS]),
    ],
)
async def test_auth_uses_what_is_offered(offer: str, lines: list[bytes]) -> None:
    server = Server(offers=["PIPELINING", offer], secrets=[PLAIN, USER, PASS])
    async with joined(server, username="user", password="pass") as there:
        assert (await there.send()).result is Result.ACCEPTED
    assert server.talks[0].lines[1 : 1 + len(lines)] == lines


async def test_a_long_password_waits_until_it_is_asked_for() -> None:
    secret = base64.b64encode(b"\0user\0" + b"p" * 400)
    server = Server(offers=["AUTH PLAIN"], secrets=[secret])
    async with joined(server, username="user", password="p" * 400) as there:
        assert (await there.send()).result is Result.ACCEPTED
    assert server.talks[0].lines[1:3] == [b"AUTH PLAIN", secret]


@pytest.mark.parametrize("offer", ["AUTH PLAIN", "AUTH LOGIN"])
async def test_a_refused_password_is_in_no_result(offer: str) -> None:
    said = b"535 5.7.8 user 'mallory' password 'hunter2' " + base64.b64encode(b"\0mallory\0hunter2")
    server = Answers(X.AUTH, said, offers=[offer])
    async with joined(server, username="mallory", password="hunter2") as there:
        result = await there.send()
    assert (code_of(result), result.provider_code) == ("auth_refused", "535 5.7.8")
    assert result.status is AttemptStatus.TRANSPORT_FAILED
    for secret in ("mallory", "hunter2", "AG1hbGxvcnk"):
        assert secret not in repr(result)


async def test_a_password_never_goes_to_a_relay_that_asks_for_it_in_clear_beyond_loopback() -> None:
    server = Server(offers=["AUTH PLAIN"], secrets=[PLAIN])
    async with joined(server, username="user", password="pass", host="192.0.2.1") as there:
        assert code_of(await there.send()) == "auth_in_clear"
    assert verbs(server) == ["EHLO"]


# Several recipients


async def test_one_refused_recipient_keeps_the_message_from_all_and_the_worst_answer_decides() -> None:
    server = Server()
    async with joined(server) as there:
        result = await there.send(message("later@example.org", "reader@example.org", "nobody@example.org"))
    assert (result.result, result.status) == (Result.PERMANENT_FAILURE, AttemptStatus.PROVIDER_REJECTED)
    assert (code_of(result), result.provider_code) == ("recipient_refused", "550 5.1.1")
    assert [(r.address, r.provider_code) for r in result.refused_recipients] == [
        ("later@example.org", "450 4.2.1"),
        ("nobody@example.org", "550 5.1.1"),
    ]
    assert "DATA" not in verbs(server)
    assert server.messages == []


async def test_recipients_that_are_put_off_put_off_the_message() -> None:
    async with joined(Server(offers=LOCKSTEP_OFFERS)) as there:
        result = await there.send(message("reader@example.org", "later@example.org"))
    assert (result.result, code_of(result)) == (Result.TRANSIENT_FAILURE, "recipient_deferred")
    assert [r.address for r in result.refused_recipients] == ["later@example.org"]


async def test_a_refused_sender_decides_alone() -> None:
    """What is pipelined behind it answers 503, which would be for good."""
    async with joined(Answers(X.MAIL, b"451 4.7.1 greylisted")) as there:
        result = await there.send(message("a@example.org", "b@example.org"))
    assert (result.result, code_of(result)) == (Result.TRANSIENT_FAILURE, "sender_deferred")
    assert result.refused_recipients == ()


async def test_everybody_is_named_once_and_bcc_too() -> None:
    server = Server()
    sent = message()
    envelope = Envelope(to=("a@example.org",), cc=("b@example.org", "a@example.org"), bcc=("c@example.org",))
    async with joined(server) as there:
        await there.send(
            type(sent)(**{**{f: getattr(sent, f) for f in sent.__struct_fields__}, "envelope": envelope})
        )
    named = [line for line in server.talks[0].lines if line.startswith(b"RCPT")]
    assert named == [b"RCPT TO:<%s@example.org>" % name for name in (b"a", b"b", b"c")]
    assert b"c@example.org" not in server.messages[0]


async def test_an_answer_that_decides_counts_although_the_relay_left_over_it() -> None:
    server = Answers(X.RCPT, b"550 5.7.1 your network is blocked", then_hangs_up=True)
    async with joined(server) as there:
        result = await there.send(message("a@example.org", "b@example.org"))
        assert (code_of(result), result.provider_code) == ("recipient_refused", "550 5.7.1")
        await there.send()
        assert there.connections == 2


# A 354 for nobody


async def test_a_relay_that_wants_a_message_for_nobody_gets_the_lone_dot() -> None:
    server, writes = TakesDataForNobody(), list[bytes]()
    async with joined(server, pair=recorded(writes)) as there:
        result = await there.send(message("nobody@example.org"))
        assert (code_of(result), result.provider_code) == ("recipient_refused", "550 5.1.1")
        assert writes[-2:] == [b".\r\n", b"QUIT\r\n"]
        assert (await there.send()).result is Result.ACCEPTED
        assert there.connections == 2
    assert server.empty_messages == 1
    assert len(server.messages) == 1


@pytest.mark.parametrize("then", [b"250 2.0.0 thanks", b"421 bye", b"what?", b"354 more"])
async def test_a_relay_that_answers_the_lone_dot_strangely_is_left(then: bytes) -> None:
    async with joined(TakesDataForNobody(then=then)) as there:
        assert code_of(await there.send(message("nobody@example.org"))) == "recipient_refused"
        assert (await there.send()).result is Result.ACCEPTED
        assert there.connections == 2


async def test_no_dot_is_sent_where_it_would_send_an_empty_message() -> None:
    server = TakesDataForNobody(refuses_sender=True)
    server.behave = _takes_any_recipient(server)  # type: ignore[method-assign] # one relay's own contradiction
    async with joined(server) as there:
        assert code_of(await there.send()) == "sender_refused"
    assert server.empty_messages == 0
    assert server.messages == []


def _takes_any_recipient(server: Server):  # type: ignore[no-untyped-def] # the type of a bound method is long
    behave = server.behave

    async def takes(talk: Talk, exchange: Exchange, said: bytes) -> None:
        talk.sender_accepted = True
        await behave(talk, exchange, said)

    return takes


# Idle and broken connections


@pytest.mark.parametrize("says", [b"", b"421 4.4.2 idle too long"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_connection_that_was_lost_while_idle_costs_no_attempt(says: bytes, at_once: bool) -> None:
    server = LeavesIdle(says=says, at_once=at_once)
    async with joined(server) as there:
        assert (await there.send()).result is Result.ACCEPTED
        await trio.testing.wait_all_tasks_blocked()
        assert (await there.send()).result is Result.ACCEPTED
        assert there.connections == 2
    assert len(server.messages) == 2


class AlwaysLeavesAtMail(Server):
    """But for the very first message."""

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if exchange is Exchange.MAIL and self.messages:
            raise HangUp
        await self.behave(talk, exchange, said)


async def test_a_lost_connection_is_replaced_once() -> None:
    async with joined(AlwaysLeavesAtMail()) as there:
        await there.send()
        assert code_of(await there.send()) == "disconnected"
        assert there.connections == 2


async def test_a_first_connection_that_is_lost_at_mail_is_an_attempt() -> None:
    async with joined(HangsUp(X.MAIL)) as there:
        assert code_of(await there.send()) == "disconnected"
        assert there.connections == 1


async def test_a_reused_connection_that_was_alive_when_it_was_lost_is_an_attempt() -> None:
    class LeavesAtSecondRcpt(Server):
        async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
            if exchange is Exchange.RCPT and self.messages:
                raise HangUp
            await self.behave(talk, exchange, said)

    async with joined(LeavesAtSecondRcpt()) as there:
        await there.send()
        result = await there.send()
        assert (code_of(result), result.outcome_unknown) == ("disconnected", False)
        assert there.connections == 1


async def test_a_connection_that_idled_too_long_is_left_politely(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = Server()
    async with joined(server, idle_max_s=30) as there:
        await there.send()
        await trio.sleep(29)
        await there.send()
        assert there.connections == 1
        await trio.sleep(31)
        assert (await there.send()).result is Result.ACCEPTED
        assert there.connections == 2
    assert verbs(server)[-1] == "QUIT"


async def test_a_connection_carries_a_bounded_number_of_messages() -> None:
    async with joined(Server(), messages_max=3) as there:
        for _ in range(7):
            assert (await there.send()).result is Result.ACCEPTED
        assert there.connections == 3


async def test_a_relay_that_answered_too_much_after_a_message_is_not_used_again() -> None:
    server = SpeaksEarly(X.FINAL, b"250 and another one\r\n")
    async with joined(server) as there:
        assert (await there.send()).result is Result.ACCEPTED
        assert (await there.send()).result is Result.ACCEPTED
        assert there.connections == 2
    assert len(server.messages) == 2


# Bytes early, late, split, and garbage


WITH_EVERYTHING = [X.GREETING, X.EHLO, X.AUTH, X.MAIL, X.RCPT, X.DATA]


@pytest.mark.parametrize(
    "early", [b"2", b"250 early\r\n", b"354 early\r\n", b"\x00\xff", b"550 5.0.0 no\r\n"]
)
@pytest.mark.parametrize("at", WITH_EVERYTHING)
@pytest.mark.parametrize("offers", [OFFERS, LOCKSTEP_OFFERS])
@pytest.mark.parametrize("to", [("a@example.org",), ("a@example.org", "b@example.org")])
async def test_a_relay_that_speaks_out_of_turn_is_never_believed_to_have_the_message(
    early: bytes,
    at: Exchange,
    offers: Sequence[str],
    to: tuple[str, ...],
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = SpeaksEarly(at, early, offers=[*offers, "AUTH PLAIN"], secrets=[PLAIN])
    async with joined(server, username="user", password="pass") as there:
        result = await there.send(message(*to))
    assert result.result is not Result.ACCEPTED
    # A second 354 among pipelined answers looks like the one to DATA: then the message goes out, and is in doubt.
    assert result.outcome_unknown is bool(server.messages)
    assert not server.messages or early.startswith(b"354")


async def test_a_word_of_leave_out_of_turn_is_understood() -> None:
    server = SpeaksEarly(X.MAIL, b"421 4.3.2 going down\r\n", offers=LOCKSTEP_OFFERS)
    async with joined(server) as there:
        assert code_of(await there.send()) == "service_closing"


@pytest.mark.parametrize("offers", [OFFERS, LOCKSTEP_OFFERS])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_answers_that_come_byte_by_byte_are_understood(
    offers: Sequence[str], tls: bool, mechanism: str
) -> None:
    server = Drips(
        offers=[*offers, f"AUTH {mechanism}"],
        tls=AUTHORITY.server if tls else None,
        secrets=[PLAIN, USER, PASS],
    )
    mode = TlsMode.STARTTLS if tls else TlsMode.NONE
    async with joined(server, mode=mode, tls=AUTHORITY.client, username="user", password="pass") as there:
        for to in (("a@example.org",), ("a@example.org", "b@example.org"), ("nobody@example.org",)):
            await there.send(message(*to))
        assert there.connections == 1
        assert (await there.send()).result is Result.ACCEPTED
    assert len(server.messages) == 3


@pytest.mark.parametrize("at", [*WITH_EVERYTHING, X.FINAL])
@pytest.mark.parametrize("kind", [Babbles, NeverEnds])
async def test_what_is_not_smtp_is_noticed_at_once_and_held_in_bounds(
    at: Exchange, kind: type[Babbles | NeverEnds], autojump_clock: trio.testing.MockClock
) -> None:
    server = kind(at, offers=[*OFFERS, "AUTH PLAIN"], secrets=[PLAIN])
    async with joined(server, pair=in_lockstep, username="user", password="pass") as there:
        begun_s = trio.current_time()
        result = await there.send()
        assert trio.current_time() == begun_s
    assert (code_of(result), result.outcome_unknown) == ("bad_reply", at is X.FINAL)


# Deadlines


async def test_one_deadline_covers_connect_tls_and_auth(autojump_clock: trio.testing.MockClock) -> None:
    server = AnswersLate({X.GREETING: 6, X.EHLO: 6, X.AUTH: 6}, offers=["AUTH PLAIN"], secrets=[PLAIN])
    async with joined(server, username="user", password="pass") as there:
        assert code_of(await there.send()) == "auth_timed_out"
        assert trio.current_time() == pytest.approx(15)


async def test_one_deadline_covers_the_envelope_and_begins_after_the_opening(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slow = AnswersLate({X.GREETING: 14, X.MAIL: 5, X.RCPT: 4})
    async with joined(slow) as there:
        assert (await there.send()).result is Result.ACCEPTED
        result = await there.send(message("a@example.org", "b@example.org", "c@example.org"))
        assert code_of(result) == "envelope_timed_out"
        assert result.failure is not None
        assert result.failure.summary == "RCPT: no answer within 15 s"


async def test_a_body_may_take_long_as_long_as_it_proceeds(autojump_clock: trio.testing.MockClock) -> None:
    class ReadsSlowly(Server):
        async def converse(self, talk: Talk) -> None:
            more = talk.more

            async def slowly() -> None:
                if talk.waits_for_message:
                    await trio.sleep(14)
                await more()

            talk.more = slowly  # type: ignore[method-assign] # this relay's slowness
            await super().converse(talk)

    server = ReadsSlowly()
    async with joined(server, pair=in_lockstep) as there:
        result = await there.send(message(text="x" * 70 + "\n" + "0123456789" * 7 + "\n" * 100_000))
        assert trio.current_time() > 30
        assert result.result is Result.ACCEPTED


@pytest.mark.parametrize(("late_s", "code"), [(59, None), (61, "final_timed_out")])
async def test_the_answer_to_the_final_dot_has_a_deadline_of_its_own(
    late_s: float, code: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    async with joined(AnswersLate({X.FINAL: late_s})) as there:
        result = await there.send()
        assert code_of(result) == code
        assert result.outcome_unknown is (code is not None)


async def test_quit_is_sent_and_waited_for_shortly(autojump_clock: trio.testing.MockClock) -> None:
    server = SaysNothing(X.QUIT)
    async with joined(server) as there:
        await there.send()
        begun_s = trio.current_time()
    assert verbs(server)[-1] == "QUIT"
    assert trio.current_time() - begun_s == pytest.approx(1)
