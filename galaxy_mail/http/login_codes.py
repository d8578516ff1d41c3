"""The route for Auth: accepts login code mails."""

import secrets
from typing import Final

import trio

from galaxy_mail.domain.ids import ULID_RANDOM_BYTES, new_delivery_id
from galaxy_mail.domain.login_code import BODY_MAX_BYTES, decode_login_code
from galaxy_mail.domain.records import Source
from galaxy_mail.http.connection import HttpRequest
from galaxy_mail.http.requests import query_members, tracing
from galaxy_mail.http.responses import JSON, NO_STORE, REPLAYED, Header, Response
from galaxy_mail.http.routes import API, Route
from galaxy_mail.http.tokens import Role
from galaxy_mail.intake.intake import Intake
from galaxy_mail.telemetry.metrics import Metrics

_BODIES: Final = {"sent": b'{"outcome":"sent"}', "suppressed": b'{"outcome":"suppressed"}'}


class LoginCodes:
    """Accepts login codes."""

    def __init__(self, intake: Intake, metrics: Metrics) -> None:
        self._intake = intake
        self._metrics = metrics

    def routes(self) -> tuple[Route, ...]:
        return (Route("POST", f"{API}/login-code-deliveries", Role.INTAKE, self.create),)

    async def create(self, request: HttpRequest) -> Response:
        started_s = trio.current_time()
        if request.query_string:
            query_members(request).finish()  # refuses every parameter
        body = await request.read_body(BODY_MAX_BYTES)
        headers = request.headers
        login_code = decode_login_code(
            headers.getlist("Idempotency-Key"),
            body,
            content_type=headers.get("Content-Type"),
            delivery_id=new_delivery_id(self._intake.clock.now_ms(), secrets.token_bytes(ULID_RANDOM_BYTES)),
            tracing=tracing(request),
        )
        outcome = await self._intake.accept(login_code)
        head: tuple[Header, ...] = (JSON, NO_STORE, (b"delivery-id", outcome.delivery_id.encode()))
        if outcome.replayed:
            head += (REPLAYED,)
        else:
            self._metrics.took_in(Source.AUTHSESSION, trio.current_time() - started_s)
        return Response(status=200, headers=head, body=_BODIES[outcome.outcome])
