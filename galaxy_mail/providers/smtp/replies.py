"""What a relay answers, from bytes to `Reply`."""

import re
from typing import Final

from msgspec import Struct

from galaxy_mail.domain.errors import GalaxyMailError

LINE_MAX_BYTES: Final = 4_096  # RFC 5321 §4.5.3.1.5 says 512; relays with long stories exceed it
LINES_MAX: Final = 128  # of one reply; an EHLO of today has about 15
TEXT_MAX: Final = 200  # characters of relay text that an attempt keeps

# RFC 5321 §4.2; the text, and with it the space, may be missing. Whether the digits mean anything is asked later.
_LINE: Final = re.compile(rb"([0-9]{3})(?:([ -])(.*))?", re.DOTALL)
_MAY_BECOME_LINE: Final = re.compile(rb"[0-9]{0,3}\Z|[0-9]{3}[ \r-]")
_ENHANCED: Final = re.compile(rb"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |\Z)")  # RFC 2034 §4, RFC 3463 §2


class NotSmtp(GalaxyMailError):
    """Bytes that no SMTP server sends. Nothing that follows on the connection can be trusted."""


class Reply(Struct, frozen=True):
    """One whole reply, of one line or several."""

    code: int
    lines: tuple[bytes, ...]  # texts without code and line end; at least one

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code (RFC 3463), where there is one and its class fits the code."""
        found = _ENHANCED.match(self.lines[0])
        if found is None or found[1][0] - ord("0") != self.code // 100:
            return None
        return found[1].decode()

    @property
    def label(self) -> str:
        """What an attempt stores as `provider_code`: `550 5.1.1`, or `550` alone."""
        enhanced = self.enhanced
        return f"{self.code} {enhanced}" if enhanced else str(self.code)

    @property
    def text(self) -> str:
        """What the relay says to people: one printable line, bounded, without the enhanced codes."""
        return one_line(
            b" ".join(_ENHANCED.sub(b"", line, count=1) for line in self.lines).decode("utf-8", "replace")
        )


def one_line(text: str) -> str:
    """The text as one printable line of at most TEXT_MAX characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= TEXT_MAX else line[: TEXT_MAX - 1] + "…"


class ReplyReader:
    """Takes bytes as they come, split anywhere, and gives whole replies in order. Holds a bounded number of bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._code = b""  # of the reply whose first lines are in `_lines`
        self._lines: list[bytes] = []

    @property
    def is_empty(self) -> bool:
        """No byte waits for a reply to be asked for or to become whole."""
        return not self._buffer and not self._lines

    def receive(self, data: bytes | bytearray) -> None:
        self._buffer += data

    def next_reply(self) -> Reply | None:
        """The next whole reply; None: receive more. Raises NotSmtp."""
        buffer, lines = self._buffer, self._lines
        while (end := buffer.find(b"\n")) >= 0:
            if end > LINE_MAX_BYTES:
                raise NotSmtp("a reply line without end")
            line = bytes(buffer[:end]).removesuffix(
                b"\r"
            )  # a bare LF is no harm here: it ends one line either way
            del buffer[: end + 1]
            parts = _LINE.fullmatch(line)
            if parts is None:
                raise NotSmtp("not a reply line")
            code, separator, text = parts.groups()
            if lines and code != self._code:
                raise NotSmtp("the lines of one reply have different codes")  # RFC 5321 §4.2.1
            lines.append(text or b"")
            if separator != b"-":
                reply = Reply(int(code), tuple(lines))
                lines.clear()
                return reply
            if len(lines) >= LINES_MAX:
                raise NotSmtp("a reply without end")
            self._code = code
        if len(buffer) > LINE_MAX_BYTES:
            raise NotSmtp("a reply line without end")
        if not _MAY_BECOME_LINE.match(buffer):
            raise NotSmtp("not a reply line")  # said at once: what is no SMTP may never send a line end
        return None
