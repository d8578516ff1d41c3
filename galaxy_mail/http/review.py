"""What needs a look: dead letters, and commands that could not be accepted."""

import re
from collections.abc import Callable
from typing import Any

from galaxy_mail.domain.ids import DELIVERY_ID, ENTRY_ID
from galaxy_mail.http import requests as r
from galaxy_mail.http.connection import HttpRequest
from galaxy_mail.http.problems import NothingThere
from galaxy_mail.http.responses import Response, json_response
from galaxy_mail.http.routes import API, Route
from galaxy_mail.http.tokens import Role
from galaxy_mail.http.views import dead_letter_view, malformed_command_view
from galaxy_mail.storage.reader import Page, Position, Reader


class Review:
    """Two lists for operators."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def routes(self) -> tuple[Route, ...]:
        malformed = f"{API}/malformed-commands"
        return (
            Route("GET", f"{API}/dead-letters", Role.OPERATOR, self.dead_letters),
            Route("GET", malformed, Role.OPERATOR, self.malformed_commands),
            Route("GET", f"{malformed}/<entry_id>", Role.OPERATOR, self.malformed_command),
        )

    async def dead_letters(self, request: HttpRequest) -> Response:
        limit, after = _paging(request, DELIVERY_ID)
        return _page(await self._reader.dead_letters(limit=limit, after=after), dead_letter_view)

    async def malformed_commands(self, request: HttpRequest) -> Response:
        limit, after = _paging(request, ENTRY_ID)
        return _page(await self._reader.malformed_commands(limit=limit, after=after), malformed_command_view)

    async def malformed_command(self, request: HttpRequest, entry_id: str) -> Response:
        r.query_members(request).finish()
        command = await self._reader.malformed_command(entry_id) if ENTRY_ID.fullmatch(entry_id) else None
        if command is None:
            raise NothingThere("malformed command")
        return json_response(malformed_command_view(command))


def _paging(request: HttpRequest, member: re.Pattern[str]) -> tuple[int, Position | None]:
    query = r.query_members(request)
    limit = query.take("limit", r.limit, r.LIMIT_DEFAULT)
    after = query.take("cursor", r.cursor(member), None)
    query.finish()
    return limit, after


def _page(page: Page[Any], view: Callable[[Any], dict[str, Any]]) -> Response:
    return json_response({"items": list(map(view, page.items)), "next_cursor": r.encode_cursor(page.next)})
