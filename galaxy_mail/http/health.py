"""What platforms ask: alive, ready, metrics, the contract. Open to all."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final

from galaxy_mail.actors.supervisor import Supervisor
from galaxy_mail.http.connection import Request
from galaxy_mail.http.responses import JSON, Answer, json_answer
from galaxy_mail.http.routes import Route
from galaxy_mail.http.tokens import Role
from galaxy_mail.relays.holds import CurrentHolds
from galaxy_mail.telemetry.metrics import CONTENT_TYPE, Metrics

Checks = Mapping[str, str | None]  # by name: None where it is well, else what is wrong

_OPENAPI: Final = Path(__file__).with_name("openapi.json")


class Health:
    """Looks at the supervisor for life, and at the service's own checks for readiness."""

    def __init__(
        self, supervisor: Supervisor, checks: Callable[[], Checks], holds: CurrentHolds, metrics: Metrics
    ) -> None:
        self._supervisor = supervisor
        self._checks = checks
        self._holds = holds
        self._metrics = metrics

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/livez", Role.OPEN, self.live),
            Route("GET", "/readyz", Role.OPEN, self.ready),
            Route("GET", "/metrics", Role.OPEN, self.metrics),
            Route("GET", "/api/v1/openapi.json", Role.OPEN, self.openapi),
        )

    async def live(self, request: Request) -> Answer:
        """Every actor's loop turned lately."""
        stuck = self._supervisor.stuck()
        names = [actor.name for actor in self._supervisor.statistics()]
        return _health(
            request, {name: "has not turned when it should have" if name in stuck else None for name in names}
        )

    async def ready(self, request: Request) -> Answer:
        """A hold is shown and is no unreadiness: a held service takes mail in as ever."""
        held = ", ".join(f"{hold.scope} ({hold.cause})" for hold in self._holds.in_force)
        return _health(request, self._checks(), notes={"holds": held or None})

    async def metrics(self, _request: Request) -> Answer:
        content_type = (b"content-type", CONTENT_TYPE.encode())
        return Answer(status=200, headers=(content_type,), body=self._metrics.exposition())

    async def openapi(self, _request: Request) -> Answer:
        return Answer(status=200, headers=(JSON,), body=self._contract)

    @cached_property
    def _contract(self) -> bytes:
        return _OPENAPI.read_bytes()


def _health(request: Request, checks: Checks, notes: Checks = MappingProxyType({})) -> Answer:
    """`notes` are shown with the checks and never fail."""
    failing = [name for name, wrong in checks.items() if wrong is not None]
    document: dict[str, object] = {"status": "failing" if failing else "ok", "failing": failing}
    if "verbose" in request.args:
        document["checks"] = [
            {"name": name, "ok": wrong is None, "detail": wrong} for name, wrong in checks.items()
        ] + [{"name": name, "ok": True, "detail": note} for name, note in notes.items()]
    return json_answer(document, status=503 if failing else 200)
