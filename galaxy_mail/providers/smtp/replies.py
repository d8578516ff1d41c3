"""Parses the replies of a relay."""

import re
from typing import Final

from msgspec import Struct

from galaxy_mail.domain.errors import GalaxyMailError

LINE_MAX_BYTES: Final = 4_096  # RFC 5321 §4.5.3.1.5 says 512; some relays send longer lines
LINES_MAX: Final = 128  # of one reply; the reply to EHLO has about 15
TEXT_MAX: Final = 200  # characters of the relay's text that an attempt record keeps

# RFC 5321 §4.2. The text and the space before it may be missing. `outcomes.classify` judges the code.
_LINE: Final = re.compile(rb"([0-9]{3})(?:([ -])(.*))?", re.DOTALL)
_MAY_BECOME_LINE: Final = re.compile(rb"[0-9]{0,3}\Z|[0-9]{3}[ \r-]")
_ENHANCED: Final = re.compile(rb"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |\Z)")  # RFC 2034 §4, RFC 3463 §2


class NotSmtp(GalaxyMailError):
    """Not the bytes of an SMTP server. The connection can't be used any more."""


class Reply(Struct, frozen=True):
    """One complete reply of one or several lines."""

    code: int
    lines: tuple[bytes, ...]  # each without code and line end; at least one

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code (RFC 3463). None: there is none, or its class contradicts the code."""
        found = _ENHANCED.match(self.lines[0])
        if found is None or found[1][0] - ord("0") != self.code // 100:
            return None
        return found[1].decode()

    @property
    def label(self) -> str:
        """The attempt's `provider_code`: `550 5.1.1`, or `550` without an enhanced code."""
        enhanced = self.enhanced
        return f"{self.code} {enhanced}" if enhanced else str(self.code)

    @property
    def text(self) -> str:
        """The relay's text as one printable line of at most TEXT_MAX characters, without the enhanced codes."""
        return one_line(
            b" ".join(_ENHANCED.sub(b"", line, count=1) for line in self.lines).decode("utf-8", "replace")
        )


def one_line(text: str) -> str:
    """The text as one printable line of at most TEXT_MAX characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= TEXT_MAX else line[: TEXT_MAX - 1] + "…"


class ReplyReader:
    """Takes bytes, split anywhere, and returns complete replies in order. Its buffer is bounded."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._code = b""  # of the reply whose first lines are in `_lines`
        self._lines: list[bytes] = []

    @property
    def is_empty(self) -> bool:
        """Whether no received bytes are left: neither a complete reply nor a part of one."""
        return not self._buffer and not self._lines

    def receive(self, data: bytes | bytearray) -> None:
        self._buffer += data

    def next_reply(self) -> Reply | None:
        """The next complete reply. None: receive more. Raises NotSmtp."""
        buffer, lines = self._buffer, self._lines
        while (end := buffer.find(b"\n")) >= 0:
            if end > LINE_MAX_BYTES:
                raise NotSmtp("the reply has a line that is too long")
            line = bytes(buffer[:end]).removesuffix(b"\r")  # a bare LF does no harm: it ends the line, too
            del buffer[: end + 1]
            parts = _LINE.fullmatch(line)
            if parts is None:
                raise NotSmtp("the answer is not an SMTP reply")
            code, separator, text = parts.groups()
            if lines and code != self._code:
                raise NotSmtp("the lines of the reply have different codes")  # RFC 5321 §4.2.1
            lines.append(text or b"")
            if separator != b"-":
                reply = Reply(int(code), tuple(lines))
                lines.clear()
                return reply
            if len(lines) >= LINES_MAX:
                raise NotSmtp("the reply has too many lines")
            self._code = code
        if len(buffer) > LINE_MAX_BYTES:
            raise NotSmtp("the reply has a line that is too long")
        if not _MAY_BECOME_LINE.match(buffer):
            raise NotSmtp("the answer is not an SMTP reply")  # at once: a line end may never come
        return None
