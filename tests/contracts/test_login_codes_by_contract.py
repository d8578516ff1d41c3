"""What the OpenAPI contract calls a valid login code request is accepted, and nothing else is."""

import json
from typing import Any

import pytest

from galaxy_mail.domain.acceptance import MailRequest
from galaxy_mail.domain.invalid import Fault, InvalidRequest
from galaxy_mail.domain.login_code import decode_login_code
from tests.contracts.documents import Document, openapi, validator
from tests.contracts.entries import mutations

OPERATION: Document = openapi()["paths"]["/api/v1/internal/login-code-deliveries"]["post"]
MEDIA: Document = OPERATION["requestBody"]["content"]["application/json"]
EXAMPLES = {name: example["value"] for name, example in MEDIA["examples"].items()}


def decode(body: str) -> MailRequest:
    return decode_login_code(["key-1"], body.encode(), content_type="application/json", delivery_id="d1")


@pytest.mark.parametrize("value", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_an_example_is_accepted(value: dict[str, str]) -> None:
    assert decode(json.dumps(value)).content.variables == {"code": value["code"]}


@pytest.mark.parametrize("example", MEDIA["x-invalid-examples"], ids=lambda example: str(example["name"]))
def test_an_invalid_example_names_its_fields(example: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        decode(example["body"])
    assert raised.value.fault is Fault(example["fault"])
    assert [error.field for error in raised.value.errors] == example["fields"]


@pytest.mark.parametrize("value", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_schema_and_decoder_agree_on_every_mutation(value: dict[str, str]) -> None:
    judge = validator(openapi(), MEDIA["schema"])
    verdicts = set()
    for where, mutated in mutations(value):
        try:
            decode(json.dumps(mutated))
            accepted = True
        except InvalidRequest:
            accepted = False
        assert accepted == judge.is_valid(mutated), where
        verdicts.add(accepted)
    assert verdicts == {True, False}
