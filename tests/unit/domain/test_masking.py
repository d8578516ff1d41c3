import json
from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain.masking import mask_fields
from galaxy_mail.domain.raw_fields import keep


def shown(name: str, raw: str | bytes) -> str:
    return mask_fields(keep([(name.encode(), raw if isinstance(raw, bytes) else raw.encode())]))[name]


def digest(raw: str | bytes) -> str:
    data = raw if isinstance(raw, bytes) else raw.encode()
    return f"{len(data)} bytes, SHA-256 {sha256(data).hexdigest()}"


def test_json_is_masked_at_any_depth() -> None:
    payload = {
        "name": "Ann",
        "code": 493027,
        "user": {"Password": {"old": "a", "new": "b"}, "roles": [{"resetToken": None, "id": 7}, "x"]},
        "list": [1, {"secret": []}],
        "failure_code": "what we would show, a caller's is masked",
    }
    assert json.loads(shown("payload_json", json.dumps(payload))) == {
        "name": "Ann",
        "code": "***",
        "user": {"Password": "***", "roles": [{"resetToken": "***", "id": 7}, "x"]},
        "list": [1, {"secret": "***"}],
        "failure_code": "***",
    }


def test_short_fields_are_shown_as_they_came() -> None:
    fields = {
        "delivery_id": "a..b",
        "source": "billing",
        "idempotency_key": "k y",
        "requested_at_ms": "soon",
        "trace_id": "é",
    }
    assert mask_fields(keep([(name.encode(), value.encode()) for name, value in fields.items()])) == fields


def test_a_name_that_came_twice_is_shown_twice() -> None:
    fields = [(b"source", b"a"), (b"source", b"b"), (b"token", b"c"), (b"token", b"d")]
    assert mask_fields(keep(fields)) == {"source": "a", "source (2)": "b", "token": "***", "token (2)": "***"}


def test_json_is_shown_with_its_secrets_masked() -> None:
    payload = ' {"variables": {"code": "493027", "n": [1.50, {"TOKEN": {"a": 1}}]}, "text": "é"}\n'
    assert (
        shown("payload_json", payload) == '{"variables":{"code":"***","n":[1.5,{"TOKEN":"***"}]},"text":"é"}'
    )
    assert shown("idempotency_key", '{"code":1}') == '{"code":"***"}'
    assert shown("anything", '[{"password":"x"}]') == '[{"password":"***"}]'


def test_what_the_strict_decoder_refuses_is_shown_all_the_same() -> None:
    assert (
        shown("payload_json", '{"a":1,"a":2,"code":3,"code":4}')
        == '{"a":1,"a (2)":2,"code":"***","code (2)":"***"}'
    )
    assert shown("payload_json", '{"a":NaN,"b":12345678901234567890}') == '{"a":NaN,"b":12345678901234567890}'
    assert shown("payload_json", '["\\ud800"]') == '["\\ud800"]'


@pytest.mark.parametrize(
    "text", ["code=493027", '{"code":"493027"', '"493027"', "493027", "[" * 5000, "{'code':1}", ""]
)
def test_text_that_is_no_json_object_is_told_by_length_and_hash(text: str) -> None:
    assert shown("payload_json", text) == digest(text)
    assert shown("unheard_of", text) == digest(text)


def test_a_plain_field_that_is_too_long_for_one_is_withheld() -> None:
    assert shown("idempotency_key", "k" * 256) == "k" * 256
    assert shown("idempotency_key", "k" * 257) == digest("k" * 257)


def test_a_cut_payload_is_told_by_the_length_and_hash_of_the_whole() -> None:
    payload = '{"text":"' + "x" * 200_000 + '"}'
    assert shown("payload_json", payload) == digest(payload)
    assert shown("payload_json", b"\xff" * 200_000) == digest(b"\xff" * 200_000)
    assert mask_fields({"source": f"cut:9:{'0' * 64}:abc"}) == {"source": f"9 bytes, SHA-256 {'0' * 64}"}


def test_bytes_that_are_not_utf_8_are_shown_as_base64() -> None:
    assert shown("payload_json", b'{"a":"\xe9"}') == "base64:" + b64encode(b'{"a":"\xe9"}').decode()
    assert shown("idempotency_key", b"\xff") == "base64:/w=="


@pytest.mark.parametrize(
    "raw", [b'{"code":"493027\xe9"}', '{"Code":"493027é"}'.encode("utf-16"), b"\xffPASSWORD 1"]
)
def test_bytes_that_name_a_secret_are_not(raw: bytes) -> None:
    assert shown("payload_json", raw) == digest(raw)


def test_a_field_with_a_secret_name_is_masked() -> None:
    assert shown("code", "493027") == "***"
    assert shown("loginToken", b"\xff") == "***"


names = st.sampled_from(["code", "Password", "login_token", "secret", "apiKey", "otp", "PIN"])
leaves = st.none() | st.integers() | st.text(max_size=5)
carriers = st.recursive(
    st.dictionaries(names, st.just("S3CRET") | st.just(["S3CRET"]) | st.just({"x": "S3CRET"}), min_size=1),
    lambda inner: st.dictionaries(st.text(max_size=5), inner | leaves) | st.lists(inner | leaves),
    max_leaves=8,
)


@given(carriers)
def test_no_secret_survives(value: Any) -> None:
    assert "S3CRET" not in shown("payload_json", json.dumps(value))
    assert "S3CRET" not in shown("payload_json", json.dumps({"x": value}))


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=60) | st.text("cutbase64:0", max_size=60)))
def test_whatever_is_kept_can_be_shown(fields: dict[str, str]) -> None:
    masked = mask_fields(fields)
    assert masked.keys() == fields.keys()
    "".join(masked.values()).encode()  # an answer can hold it
