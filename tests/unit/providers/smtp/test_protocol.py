"""What may be said when, by the whole table; and what a message looks like on the wire."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.providers.smtp.outcomes import Exchange
from galaxy_mail.providers.smtp.protocol import (
    AFTER_COMMAND,
    EXCHANGE,
    LocalProtocolError,
    OutOfTurn,
    SmtpClient,
    State,
    dot_stuffed,
)
from galaxy_mail.providers.smtp.replies import NotSmtp, Reply

EHLO_ANSWER = b"250-relay.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-auth=LOGIN\r\n250 Auth PLAIN\r\n"

# The way through everything: what we say, with the bytes that it makes, and what is answered.
DIALOGUE = [
    (None, b"", b"", b"220 relay.test\r\n"),
    ("EHLO", b"me.test", b"EHLO me.test\r\n", b"502 unknown\r\n"),
    ("HELO", b"me.test", b"HELO me.test\r\n", b"250 relay.test\r\n"),
    ("STARTTLS", b"", b"STARTTLS\r\n", b"454 not now\r\n"),
    ("AUTH", b"LOGIN", b"AUTH LOGIN\r\n", b"334 VXNlcg==\r\n"),
    ("RESPONSE", b"dXNlcg==", b"dXNlcg==\r\n", b"334 UGFzcw==\r\n"),
    ("RESPONSE", b"cGFzcw==", b"cGFzcw==\r\n", b"235 welcome\r\n"),
    ("MAIL", b"FROM:<a@b.test>", b"MAIL FROM:<a@b.test>\r\n", b"250-all\r\n250 well\r\n"),
    ("RCPT", b"TO:<c@d.test>", b"RCPT TO:<c@d.test>\r\n", b"250 ok\r\n"),
    ("DATA", b"", b"DATA\r\n", b"354 go\r\n"),
    ("DOT", b"Subject: s\r\n\r\n", b"Subject: s\r\n\r\n.\r\n", b"250 taken\r\n"),
    ("MAIL", b"FROM:<a@b.test>", b"MAIL FROM:<a@b.test>\r\n", b"250 ok\r\n"),
    ("RCPT", b"TO:<e@d.test>", b"RCPT TO:<e@d.test>\r\n", b"550 no\r\n"),
    ("DATA", b"", b"DATA\r\n", b"354 go\r\n"),
    ("LONE DOT", b"", b".\r\n", b"554 nobody\r\n"),
    ("MAIL", b"FROM:<a@b.test>", b"MAIL FROM:<a@b.test>\r\n", b"250 ok\r\n"),
    ("RSET", b"", b"RSET\r\n", b"250 ok\r\n"),
    ("QUIT", b"", b"QUIT\r\n", b"221 bye\r\n"),
]


def replies_of(client: SmtpClient, *pieces: bytes) -> list[Reply]:
    replies = []
    for piece in pieces:
        client.receive(piece)
        if not client.is_quiet and (reply := client.next_reply()) is not None:
            replies.append(reply)
    return replies


@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_every_exchange_reads_the_same_whole_and_byte_by_byte(byte_by_byte: bool) -> None:
    client = SmtpClient()
    for verb, argument, wire, answer in DIALOGUE:
        if verb is not None:
            assert client.send(verb, argument) == wire
            assert client.exchange is EXCHANGE[verb]
        pieces = [bytes([byte]) for byte in answer] if byte_by_byte else [answer]
        (reply,) = replies_of(client, *pieces)
        assert reply.code == int(answer[:3])
        assert client.is_quiet
    assert client.state is State.CLOSED
    assert {verb for verb, *_ in DIALOGUE if verb} == set(EXCHANGE)


@pytest.mark.parametrize("trailing", [b"2", b"250 early\r\n", b"\xff"])
@pytest.mark.parametrize("step", range(len(DIALOGUE) - 1), ids=[str(verb) for verb, *_ in DIALOGUE[:-1]])
def test_nothing_is_sent_to_a_relay_that_spoke_unasked(step: int, trailing: bytes) -> None:
    client = SmtpClient()
    for number, (verb, argument, _, answer) in enumerate(DIALOGUE[: step + 1]):
        if verb is not None:
            client.send(verb, argument)
        (reply,) = replies_of(client, answer + (trailing if number == step else b""))
        assert reply.code == int(answer[:3])
    assert not client.is_quiet
    verb, argument, *_ = DIALOGUE[step + 1]
    assert verb is not None
    with pytest.raises((OutOfTurn, NotSmtp)):
        client.send(verb, argument)


def in_state(state: State) -> SmtpClient:
    client = SmtpClient()
    client._awaited.clear()
    client.state = state
    return client


MAY_BE_SAID = {
    State.GREETED: {"EHLO": State.HELLO_SENT, "HELO": State.HELLO_SENT},
    State.READY: {
        "STARTTLS": State.TLS_ASKED,
        "AUTH": State.AUTH_ASKED,
        "MAIL": State.ENVELOPE,
        "QUIT": State.CLOSED,
    },
    State.CHALLENGED: {"RESPONSE": State.AUTH_ASKED},
    State.ENVELOPE: {
        "RCPT": State.ENVELOPE,
        "DATA": State.DATA_ASKED,
        "RSET": State.READY,
        "QUIT": State.CLOSED,
    },
    State.GO_AHEAD: {"DOT": State.UNDECIDED, "LONE DOT": State.CANCELLED},
}


@pytest.mark.parametrize(("state", "verb"), list(product(State, EXCHANGE)))
def test_only_what_fits_the_state_may_be_sent(state: State, verb: str) -> None:
    client, after = in_state(state), MAY_BE_SAID.get(state, {}).get(verb)
    assert AFTER_COMMAND.get((state, verb)) is after
    if after is not None:
        client.send(verb)
        assert client.state is after
    else:
        with pytest.raises(LocalProtocolError):
            client.send(verb)
        assert client.state is state


ANSWERS_OPEN = {  # by first digit, 2 to 5
    State.CONNECTED: (State.GREETED, State.CLOSED, State.CLOSED, State.CLOSED),
    State.HELLO_SENT: (State.READY, State.GREETED, State.GREETED, State.GREETED),
    State.TLS_ASKED: (State.TLS_STARTS, State.READY, State.READY, State.READY),
    State.AUTH_ASKED: (State.READY, State.CHALLENGED, State.READY, State.READY),
    State.DATA_ASKED: (State.ENVELOPE, State.GO_AHEAD, State.ENVELOPE, State.ENVELOPE),
    State.UNDECIDED: (State.READY, State.UNDECIDED, State.READY, State.READY),
    State.CANCELLED: (State.READY, State.READY, State.READY, State.READY),
}


@pytest.mark.parametrize(("state", "digit"), list(product(State, range(2, 6))))
def test_an_answer_opens_the_next_state(state: State, digit: int) -> None:
    client = in_state(state)
    client._awaited.append(Exchange.MAIL)
    client.receive(b"%d00 x\r\n" % digit)
    assert client.next_reply() is not None
    assert client.state is (ANSWERS_OPEN[state][digit - 2] if state in ANSWERS_OPEN else state)


def ready(*, pipelining: bool) -> SmtpClient:
    client = SmtpClient()
    offers = b"250-relay.test\r\n250 PIPELINING\r\n" if pipelining else b"250 relay.test\r\n"
    replies_of(client, b"220 relay.test\r\n")
    client.send("EHLO", b"me.test")
    replies_of(client, offers)
    return client


def test_commands_are_pipelined_only_where_that_is_offered() -> None:
    client = ready(pipelining=False)
    client.send("MAIL", b"FROM:<>")
    with pytest.raises(LocalProtocolError):
        client.send("RCPT", b"TO:<a@b>")
    client = ready(pipelining=True)
    client.send("MAIL", b"FROM:<>")
    client.send("RCPT", b"TO:<a@b>")


@pytest.mark.parametrize("verb", ["EHLO", "STARTTLS", "AUTH", "DATA"])
def test_nothing_is_pipelined_behind_what_has_to_be_answered_first(verb: str) -> None:
    client = ready(pipelining=True)
    if verb == "DATA":
        client.send("MAIL", b"FROM:<>")
    if verb == "EHLO":
        client.state = State.GREETED
    client.send(verb)
    for behind in EXCHANGE:
        with pytest.raises(LocalProtocolError):
            client.send(behind)


def test_pipelined_answers_belong_to_their_commands_in_order() -> None:
    client = ready(pipelining=True)
    for verb in ("MAIL", "RCPT", "RCPT", "DATA"):
        client.send(verb, b"x")
    client.receive(b"250 a\r\n550 b\r\n250 c\r\n354 d\r\n")
    seen = []
    while not client.is_quiet:
        exchange, reply = client.exchange, client.next_reply()
        assert reply is not None
        seen.append((exchange, reply.code))
    assert seen == [(Exchange.MAIL, 250), (Exchange.RCPT, 550), (Exchange.RCPT, 250), (Exchange.DATA, 354)]
    assert (client.state, client.exchange) == (State.GO_AHEAD, Exchange.BODY)


@pytest.mark.parametrize("broken", [b"a\r\nRCPT TO:<evil@x>", b"a\nb", b"a\rb", b"a\0b"])
@pytest.mark.parametrize("verb", ["EHLO", "AUTH", "MAIL", "RCPT"])
def test_no_argument_breaks_its_line(verb: str, broken: bytes) -> None:
    client = ready(pipelining=True)
    if verb == "EHLO":
        client.state = State.GREETED
    if verb == "RCPT":
        client.state = State.ENVELOPE
    with pytest.raises(LocalProtocolError):
        client.send(verb, broken)
    assert client.is_quiet


def test_offers_are_read_in_any_case_and_dropped_with_tls() -> None:
    client = SmtpClient()
    replies_of(client, b"220 x\r\n")
    client.send("EHLO", b"me")
    replies_of(client, EHLO_ANSWER)
    assert client.extensions == {"PIPELINING": "", "SIZE": "1000", "AUTH": "LOGIN PLAIN"}
    client.send("STARTTLS")
    replies_of(client, b"220 go\r\n")
    client.tls_started()
    assert client.extensions == {}
    assert client.state is State.GREETED


def test_helo_offers_nothing_whatever_its_answer_says() -> None:
    client = SmtpClient()
    replies_of(client, b"220 x\r\n")
    client.send("HELO", b"me")
    replies_of(client, EHLO_ANSWER)
    assert client.extensions == {}


def test_tls_does_not_start_over_bytes_in_clear() -> None:
    client = ready(pipelining=False)
    client.send("STARTTLS")
    replies_of(client, b"220 go\r\n250 injected\r\n")
    with pytest.raises(LocalProtocolError):
        client.tls_started()


def test_a_failure_belongs_to_the_exchange_that_waits_for_its_answer() -> None:
    client, waiting = ready(pipelining=True), []
    waiting.append(client.exchange)
    client.send("MAIL", b"x")
    client.send("RCPT", b"x")
    waiting.append(client.exchange)
    replies_of(client, b"250 ok\r\n")
    waiting.append(client.exchange)
    assert waiting == [Exchange.EHLO, Exchange.MAIL, Exchange.RCPT]


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"", b"\r\n"),
        (b".\r\n", b"..\r\n"),
        (b"a\r\n", b"a\r\n"),
        (b"a", b"a\r\n"),
        (b"a\r\n.", b"a\r\n..\r\n"),
        (b".a\r\n..\r\n.b\r\n", b"..a\r\n...\r\n..b\r\n"),
        (b"a\r\n.\r\nQUIT\r\n", b"a\r\n..\r\nQUIT\r\n"),
    ],
)
def test_dots_are_stuffed(content: bytes, wire: bytes) -> None:
    assert dot_stuffed(content) == wire


@given(st.lists(st.text(st.sampled_from(". ab"), max_size=4).map(str.encode), max_size=8))
def test_no_content_can_end_itself_and_unstuffing_gives_it_back(lines: list[bytes]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    wire = dot_stuffed(content)
    assert b"\r\n.\r\n" not in b"\r\n" + wire
    unstuffed = (b"\r\n" + wire).replace(b"\r\n.", b"\r\n")[2:]
    assert unstuffed == (content or b"\r\n")


@pytest.mark.parametrize("content", [b"a\nb\r\n", b"a\rb\r\n", b"a\r\n.\n", b"a\n.\r\n", b"a\r\r\n", b"a\r"])
def test_a_bare_line_end_never_leaves(content: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        dot_stuffed(content)
