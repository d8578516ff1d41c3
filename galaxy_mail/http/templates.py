"""The catalog of templates, and previews."""

from collections.abc import Mapping
from typing import Final

import trio
from msgspec.structs import asdict

from galaxy_mail.domain.json_body import json_members, locale
from galaxy_mail.domain.records import Failure, Json, RenderedContent
from galaxy_mail.http import requests as r
from galaxy_mail.http.connection import HttpRequest
from galaxy_mail.http.problems import NothingThere, WillNotRender
from galaxy_mail.http.responses import Response, json_response
from galaxy_mail.http.routes import API, Route
from galaxy_mail.http.tokens import Role
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.rendering.failures import RenderFailureCode

PREVIEW_MAX_BYTES: Final = 1024 * 1024


class Templates:
    """Lists and previews the templates that this process has loaded."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", f"{API}/templates", Role.OPERATOR, self.list),
            Route("POST", f"{API}/templates/<template_id>/preview", Role.OPERATOR, self.preview),
        )

    async def list(self, request: HttpRequest) -> Response:
        r.query_members(request).finish()
        return json_response({"items": list(map(asdict, self._catalog.templates()))})

    async def preview(self, request: HttpRequest, template_id: str) -> Response:
        r.query_members(request).finish()
        body = await request.read_body(PREVIEW_MAX_BYTES)
        # In a thread, so that a slow template delays no login code.
        outcome = await trio.to_thread.run_sync(
            self._rendered, template_id, body, request, abandon_on_cancel=True
        )
        match outcome:
            case RenderedContent():
                return json_response(asdict(outcome))
            case Failure() if outcome.code == RenderFailureCode.TEMPLATE_NOT_FOUND:
                raise NothingThere("template")
            case Failure():
                raise WillNotRender(outcome)

    def _rendered(self, template_id: str, body: bytes, request: HttpRequest) -> RenderedContent | Failure:
        members = r.body_members(body, request, PREVIEW_MAX_BYTES)
        spoken = members.need("locale", locale, "")
        variables: Mapping[str, Json] = members.need("variables", json_members, {})
        members.finish()
        return self._catalog.render(template_id, spoken, variables)
