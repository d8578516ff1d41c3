"""The API: its routes, and the handling of each request."""

from collections.abc import Callable
from typing import Final

import structlog
import trio
from msgspec import Struct
from quart_trio import QuartTrio
from werkzeug.routing import MapAdapter, PathConverter

from galaxy_mail.actors.supervisor import Supervisor
from galaxy_mail.http.connection import ClientLeft, Connection, HttpRequest
from galaxy_mail.http.deliveries import Deliveries
from galaxy_mail.http.health import Checks, Health
from galaxy_mail.http.login_codes import LoginCodes
from galaxy_mail.http.problems import RequestTimedOut, problem
from galaxy_mail.http.responses import Response
from galaxy_mail.http.review import Review
from galaxy_mail.http.routes import Route
from galaxy_mail.http.suppressions import Suppressions
from galaxy_mail.http.templates import Templates
from galaxy_mail.http.tokens import Forbidden, Tokens, Unauthorized
from galaxy_mail.intake.intake import Intake
from galaxy_mail.intake.resend_job_runner import ResendJobRunner
from galaxy_mail.intake.resending import Resending
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.storage.operations.suppression_list import SuppressionList
from galaxy_mail.storage.reader import Reader
from galaxy_mail.telemetry.metrics import Metrics

log = structlog.get_logger()

NO_ROUTE: Final = "none"  # the route's name in metrics if no route matches


class ApiParts(Struct, frozen=True, kw_only=True):
    """The parts of the service that the routes use."""

    intake: Intake
    reader: Reader
    suppressions: SuppressionList
    resending: Resending
    resend_jobs: ResendJobRunner
    catalog: Catalog
    supervisor: Supervisor
    checks: Callable[[], Checks]  # of `/readyz`
    metrics: Metrics
    tokens: Tokens
    request_timeout_s: float


class Member(PathConverter):
    """The name of an item, which may have slashes. `import` and `export` are routes of the whole collection."""

    part_isolating = False
    regex = r"(?!(?:import|export)$).+?"


class App(QuartTrio):
    """Uses Quart for requests, routing and ASGI; `answer` handles a request.

    It bypasses Quart's hooks, signals, sessions and contexts. The service uses none of them, and they would take as
    much time as accepting a mail.
    """

    asgi_http_class = Connection
    request_class = HttpRequest

    def __init__(
        self, routes: tuple[Route, ...], *, tokens: Tokens, metrics: Metrics, timeout_s: float
    ) -> None:
        super().__init__("galaxy_mail.http", static_folder=None)
        self.routes = {route.name: route for route in routes}
        self._tokens = tokens
        self._metrics = metrics
        self._timeout_s = timeout_s
        self.url_map.converters["member"] = Member
        self.url_map.merge_slashes = False  # no redirects
        for route in routes:
            self.add_url_rule(
                route.rule,
                route.name,
                methods=[route.method],
                provide_automatic_options=False,
            )
        self._adapter: MapAdapter = self.url_map.bind("")

    async def answer(self, request: HttpRequest) -> Response:
        """The response to this request, also after an error. Raises ClientLeft if the client has left."""
        started_s = trio.current_time()
        name = NO_ROUTE
        try:
            request.refuse_unreadable()
            rule, variables = self._adapter.match(request.path, request.method, return_rule=True)
            route = self.routes[rule.endpoint]
            name = route.name
            request.who = self._tokens.admit(route.role, request.headers.getlist("Authorization"))
            with trio.move_on_after(self._timeout_s) as deadline:
                answer = await route.handler(request, **variables)
            if deadline.cancelled_caught:
                raise RequestTimedOut
        except ClientLeft:
            raise
        except (Unauthorized, Forbidden) as refusal:
            log.warning("access_refused", route=name, reason=str(refusal), client=request.remote_addr)
            answer = problem(refusal)
        except Exception as error:  # noqa: BLE001  # every request gets a response
            answer = problem(error)
        self._metrics.answered(name, answer.status)
        log.debug(
            "request",
            method=request.method,
            path=request.path,
            status=answer.status,
            duration_ms=round((trio.current_time() - started_s) * 1000, 3),
            client=request.remote_addr,
            who=request.who,
        )
        return answer


def build_app(api: ApiParts) -> App:
    """The app with all routes. Each group declares its routes with their roles."""
    groups = (
        LoginCodes(api.intake, api.metrics),
        Deliveries(api.reader, api.resending, api.resend_jobs),
        Review(api.reader),
        Suppressions(api.suppressions, api.reader),
        Templates(api.catalog),
        Health(api.supervisor, api.checks, api.metrics),
    )
    return App(
        tuple(route for group in groups for route in group.routes()),
        tokens=api.tokens,
        metrics=api.metrics,
        timeout_s=api.request_timeout_s,
    )
