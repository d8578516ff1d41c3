import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain.acceptance import MailRequest
from galaxy_mail.domain.ids import NO_TRACING, Tracing
from galaxy_mail.domain.invalid import Fault, InvalidRequest
from galaxy_mail.domain.login_code import BODY_MAX_BYTES, decode_login_code
from galaxy_mail.domain.records import Lane, PayloadMode, Source

VALID = {"email": "Ann@Example.ORG", "code": "493027", "locale": "fr-ca"}


def decode(
    body: bytes | dict[str, Any] = VALID,
    keys: tuple[str, ...] = ("key-1",),
    content_type: str | None = "application/json",
    tracing: Tracing = NO_TRACING,
) -> MailRequest:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode_login_code(keys, data, content_type=content_type, delivery_id="d1", tracing=tracing)


def problems(*args: Any, **kwargs: Any) -> tuple[Fault, list[str]]:
    with pytest.raises(InvalidRequest) as raised:
        decode(*args, **kwargs)
    return raised.value.fault, [error.field for error in raised.value.errors]


def test_a_login_code_is_a_template_of_the_priority_lane() -> None:
    request = decode(tracing=Tracing(request_id="req-1", trace_id="t"))
    assert (request.delivery_id, request.source, request.lane) == ("d1", Source.AUTHSESSION, Lane.PRIORITY)
    assert (request.payload_mode, request.idempotency_key) == (PayloadMode.TEMPLATE, "key-1")
    content = request.content
    assert (content.template_id, content.locale, content.variables) == (
        "auth.login_code",
        "fr-CA",
        {"code": "493027"},
    )
    assert content.envelope.recipients() == ("Ann@example.org",)
    assert (request.request_id, request.trace_id, request.traceparent) == ("req-1", "t", None)


def test_the_fingerprint_is_of_the_values_and_of_nothing_else() -> None:
    first = decode().fingerprint
    spelt_otherwise = b'{ "locale":"fr-ca", "code":"\\u0034\\u00393027", "email":"Ann@Example.ORG" }'
    assert decode(spelt_otherwise, ("key-2",), tracing=Tracing(request_id="req-2")).fingerprint == first
    assert (
        decode({**VALID, "email": "Ann@example.org"}).fingerprint != first
    )  # as it was sent, not as it is read
    for name in VALID:
        assert (
            decode({**VALID, name: {"email": "a@b.c", "code": "1", "locale": "en"}[name]}).fingerprint
            != first
        )


@pytest.mark.parametrize("code", ["1", "x" * 64, "AB-12 ü", "код", "１２", "😀"])
def test_a_code_is_printable(code: str) -> None:
    assert decode({**VALID, "code": code}).content.variables == {"code": code}


@pytest.mark.parametrize(
    "code",
    [
        "",
        "x" * 65,
        "1\n",
        "1\r2",
        "\0",
        "\x7f",
        "\x85",
        "\u00a0",
        "\u200b",
        "\u202e1",
        "\u2028",
        "\ufeff",
        "\ue000",
    ],
)
def test_no_code(code: str) -> None:
    assert problems({**VALID, "code": code}) == (Fault.INVALID, ["code"])


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["email", "code", "locale"]),
        ({**VALID, "email": None, "code": 493027, "locale": ["en"]}, ["email", "code", "locale"]),
        ({**VALID, "email": "ann", "locale": "en_US"}, ["email", "locale"]),
        ({**VALID, "cc": "x", "EMAIL": "x"}, ["cc", "EMAIL"]),
        ([VALID], ["body"]),
    ],
)
def test_every_problem_is_named(body: Any, fields: list[str]) -> None:
    assert problems(body) == (Fault.INVALID, fields)


def test_header_and_body_are_judged_together() -> None:
    assert problems({**VALID, "code": ""}, ()) == (Fault.INVALID, ["Idempotency-Key", "code"])
    assert problems(b"{", ("a", "b")) == (Fault.INVALID, ["Idempotency-Key", "body"])
    assert problems(content_type="text/plain", keys=("",)) == (
        Fault.UNSUPPORTED_MEDIA_TYPE,
        ["Idempotency-Key", "Content-Type"],
    )


def test_the_body_is_bounded() -> None:
    body = json.dumps(VALID).encode()
    padded = body + b" " * (BODY_MAX_BYTES - len(body))
    assert decode(padded).delivery_id == "d1"
    assert problems(padded + b" ") == (Fault.TOO_LARGE, ["body"])


def test_no_problem_repeats_a_value() -> None:
    with pytest.raises(InvalidRequest) as raised:
        decode({"email": "S3CRET", "code": "S3CRET\n", "locale": "S3CRET!"}, ("S3CRET\n",))
    assert len(raised.value.errors) == 4
    assert "S3CRET" not in str(raised.value)


members = st.dictionaries(
    st.sampled_from(["email", "code", "locale", "x"]), st.none() | st.text() | st.integers()
)


@given(
    st.binary(max_size=50) | members.map(lambda value: json.dumps(value).encode()),
    st.lists(st.text(), max_size=2),
)
def test_any_bytes_give_a_request_or_the_stated_error(body: bytes, keys: list[str]) -> None:
    with suppress(InvalidRequest):
        assert decode(body, tuple(keys)).idempotency_key == keys[0]
