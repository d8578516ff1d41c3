"""One HTTP request from ASGI to an answer and back.

This takes the place of quart-trio's own class, which runs each request in a nursery that it cancels when the server
says that the client is gone. Hypercorn says so from inside of the request's own last `send`, and the cancelled rest of
that `send` would have closed the connection or restarted its idle timer: neither happened, and every stop lasted the
whole grace. Here nothing is cancelled by a client that leaves; each request ends by its own deadline instead.
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

# What may still come of a body that was refused. Read to its end, so that the client reads the answer and not a reset
# connection (RFC 9112 §9.6); beyond it, the connection closes.
LEFTOVER_MAX_BYTES: Final = 1024 * 1024
LEFTOVER_WITHIN_S: Final = 1.0

_NO_LENGTH: Final = frozenset({204, 304})  # RFC 9110 §8.6


class ClientLeft(GalaxyMailError):
    """The connection ended before the request did: there is nobody to answer."""


class HttpRequest(TrioRequest):
    """A request whose body is read when a handler asks for it, and no further than the handler takes."""

    receive: ASGIReceiveCallable
    who: str = ""  # who was let in, for the audit log
    whole: bool = False  # its body has been read to the end

    def refuse_unreadable(self) -> None:
        """Raises InvalidRequest for a path or a query that is not UTF-8 (RFC 3986 §2.5).

        It would be read all the same, as something that nobody sent: hypercorn puts replacement characters into a path,
        and werkzeug leaves such parts of a query encoded.
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
        """The body. Raises InvalidRequest where it is longer, as soon as that shows; ClientLeft."""
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
        """Reads and forgets the rest of the body, within bounds."""
        left = LEFTOVER_MAX_BYTES
        with trio.move_on_after(LEFTOVER_WITHIN_S):
            while not self.whole and left > 0:
                left -= len(await self._part())

    async def read_forever(self) -> None:
        """Keeps the server's queue of this request's parts empty: it would wait for room there and not send."""
        with suppress(ClientLeft):  # said from inside of the last send, which must go on
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
    """Answers one request. Hypercorn makes one for each."""

    app: Answering  # type: ignore[assignment]  # a QuartTrio, of which only this is used

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
