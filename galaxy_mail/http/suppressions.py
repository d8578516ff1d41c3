"""The suppression list: single entries, and the whole list as CSV."""

from collections.abc import AsyncGenerator, Sequence
from typing import Final

import trio
from msgspec.structs import asdict

from galaxy_mail.domain.addresses import BadAddress, parse_suppression_entry
from galaxy_mail.domain.errors import FieldError
from galaxy_mail.domain.invalid import Fault, InvalidRequest
from galaxy_mail.domain.media_type import name_of
from galaxy_mail.domain.records import Suppression
from galaxy_mail.http import requests as r
from galaxy_mail.http import suppression_csv
from galaxy_mail.http.audit import audited, known
from galaxy_mail.http.connection import HttpRequest
from galaxy_mail.http.problems import NothingThere
from galaxy_mail.http.responses import CSV, NO_STORE, Response, json_response, page_response
from galaxy_mail.http.routes import API, Route
from galaxy_mail.http.tokens import Role
from galaxy_mail.storage.operations.suppression_list import SuppressionList
from galaxy_mail.storage.reader import Reader

IMPORT_MAX_BYTES: Final = 5 * 1024 * 1024
AT_A_TIME: Final = 500


class Suppressions:
    """Reads and changes the suppression list."""

    def __init__(self, suppressions: SuppressionList, reader: Reader) -> None:
        self._suppressions = suppressions
        self._reader = reader

    def routes(self) -> tuple[Route, ...]:
        everything = f"{API}/suppressions"
        one = f"{everything}/<member:address>"  # a local part may hold a slash
        return (
            Route("GET", everything, Role.OPERATOR, self.list),
            Route("POST", f"{everything}/import", Role.OPERATOR, self.take_csv),
            Route("GET", f"{everything}/export", Role.OPERATOR, self.give_csv),
            Route("GET", one, Role.OPERATOR, self.show),
            Route("PUT", one, Role.OPERATOR, self.put),
            Route("DELETE", one, Role.OPERATOR, self.remove),
        )

    async def list(self, request: HttpRequest) -> Response:
        query = r.query_members(request)
        limit, after = r.take_paging(query, r.plain_cursor, "")
        entries, following = await self._reader.suppressions(limit=limit, after=after)
        cursor = None if following is None else r.encode_plain_cursor(following)
        return page_response(map(asdict, entries), cursor)

    async def show(self, request: HttpRequest, address: str) -> Response:
        r.query_members(request).finish()
        entry = await self._suppressions.get(_entry(address))
        if entry is None:
            raise NothingThere("suppression")
        return json_response(asdict(entry))

    async def put(self, request: HttpRequest, address: str) -> Response:
        r.query_members(request).finish()
        members = r.body_members(await request.read_body(r.BODY_MAX_BYTES), request)
        entry = Suppression(
            address=_entry(address),
            reason=members.need("reason", r.reason, ""),
            created_by=members.take("created_by", r.person, known(request)),
            created_at_ms=self._reader.clock.now_ms(),
        )
        members.finish()
        with audited(
            request, "suppress", address=entry.address, reason=entry.reason, created_by=entry.created_by
        ) as facts:
            is_new = await self._suppressions.put(entry)
            facts.update(replaced=not is_new)
        return json_response(asdict(entry), status=201 if is_new else 200)

    async def remove(self, request: HttpRequest, address: str) -> Response:
        r.query_members(request).finish()
        entry = _entry(address)
        with audited(request, "unsuppress", address=entry):
            if not await self._suppressions.remove(entry):
                raise NothingThere("suppression")
        return Response(status=204, headers=(NO_STORE,))

    async def take_csv(self, request: HttpRequest) -> Response:
        r.query_members(request).finish()
        if name_of(request.headers.get("Content-Type")) != "text/csv":
            problem = FieldError("Content-Type", "must be text/csv")
            raise InvalidRequest([problem], Fault.UNSUPPORTED_MEDIA_TYPE)
        body = await request.read_body(IMPORT_MAX_BYTES)
        with audited(request, "import_suppressions") as facts:
            entries = await trio.to_thread.run_sync(
                suppression_csv.decode,
                body,
                known(request),
                self._reader.clock.now_ms(),
                abandon_on_cancel=True,
            )
            added = 0
            for first in range(0, len(entries), AT_A_TIME):
                added += await self._suppressions.put_all(entries[first : first + AT_A_TIME])
            facts.update(added=added, replaced=len(entries) - added)
        return json_response({"added": added, "replaced": len(entries) - added})

    async def give_csv(self, request: HttpRequest) -> Response:
        r.query_members(request).finish()
        with audited(request, "export_suppressions") as facts:
            addresses = await self._reader.suppressed_addresses()
            facts.update(entries=len(addresses))
        return Response(status=200, headers=(CSV, NO_STORE), parts=self._lines(addresses))

    async def _lines(self, addresses: Sequence[str]) -> AsyncGenerator[bytes, None]:
        yield suppression_csv.HEADER
        for first in range(0, len(addresses), AT_A_TIME):
            entries = await self._reader.suppressions_of(addresses[first : first + AT_A_TIME])
            yield suppression_csv.encode(entries)


def _entry(address: str) -> str:
    try:
        return parse_suppression_entry(address)
    except BadAddress as bad:
        raise InvalidRequest([FieldError("address", str(bad))]) from None
