"""The check that `make check` runs, and that it would notice."""

import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from quart import Quart

from tests.contracts.against_code import contract_routes, routes_agree, routes_of
from tests.contracts.check import problems
from tests.contracts.documents import CONTRACTS, Document, asyncapi, openapi

Change = Callable[[Document, Document], Any]


def test_the_contracts_are_valid_and_what_the_code_does() -> None:
    assert problems(openapi(), asyncapi()) == []


def test_the_command_says_so_by_its_exit_status() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.contracts.check"],
        cwd=CONTRACTS.parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def _schemas(document: Document) -> Any:
    return document["components"]["schemas"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda o, a: o.pop("info"), '"info" is a required property'),
        (lambda o, a: a["channels"]["deliveryCommands"].update(adress="x"), "'adress' was unexpected"),
        (lambda o, a: _schemas(a)["Envelope"].update(minLenght=1), "minLenght"),
        (lambda o, a: _schemas(a)["Envelope"].update(type="objekt"), "objekt"),
        (lambda o, a: _schemas(o).update(Leftover={"type": "string"}), "Leftover: is used nowhere"),
        (lambda o, a: a["operations"]["takeCommand"]["channel"].update({"$ref": "#/channels/x"}), "leads nowhere"),
        (lambda o, a: _schemas(o)["DeliveryStatus"]["enum"].append("lost"), "lost is in the contract alone"),
        (lambda o, a: _schemas(o)["DeliveryStatus"]["enum"].remove("sent"), "sent is in the code alone"),
        (lambda o, a: _schemas(o)["FailureCode"]["enum"].pop(), "FailureCode: delivery_id_conflict"),
        (lambda o, a: _schemas(o)["ProblemCode"]["enum"].remove("render_error"), "ProblemCode: lacks render_error"),
        (lambda o, a: _schemas(o)["IdempotencyKey"].update(maxLength=256), "IdempotencyKey: maxLength: 256"),
        (lambda o, a: _schemas(o)["LoginCode"].update(pattern=".*"), "LoginCode: pattern"),
        (lambda o, a: _schemas(o)["Attempt"]["properties"].update(token={"type": "string"}), "Attempt: properties: token"),
        (lambda o, a: _schemas(o)["Delivery"]["properties"]["locale"].update(type="string"), "locale may be null"),
        (lambda o, a: _schemas(a)["RenderedEntry"]["required"].append("trace_id"), "RenderedEntry: required: trace_id"),
        (lambda o, a: _schemas(a)["RenderedPayload"]["required"].remove("text_body"), "Payload: required: text_body"),
        (lambda o, a: _schemas(a)["Envelope"].update({"x-recipients-max": 49}), "x-recipients-max: 49"),
        (lambda o, a: _schemas(a)["TemplateEntry"]["properties"]["payload_json"].update({"x-max-bytes": 1}), "x-max-bytes"),
        (lambda o, a: _schemas(a)["Locale"].update(maxLength=35), "Locale: maxLength: 35"),
        (lambda o, a: o["components"]["examples"]["Resend"]["value"].update(more=1), "example created"),
        (lambda o, a: o["components"]["parameters"]["Traceparent"].update(example=1), "1 is not of type 'string'"),
        (lambda o, a: o["paths"]["/api/v1/internal/templates"]["get"]["responses"].pop("401"), "when it answers 401"),
        (lambda o, a: a["components"]["messages"]["RenderedCommand"]["examples"][0]["payload"].pop("source"), "shortest"),
    ],
)  # fmt: skip
def test_the_check_notices(change: Change, complaint: str) -> None:
    documents = deepcopy(openapi()), deepcopy(asyncapi())
    change(*documents)
    assert complaint in "\n".join(problems(*documents))


async def test_the_routes_of_an_app_are_compared_with_the_contract() -> None:
    app = Quart("bare")
    for method, path in contract_routes(openapi()):
        rule = path.replace("{address}", "<path:address>").replace("{", "<").replace("}", ">")
        app.add_url_rule(rule, f"{method} {path}", lambda **_: "", methods=[method])
    assert routes_agree(openapi(), app) == []
    app.add_url_rule("/debug", "debug", lambda: "")
    assert routes_agree(openapi(), app) == ["GET /debug: in the code, not in the contract"]
    assert ("GET", "/livez") in routes_of(app)
    assert "GET /livez: in the contract, not in the code" in routes_agree(openapi(), Quart("empty"))
