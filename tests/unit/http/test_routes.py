"""Every route has a role, stands in the contract, and nothing else is served."""

from typing import Any, cast

import pytest

from galaxy_mail.actors.supervisor import Supervisor
from galaxy_mail.http.app import ApiParts, App, build_app
from galaxy_mail.http.health import _OPENAPI
from galaxy_mail.http.routes import API
from galaxy_mail.http.tokens import Role, Tokens
from galaxy_mail.telemetry.metrics import Metrics
from tests.contracts.against_code import routes_agree
from tests.contracts.documents import openapi
from tests.unit.http.openapi_json import as_json

NOTHING: Any = None  # routes are looked at, not asked


@pytest.fixture
def app() -> App:
    return build_app(
        ApiParts(
            intake=NOTHING,
            reader=NOTHING,
            suppressions=NOTHING,
            resending=NOTHING,
            resend_jobs=NOTHING,
            catalog=NOTHING,
            supervisor=Supervisor(),
            checks=dict,
            metrics=Metrics(),
            tokens=Tokens(),
            request_timeout_s=5.0,
        )
    )


def test_the_routes_are_the_contracts(app: App) -> None:
    assert routes_agree(openapi(), app) == []


def test_every_rule_belongs_to_a_route_with_a_role(app: App) -> None:
    for rule in app.url_map.iter_rules():
        route = app.routes[cast("str", rule.endpoint)]
        assert route.rule == rule.rule
        assert route.role in Role


def test_the_role_of_a_route_is_what_its_path_says(app: App) -> None:
    roles = {route.name: route.role for route in app.routes.values()}
    intake = {name for name, role in roles.items() if role is Role.INTAKE}
    open_to_all = {name for name, role in roles.items() if role is Role.OPEN}
    assert intake == {f"POST {API}/login-code-deliveries"}
    assert open_to_all == {"GET /livez", "GET /readyz", "GET /metrics", "GET /api/v1/openapi.json"}
    assert all(API in name for name, role in roles.items() if role is not Role.OPEN)


def test_the_contract_says_which_token_opens_a_route(app: App) -> None:
    needed: dict[Role, Any] = {
        Role.INTAKE: [{"intakeToken": []}, {}],
        Role.OPERATOR: [{"operatorToken": []}, {}],
        Role.OPEN: [],
    }
    for route in app.routes.values():
        path = route.rule.replace("<member:", "<").replace("<", "{").replace(">", "}")
        assert openapi()["paths"][path][route.method.lower()]["security"] == needed[route.role], route.name


def test_the_served_contract_is_the_written_one() -> None:
    """Where not: `python -m tests.unit.http.openapi_json`."""
    assert _OPENAPI.read_text(encoding="utf-8") == as_json()
