"""Handles one HTTP request over ASGI.

This replaces quart-trio's own class, which runs each request in a nursery and cancels the nursery when the server reports
a disconnect. Hypercorn reports it inside of the request's own last `send`. The cancellation then skips the rest of that
`send`, which closes the connection or restarts its idle timer, and every stop takes the whole grace period. Here a client
that leaves cancels nothing; the request's own deadline ends it.
"""

from contextlib import aclosing, suppress
from typing import Any, Final, Protocol
from urllib.parse import unquote_to_bytes

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest

from galaxy_mail.domain.errors import FieldError, GalaxyMailError
from galaxy_mail.domain.invalid import InvalidRequest, too_large
from galaxy_mail.http.responses import Header, Response

# The rest of a refused body is read up to this limit, so that the client gets the response and not a reset connection
# (RFC 9112 §9.6). Beyond it, the connection closes.
LEFTOVER_MAX_BYTES: Final = 1024 * 1024
LEFTOVER_WITHIN_S: Final = 1.0

_NO_LENGTH: Final = frozenset({204, 304})  # RFC 9110 §8.6


class ClientLeft(GalaxyMailError):
    """The client closed the connection before the end of its request."""


class HttpRequest(TrioRequest):
    """A request. Its body is read when a handler asks for it, up to the handler's limit."""

    receive: ASGIReceiveCallable
    who: str = ""  # the caller's name, for the audit log
    whole: bool = False  # its body has been read to the end

    def refuse_unreadable(self) -> None:
        """Raises InvalidRequest for a path or a query that is not UTF-8 (RFC 3986 §2.5).

        Otherwise the request would mean something else: hypercorn puts replacement characters into the path, and werkzeug
        leaves these parts of the query encoded.
        """
        if "\N{REPLACEMENT CHARACTER}" in self.path:
            raise InvalidRequest([FieldError("path", "is not UTF-8")])
        query = self.query_string
        if b"%" in query:
            try:
                unquote_to_bytes(query).decode()
            except UnicodeDecodeError:
                raise InvalidRequest([FieldError("query", "is not UTF-8")]) from None

    async def read_body(self, max_bytes: int) -> bytes:
        """The body. Raises InvalidRequest as soon as it exceeds `max_bytes`, or ClientLeft."""
        declared = self.content_length
        if declared is not None and declared > max_bytes:
            raise too_large(max_bytes)
        body = b""
        while not self.whole:
            body += await self._part()
            if len(body) > max_bytes:
                raise too_large(max_bytes)
        return body

    async def read_leftover(self) -> None:
        """Reads and drops the rest of the body, up to the limits above."""
        left = LEFTOVER_MAX_BYTES
        with trio.move_on_after(LEFTOVER_WITHIN_S):
            while not self.whole and left > 0:
                left -= len(await self._part())

    async def read_forever(self) -> None:
        """Empties the server's queue of body parts: if the queue is full, the server sends nothing."""
        with suppress(ClientLeft):  # raised inside of the last `send`, which must continue
            while not self.whole:
                await self._part()

    async def _part(self) -> bytes:
        message = await self.receive()
        if message["type"] != "http.request":
            raise ClientLeft
        self.whole = not message.get("more_body", False)
        return message.get("body", b"")


class Answering(Protocol):
    """The app, as its connections see it."""

    async def answer(self, request: HttpRequest) -> Response: ...


class Connection(TrioASGIHTTPConnection):
    """Handles one request. Hypercorn makes an object for each request."""

    app: Answering  # type: ignore[assignment]  # a QuartTrio; only this method is used

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        self.scope["path"] = self.scope["path"] or "/"  # RFC 9112 §3.2.1; quart looks at its first character
        request: Any = self._create_request_from_scope(send)
        request.receive = receive
        with suppress(ClientLeft):
            answer = await self.app.answer(request)
            if not request.whole and _has_body(request):
                await request.read_leftover()
            if request.whole or not _has_body(request):
                await _send(send, answer, request.method)
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(request.read_forever)
                await _send(send, answer, request.method)
                nursery.cancel_scope.cancel()


def _has_body(request: HttpRequest) -> bool:
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


async def _send(send: ASGISendCallable, answer: Response, method: str) -> None:
    headers: list[Header] = list(answer.headers)
    if answer.parts is None and answer.status not in _NO_LENGTH:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    await send(
        {"type": "http.response.start", "status": answer.status, "headers": headers, "trailers": False}
    )
    if answer.parts is not None and method != "HEAD":
        async with aclosing(answer.parts) as parts:
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
