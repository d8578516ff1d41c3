"""The client's side of SMTP without I/O: which command is allowed in which state, and which state a reply leads to.

`SmtpClient` turns commands into bytes to write and received bytes into replies. `LocalProtocolError` is our bug;
`NotSmtp` and `OutOfTurn` are the relay's.
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
    CONNECTED = "connected"  # the relay sends the greeting
    GREETED = "greeted"
    HELLO_SENT = "hello_sent"
    READY = "ready"  # no transaction is open
    TLS_ASKED = "tls_asked"
    TLS_STARTS = "tls_starts"  # nothing more is sent in clear text
    AUTH_ASKED = "auth_asked"
    CHALLENGED = "challenged"
    ENVELOPE = "envelope"  # a transaction is open
    DATA_ASKED = "data_asked"
    GO_AHEAD = "go_ahead"
    UNDECIDED = "undecided"  # the final dot is written; the reply says who is responsible for the message
    CANCELLED = "cancelled"  # the lone dot that cancels DATA is written
    CLOSED = "closed"


S = State

# RFC 5321 §4.1.4. Any other command raises LocalProtocolError.
AFTER_COMMAND: Final[Mapping[tuple[State, str], State]] = {
    (S.GREETED, "EHLO"): S.HELLO_SENT,
    (S.GREETED, "HELO"): S.HELLO_SENT,
    (S.READY, "STARTTLS"): S.TLS_ASKED,
    (S.READY, "AUTH"): S.AUTH_ASKED,
    (S.CHALLENGED, "RESPONSE"): S.AUTH_ASKED,
    (S.READY, "MAIL"): S.ENVELOPE,
    (S.ENVELOPE, "RCPT"): S.ENVELOPE,
    (S.ENVELOPE, "DATA"): S.DATA_ASKED,
    (S.ENVELOPE, "RSET"): S.READY,  # pipelined before the next MAIL
    (S.GO_AHEAD, "DOT"): S.UNDECIDED,
    (S.GO_AHEAD, "LONE DOT"): S.CANCELLED,  # RFC 2920 §3.1
    (S.READY, "QUIT"): S.CLOSED,
    (S.ENVELOPE, "QUIT"): S.CLOSED,
}

# The exchange that a command begins. Its reply and its failure are classified by it.
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

# In these states, the reply decides which command may follow, so nothing may be pipelined (RFC 2920 §3.1). The reply's
# first digit leads to the next state; 0 stands for all other digits.
AFTER_REPLY: Final[Mapping[State, Mapping[int, State]]] = {
    S.CONNECTED: {2: S.GREETED, 0: S.CLOSED},
    S.HELLO_SENT: {2: S.READY, 0: S.GREETED},
    S.TLS_ASKED: {2: S.TLS_STARTS, 0: S.READY},
    S.AUTH_ASKED: {2: S.READY, 3: S.CHALLENGED, 0: S.READY},
    S.DATA_ASKED: {3: S.GO_AHEAD, 0: S.ENVELOPE},
    S.UNDECIDED: {2: S.READY, 4: S.READY, 5: S.READY, 0: S.UNDECIDED},
    S.CANCELLED: {0: S.READY},
}

_NO_ARGUMENT_MAY_HOLD: Final = (b"\r", b"\n", b"\0")


class LocalProtocolError(GalaxyMailError):
    """Our bug: a command that is not allowed now, or not at all. Nothing was written."""


class OutOfTurn(GalaxyMailError):
    """The relay sent a reply without a command. Replies can no longer be matched with commands.

    `reply` is that reply, if it is complete. A 421 announces that the relay closes the connection.
    """

    def __init__(self, reply: Reply | None) -> None:
        super().__init__("the relay sent an unexpected reply")
        self.reply = reply


class SmtpClient:
    """The protocol state of one connection. `exchange` is the exchange to which a failure now belongs."""

    def __init__(self) -> None:
        self.state = State.CONNECTED
        self.exchange = Exchange.GREETING
        self.extensions: Extensions = {}
        self._reader = ReplyReader()
        self._awaited: deque[Exchange] = deque([Exchange.GREETING])
        self._extended = False  # after EHLO; the reply to HELO offers no extensions

    @property
    def pipelining(self) -> bool:
        return "PIPELINING" in self.extensions

    @property
    def is_quiet(self) -> bool:
        """Whether no reply is due and the relay has sent nothing unexpected."""
        return not self._awaited and self._reader.is_empty

    def send(self, verb: str, argument: bytes = b"") -> bytes:
        """The bytes of the command. Raises LocalProtocolError, and OutOfTurn if an unexpected reply has come."""
        after = AFTER_COMMAND.get((self.state, verb))
        if after is None or (self._awaited and (not self.pipelining or self.state in AFTER_REPLY)):
            raise LocalProtocolError(f"{verb} is not allowed in state {self.state}")
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
        """Takes bytes from the socket."""
        self._reader.receive(data)

    def next_reply(self) -> Reply | None:
        """The reply to the exchange that `exchange` names before this call. None: receive more. Raises NotSmtp."""
        assert self._awaited, "no reply is due"
        reply = self._reader.next_reply()
        if reply is None:
            return None
        answered = self._awaited.popleft()
        self.exchange = self._awaited[0] if self._awaited else answered
        if not self._awaited and (after := AFTER_REPLY.get(self.state)) is not None:
            if self.state is State.HELLO_SENT and reply.code // 100 == 2:
                self.extensions = _extensions(reply) if self._extended else {}
            self.state = after.get(reply.code // 100, after[0])
            if self.state is State.GO_AHEAD:
                self.exchange = Exchange.BODY
        return reply

    def early_reply(self) -> Reply | None:
        """A complete reply that came before the final dot. None: there is none. Raises NotSmtp."""
        return self._reader.next_reply()

    def tls_started(self) -> None:
        """Called after the handshake. Drops what was learnt in clear text (RFC 3207 §4.2)."""
        if self.state is not State.TLS_STARTS or not self.is_quiet:
            raise LocalProtocolError(f"TLS is not allowed in state {self.state}")
        self.state = State.GREETED
        self.extensions = {}


_NO_LINE_END: Final = bytes(byte for byte in range(256) if byte not in b"\r\n")


def dot_stuffed(content: bytes) -> bytes:
    """The message as it is sent, without the final dot (RFC 5321 §4.5.2).

    Raises LocalProtocolError for a bare CR or LF: some relays take `LF . LF` as the end and read the rest as a second
    message.
    """
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    ends = content.translate(None, _NO_LINE_END)  # three times as fast as counting CR, LF and CRLF
    if ends != b"\r\n" * (len(ends) // 2):
        raise LocalProtocolError("a bare CR or LF in a message")
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if content.startswith(b".") else stuffed


def _extensions(reply: Reply) -> Extensions:
    """The extensions in a reply to EHLO. The first line is a greeting."""
    offered: dict[str, str] = {}
    for line in reply.lines[1:]:
        keyword, _, parameters = line.decode("ascii", "replace").strip().partition(" ")
        if keyword.upper().startswith("AUTH="):  # as relays of the nineties send it
            keyword, parameters = "AUTH", f"{keyword[5:]} {parameters}"
        keyword = keyword.upper()
        if keyword in offered:
            parameters = f"{offered[keyword]} {parameters}"
        offered[keyword] = parameters.strip()
    return offered
