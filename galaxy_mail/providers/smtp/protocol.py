"""The client's side of SMTP: what may be said when, and what an answer opens.

`SmtpClient` takes commands and gives the bytes to write; it takes bytes as they arrive and gives replies, each with the
exchange that it answers. `LocalProtocolError` is our bug; `NotSmtp` and `OutOfTurn` are the relay's.
"""

from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.providers.smtp.outcomes import Exchange
from galaxy_mail.providers.smtp.replies import Reply, ReplyReader

Extensions = Mapping[str, str]  # keyword in capitals -> its parameters (RFC 5321 §4.1.1.1)

X = Exchange


class State(StrEnum):
    CONNECTED = "connected"  # the relay speaks first
    GREETED = "greeted"
    INTRODUCING = "introducing"
    READY = "ready"  # no transaction is open
    TLS_ASKED = "tls_asked"
    TLS_STARTS = "tls_starts"  # not a byte more in clear
    AUTH_ASKED = "auth_asked"
    CHALLENGED = "challenged"
    ENVELOPE = "envelope"  # a transaction is open
    DATA_ASKED = "data_asked"
    GO_AHEAD = "go_ahead"
    UNDECIDED = "undecided"  # the final dot is written; the reply tells who owns the message
    TAKEN_BACK = "taken_back"  # a dot that ends a message of nothing to nobody
    CLOSED = "closed"


S = State

# RFC 5321 §4.1.4. What the table lacks raises LocalProtocolError.
AFTER_COMMAND: Final[Mapping[tuple[State, str], State]] = {
    (S.GREETED, "EHLO"): S.INTRODUCING,
    (S.GREETED, "HELO"): S.INTRODUCING,
    (S.READY, "STARTTLS"): S.TLS_ASKED,
    (S.READY, "AUTH"): S.AUTH_ASKED,
    (S.CHALLENGED, "RESPONSE"): S.AUTH_ASKED,
    (S.READY, "MAIL"): S.ENVELOPE,
    (S.ENVELOPE, "RCPT"): S.ENVELOPE,
    (S.ENVELOPE, "DATA"): S.DATA_ASKED,
    (S.ENVELOPE, "RSET"): S.READY,  # pipelined before the next MAIL
    (S.GO_AHEAD, "DOT"): S.UNDECIDED,
    (S.GO_AHEAD, "LONE DOT"): S.TAKEN_BACK,  # RFC 2920 §3.1
    (S.READY, "QUIT"): S.CLOSED,
    (S.ENVELOPE, "QUIT"): S.CLOSED,
}

# Which exchange a command opens: where its answer counts, and how its failure is told.
EXCHANGE: Final[Mapping[str, Exchange]] = {
    "EHLO": X.EHLO,
    "HELO": X.EHLO,
    "STARTTLS": X.STARTTLS,
    "AUTH": X.AUTH,
    "RESPONSE": X.AUTH,
    "MAIL": X.MAIL,
    "RCPT": X.RCPT,
    "DATA": X.DATA,
    "RSET": X.RSET,
    "DOT": X.FINAL,
    "LONE DOT": X.DATA,
    "QUIT": X.QUIT,
}

# The answers to these decide what may be said next, so nothing may be pipelined behind them (RFC 2920 §3.1). By state
# and first digit; a digit that is missing leads to the state under 0.
AFTER_REPLY: Final[Mapping[State, Mapping[int, State]]] = {
    S.CONNECTED: {2: S.GREETED, 0: S.CLOSED},
    S.INTRODUCING: {2: S.READY, 0: S.GREETED},
    S.TLS_ASKED: {2: S.TLS_STARTS, 0: S.READY},
    S.AUTH_ASKED: {2: S.READY, 3: S.CHALLENGED, 0: S.READY},
    S.DATA_ASKED: {3: S.GO_AHEAD, 0: S.ENVELOPE},
    S.UNDECIDED: {2: S.READY, 4: S.READY, 5: S.READY, 0: S.UNDECIDED},
    S.TAKEN_BACK: {0: S.READY},
}

_NO_ARGUMENT_MAY_HOLD: Final = (b"\r", b"\n", b"\0")


class LocalProtocolError(GalaxyMailError):
    """We would say what may not be said now, or at all: a bug of ours. Nothing was written."""


class OutOfTurn(GalaxyMailError):
    """The relay spoke unasked: from here on its answers can't be told from its monologue.

    `reply` is what it said, where that is whole: a 421 is its way to take leave.
    """

    def __init__(self, reply: Reply | None) -> None:
        super().__init__("the relay spoke unasked")
        self.reply = reply


class SmtpClient:
    """One connection's grammar. `exchange` tells at any time to which exchange a failure would belong."""

    def __init__(self) -> None:
        self.state = State.CONNECTED
        self.exchange = Exchange.GREETING
        self.extensions: Extensions = {}
        self._reader = ReplyReader()
        self._awaited: deque[Exchange] = deque([Exchange.GREETING])
        self._extended = False  # introduced by EHLO: HELO offers nothing, whatever its answer says

    @property
    def pipelining(self) -> bool:
        return "PIPELINING" in self.extensions

    @property
    def is_quiet(self) -> bool:
        """Nothing is awaited, and the relay has said nothing that nobody asked for."""
        return not self._awaited and self._reader.is_empty

    def send(self, verb: str, argument: bytes = b"") -> bytes:
        """The bytes that say it. Raises LocalProtocolError, and OutOfTurn when the relay has spoken unasked."""
        after = AFTER_COMMAND.get((self.state, verb))
        if after is None or (self._awaited and (not self.pipelining or self.state in AFTER_REPLY)):
            raise LocalProtocolError(f"{verb} may not be said in state {self.state}")
        if not self._awaited and not self._reader.is_empty:
            raise OutOfTurn(self._reader.next_reply())
        match verb:
            case "DOT":
                line = argument + b".\r\n"
            case "LONE DOT":
                line = b".\r\n"
            case "RESPONSE":
                line = argument + b"\r\n"
            case _:
                line = b"%s %s\r\n" % (verb.encode(), argument) if argument else verb.encode() + b"\r\n"
        if verb != "DOT" and any(byte in argument for byte in _NO_ARGUMENT_MAY_HOLD):
            raise LocalProtocolError(f"a line break or NUL in the argument of {verb}")
        exchange = EXCHANGE[verb]
        if exchange is Exchange.EHLO:
            self._extended = verb == "EHLO"
        if not self._awaited:
            self.exchange = exchange
        self._awaited.append(exchange)
        self.state = after
        return line

    def receive(self, data: bytes | bytearray) -> None:
        """Takes what the socket gave."""
        self._reader.receive(data)

    def next_reply(self) -> Reply | None:
        """The answer to what `exchange` names until this call; None: receive more. Raises NotSmtp."""
        assert self._awaited, "nobody asked"
        reply = self._reader.next_reply()
        if reply is None:
            return None
        answered = self._awaited.popleft()
        self.exchange = self._awaited[0] if self._awaited else answered
        if not self._awaited and (after := AFTER_REPLY.get(self.state)) is not None:
            if self.state is State.INTRODUCING and reply.code // 100 == 2:
                self.extensions = _extensions(reply) if self._extended else {}
            self.state = after.get(reply.code // 100, after[0])
            if self.state is State.GO_AHEAD:
                self.exchange = Exchange.BODY
        return reply

    def early_reply(self) -> Reply | None:
        """What the relay says before it can have read all that it was to answer, where that is whole. Raises NotSmtp."""
        return self._reader.next_reply()

    def tls_started(self) -> None:
        """The handshake is done. All that was learnt in clear is forgotten (RFC 3207 §4.2)."""
        if self.state is not State.TLS_STARTS or not self.is_quiet:
            raise LocalProtocolError("TLS may not start now")
        self.state = State.GREETED
        self.extensions = {}


_NO_LINE_END: Final = bytes(byte for byte in range(256) if byte not in b"\r\n")


def dot_stuffed(content: bytes) -> bytes:
    """The message as it goes over the wire, up to but without the final dot (RFC 5321 §4.5.2).

    Raises LocalProtocolError for a bare CR or LF: some relays take `LF . LF` for the end, and what follows for a
    second message.
    """
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    ends = content.translate(None, _NO_LINE_END)  # a third of what counting CR, LF and CRLF takes
    if ends != b"\r\n" * (len(ends) // 2):
        raise LocalProtocolError("a bare CR or LF in a message")
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if content.startswith(b".") else stuffed


def _extensions(reply: Reply) -> Extensions:
    """What an EHLO answer offers. Its first line is a greeting; HELO's answer has no other."""
    offered: dict[str, str] = {}
    for line in reply.lines[1:]:
        keyword, _, parameters = line.decode("ascii", "replace").strip().partition(" ")
        if keyword.upper().startswith("AUTH="):  # what relays of the nineties say
            keyword, parameters = "AUTH", f"{keyword[5:]} {parameters}"
        keyword = keyword.upper()
        if keyword in offered:
            parameters = f"{offered[keyword]} {parameters}"
        offered[keyword] = parameters.strip()
    return offered
