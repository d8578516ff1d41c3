import re
from base64 import b64encode
from collections.abc import Callable
from email import message_from_bytes, message_from_string
from email.headerregistry import Address, ContentDispositionHeader
from email.message import EmailMessage
from email.message import Message as Mail
from email.policy import default as default_policy
from email.utils import getaddresses, parseaddr
from hashlib import blake2b
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain.base64 import BASE64_SYNTAX
from galaxy_mail.domain.commands import (
    CONTENT_ID_SYNTAX,
    FILENAME_SYNTAX,
    HEADER_TEXT_SYNTAX,
)
from galaxy_mail.domain.media_type import CONTENT_TYPE_MAX_CHARS, CONTENT_TYPE_SYNTAX
from galaxy_mail.domain.records import Attachment
from galaxy_mail.providers.mime import BadMessage, MailFrom, build, needs_smtputf8
from galaxy_mail.providers.provider import Message
from galaxy_mail.providers.readable import decoded
from tests.unit.providers.messages import DATE_MS, SENDER, attachment, message

LOGO = attachment(b"\x89PNG", filename="logo.png", content_type="image/png", content_id="logo")

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
# Characters that have a meaning in headers, and lengths at which lines are folded.
tricky = st.text(st.sampled_from("ab =?_\"\\@<>(),;:%'*\t\x7f\x85\u2028äé€😀"), max_size=200)
header_text = st.one_of(tricky, any_text).map(lambda text: re.sub("[\r\n\0]", "", text))
any_body = st.one_of(
    any_text,
    st.text(st.sampled_from("a .=-\r\n\t\0ü€"), max_size=400),
    st.builds(
        lambda unit, times: unit * times, st.sampled_from(["ab ", "ü", "€ x\n", ". \r"]), st.integers(0, 700)
    ),
)


def mail(
    given: Message, *, sender: MailFrom = SENDER, eight_bit: bool = False, smtputf8: bool = False
) -> bytes:
    """What `build` makes of it, after checks that hold for every mail."""
    built = build(given, sender=sender, eight_bit=eight_bit, smtputf8=smtputf8)
    lines = built.split(b"\r\n")
    assert lines[-1] == b"", "the last line has its end"
    assert not re.search(rb"[\r\n\0]", b"".join(lines)), "CR and LF come together only, NUL not at all"
    assert max(map(len, lines)) <= 998
    header = built.partition(b"\r\n\r\n")[0]
    assert max(map(len, header.split(b"\r\n"))) <= 78 or b"=?" not in header
    if not smtputf8:
        assert header.isascii()
    if not eight_bit and not smtputf8:
        assert built.isascii()
    assert built == build(given, sender=sender, eight_bit=eight_bit, smtputf8=smtputf8)
    return built


def parsed(built: bytes) -> tuple[EmailMessage, Mail]:
    """As today's parser of the standard library reads it, and as yesterday's, which more of the world resembles."""
    modern = message_from_bytes(built, policy=default_policy)
    assert isinstance(modern, EmailMessage)
    for part in modern.walk():
        assert not part.defects
    return modern, message_from_bytes(built)


def tree(part: Mail) -> object:
    kind = part.get_content_subtype()
    return {kind: [tree(child) for child in part.get_payload()]} if part.is_multipart() else kind  # type: ignore[arg-type]  # the stubs don't know what is_multipart says


def lines_of(field: str, built: bytes) -> list[str]:
    """The lines of a header field, without their ends."""
    header = built.decode().partition("\r\n\r\n")[0]
    (only,) = (each for each in re.split(r"\r\n(?! )", header) if each.startswith(f"{field}:"))
    return only.split("\r\n")


def leaves(part: Mail) -> list[Mail]:
    return [each for each in part.walk() if not each.is_multipart()]


def text_of(part: Mail) -> str:
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    return data.decode(part.get_content_charset("wrong"))


def as_read(text: str) -> str:
    """A text part as its reader gets it: every line end is CRLF, the last line has one."""
    lines = re.split("\r\n|\r|\n", text)
    return "\r\n".join(lines if lines[-1] == "" else [*lines, ""])


# The whole


def test_a_login_mail_reads_like_this() -> None:
    login = message(
        subject="Ваш код: 123456",
        text="Ваш код: 123456\n",
        html="<p>Ваш код: <b>123456</b></p>\n",
    )
    marker = "=_" + blake2b(b"d.1:0", digest_size=12).hexdigest()
    assert mail(login, eight_bit=True).decode().split("\r\n") == [
        "Date: Tue, 01 Jul 2025 10:00:05 +0000",
        "From: Galaxy <no-reply@galaxy.example>",
        "To: pilot@a.example",
        "Subject: =?utf-8?b?0JLQsNGIINC60L7QtDogMTIzNDU2?=",
        "Message-ID: <d.1@galaxy.example>",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: multipart/alternative;",
        f' boundary="{marker}_a"',
        "Content-Transfer-Encoding: 8bit",
        "",
        f"--{marker}_a",
        'Content-Type: text/plain; charset="utf-8"',
        "Content-Transfer-Encoding: 8bit",
        "",
        "Ваш код: 123456",
        "",
        f"--{marker}_a",
        'Content-Type: text/html; charset="utf-8"',
        "Content-Transfer-Encoding: 8bit",
        "",
        "<p>Ваш код: <b>123456</b></p>",
        "",
        f"--{marker}_a--",
        "",
    ]


@pytest.mark.parametrize(("html", "inline", "attached"), list(product([False, True], [0, 1, 2], [0, 1, 2])))
def test_parts_nest_as_far_as_they_must(html: bool, inline: int, attached: int) -> None:
    """Inline attachments belong to the HTML; without it nothing could refer to them, and they are attached."""
    built = mail(
        message(
            html="<p>" if html else None,
            attachments=(*[LOGO] * inline, *[attachment()] * attached),
        )
    )
    images, documents = ["png"] * inline, ["pdf"] * attached
    body: object = "plain"
    if html:
        body = {"alternative": ["plain", {"related": ["html", *images]} if inline else "html"]}
        images = []
    expected = {"mixed": [body, *images, *documents]} if images or documents else body
    for read in parsed(built):
        assert tree(read) == expected


def test_every_attempt_sends_the_same_bytes() -> None:
    of_attempts = {
        mail(message(attempt_no=attempt_no, html="<p>ü", attachments=(LOGO,))) for attempt_no in (1, 2, 3)
    }
    assert len(of_attempts) == 1


def test_different_deliveries_have_different_boundaries() -> None:
    one, other = (parsed(mail(message(delivery_id=i, html="<p>")))[0].get_boundary() for i in ("d.1", "d.2"))
    assert one != other


def test_a_boundary_is_never_in_the_content_even_on_purpose() -> None:
    markers = ["=_" + blake2b(f"d.1:{n}".encode(), digest_size=12).hexdigest() for n in range(3)]
    text = f"--{markers[0]}_a--\n--{markers[0]}_m\n"
    html = f"--{markers[1]}_a\n"
    built = mail(message(text=text, html=html, attachments=(attachment(markers[0].encode()),)))
    for read in parsed(built):
        plain, marked_up, attached = leaves(read)
        assert text_of(plain) == as_read(text)
        assert text_of(marked_up) == as_read(html)
        assert attached.get_payload(decode=True) == markers[0].encode()
    assert markers[2].encode() in built


# Header fields


def test_the_header_names_date_and_id_of_the_delivery_and_that_a_machine_wrote() -> None:
    modern, _ = parsed(mail(message(date_ms=DATE_MS, message_id="d.1~2_x@galaxy.example")))
    assert modern["Date"].datetime.timestamp() == DATE_MS // 1000
    assert modern["Message-ID"] == "<d.1~2_x@galaxy.example>"
    assert modern["Auto-Submitted"] == "auto-generated"
    assert modern["MIME-Version"] == "1.0"
    assert [name for name in modern if modern.keys().count(name) > 1] == []


@pytest.mark.parametrize(
    ("date_ms", "date"),
    [
        (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
        (1_709_208_000_999, "Thu, 29 Feb 2024 12:00:00 +0000"),
        (1_767_225_599_999, "Wed, 31 Dec 2025 23:59:59 +0000"),
    ],
)
def test_dates_are_in_utc(date_ms: int, date: str) -> None:
    assert parsed(mail(message(date_ms=date_ms)))[0]["Date"] == date


@given(header_text)
def test_any_subject_comes_back(subject: str) -> None:
    modern, old = parsed(mail(message(subject=subject)))
    assert str(modern["Subject"]) == subject
    assert decoded(str(old["Subject"])) == subject


@given(st.lists(st.sampled_from(["a", "word", "  ", "x" * 30, "y" * 90, "ü"]), max_size=40).map(" ".join))
def test_subjects_are_folded_without_a_trace(subject: str) -> None:
    modern, old = parsed(mail(message(subject=subject)))
    assert str(modern["Subject"]) == subject
    assert decoded(str(old["Subject"])) == subject


@given(header_text.filter(str.strip))
def test_any_display_name_comes_back(name: str) -> None:
    modern, old = parsed(mail(message(), sender=MailFrom(email="a@b.example", name=name)))
    shown, address = parseaddr(re.sub("\r\n(?= )", "", str(old["From"])))
    assert (decoded(shown), address) == (name, "a@b.example")
    author: Address = modern["From"].addresses[0]
    assert author.addr_spec == "a@b.example"
    # Without white space: this parser collapses it, and in some releases puts one between encoded words (gh-92081).
    assert "".join(author.display_name.split()) == "".join(name.split())


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (None, "From: a@b.example"),
        ("", "From: a@b.example"),
        ("Galaxy Mail", "From: Galaxy Mail <a@b.example>"),
        ("Galaxy, Inc.", 'From: "Galaxy, Inc." <a@b.example>'),
        ('The "Galaxy" \\o/', r'From: "The \"Galaxy\" \\o/" <a@b.example>'),
        ("Galaxy Mäil", "From: =?utf-8?q?Galaxy_M=C3=A4il?= <a@b.example>"),
        ("Галактика", "From: =?utf-8?b?0JPQsNC70LDQutGC0LjQutCw?= <a@b.example>"),
        ("=?utf-8?q?x?=", "From: =?utf-8?b?PT91dGYtOD9xP3g/PQ==?= <a@b.example>"),
    ],
)
def test_a_display_name_is_encoded_as_simply_as_it_can_be(name: str | None, line: str) -> None:
    built = mail(message(), sender=MailFrom(email="a@b.example", name=name))
    assert line.encode() in built.split(b"\r\n")


def test_a_long_display_name_pushes_the_address_onto_its_own_line() -> None:
    built = mail(message(), sender=MailFrom(email="a@b.example", name="N" * 60))
    assert b"From: " + b"N" * 60 + b"\r\n <a@b.example>\r\n" in built


@given(header_text)
def test_encoded_words_hold_whole_characters(subject: str) -> None:
    """RFC 2047 §5: each encoded word is readable alone, and lines with them have 76 characters."""
    lines = lines_of("Subject", mail(message(subject=subject)))
    words = re.findall(r"=\?utf-8\?[bq]\?[^? ]*\?=", "\n".join(lines))
    assert len(words) in (0, len(lines))
    for word in words:
        assert len(word) <= 75
        assert "\N{REPLACEMENT CHARACTER}" not in decoded(word) or "\N{REPLACEMENT CHARACTER}" in subject
    if words:
        assert max(map(len, lines)) <= 76


@pytest.mark.parametrize("letter", ["é", "€" * 30])
def test_encoded_words_fit_at_every_length(letter: str) -> None:
    for length in range(150):
        subject = letter + "x" * length
        lines = lines_of("Subject", mail(message(subject=subject)))
        assert max(map(len, lines)) <= 76
        assert decoded("\r\n".join(lines).removeprefix("Subject: ")) == subject


def test_a_subject_that_looks_like_an_encoded_word_is_not_decoded() -> None:
    modern, _ = parsed(mail(message(subject="=?utf-8?q?x?=")))
    assert modern["Subject"] == "=?utf-8?q?x?="


ADDRESSES = (
    "pilot@a.example",
    '"a b"@c.example',
    r'"a\"b\\c, <x@y>"@c.example',
    "o'brien+tag@d.example",
    "u@xn--bcher-kva.example",
    "l" * 64 + "@" + ".".join(["d" * 59] * 3) + ".example",
)


def test_addresses_come_back_in_their_fields_and_bcc_nowhere() -> None:
    built = mail(message(to=ADDRESSES, cc=ADDRESSES[::-1], reply_to=ADDRESSES[:3], bcc=("spy@e.example",)))
    modern, old = parsed(built)
    for field, expected in {"To": ADDRESSES, "Cc": ADDRESSES[::-1], "Reply-To": ADDRESSES[:3]}.items():
        assert tuple(each.addr_spec for each in modern[field].addresses) == expected
        unfolded = str(old[field]).replace("\r\n", "")
        assert len(getaddresses([unfolded])) == len(expected)
    assert b"spy" not in built
    assert "Bcc" not in modern


def test_address_lists_are_folded_after_commas() -> None:
    to = tuple(f"pilot-number-{n}@galaxy.example" for n in range(50))
    built = mail(message(to=to))
    lines = lines_of("To", built)
    assert max(map(len, lines)) <= 78
    assert len(lines) == 25, "two fit on a line"


@pytest.mark.parametrize(("length", "lines"), [(57, 1), (58, 2)])
def test_an_address_that_would_pass_78_characters_starts_a_line(length: int, lines: int) -> None:
    second = f"{'l' * (length - 10)}@b.example"
    folded = lines_of("To", mail(message(to=("pilot@a.example", second))))
    assert "".join(folded) == f"To: pilot@a.example, {second}"
    assert len(folded) == lines


@pytest.mark.parametrize(
    ("to", "cc", "line"),
    [
        ((), (), b"To: undisclosed-recipients:;"),
        ((), ("pilot@a.example",), b"Cc: pilot@a.example"),
        (("pilot@a.example",), (), b"To: pilot@a.example"),
    ],
)
def test_a_mail_to_bcc_alone_says_so(to: tuple[str, ...], cc: tuple[str, ...], line: bytes) -> None:
    built = mail(message(to=to, cc=cc, bcc=("spy@e.example",)))
    recipients = [each for each in built.split(b"\r\n") if each.startswith((b"To:", b"Cc:"))]
    assert recipients == [line]


def test_domains_in_unicode_are_sent_as_a_labels() -> None:
    built = mail(message(to=("u@Bücher.example",)), sender=MailFrom(email="x@bücher.example"))
    assert b"To: u@xn--bcher-kva.example\r\n" in built
    assert b"From: x@xn--bcher-kva.example\r\n" in built


def test_local_parts_in_unicode_need_smtputf8_and_get_it() -> None:
    utf8 = message(to=("пилот@пример.example",), subject="Ж")
    assert needs_smtputf8(utf8, SENDER)
    built = mail(utf8, smtputf8=True, eight_bit=True)
    assert "To: пилот@xn--e1afmkfd.example\r\n".encode() in built
    assert b"Subject: =?utf-8?" in built, "what has a spelling in ASCII keeps it"
    read = message_from_string(built.decode(), policy=default_policy)
    assert read["To"].addresses[0].addr_spec == "пилот@xn--e1afmkfd.example"
    with pytest.raises(BadMessage, match="To: an address needs SMTPUTF8"):
        build(utf8, sender=SENDER, eight_bit=True, smtputf8=False)


@pytest.mark.parametrize(
    ("given", "sender", "needed"),
    [
        (message(to=("u@Bücher.example",)), SENDER, False),
        (message(subject="Ж", text="Ж"), MailFrom(email="a@b.example", name="Ж"), False),
        (message(cc=("ж@a.example",)), SENDER, True),
        (message(bcc=("ж@a.example",)), SENDER, True),
        (message(reply_to=("ж@a.example",)), SENDER, True),
        (message(), MailFrom(email="ж@a.example"), True),
    ],
)
def test_only_local_parts_in_unicode_ask_for_smtputf8(given: Message, sender: MailFrom, needed: bool) -> None:
    assert needs_smtputf8(given, sender) is needed


INJECTED = {
    "Subject": lambda evil: (message(subject=evil), SENDER),
    "To": lambda evil: (message(to=(f"{evil}@a.example",)), SENDER),
    "Cc": lambda evil: (message(cc=(f"a@{evil}.example",)), SENDER),
    "Reply-To": lambda evil: (message(reply_to=(f"a@b.example{evil}",)), SENDER),
    "From: address": lambda evil: (message(), MailFrom(email=f"a@b.example{evil}")),
    "From: name": lambda evil: (message(), MailFrom(email="a@b.example", name=evil)),
    "Message-ID": lambda evil: (message(message_id=f"{evil}@a.example"), SENDER),
    "filename": lambda evil: (message(attachments=(attachment(filename=evil),)), SENDER),
    "content_type": lambda evil: (message(attachments=(attachment(content_type=f"a/b{evil}"),)), SENDER),
    "content_type parameter": lambda evil: (
        message(attachments=(attachment(content_type=f'a/b; c="{evil}"'),)),
        SENDER,
    ),
    "content_id": lambda evil: (message(attachments=(attachment(content_id=evil),)), SENDER),
}


@pytest.mark.parametrize("break_", ["\r\n", "\n", "\r", "\0"], ids=["CRLF", "LF", "CR", "NUL"])
@pytest.mark.parametrize("where", list(INJECTED))
def test_no_value_can_start_a_line_of_the_header(where: str, break_: str) -> None:
    evil = f"x{break_}Bcc: spy@e.example"
    make: Callable[[str], tuple[Message, MailFrom]] = INJECTED[where]
    bad, sender = make(evil)
    with pytest.raises(BadMessage) as refusal:
        build(bad, sender=sender, eight_bit=True, smtputf8=True)
    assert isinstance(refusal.value, ValueError)
    assert "spy" not in str(refusal.value)


@pytest.mark.parametrize(
    "bad",
    [
        message(to=("a@b.example, c@d.example",)),
        message(to=("Pilot <a@b.example>",)),
        message(message_id="a> <b@c.example"),
        message(message_id=""),
        message(subject="\ud800"),
        message(text="\ud800"),
        message(html="\ud800"),
        message(attachments=(attachment(filename="\ud800"),)),
    ],
)
def test_what_is_no_mail_is_refused(bad: Message) -> None:
    with pytest.raises(BadMessage):
        build(bad, sender=SENDER, eight_bit=True, smtputf8=True)


# Text parts


@given(text=any_body, html=st.none() | any_body, eight_bit=st.booleans())
def test_any_text_comes_back(text: str, html: str | None, eight_bit: bool) -> None:
    for read in parsed(mail(message(text=text, html=html), eight_bit=eight_bit)):
        parts = leaves(read)
        assert [part.get_content_type() for part in parts] == ["text/plain", "text/html"][: len(parts)]
        assert [text_of(part) for part in parts] == [
            as_read(body) for body in (text, html) if body is not None
        ]


@given(
    st.lists(st.sampled_from([0, 1, 2, 400, 499, 500, 997, 998]), max_size=8),
    st.integers(0, 8),
    st.booleans(),
)
def test_a_line_that_is_too_long_is_found_wherever_it_stands(
    lengths: list[int], at: int, is_long: bool
) -> None:
    lines = ["x" * length for length in lengths]
    if is_long:
        lines.insert(at, "x" * 999)
    mail = build(message(text="\n".join(lines), html=None), sender=SENDER, eight_bit=False, smtputf8=False)
    assert (b"Content-Transfer-Encoding: 7bit\r\n" in mail) is not is_long


@pytest.mark.parametrize(
    ("text", "eight_bit", "encoding"),
    [
        ("", False, "7bit"),
        ("plain", False, "7bit"),
        ("\ttab ", False, "7bit"),
        ("x" * 998, False, "7bit"),
        ("x" * 999, False, "quoted-printable"),
        ("x" * 999, True, "quoted-printable"),
        ("mostly ASCII, one ü", False, "quoted-printable"),
        ("mostly ASCII, one ü", True, "8bit"),
        ("Всё кириллицей", False, "base64"),
        ("Всё кириллицей", True, "8bit"),
        ("ü" * 499, True, "8bit"),
        ("ü" * 500, True, "base64"),  # lines count in bytes
        ("NUL \0 in ASCII text", False, "quoted-printable"),
        ("NUL \0 in ASCII text", True, "quoted-printable"),
        ("NUL \0 in text with one ü", True, "quoted-printable"),
        ("escape \x1b[0m", True, "quoted-printable"),
    ],
)
def test_text_is_encoded_only_where_a_relay_could_spoil_it(text: str, eight_bit: bool, encoding: str) -> None:
    for read in parsed(mail(message(text=text), eight_bit=eight_bit)):
        assert read["Content-Transfer-Encoding"] == encoding
        assert text_of(read) == as_read(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("ü \n", b"=C3=BC=20"),
        ("ü\t\n", b"=C3=BC=09"),
        (".\nü\n", b"=2E"),
        ("ü = u\n", b"=C3=BC =3D u"),
    ],
)
def test_quoted_printable_protects_what_gets_lost_on_the_way(text: str, line: bytes) -> None:
    assert line in mail(message(text=text + "ascii\n" * 5)).split(b"\r\n")


@pytest.mark.parametrize("text", ["ü" + " word" * 100, "ü" * 10 + "x" * 200, "a" * 74 + "ü" + "b" * 200])
def test_encoded_lines_have_76_characters_at_most(text: str) -> None:
    body = mail(message(text=text)).partition(b"\r\n\r\n")[2]
    assert max(map(len, body.split(b"\r\n"))) <= 76


def test_outer_parts_are_declared_as_wide_as_what_they_hold() -> None:
    mixed, _ = parsed(mail(message(html="<p>ü", attachments=(attachment(),)), eight_bit=True))
    declared = [part["Content-Transfer-Encoding"] for part in mixed.walk()]
    assert declared == ["8bit", "8bit", "7bit", "8bit", "base64"]


# Attachments


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_come_back(data: bytes, inline: bool) -> None:
    attached = attachment(data, content_id="x" if inline else None)
    for read in parsed(mail(message(html="<p>", attachments=(attached,)))):
        assert leaves(read)[-1].get_payload(decode=True) == data


@pytest.mark.parametrize("size", [0, 1, 56, 57, 58, 57 * 256 - 1, 57 * 256, 57 * 256 + 1, 57 * 512, 100_000])
def test_base64_is_cut_into_lines_of_76_at_every_size(size: int) -> None:
    data = bytes(n * n % 251 for n in range(size))
    built = mail(message(attachments=(attachment(data),)))
    assert leaves(parsed(built)[0])[-1].get_payload(decode=True) == data
    encoded = re.findall(rb"^[A-Za-z0-9+/=]{30,}$", built, re.MULTILINE)
    assert {len(line.rstrip(b"\r")) for line in encoded[:-1]} <= {76}


@pytest.mark.parametrize(
    "content",
    ["A", "AAA", "AAAAA", "A===", "=AAA", "AA=A", "AA==AAAA", "AA\r\n", "AAA ", "AA_-", "äAAA", "AAA\0"],
)
def test_what_is_not_base64_is_refused(content: str) -> None:
    bad = Attachment(filename="x", content_type="a/b", content_base64=content)
    with pytest.raises(BadMessage, match=r"attachments\[1\]\.content_base64"):
        build(message(attachments=(attachment(), bad)), sender=SENDER, eight_bit=False, smtputf8=False)


@given(header_text.filter(bool), st.booleans())
def test_any_filename_comes_back(filename: str, inline: bool) -> None:
    attached = attachment(filename=filename, content_id="x" if inline else None)
    modern, old = (leaves(read)[-1] for read in parsed(mail(message(html="<p>", attachments=(attached,)))))
    disposition = modern["Content-Disposition"]
    assert isinstance(disposition, ContentDispositionHeader)
    assert disposition.params["filename"] == filename
    assert disposition.content_disposition == ("inline" if inline else "attachment")
    value = old.get_param("filename", header="Content-Disposition")
    if isinstance(
        value, tuple
    ):  # RFC 2231; the library's own way to join it would strip quotes from the name
        charset, _, raw = value
        value = bytes(raw, "raw-unicode-escape").decode(str(charset))
    assert value == filename


@pytest.mark.parametrize(
    ("filename", "lines"),
    [
        ("invoice 1.pdf", [' filename="invoice 1.pdf"']),
        ("Übersicht.pdf", [" filename*=utf-8''%C3%9Cbersicht.pdf"]),
        ('a"b.pdf', [" filename*=utf-8''a%22b.pdf"]),
        (
            "Отчёт за июль 2025.pdf",
            [
                " filename*0*=utf-8''%D0%9E%D1%82%D1%87%D1%91%D1%82%20%D0%B7%D0%B0%20;",
                " filename*1*=%D0%B8%D1%8E%D0%BB%D1%8C%202025.pdf",
            ],
        ),
    ],
)
def test_filenames_are_encoded_as_simply_as_they_can_be(filename: str, lines: list[str]) -> None:
    built = mail(message(attachments=(attachment(filename=filename),))).decode()
    disposition = built.partition("Content-Disposition: attachment;\r\n")[2].partition("\r\n\r\n")[0]
    assert disposition.split("\r\n") == lines


@given(header_text.filter(bool))
def test_no_line_of_a_part_is_longer_than_78_for_its_name(filename: str) -> None:
    built = mail(message(attachments=(attachment(filename=filename),)))
    assert max(map(len, built.split(b"\r\n"))) <= 78


def test_an_attachment_without_a_name_has_none() -> None:
    read = leaves(parsed(mail(message(attachments=(attachment(filename=""),))))[0])[-1]
    assert read.get_filename() is None
    assert read.get_content_disposition() == "attachment"


@pytest.mark.parametrize("content_id", ["logo", "<logo>", "logo@galaxy.example", "a!#$%&'*+/=?^_`{|}~-.b"])
def test_the_html_finds_an_inline_attachment_by_its_id(content_id: str) -> None:
    built = mail(message(html="<img>", attachments=(attachment(content_id=content_id),)))
    assert f"Content-ID: <{content_id.strip('<>')}>\r\n".encode() in built


@pytest.mark.parametrize("content_id", ["", "a b", "a>b", "<a", "ü", "\x7f"])
def test_an_id_that_no_html_could_name_is_refused(content_id: str) -> None:
    with pytest.raises(BadMessage, match="content_id"):
        build(
            message(attachments=(attachment(content_id=content_id),)),
            sender=SENDER,
            eight_bit=False,
            smtputf8=False,
        )


@pytest.mark.parametrize(
    ("content_type", "lines"),
    [
        ("image/png", ["image/png"]),
        ("Text/CSV; charset=utf-8;header=present", ["Text/CSV;", " charset=utf-8;", " header=present"]),
        ('text/calendar; method="RE;QUEST"', ["text/calendar;", ' method="RE;QUEST"']),
        ("application/vnd.ms-excel", ["application/vnd.ms-excel"]),
        ("message/rfc822", ["application/octet-stream"]),
        ("Multipart/Mixed; boundary=x", ["application/octet-stream"]),
    ],
)
def test_content_types_keep_their_parameters_and_stay_leaves(content_type: str, lines: list[str]) -> None:
    built = mail(message(attachments=(attachment(content_type=content_type),)))
    part = built.decode().split("\r\n--")[2]
    assert part.partition("Content-Type: ")[2].partition("\r\nContent-Transfer")[0].split("\r\n") == lines
    assert leaves(parsed(built)[0])[-1].get_payload(decode=True) == b"%PDF-1.7"


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "image",
        "image/",
        "/png",
        "image/p ng",
        "image/png; x",
        "image/png, a/b",
        "bild/jpég",
        'a/b; c="d',
        "a/b" + "c" * 600,
    ],
)
def test_what_is_no_media_type_is_refused(content_type: str) -> None:
    with pytest.raises(BadMessage, match="content_type"):
        build(
            message(attachments=(attachment(content_type=content_type),)),
            sender=SENDER,
            eight_bit=False,
            smtputf8=False,
        )


@given(
    subject=st.from_regex(HEADER_TEXT_SYNTAX, fullmatch=True),
    filename=st.from_regex(FILENAME_SYNTAX, fullmatch=True),
    content_type=st.from_regex(CONTENT_TYPE_SYNTAX, fullmatch=True).filter(
        lambda text: len(text) <= CONTENT_TYPE_MAX_CHARS
    ),
    content_id=st.from_regex(CONTENT_ID_SYNTAX, fullmatch=True),
    content=st.from_regex(BASE64_SYNTAX, fullmatch=True),
)
def test_what_intake_lets_through_has_a_spelling_as_a_mail(
    subject: str, filename: str, content_type: str, content_id: str, content: str
) -> None:
    attached = Attachment(
        filename=filename, content_type=content_type, content_base64=content, content_id=content_id
    )
    mail(message(subject=subject, html="<p>", attachments=(attached,)))


def test_megabytes_come_back() -> None:
    data = bytes(range(256)) * 4096
    assert b64encode(data)[:76] in (built := mail(message(attachments=(attachment(data),))))
    assert leaves(parsed(built)[1])[-1].get_payload(decode=True) == data
