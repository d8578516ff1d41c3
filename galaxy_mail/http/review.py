"""Dead letters and malformed commands."""

from typing import Final

from msgspec.structs import asdict

from galaxy_mail.domain.ids import DELIVERY_ID, ENTRY_ID
from galaxy_mail.http import requests as r
from galaxy_mail.http.connection import HttpRequest
from galaxy_mail.http.problems import NothingThere
from galaxy_mail.http.responses import Response, json_response, page_response
from galaxy_mail.http.routes import API, Route
from galaxy_mail.http.tokens import Role
from galaxy_mail.http.views import malformed_command_view
from galaxy_mail.storage.reader import Reader

_DELIVERY: Final = r.cursor(DELIVERY_ID)
_ENTRY: Final = r.cursor(ENTRY_ID)


class Review:
    """Lists what an operator has to look at."""

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
        limit, after = r.take_paging(r.query_members(request), _DELIVERY, None)
        page = await self._reader.dead_letters(limit=limit, after=after)
        return page_response(map(asdict, page.items), r.encode_cursor(page.next))

    async def malformed_commands(self, request: HttpRequest) -> Response:
        limit, after = r.take_paging(r.query_members(request), _ENTRY, None)
        page = await self._reader.malformed_commands(limit=limit, after=after)
        return page_response(map(malformed_command_view, page.items), r.encode_cursor(page.next))

    async def malformed_command(self, request: HttpRequest, entry_id: str) -> Response:
        r.query_members(request).finish()
        command = await self._reader.malformed_command(entry_id) if ENTRY_ID.fullmatch(entry_id) else None
        if command is None:
            raise NothingThere("malformed command")
        return json_response(malformed_command_view(command))
