"""What is held: shown, and by operators changed."""

from collections.abc import Collection

from galaxy_mail.domain.holds import Cause, Hold, UnknownScope, all_scopes
from galaxy_mail.domain.json_body import Parse, WrongValue
from galaxy_mail.domain.records import Json
from galaxy_mail.http import requests as r
from galaxy_mail.http.audit import audited, known
from galaxy_mail.http.connection import HttpRequest
from galaxy_mail.http.problems import NothingThere
from galaxy_mail.http.responses import NO_STORE, Response, json_response
from galaxy_mail.http.routes import API, Route
from galaxy_mail.http.tokens import Role
from galaxy_mail.http.views import hold_view
from galaxy_mail.relays.breaker_events import HOLD_AFTER_PROBE_MS
from galaxy_mail.storage.operations.hold_store import HoldStore
from galaxy_mail.storage.reader import Reader


class Holds:
    """Shows every hold in force, and changes those of operators. Each process obeys within a second."""

    def __init__(self, holds: HoldStore, relays: Collection[str], reader: Reader) -> None:
        self._holds = holds
        self._relays = relays
        self._reader = reader

    def routes(self) -> tuple[Route, ...]:
        everything = f"{API}/holds"
        one = f"{everything}/<scope>"
        return (
            Route("GET", everything, Role.OPERATOR, self.list),
            Route("PUT", one, Role.OPERATOR, self.put),
            Route("DELETE", one, Role.OPERATOR, self.remove),
        )

    async def list(self, request: HttpRequest) -> Response:
        r.query_members(request).finish()
        now_ms = self._reader.clock.now_ms()
        holds = [stored.hold for stored in await self._holds.read() if stored.hold is not None]
        return json_response({"items": [hold_view(hold) for hold in holds if hold.in_force(now_ms)]})

    async def put(self, request: HttpRequest, scope: str) -> Response:
        if scope not in all_scopes(self._relays):
            raise UnknownScope(self._relays)
        r.query_members(request).finish()
        members = r.body_members(await request.read_body(r.BODY_MAX_BYTES), request)
        now_ms = self._reader.clock.now_ms()
        hold = Hold(
            scope=scope,
            cause=Cause.OPERATOR,
            reason=members.need("reason", r.reason, ""),
            since_ms=now_ms,
            until_ms=members.take("until_ms", _later_than(now_ms), None),
            created_by=members.take("created_by", r.person, known(request)),
        )
        members.finish()
        with audited(
            request,
            "hold",
            scope=scope,
            reason=hold.reason,
            until_ms=hold.until_ms,
            created_by=hold.created_by,
        ) as facts:
            is_new = await self._holds.put(hold)
            facts.update(replaced=not is_new)
        return json_response(hold_view(hold), status=201 if is_new else 200)

    async def remove(self, request: HttpRequest, scope: str) -> Response:
        """Ends an operator's hold, also of a relay that is not configured any more. A breaker's is probed at once."""
        r.query_members(request).finish()
        now_ms = self._reader.clock.now_ms()
        with audited(request, "lift_hold", scope=scope):
            lifted = await self._holds.lift(Cause.OPERATOR, scope, now_ms=now_ms)
            probed = await self._holds.probe_by(scope, until_ms=now_ms + HOLD_AFTER_PROBE_MS, now_ms=now_ms)
            if not (lifted or probed):
                raise NothingThere("hold")
        return Response(status=204, headers=(NO_STORE,))


def _later_than(now_ms: int) -> Parse[int | None]:
    def parse(value: Json) -> int:
        time_ms = r.time_ms(value)
        if time_ms <= now_ms:
            raise WrongValue("must be in the future")
        return time_ms

    return parse
