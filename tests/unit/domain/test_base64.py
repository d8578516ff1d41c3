import re
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_mail.domain.base64 import BASE64_SYNTAX, base64_bytes


@given(st.binary(max_size=50))
def test_what_is_encoded_is_base64(content: bytes) -> None:
    assert base64_bytes(b64encode(content).decode()) == b64encode(content)


@pytest.mark.parametrize(
    "text",
    ["A", "AAA", "AAAAA", "A===", "=AAA", "AA=A", "AA==AAAA", "AA\r\n", "AAA ", "AA_-", "äAAA", "\ud800AAA"],
)
def test_what_is_not(text: str) -> None:
    assert base64_bytes(text) is None


@given(st.text("A+/=\n-é", max_size=9))
def test_it_agrees_with_the_contracts_pattern(text: str) -> None:
    assert (base64_bytes(text) is not None) is (re.fullmatch(BASE64_SYNTAX, text) is not None)
