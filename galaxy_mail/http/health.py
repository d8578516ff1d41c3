"""The endpoints for platforms: liveness, readiness, metrics and the OpenAPI document. They need no token."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from galaxy_mail.actors.supervisor import Supervisor
from galaxy_mail.http.connection import HttpRequest
from galaxy_mail.http.responses import JSON, Response, json_response
from galaxy_mail.http.routes import Route
from galaxy_mail.http.tokens import Role
from galaxy_mail.telemetry.metrics import CONTENT_TYPE, Metrics

Checks = Mapping[str, str | None]  # name -> None if it passes, else the problem

_OPENAPI: Final = Path(__file__).with_name("openapi.json")


class Health:
    """Liveness comes from the supervisor, readiness from the service's checks."""

    def __init__(self, supervisor: Supervisor, checks: Callable[[], Checks], metrics: Metrics) -> None:
        self._supervisor = supervisor
        self._checks = checks
        self._metrics = metrics
        self._contract = _OPENAPI.read_bytes()

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/livez", Role.OPEN, self.live),
            Route("GET", "/readyz", Role.OPEN, self.ready),
            Route("GET", "/metrics", Role.OPEN, self.metrics),
            Route("GET", "/api/v1/openapi.json", Role.OPEN, self.openapi),
        )

    async def live(self, request: HttpRequest) -> Response:
        """Whether every actor's loop has turned in time."""
        stuck = self._supervisor.stuck()
        names = [actor.name for actor in self._supervisor.statistics()]
        return _health(
            request, {name: "has not turned when it should have" if name in stuck else None for name in names}
        )

    async def ready(self, request: HttpRequest) -> Response:
        return _health(request, self._checks())

    async def metrics(self, _request: HttpRequest) -> Response:
        content_type = (b"content-type", CONTENT_TYPE.encode())
        return Response(status=200, headers=(content_type,), body=self._metrics.exposition())

    async def openapi(self, _request: HttpRequest) -> Response:
        return Response(status=200, headers=(JSON,), body=self._contract)


def _health(request: HttpRequest, checks: Checks) -> Response:
    failing = [name for name, wrong in checks.items() if wrong is not None]
    document: dict[str, object] = {"status": "failing" if failing else "ok", "failing": failing}
    if "verbose" in request.args:
        document["checks"] = [
            {"name": name, "ok": wrong is None, "detail": wrong} for name, wrong in checks.items()
        ]
    return json_response(document, status=503 if failing else 200)
