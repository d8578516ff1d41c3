"""Builds the bytes of a mail. Equal messages give equal bytes.

`email.message` does the same a hundred times slower. The structure, in which a level is left out if it isn't needed:

    multipart/mixed
      multipart/alternative
        text/plain
        multipart/related
          text/html
          inline attachments, named by the HTML as cid:...
      attachments

Lines end in CRLF; dots are not stuffed. Headers are ASCII, except for addresses with a non-ASCII local part, which need
SMTPUTF8 (RFC 6532). Text parts keep their text; only line ends change: CR, LF and CRLF become CRLF, and the last line
gets one.
"""

import re
import time
from binascii import b2a_base64, b2a_qp
from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from struct import Struct as BinaryLayout
from typing import Final, NamedTuple

from msgspec import Struct

from galaxy_mail.domain import addresses
from galaxy_mail.domain.addresses import BadAddress, parse_address
from galaxy_mail.domain.base64 import base64_bytes
from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.media_type import parse_media_type
from galaxy_mail.domain.records import Attachment
from galaxy_mail.providers.provider import Message

LINE_MAX: Final = 998  # RFC 5322 §2.1.1, octets without CRLF
_FOLD_AT: Final = 78  # RFC 5322 §2.1.1: lines should not be longer
_ENCODED_LINE_MAX: Final = 76  # RFC 2047 §2: a line with an encoded word
_BASE64_LINE: Final = 76  # RFC 2045 §6.8

CRLF: Final = b"\r\n"


class MailFrom(Struct, frozen=True, kw_only=True):
    """The From address: MAIL_SMTP_FROM_EMAIL and MAIL_SMTP_FROM_NAME."""

    email: str
    name: str | None = None


class BadMessage(GalaxyMailError, ValueError):
    """The message can't be encoded as a mail; a retry won't help. The text names the part but doesn't quote it.

    Intake already refuses such values. This check is the second line of defence, above all against header injection.
    """


class _MimePart(NamedTuple):
    chunks: tuple[bytes, ...]  # header fields, blank line, body
    eight_bit: bool = False
    verbatim: bytes = b""  # an unencoded body, which may contain a boundary; encoded ones never contain "=_"


def build(message: Message, *, sender: MailFrom, eight_bit: bool, smtputf8: bool) -> bytes:
    """The complete mail. Raises BadMessage.

    `eight_bit`: the relay accepts non-ASCII bytes (8BITMIME). `smtputf8`: it also accepts UTF-8 in addresses; pass it
    only if `needs_smtputf8` says so. Large attachments take milliseconds: build those in a thread.
    """
    body = _body(message, eight_bit=eight_bit)
    header = "\r\n".join(_header(message, sender, smtputf8=smtputf8))
    mail = b"".join((header.encode(), CRLF, *body.chunks))
    return mail if mail.endswith(CRLF) else mail + CRLF


def needs_smtputf8(message: Message, sender: MailFrom) -> bool:
    """Whether the envelope or a header field has an address that requires SMTPUTF8."""
    envelope = message.envelope
    return any(map(addresses.needs_smtputf8, (sender.email, *envelope.recipients(), *envelope.reply_to)))


# Header


def _header(message: Message, sender: MailFrom, *, smtputf8: bool) -> Iterator[str]:
    envelope = message.envelope
    yield f"Date: {_date(message.date_ms)}"
    yield _from(sender, smtputf8=smtputf8)
    if envelope.reply_to:
        yield _address_list("Reply-To", envelope.reply_to, smtputf8=smtputf8)
    if envelope.to:
        yield _address_list("To", envelope.to, smtputf8=smtputf8)
    if envelope.cc:
        yield _address_list("Cc", envelope.cc, smtputf8=smtputf8)
    if not envelope.to and not envelope.cc:
        # RFC 5322 §3.6.3 requires no recipient field, but spam filters distrust a mail without one.
        yield "To: undisclosed-recipients:;"
    yield _unstructured("Subject", message.content.subject)
    yield f"Message-ID: <{_message_id(message.message_id)}>"
    yield "Auto-Submitted: auto-generated"  # RFC 3834: asks for no out-of-office replies
    yield "MIME-Version: 1.0"


@lru_cache(maxsize=16)
def _from(sender: MailFrom, *, smtputf8: bool) -> str:
    address = _address("From", sender.email, smtputf8=smtputf8)
    if not sender.name:
        return f"From: {address}"
    field = f"From: {_phrase('From', sender.name)}"
    last_line = field[field.rfind("\n") + 1 :]
    fits = len(last_line) + len(address) + len(" <>") <= _ENCODED_LINE_MAX
    return f"{field}{' ' if fits else _NEW_LINE}<{address}>"


def _address_list(field: str, given: tuple[str, ...], *, smtputf8: bool) -> str:
    line = f"{field}:"
    lines: list[str] = []
    last = len(given) - 1
    for at, text in enumerate(given):
        item = _address(field, text, smtputf8=smtputf8) + ("," if at < last else "")
        if at and len(line) + 1 + len(item) > _FOLD_AT:
            lines.append(line)
            line = ""
        line = f"{line} {item}"
    lines.append(line)
    return "\r\n".join(lines)


def _address(field: str, text: str, *, smtputf8: bool) -> str:
    try:
        address = parse_address(text)
    except BadAddress as bad:
        raise BadMessage(f"{field}: {bad}") from None
    if not address.isascii() and not smtputf8:
        raise BadMessage(f"{field}: an address needs SMTPUTF8")
    return address


_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _date(date_ms: int) -> str:
    """RFC 5322 §3.3, in UTC and English. `strftime` would use the process's locale."""
    t = time.gmtime(date_ms // 1000)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02d} {_MONTHS[t.tm_mon - 1]} {t.tm_year:04d}"
        f" {t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} +0000"
    )


_ID: Final = re.compile(r"[!-;=?-~]{1,900}")  # printable ASCII except < and >


def _message_id(message_id: str) -> str:
    if not _ID.fullmatch(message_id):
        raise BadMessage("Message-ID: has characters that are not allowed in an id")
    return message_id


_NEW_LINE: Final = "\r\n "
_PLAIN_TEXT: Final = re.compile(r"[!-~]+(?: +[!-~]+)*")
_ATOMS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_WORD: Final = re.compile(r" *[^ ]+")
_Q_SAFE: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/"  # RFC 2047 §5 (3)
_Q: Final = {chr(byte): chr(byte) for byte in _Q_SAFE} | {" ": "_"}
_WORD_OVERHEAD: Final = len("=?utf-8?q??=")


def _unstructured(field: str, text: str) -> str:
    """A header field with any text: folded between words, or as encoded words if it is not plain ASCII."""
    _refuse_line_ends(field, text)
    if not text:
        return f"{field}:"
    if _PLAIN_TEXT.fullmatch(text) and "=?" not in text:
        line = f"{field}: {text}"
        if len(line) <= _FOLD_AT:
            return line
        if folded := _folded(field, text):
            return folded
    return f"{field}: {_encoded_words(text, field, used=len(field) + 2)}"


def _folded(field: str, text: str) -> str | None:
    """Folded before white space, which unfolding keeps. None: a word is too long for a line."""
    lines: list[str] = []
    line = f"{field}: "
    for at, word in enumerate(_WORD.findall(text)):
        if at and len(line) + len(word) > _FOLD_AT:
            lines.append(line)
            line = ""
        line += word
        if len(line) > _FOLD_AT:
            return None
    lines.append(line)
    return "\r\n".join(lines)


def _phrase(field: str, name: str) -> str:
    """A display name as atoms, else as a quoted string, else as encoded words."""
    _refuse_line_ends(field, name)
    if len(name) <= 60 and _PLAIN_TEXT.fullmatch(name) and "=?" not in name:
        if _ATOMS.fullmatch(name):
            return name
        return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return _encoded_words(name, field, used=len(field) + 2)


def _encoded_words(text: str, field: str, *, used: int) -> str:
    """RFC 2047: one encoded word per line; no character is split between two.

    Encodes the whole text, because readers drop white space between encoded words.
    """
    data = _utf8(field, text)
    room = _ENCODED_LINE_MAX - used - _WORD_OVERHEAD
    room_later = _ENCODED_LINE_MAX - 1 - _WORD_OVERHEAD
    words: list[str] = []
    if len(data) + 2 * len(data.translate(None, _Q_SAFE + b" ")) <= (len(data) + 2) // 3 * 4:
        word = ""
        for char in text:
            coded = _Q.get(char) or "".join([f"={byte:02X}" for byte in char.encode()])
            if len(word) + len(coded) > room:
                words.append(f"=?utf-8?q?{word}?=")
                word = ""
                room = room_later
            word += coded
        words.append(f"=?utf-8?q?{word}?=")
    else:
        start = 0
        while start < len(data):
            end = min(start + room // 4 * 3, len(data))
            while end < len(data) and data[end] & 0xC0 == 0x80:  # within a character
                end -= 1
            words.append(f"=?utf-8?b?{b2a_base64(data[start:end], newline=False).decode()}?=")
            start = end
            room = room_later
    return _NEW_LINE.join(words)


def _refuse_line_ends(where: str, text: str) -> None:
    if "\r" in text or "\n" in text or "\0" in text:
        raise BadMessage(f"{where}: CR, LF and NUL are not allowed")


def _utf8(where: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadMessage(f"{where}: contains a lone surrogate") from None


# Body


def _body(message: Message, *, eight_bit: bool) -> _MimePart:
    content = message.content
    inline: list[_MimePart] = []
    attached: list[_MimePart] = []
    for at, attachment in enumerate(message.attachments):
        part = _attachment(f"attachments[{at}]", attachment)
        # Without HTML nothing refers to an inline attachment, and only multipart/mixed reliably shows it.
        (inline if attachment.inline and content.html_body is not None else attached).append(part)
    text = _text(b"plain", content.text_body, "text_body", eight_bit=eight_bit)
    if content.html_body is None and not attached:
        return text
    html = (
        None
        if content.html_body is None
        else _text(b"html", content.html_body, "html_body", eight_bit=eight_bit)
    )
    marker = _marker(message.delivery_id, text.verbatim, html.verbatim if html else b"")
    body = text
    if html:
        if inline:
            html = _multipart(b'related; type="text/html"', marker + b"_r", html, *inline)
        body = _multipart(b"alternative", marker + b"_a", text, html)
    return _multipart(b"mixed", marker + b"_m", body, *attached) if attached else body


def _marker(delivery_id: str, *verbatim: bytes) -> bytes:
    """What all boundaries start with. It doesn't occur in the content, even if someone writes it there on purpose."""
    for attempt in range(1_000):
        digest = blake2b(f"{delivery_id}:{attempt}".encode(), digest_size=12).hexdigest()
        marker = f"=_{digest}".encode()
        if not any(marker in body for body in verbatim):
            return marker
    raise BadMessage("text_body, html_body: every possible boundary occurs in the content")


def _multipart(subtype: bytes, boundary: bytes, *children: _MimePart) -> _MimePart:
    eight_bit = any(child.eight_bit for child in children)
    chunks: list[bytes] = [
        b'Content-Type: multipart/%b;\r\n boundary="%b"\r\n' % (subtype, boundary),
        # RFC 2045 §6.4: an outer part must declare 8bit if an inner part does.
        b"Content-Transfer-Encoding: 8bit\r\n" if eight_bit else b"",
    ]
    delimiter = b"\r\n--" + boundary
    for child in children:
        chunks += (delimiter, CRLF, *child.chunks)
    chunks.append(delimiter + b"--")
    return _MimePart(tuple(chunks), eight_bit)


_UNPRINTABLE: Final = bytes({*range(32), 127} - {*b"\t\n"})  # always encoded; SMTP forbids NUL


def _text(subtype: bytes, text: str, where: str, *, eight_bit: bool) -> _MimePart:
    """A text part: unencoded if relays may not change it, else in the shorter encoding."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text and not text.endswith("\n"):
        text += "\n"
    data = _utf8(where, text)
    ascii_only = text.isascii()
    head = b'Content-Type: text/%b; charset="utf-8"\r\nContent-Transfer-Encoding: %%b\r\n\r\n' % subtype
    if (
        (ascii_only or eight_bit)
        and not _has_long_line(data)
        and len(data.translate(None, _UNPRINTABLE)) == len(data)
    ):
        body = data.replace(b"\n", CRLF)
        return _MimePart((head % (b"7bit" if ascii_only else b"8bit"), body), not ascii_only, body)
    # b2a_qp gets LF, not CRLF: with CRLF, it would end its soft line breaks in CRLF, too.
    encoded = b2a_qp(data)
    if len(encoded) <= len(data) // 3 * 4:
        return _MimePart((head % b"quoted-printable", encoded.replace(b"\n", CRLF)))
    in_base64 = b2a_base64(data.replace(b"\n", CRLF), newline=False)
    return _MimePart((head % b"base64", _base64_lines(in_base64)))


def _has_long_line(data: bytes) -> bool:
    """Whether a line has more than LINE_MAX bytes without its LF. Skips as many whole lines at once as fit into that."""
    at = 0
    while len(data) - at > LINE_MAX:
        end = data.rfind(b"\n", at, at + LINE_MAX + 1)
        if end < 0:
            return True
        at = end + 1
    return False


def _attachment(where: str, attachment: Attachment) -> _MimePart:
    content_id = attachment.content_id
    head = _content_type(where, attachment.content_type) + "Content-Transfer-Encoding: base64\r\n"
    if content_id is not None:
        if content_id.startswith("<") and content_id.endswith(">"):
            content_id = content_id[1:-1]
        if not _ID.fullmatch(content_id):
            raise BadMessage(f"{where}.content_id: has characters that are not allowed in an id")
        head += f"Content-ID: <{content_id}>\r\n"
    disposition = "attachment" if content_id is None else "inline"
    head += f"Content-Disposition: {disposition}{_filename(where, attachment.filename)}\r\n\r\n"
    return _MimePart((head.encode(), _base64_lines(_base64(where, attachment.content_base64))))


@lru_cache(maxsize=64)
def _content_type(where: str, content_type: str) -> str:
    _refuse_line_ends(f"{where}.content_type", content_type)
    media_type = parse_media_type(content_type)
    if media_type is None:
        raise BadMessage(f"{where}.content_type: not a media type")
    if media_type.type.lower() in ("multipart", "message"):
        # RFC 2046 §5 forbids base64 for these types, and only base64 keeps the bytes unchanged.
        return "Content-Type: application/octet-stream\r\n"
    lines = [f"Content-Type: {media_type.type}/{media_type.subtype}", *media_type.parameters]
    return ";\r\n ".join(lines) + "\r\n"


# Without characters that need a backslash, which mail clients get wrong.
_SIMPLE_FILENAME: Final = re.compile(r"(?=[^ ])[ !#-\[\]-~]{1,60}(?<! )")
_EXTENDED_SAFE: Final = (
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&+-.^_`{|}~"  # RFC 2231 §7
)


def _filename(where: str, filename: str) -> str:
    """The filename parameter: quoted if every mail client understands that, else by RFC 2231 §4, in pieces if long."""
    _refuse_line_ends(f"{where}.filename", filename)
    if not filename:
        return ""
    if _SIMPLE_FILENAME.fullmatch(filename) and "=?" not in filename:
        return f';\r\n filename="{filename}"'
    _utf8(f"{where}.filename", filename)
    pieces = [""]
    for char in filename:
        coded = char if char in _EXTENDED_SAFE else "".join([f"%{byte:02X}" for byte in char.encode()])
        if len(pieces[-1]) + len(coded) > 50:
            pieces.append("")
        pieces[-1] += coded
    if len(pieces) == 1:
        return f";\r\n filename*=utf-8''{pieces[0]}"
    pieces[0] = f"utf-8''{pieces[0]}"
    return "".join([f";\r\n filename*{at}*={piece}" for at, piece in enumerate(pieces)])


_MANY_LINES: Final = BinaryLayout(f"{_BASE64_LINE}s" * 256)


def _base64(where: str, content: str) -> bytes:
    """The base64 text, validated. It is sent as it came, only split into lines."""
    data = base64_bytes(content)
    if data is None:
        raise BadMessage(f"{where}.content_base64: not base64 (RFC 4648 §4)")
    return data


def _base64_lines(data: bytes) -> bytes:
    lines: list[bytes] = []
    at = 0
    while at + _MANY_LINES.size <= len(data):  # the fastest way to split a megabyte in Python
        lines += _MANY_LINES.unpack_from(data, at)
        at += _MANY_LINES.size
    lines += [data[start : start + _BASE64_LINE] for start in range(at, len(data), _BASE64_LINE)]
    lines.append(b"")
    return CRLF.join(lines)
