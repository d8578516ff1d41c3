"""Mail addresses and their normal form, so that equal mailboxes compare equal.

The normal form is an addr-spec of SMTP (RFC 5321 §4.1.2, RFC 6531 §3.3). The local part is kept as given, in NFC and
quoted only if necessary. The domain is in lower case, with A-labels (`xn--…`): a domain then has one form, which does
not change with Unicode versions, compares equal in indexes and suppression lists, and passes relays without SMTPUTF8.
"""

import re
import unicodedata
from typing import Final

import idna

from galaxy_mail.domain.errors import GalaxyMailError

LOCAL_PART_MAX_BYTES: Final = 64  # RFC 5321 §4.5.3.1.1
ADDRESS_MAX_BYTES: Final = 254  # RFC 5321 §4.5.3.1.3: a path has 256 octets with its angle brackets
_TEXT_MAX: Final = 1_000  # longer text is refused before the slow checks of IDNA

_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_DOT_ATOM: Final = rf"{_ATOM}(?:\.{_ATOM})*"
_NO_A_LABEL: Final = "(?![Xx][Nn]--)"  # the slow path checks A-labels by the rules of IDNA
_LABEL: Final = _NO_A_LABEL + r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_TOP_LABEL: Final = r"(?![0-9]+\Z)" + _LABEL  # an all-numeric one would be an IP address (RFC 3696 §2)
_PLAIN: Final = re.compile(rf"(?P<local>{_DOT_ATOM})@(?P<domain>(?:{_LABEL}\.)*{_TOP_LABEL})")
_ASCII_DOMAIN: Final = re.compile(_PLAIN.pattern.partition("@")[2].replace(_NO_A_LABEL, ""))
_IS_DOT_ATOM: Final = re.compile(_DOT_ATOM)
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"@(.*)', re.DOTALL)
_QUOTED_PAIR: Final = re.compile(r"\\(.)", re.DOTALL)
_LIST_ITEM: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^,"]|")+')  # a quoted comma does not separate items
_JOINERS: Final = "\u200c\u200d"  # Python calls them not printable, but Persian and Indic scripts need them


class BadAddress(GalaxyMailError, ValueError):
    """The text is not a mail address. The message gives the reason without the text."""


def parse_address(text: str) -> str:
    """The address in its normal form. Idempotent. Raises BadAddress."""
    if len(text) <= ADDRESS_MAX_BYTES and (plain := _PLAIN.fullmatch(text)):
        local, domain = plain.groups()
        if len(local) <= LOCAL_PART_MAX_BYTES:
            return f"{local}@{domain.lower()}"
    return _parse_slowly(text)


def domain_of(address: str) -> str:
    """The domain of a normalised address, in lower case."""
    return address.rpartition("@")[2].lower()


def to_ascii(address: str) -> str:
    """The address with its domain as A-labels. Raises BadAddress if the domain is invalid."""
    local, at, domain = address.rpartition("@")
    return address if domain.isascii() else f"{local}{at}{_normal_domain(domain)}"


def needs_smtputf8(address: str) -> bool:
    """Whether the address needs a relay with SMTPUTF8: a domain can be encoded in ASCII, a local part can't."""
    return not address.isascii() and not address.rpartition("@")[0].isascii()


def parse_suppression_entry(text: str) -> str:
    """An entry of the suppression list or allowlist in lower case: an address, or `@domain` for a whole domain.

    RFC 5321 §2.4 lets hosts distinguish mailboxes by case, but in practice they are the same. Raises BadAddress.
    """
    if text.startswith("@"):
        _refuse_oversize(text)
        return f"@{_normal_domain(text[1:])}"
    return parse_address(text).lower()


def parse_allowlist(text: str) -> frozenset[str]:
    """The entries of a comma-separated list without blank ones. Raises BadAddress with the entry's number."""
    entries: set[str] = set()
    for number, item in enumerate((i for i in _LIST_ITEM.findall(text) if i.strip()), 1):
        try:
            entries.add(parse_suppression_entry(item.strip()))
        except BadAddress as bad:
            raise BadAddress(f"entry {number}: {bad}") from None
    return frozenset(entries)


def _parse_slowly(text: str) -> str:
    """Parses quoted local parts and non-ASCII addresses, and finds the reason of an error."""
    if not text:
        raise BadAddress("the address is empty")
    _refuse_oversize(text)
    if any(not (char.isprintable() or char in _JOINERS) for char in text):
        raise BadAddress("control characters, line breaks and invisible characters are not allowed")
    if quoted := _QUOTED.fullmatch(text):
        content, domain = quoted.groups()
        local = _normal_local_part(_QUOTED_PAIR.sub(r"\1", content))
    else:
        content, at, domain = text.rpartition("@")
        if not at:
            raise BadAddress("an address needs an @")
        if "<" in text or ">" in text:
            raise BadAddress("only the bare address is allowed, without display name and angle brackets")
        if not _is_dot_atom(content):
            raise BadAddress("the part before the @ is empty or has characters that need quotes")
        local = _normal_local_part(content)
    if len(local.encode()) > LOCAL_PART_MAX_BYTES:
        raise BadAddress(f"the part before the @ is longer than {LOCAL_PART_MAX_BYTES} bytes")
    address = f"{local}@{_normal_domain(domain)}"
    if len(address.encode()) > ADDRESS_MAX_BYTES:
        raise BadAddress(f"an address is at most {ADDRESS_MAX_BYTES} bytes long")
    return address


def _refuse_oversize(text: str) -> None:
    if len(text) > _TEXT_MAX:
        raise BadAddress(f"an address is at most {ADDRESS_MAX_BYTES} bytes long")


def _normal_local_part(content: str) -> str:
    """The shortest form: unnecessary quotes do not change the mailbox (RFC 5321 §4.1.2, RFC 6532 §3.1)."""
    content = unicodedata.normalize("NFC", content)
    if not content:
        raise BadAddress("the part before the @ is empty")
    if _is_dot_atom(content):
        return content
    return '"' + content.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_dot_atom(content: str) -> bool:
    """Non-ASCII characters count as letters (RFC 6531 §3.3), except spaces."""
    if not content.isascii():
        content = "".join(char if char.isascii() else "u" if not char.isspace() else " " for char in content)
    return _IS_DOT_ATOM.fullmatch(content) is not None


def _normal_domain(domain: str) -> str:
    if domain.startswith("["):
        raise BadAddress("address literals are not allowed, only domain names")
    if not domain.isascii() or "xn--" in domain.lower():
        try:
            # UTS 46 maps what people type (capitals, full-width letters and dots) before IDNA 2008 validates it.
            domain = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise BadAddress("the domain is not a valid (international) domain name") from None
    if not _ASCII_DOMAIN.fullmatch(domain) or len(domain) > 253:
        raise BadAddress("the part after the @ is not a domain name")
    return domain.lower()
