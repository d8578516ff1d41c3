import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxy_mail.domain import commands
from galaxy_mail.domain.acceptance import MailRequest
from galaxy_mail.domain.commands import (
    CommandLimits,
    FailureCode,
    Fields,
    Malformed,
    decode_command,
    malformed_record,
)
from galaxy_mail.domain.records import Attachment, Envelope, Lane, PayloadMode, Source, decode, encode
from galaxy_mail.domain.records import MalformedCommand as Record

C = FailureCode
LIMITS = CommandLimits()
RENDERED: dict[str, Any] = {
    "envelope": {"to": ["ann@example.org"]},
    "subject": "Your order has left",
    "text_body": "It is on its way.\n",
}
TEMPLATE: dict[str, Any] = {
    "envelope": {"to": ["ann@example.org"]},
    "template_id": "order.shipped",
    "locale": "fr-ca",
    "variables": {"order": {"id": "4711", "lines": []}},
}
ATTACHMENT = {"filename": "a.pdf", "content_type": "application/pdf", "content_base64": "JVBERg=="}


def entry(payload: object = None, **changes: str | bytes | None) -> Fields:
    """A valid entry but for the changes; None leaves a field out."""
    payload = RENDERED if payload is None else payload
    values: dict[str, str | bytes | None] = {
        "delivery_id": "notify.4711",
        "source": "notification",
        "payload_mode": "rendered",
        "idempotency_key": "order-4711:shipped",
        "requested_at_ms": "1733300000299",
        "payload_json": payload if isinstance(payload, bytes) else json.dumps(payload),
        **changes,
    }
    return [
        (name.encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in values.items()
        if value is not None
    ]


def accepted(fields: Fields, limits: CommandLimits = LIMITS) -> MailRequest:
    request = decode_command("1-0", fields, limits)
    assert isinstance(request, MailRequest), request
    return request


def refused(fields: Fields, limits: CommandLimits = LIMITS) -> Malformed:
    malformed = decode_command("1-0", fields, limits)
    assert isinstance(malformed, Malformed)
    assert "defect" not in malformed.message
    return malformed


def test_a_rendered_command() -> None:
    payload = {
        **RENDERED,
        "envelope": {
            "to": ["Ann@Example.ORG"],
            "cc": ["b@x.org"],
            "bcc": ["c@x.org"],
            "reply_to": ["h@x.org"],
        },
        "html_body": "<p>It is on its way.</p>",
        "attachments": [ATTACHMENT, {**ATTACHMENT, "content_id": "logo@x"}],
    }
    request = accepted(entry(payload))
    assert (request.delivery_id, request.source, request.lane) == (
        "notify.4711",
        Source.NOTIFICATION,
        Lane.NORMAL,
    )
    assert (request.payload_mode, request.idempotency_key) == (PayloadMode.RENDERED, "order-4711:shipped")
    assert (request.requested_at_ms, request.request_id, request.trace_id) == (1733300000299, None, None)
    content = request.content
    assert content.envelope == Envelope(
        to=("Ann@example.org",), cc=("b@x.org",), bcc=("c@x.org",), reply_to=("h@x.org",)
    )
    assert (content.subject, content.text_body) == ("Your order has left", "It is on its way.\n")
    assert content.html_body == "<p>It is on its way.</p>"
    assert content.attachments == (Attachment(**ATTACHMENT), Attachment(**ATTACHMENT, content_id="logo@x"))
    assert (content.template_id, content.locale, content.variables) == (None, None, None)


def test_a_template_command() -> None:
    request = accepted(entry(TEMPLATE, payload_mode="template"))
    assert request.payload_mode is PayloadMode.TEMPLATE
    content = request.content
    assert (content.template_id, content.locale, content.variables) == (
        "order.shipped",
        "fr-CA",
        TEMPLATE["variables"],
    )
    assert (content.subject, content.text_body, content.html_body, content.attachments) == (
        None,
        None,
        None,
        (),
    )


def test_tracing_is_kept() -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    request = accepted(entry(request_id="req 1", trace_id="t", traceparent=traceparent))
    assert (request.request_id, request.trace_id, request.traceparent) == ("req 1", "t", traceparent)


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"priority": "high"}, C.UNKNOWN_FIELD, "priority"),
        ({"Source": "notification"}, C.UNKNOWN_FIELD, "Source"),
        ({"": "x"}, C.UNKNOWN_FIELD, "unknown: "),
        ({"delivery_id": None, "payload_json": None}, C.MISSING_FIELD, "delivery_id, payload_json"),
        ({"source": "authsession"}, C.UNSUPPORTED_SOURCE, "source: must be notification"),
        ({"source": b"notification\xff"}, C.UNSUPPORTED_SOURCE, "source"),
        ({"payload_mode": "html"}, C.UNSUPPORTED_PAYLOAD_MODE, "payload_mode: must be rendered or template"),
        ({"source": ""}, C.INVALID_FIELD, "source: is empty"),
        ({"payload_mode": ""}, C.INVALID_FIELD, "payload_mode: is empty"),
        ({"delivery_id": ""}, C.INVALID_FIELD, "delivery_id: is empty"),
        ({"payload_json": ""}, C.INVALID_FIELD, "payload_json: is empty"),
        ({"request_id": ""}, C.INVALID_FIELD, "request_id: is empty"),
        ({"delivery_id": "a..b"}, C.INVALID_FIELD, "delivery_id: must be"),
        ({"delivery_id": b"a\xff"}, C.INVALID_FIELD, "delivery_id: must be"),
        ({"idempotency_key": "k" * 256}, C.INVALID_FIELD, "idempotency_key: must be"),
        ({"idempotency_key": "a\0"}, C.INVALID_FIELD, "idempotency_key: must be"),
        ({"requested_at_ms": "0"}, C.INVALID_FIELD, "requested_at_ms: must be"),
        ({"requested_at_ms": "-1"}, C.INVALID_FIELD, "requested_at_ms: must be"),
        ({"requested_at_ms": "01"}, C.INVALID_FIELD, "requested_at_ms: must be"),
        ({"requested_at_ms": "1.0"}, C.INVALID_FIELD, "requested_at_ms: must be"),
        ({"requested_at_ms": "٣"}, C.INVALID_FIELD, "requested_at_ms: must be"),
        ({"requested_at_ms": "9007199254740992"}, C.INVALID_FIELD, "requested_at_ms: must be"),
        ({"requested_at_ms": "9" * 5000}, C.INVALID_FIELD, "requested_at_ms: must be"),
        ({"trace_id": "x" * 129}, C.INVALID_FIELD, "trace_id: must be"),
        ({"traceparent": "00-x"}, C.INVALID_FIELD, "traceparent: must be a W3C trace context"),
        ({"delivery_id": "", "trace_id": "é"}, C.INVALID_FIELD, "delivery_id: is empty; trace_id: must be"),
    ],
)
def test_fields_of_the_entry(changes: dict[str, str | bytes | None], code: FailureCode, named: str) -> None:
    malformed = refused(entry(**changes))
    assert malformed.failure_code is code
    assert named in malformed.message


def test_the_first_verdict_counts() -> None:
    """Each fault alone has its code; together, the earlier one counts."""
    faults: list[tuple[FailureCode, dict[str, str | bytes | None]]] = [
        (C.UNKNOWN_FIELD, {"x": "y"}),
        (C.MISSING_FIELD, {"idempotency_key": None}),
        (C.UNSUPPORTED_SOURCE, {"source": "billing"}),
        (C.UNSUPPORTED_PAYLOAD_MODE, {"payload_mode": "html"}),
        (C.INVALID_FIELD, {"delivery_id": "a b"}),
        (C.PAYLOAD_TOO_LARGE, {"payload_json": b"x" * (LIMITS.payload_max_bytes + 1)}),
    ]
    for at, (code, _) in enumerate(faults):
        together: dict[str, str | bytes | None] = {}
        for _, changes in faults[at:]:
            together |= changes
        assert refused(entry(**together)).failure_code is code


@pytest.mark.parametrize("name", [*commands.REQUIRED_FIELDS, *commands.OPTIONAL_FIELDS])
def test_a_name_that_comes_twice_is_invalid_even_with_the_same_value(name: str) -> None:
    fields = list(entry(request_id="r", trace_id="t", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-00"))
    again = next(field for field in fields if field[0] == name.encode())
    for extra in (again[1], b"", b"other"):
        malformed = refused([*fields, (again[0], extra)])
        assert (malformed.failure_code, malformed.message) == (
            C.INVALID_FIELD,
            f"{name}: comes more than once",
        )


def test_an_entry_without_fields() -> None:
    assert refused([]).failure_code is C.MISSING_FIELD


def test_the_payload_is_bounded_before_it_is_read() -> None:
    payload = json.dumps(RENDERED).encode()
    limits = CommandLimits(payload_max_bytes=len(payload))
    accepted(entry(payload), limits)
    malformed = refused(entry(b"}" + payload), limits)
    assert malformed.failure_code is C.PAYLOAD_TOO_LARGE
    assert (
        malformed.message
        == f"payload_json: has {len(payload) + 1} bytes, more than the limit of {len(payload)}"
    )


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("envelope"), "payload_json: Object missing required field `envelope`"),
        (lambda p: p.update(priority=1), "payload_json: Object contains unknown field `priority`"),
        (lambda p: p.update(envelope=[]), "envelope: Expected `object`, got `array`"),
        (lambda p: p["envelope"].update(to="a@b.c"), "envelope.to: Expected `array`, got `str`"),
        (lambda p: p["envelope"].update(to=["a@b.c", 7]), "envelope.to[1]: Expected `str`, got `int`"),
        (lambda p: p["envelope"].update(From="a@b.c"), "envelope: Object contains unknown field `From`"),
        (lambda p: p["envelope"].update(to=[]), "envelope.to: must have at least one address"),
        (lambda p: p["envelope"].update(cc=["a@b.c", "a"]), "envelope.cc[1]: an address needs an @"),
        (
            lambda p: p["envelope"].update(reply_to=["A <a@b.c>"]),
            "envelope.reply_to[0]: only the bare address",
        ),
        (lambda p: p["envelope"].update(to=["a@b.c\r\nBcc: d@e.f"]), "envelope.to[0]: control characters"),
        (lambda p: p.update(text_body=None), "text_body: Expected `str`, got `null`"),
        (lambda p: p.update(html_body=None), "html_body: Expected `str`, got `null`"),
        (lambda p: p.update(attachments=None), "attachments: Expected `array`, got `null`"),
        (lambda p: p.update(subject="a\rb"), "subject: line breaks"),
        (lambda p: p.update(subject="a\nb"), "subject: line breaks"),
        (lambda p: p.update(subject="a\0b"), "subject: line breaks"),
        (lambda p: p.update(subject="s" * 999), "subject: has more than 998 characters"),
        (lambda p: p.update(template_id="x"), "payload_json: Object contains unknown field `template_id`"),
    ],
)
def test_rules_of_a_rendered_payload(change: Change, message: str) -> None:
    payload = json.loads(json.dumps(RENDERED))
    change(payload)
    malformed = refused(entry(payload))
    assert malformed.failure_code is C.INVALID_PAYLOAD
    assert malformed.message.startswith(message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template_id": "../../etc/passwd"}, "template_id: must be dot-separated runs"),
        ({"template_id": ""}, "template_id: must be dot-separated runs"),
        ({"template_id": "a" * 129}, "template_id: must be dot-separated runs"),
        ({"locale": "english_us"}, "locale: a locale is a BCP 47 language tag"),
        ({"locale": ""}, "locale: a locale is a BCP 47 language tag"),
        ({"variables": []}, "variables: Expected `object`, got `array`"),
        ({"variables": None}, "variables: Expected `object`, got `null`"),
        ({"subject": "x"}, "payload_json: Object contains unknown field `subject`"),
    ],
)
def test_rules_of_a_template_payload(change: dict[str, Any], message: str) -> None:
    malformed = refused(entry({**TEMPLATE, **change}, payload_mode="template"))
    assert malformed.failure_code is C.INVALID_PAYLOAD
    assert malformed.message.startswith(message)


@pytest.mark.parametrize(
    ("change", "member"),
    [
        *[({"filename": name}, "filename") for name in ("", "a\r\nb", "a\0", "\x7f", "f" * 256)],
        *[
            ({"content_type": name}, "content_type")
            for name in ("", "pdf", "a/b/c", "a/", "/b", "a b/c", "a/b\r\nX: y", "a/b; x", "a/b; x=", "a/b;", "ä/b")
        ],
        ({"content_type": "a/b; x=" + "y" * 250}, "content_type"),
        *[
            ({"content_base64": text}, "content_base64")
            for text in ("A", "AA", "AAA", "AA=", "A===", "====", "AAAA=", "AAAA====", "AA==AAAA", "AAA-", "AA\nA", "AÄA")
        ],
        *[({"content_id": name}, "content_id") for name in ("", "<a@b>", "a b", "a\n", "é", "i" * 256)],
    ],
)  # fmt: skip
def test_rules_of_an_attachment(change: dict[str, Any], member: str) -> None:
    payload = {**RENDERED, "attachments": [ATTACHMENT, {**ATTACHMENT, **change}]}
    malformed = refused(entry(payload))
    assert malformed.failure_code is C.INVALID_PAYLOAD
    assert malformed.message.startswith(f"attachments[1].{member}: ")


@pytest.mark.parametrize(
    "change",
    [
        {"filename": "Rechnung Mü.pdf"},
        {"filename": "a/b\\c"},
        {"content_type": "text/plain;charset=utf-8"},
        {"content_type": 'application/vnd.x+json ; name="a \\" b"; v=1'},
        {"content_type": "message/rfc822"},
        {"content_base64": ""},
        {"content_base64": "AA=="},
        {"content_base64": "AAA="},
        {"content_base64": "+/+/"},
    ],
)
def test_what_an_attachment_may_be(change: dict[str, Any]) -> None:
    attachment = {**ATTACHMENT, **change}
    assert accepted(entry({**RENDERED, "attachments": [attachment]})).content.attachments == (
        Attachment(**attachment),
    )


@given(st.binary(max_size=50))
def test_all_base64_is_base64(content: bytes) -> None:
    attachment = {**ATTACHMENT, "content_base64": b64encode(content).decode()}
    accepted(entry({**RENDERED, "attachments": [attachment]}))


def test_inline_attachments_have_names_of_their_own() -> None:
    inline = {**ATTACHMENT, "content_id": "logo"}
    accepted(
        entry(
            {
                **RENDERED,
                "attachments": [inline, {**ATTACHMENT, "content_id": "Logo"}, ATTACHMENT, ATTACHMENT],
            }
        )
    )
    malformed = refused(entry({**RENDERED, "attachments": [inline, ATTACHMENT, inline]}))
    assert malformed.message == "attachments[2].content_id: is also the content_id of another attachment"


def test_the_number_of_addresses_and_attachments_is_bounded() -> None:
    limits = CommandLimits(recipients_max=4, attachments_max=2)
    full = {"to": ["a@x.y", "a@x.y"], "cc": ["b@x.y"], "bcc": ["c@x.y"], "reply_to": ["d@x.y"] * 4}
    accepted(entry({**RENDERED, "envelope": full, "attachments": [ATTACHMENT] * 2}), limits)
    for change, message in (
        (
            {"envelope": {**full, "bcc": ["c@x.y"] * 2}},
            "envelope: to, cc and bcc have more than 4 addresses together",
        ),
        ({"envelope": {**full, "reply_to": ["d@x.y"] * 5}}, "envelope.reply_to: has more than 4 addresses"),
        ({"attachments": [ATTACHMENT] * 3}, "attachments: has more than 2 members"),
    ):
        assert refused(entry({**RENDERED, **change}), limits).message == message


# The fingerprint


def test_spelling_order_tracing_and_empty_lists_do_not_count() -> None:
    first = accepted(entry()).fingerprint
    fields = list(entry())
    spelt_otherwise = (
        '{"text_body":"It is on its way.\\u000a", "attachments":[], "subject":"Your order has left",\n'
        '"envelope":{"reply_to":[],"bcc":[],"cc":[],"to":["ann@\\u0065xample.org"]}}'
    )
    for same in (
        entry(request_id="r", trace_id="t"),
        fields[::-1],
        entry(spelt_otherwise.encode()),
    ):
        assert accepted(same).fingerprint == first
    numbers = [b'{"a":1}', b'{"a":1.0}', b'{ "a" : 10e-1 }']
    template = json.dumps(TEMPLATE | {"variables": None}).encode()
    encoded = [entry(template.replace(b"null", number), payload_mode="template") for number in numbers]
    assert len({accepted(fields).fingerprint for fields in encoded}) == 1


def test_all_else_counts() -> None:
    template = {**TEMPLATE, "variables": {}}
    different = [
        entry(),
        entry(delivery_id="notify.4712"),
        entry(idempotency_key="k"),
        entry(requested_at_ms="1733300000300"),
        entry({**RENDERED, "subject": "your order has left"}),
        entry({**RENDERED, "html_body": ""}),
        entry({**RENDERED, "envelope": {"to": ["Ann@example.org"]}}),
        entry({**RENDERED, "envelope": {"to": ["ann@example.org"], "cc": ["ann@example.org"]}}),
        entry({**RENDERED, "attachments": [ATTACHMENT]}),
        entry(template, payload_mode="template"),
        entry(
            {**template, "variables": {"cc": []}}, payload_mode="template"
        ),  # only the contract's own lists
        entry({**template, "variables": {"envelope": {"cc": []}}}, payload_mode="template"),
        entry({**template, "variables": {"a": "1"}}, payload_mode="template"),
        entry({**template, "variables": {"a": 1}}, payload_mode="template"),
        entry({**template, "variables": {"a": True}}, payload_mode="template"),
    ]
    fingerprints = [accepted(fields).fingerprint for fields in different]
    assert len(set(fingerprints)) == len(different)


# Whatever bytes

names = st.sampled_from([name.encode() for name in (*commands.REQUIRED_FIELDS, *commands.OPTIONAL_FIELDS)])
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["envelope", "to", "cc", "subject", "text_body", "locale", "variables", "attachments", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
noise = st.binary(max_size=20) | json_like.map(lambda value: json.dumps(value).encode())


@given(
    st.lists(st.tuples(names | st.binary(max_size=5), noise), max_size=9),
    st.sampled_from(["rendered", "template"]),
)
@settings(max_examples=300)
def test_whatever_bytes_an_entry_holds_it_gets_a_verdict(extra: list[tuple[bytes, bytes]], mode: str) -> None:
    base = dict(entry(RENDERED if mode == "rendered" else TEMPLATE, payload_mode=mode))
    for fields in (extra, list({**base, **dict(extra)}.items()), [*base.items(), *extra]):
        decoded = decode_command("1-0", fields, LIMITS)
        if isinstance(decoded, Malformed):
            assert "unexpectedly" not in decoded.message
            assert decoded.message.isprintable()
            assert len(decoded.message) <= commands.MESSAGE_MAX_CHARS
            record = malformed_record("1-0", fields, decoded.failure_code, decoded.message, 1)
            assert decode(encode(record), Record) == record
        else:
            assert len(fields) == len(dict(fields))


@pytest.mark.parametrize(
    "fields",
    [
        entry(**{name: "S3CRET\n"})
        for name in (*commands.REQUIRED_FIELDS, *commands.OPTIONAL_FIELDS)
    ]
    + [
        entry({**RENDERED, "envelope": {"to": ["S3CRET"]}}),
        entry({**RENDERED, "subject": "S3CRET\n"}),
        entry({**RENDERED, "attachments": [{**ATTACHMENT, "content_base64": "S3CRET"}]}),
        entry({**RENDERED, "attachments": [{**ATTACHMENT, "content_type": "S3CRET"}]}),
        entry({**RENDERED, "attachments": [{**ATTACHMENT, "filename": "S3CRET\0"}]}),
        entry({**TEMPLATE, "template_id": "S3CRET/"}, payload_mode="template"),
        entry({**TEMPLATE, "locale": "S3CRET"}, payload_mode="template"),
        entry({**TEMPLATE, "variables": "S3CRET"}, payload_mode="template"),
        entry(b'"S3CRET'),
    ],
)  # fmt: skip
def test_no_message_repeats_a_value(fields: Fields) -> None:
    assert "S3CRET" not in refused(fields).message


def test_names_in_a_message_are_printable_and_bounded() -> None:
    many = [(f"field\n{number:03}".encode() + b"x" * 100, b"") for number in range(1000)]
    message = refused([*entry(), *many]).message
    assert message.startswith("unknown: field�000xxx")
    assert message.endswith("… and 995 more")
    assert refused(entry({**RENDERED, "y" * 5000: 1})).message.endswith("yyy…")
    assert refused([*entry(), (b"\xff\xfe", b"")]).message == "unknown: ��"


def test_a_defect_of_ours_does_not_stop_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    def defective(text: str) -> str:
        raise IndexError("ann@example.org")

    monkeypatch.setattr(commands, "parse_address", defective)
    malformed = decode_command("9-9", entry(), LIMITS)
    assert isinstance(malformed, Malformed)
    assert (malformed.entry_id, malformed.failure_code) == ("9-9", C.INVALID_PAYLOAD)
    assert malformed.message == ("decoding it failed unexpectedly (IndexError): a bug of this service")


def test_a_lack_of_memory_is_no_fault_of_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(text: str) -> str:
        raise MemoryError

    monkeypatch.setattr(commands, "parse_address", exhausted)
    with pytest.raises(MemoryError):
        decode_command("9-9", entry(), LIMITS)


def test_a_malformed_command_is_kept_with_its_raw_fields() -> None:
    fields = entry(b"\xff", source="billing")
    record = malformed_record("5-1", fields, C.UNSUPPORTED_SOURCE, "m" * 600, 1733300000300)
    assert (record.entry_id, record.failure_code, record.recorded_at_ms) == (
        "5-1",
        "unsupported_source",
        1733300000300,
    )
    assert record.message == "m" * 499 + "…"
    assert record.fields == {
        "delivery_id": "notify.4711",
        "source": "billing",
        "payload_mode": "rendered",
        "idempotency_key": "order-4711:shipped",
        "requested_at_ms": "1733300000299",
        "payload_json": "base64:/w==",
    }
    assert type(record.failure_code) is str
