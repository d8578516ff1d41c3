import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain.addresses import (
    BadAddress,
    domain_of,
    needs_smtputf8,
    parse_address,
    parse_allowlist,
    parse_suppression_entry,
    to_ascii,
)

LOCAL_64 = "l" * 64
LABEL_63 = "d" * 63


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("pilot@galaxy.example", "pilot@galaxy.example"),
        ("First.Last+tag@Mail.Galaxy.EXAMPLE", "First.Last+tag@mail.galaxy.example"),
        ("!#$%&'*+/=?^_`{|}~-@a.example", "!#$%&'*+/=?^_`{|}~-@a.example"),
        ("root@localhost", "root@localhost"),
        ("a@1.2.3.example", "a@1.2.3.example"),
        ("a@r3---sn.example", "a@r3---sn.example"),
        ('"john.doe"@a.example', "john.doe@a.example"),  # needless quotes: the same mailbox
        ('"john doe"@a.example', '"john doe"@a.example'),
        (r'"j\o\hn doe"@a.example', '"john doe"@a.example'),  # and needless backslashes
        (r'"a\"b\\c"@A.example', r'"a\"b\\c"@a.example'),
        ('"a@b"@c.example', '"a@b"@c.example'),
        ('".."@c.example', '".."@c.example'),
        ('" "@c.example', '" "@c.example'),
        ("пилот@пример.example", "пилот@xn--e1afmkfd.example"),
        ("u\u0308ser@a.example", "üser@a.example"),  # NFC
        ('"ü ü"@a.example', '"ü ü"@a.example'),
        ("می\u200cخواهم@a.example", "می\u200cخواهم@a.example"),  # a letter of Persian, though invisible
        ("u@Bücher.example", "u@xn--bcher-kva.example"),
        ("u@XN--BCHER-KVA.example", "u@xn--bcher-kva.example"),
        ("u@bücher。example", "u@xn--bcher-kva.example"),  # an ideographic full stop parts labels, too
        ("u@straße.example", "u@xn--strae-oqa.example"),  # IDNA 2008: not strasse
        (f"{LOCAL_64}@a.example", f"{LOCAL_64}@a.example"),
        (f"a@{LABEL_63}.example", f"a@{LABEL_63}.example"),
        (
            f"{LOCAL_64}@{LABEL_63}.{LABEL_63}.{'d' * 61}",
            f"{LOCAL_64}@{LABEL_63}.{LABEL_63}.{'d' * 61}",
        ),  # 254
    ],
)
def test_an_address_has_one_normal_spelling(text: str, normal: str) -> None:
    assert parse_address(text) == normal
    assert parse_address(normal) == normal


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the address is empty"),
        ("pilot", "needs an @"),
        ("@a.example", "before the @"),
        ("pilot@", "not a domain name"),
        ("pi lot@a.example", "need quotes"),
        ("a@b@c.example", "need quotes"),
        ("a..b@c.example", "need quotes"),
        (".a@c.example", "need quotes"),
        ("a.@c.example", "need quotes"),
        ("a,b@c.example", "need quotes"),
        ("(comment)a@c.example", "need quotes"),
        ('a"b"@c.example', "need quotes"),
        ('""@c.example', "is empty"),
        ('"a"b"@c.example', "need quotes"),
        (" a@c.example", "need quotes"),
        ("a@c.example ", "not a domain name"),
        ("a@ c.example", "not a domain name"),
        ("Pilot <pilot@a.example>", "bare address"),
        ("<pilot@a.example>", "bare address"),
        ("pilot@[192.0.2.1]", "literals"),
        ("pilot@[IPv6:2001:db8::1]", "literals"),
        ("pilot@192.0.2.1", "not a domain name"),
        ("a@.example", "not a domain name"),
        ("a@b..example", "not a domain name"),
        ("a@b.example.", "not a domain name"),
        ("a@-b.example", "not a domain name"),
        ("a@b-.example", "not a domain name"),
        ("a@b_c.example", "not a domain name"),
        ("a@b.example,c@d.example", "need quotes"),
        ("a@xn--a.example", "international"),
        ("a@xn--.example", "international"),
        ("a@☃.example", "international"),
        ("a@\u0301b.example", "international"),
        ("a@b.example\r\nBcc: c@d.example", "control characters"),
        ("a\n@b.example", "control characters"),
        ("a@b.example\n", "control characters"),
        ("a\x00@b.example", "control characters"),
        ('"a\r\nb"@c.example', "control characters"),
        ('"a\\\nb"@c.example', "control characters"),
        ("a\x7f@b.example", "control characters"),
        ("a\x85@b.example", "control characters"),
        ("a\u2028@b.example", "control characters"),
        ("a\u202e@b.example", "control characters"),  # would turn what follows round on a screen
        ("a\u00a0b@c.example", "control characters"),
        ("a\ud800@b.example", "control characters"),
        (f"l{LOCAL_64}@a.example", "64 bytes"),
        (f"{'ü' * 33}@a.example", "64 bytes"),  # bytes count, not characters
        (f"a@d{LABEL_63}.example", "not a domain name"),
        (f"{LOCAL_64}@{LABEL_63}.{LABEL_63}.{'d' * 62}", "254 bytes"),
        ("a@" + "ü" * 5_000 + ".example", "254 bytes"),
        ("a" * 1_000_000, "254 bytes"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(BadAddress, match=why) as refusal:
        parse_address(text)
    assert len(str(refusal.value)) < 120


def test_a_refusal_is_a_value_error_that_does_not_repeat_the_text() -> None:
    with pytest.raises(ValueError) as refusal:
        parse_address("hunter2 hunter2@a.example")
    assert "hunter2" not in str(refusal.value)


@given(
    st.text(min_size=1, max_size=40),
    st.sampled_from(["a.example", "Bücher.example", "xn--bcher-kva.example", "пример.example"]),
)
def test_whatever_is_accepted_in_quotes_is_stable_and_safe_in_a_header(local: str, domain: str) -> None:
    quoted = local.replace("\\", "\\\\").replace('"', '\\"')
    try:
        address = parse_address(f'"{quoted}"@{domain}')
    except BadAddress:
        return
    assert parse_address(address) == address
    assert address.splitlines() == [address]
    assert "\x00" not in address
    assert domain_of(address).isascii()
    assert needs_smtputf8(address) == (not local.isascii())


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_bad_address(text: str) -> None:
    for candidate in (text, f"{text}@a.example", f"a@{text}", f"a@{text}.example"):
        try:
            address = parse_address(candidate)
        except BadAddress:
            continue
        assert parse_address(address) == address
        assert parse_suppression_entry(parse_suppression_entry(address)) == parse_suppression_entry(address)


def test_the_domain_is_what_follows_the_last_at_sign() -> None:
    assert domain_of("pilot@a.example") == "a.example"
    assert domain_of('"a@b"@c.example') == "c.example"
    assert domain_of("pilot@A.example") == "a.example"


def test_domains_are_sent_in_ascii_and_local_parts_as_they_are() -> None:
    assert to_ascii("pilot@a.example") == "pilot@a.example"
    assert to_ascii("u@Bücher.example") == "u@xn--bcher-kva.example"
    assert to_ascii("пилот@пример.example") == "пилот@xn--e1afmkfd.example"
    with pytest.raises(BadAddress):
        to_ascii("u@☃.example")


@pytest.mark.parametrize(
    ("address", "needed"),
    [
        ("pilot@a.example", False),
        ("u@xn--bcher-kva.example", False),
        ("u@bücher.example", False),
        ("üser@a.example", True),
        ('"ü @"@a.example', True),
    ],
)
def test_only_a_local_part_can_need_smtputf8(address: str, needed: bool) -> None:
    assert needs_smtputf8(address) is needed


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("Pilot@A.example", "pilot@a.example"),
        ("@A.Example", "@a.example"),
        ("@Bücher.example", "@xn--bcher-kva.example"),
        ("ПИЛОТ@a.example", "пилот@a.example"),
        ("@localhost", "@localhost"),
    ],
)
def test_a_suppression_entry_is_an_address_or_a_domain_in_lower_case(text: str, entry: str) -> None:
    assert parse_suppression_entry(text) == entry
    assert parse_suppression_entry(entry) == entry


@pytest.mark.parametrize(
    "text", ["", "@", "a.example", "@@a.example", "@a b", "@*.example", "@[192.0.2.1]", "@" + "ü" * 2_000]
)
def test_what_is_neither_is_no_suppression_entry(text: str) -> None:
    with pytest.raises(BadAddress):
        parse_suppression_entry(text)


def test_an_allowlist_is_parted_by_commas_outside_of_quotes() -> None:
    assert parse_allowlist(' Pilot@a.example, @B.example ,,"x,y"@c.example,') == {
        "pilot@a.example",
        "@b.example",
        '"x,y"@c.example',
    }
    assert parse_allowlist("") == frozenset()
    assert parse_allowlist(" , ") == frozenset()


def test_an_allowlist_with_a_bad_entry_says_which() -> None:
    with pytest.raises(BadAddress, match=r"entry 2: .*not a domain name"):
        parse_allowlist("@a.example, b@, c@d.example")
    with pytest.raises(BadAddress, match="entry 1"):
        parse_allowlist('"a@b.example')
