"""The link of the hot path: one connection, several batches in flight.

    callers --> RequestQueue --> writer --bytes--> Redis --bytes--> reader --> callers
                                   '---- in flight, in order ----'

The writer takes whatever waits into one batch and doesn't wait for its replies; the reader gives each reply to the
oldest request that misses one, since Redis answers a connection in order. A connection is opened, prepared (login,
database, scripts, clock, the store's own check) and only then served; when it is lost, what was written and not
answered is unknown, and what wasn't written waits for the next connection, but not for long.
"""

import random
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeAlias

import hiredis
import structlog
import trio

from galaxy_mail.domain.errors import root_cause
from galaxy_mail.network.socket_stream import ConversationStream
from galaxy_mail.settings.redis_address import RedisAddress
from galaxy_mail.storage.links.durability import Durability
from galaxy_mail.storage.links.errors import NotDurable, OutcomeUnknown, RedisFailure, RedisRefused
from galaxy_mail.storage.links.protocol import Call, Command, Pipeline
from galaxy_mail.storage.links.request_queue import Request, RequestQueue

Stream: TypeAlias = trio.abc.Stream

CONNECT_WITHIN_S: Final = 3.0
PATIENCE_S: Final = 1.0  # requests wait so long for a lost connection to come back; then they fail at once
PAUSE_S: Final = (0.02, 1.0)  # between attempts to connect: the first, the longest
BATCH_COMMANDS: Final = 512
BATCH_BYTES: Final = 1024 * 1024
BATCHES_IN_FLIGHT: Final = 8
READ_BYTES: Final = 65536


class ConnectionLost(Exception):
    """This connection is of no more use. Never leaves the link: callers learn what it means for them."""


_LOST: Final = (OSError, trio.BrokenResourceError, trio.TooSlowError, ConnectionLost, RedisFailure)

log = structlog.get_logger()
_MISSING: Final = object()


class _DurabilityWait(Request):
    """Follows a batch and settles it: its requests are done when the disk or the replica has them."""

    __slots__ = ("batch",)

    def __init__(self, command: Command, batch: list[Request], timeout_s: float) -> None:
        super().__init__((command,), timeout_s)
        self.batch = batch


class DataLink:
    """Serves its queue over one connection at a time, which it opens anew for ever. Ends only when cancelled.

    Touches its own connection; `prepare` and `heartbeat` use it through a pipeline of their own.
    """

    def __init__(
        self,
        primary: Callable[[], Awaitable[RedisAddress]],
        *,
        name: str,
        timeout_s: float,
        prepare: Callable[[Pipeline], Awaitable[None]],
        heartbeat: Callable[[Pipeline], Awaitable[None]],
        heartbeat_s: float,
        patience_s: float = PATIENCE_S,
        durability: Durability = Durability.SERVER,
    ) -> None:
        self._primary = primary
        self._name = name
        self._timeout_s = timeout_s
        self._prepare = prepare
        self._heartbeat = heartbeat
        self._heartbeat_s = heartbeat_s
        self._patience_s = patience_s
        self._durability = durability
        # It has to answer before its requests' deadlines, or nobody learns why they failed.
        self._barrier = durability.wait_command(round(timeout_s * 800))

        self.queue = RequestQueue(timeout_s=timeout_s)
        self.connected = trio.Event()
        self.connections = 0
        self.batches = 0
        self.last_error: str | None = None
        self._in_flight: deque[Request] = deque()
        self._batches_in_flight: deque[Request] = deque()  # the last request of each
        self._room: trio.Event | None = None  # the writer waits for it
        self._heard_at = 0.0  # trio's clock: the last sign of life, or when the server came to owe one
        self._lost: str | None = None

    @property
    def in_flight(self) -> int:
        return sum(request.count - len(request.replies) for request in self._in_flight)

    async def run(self) -> None:
        self.queue.take_again()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.queue.keep_deadlines)
                await self._serve_for_ever()
        finally:
            self.queue.refuse("the gateway to Redis has stopped")

    async def _serve_for_ever(self) -> None:
        """One connection after the other."""
        pause_s, longest_s = PAUSE_S
        down_since = trio.current_time()
        while True:
            connected_at = await self._connect_and_serve()
            if connected_at is not None:
                down_since = trio.current_time()
                if down_since - connected_at > longest_s:
                    pause_s = PAUSE_S[0]
            if trio.current_time() - down_since >= self._patience_s:
                self.queue.refuse(f"Redis is away: {self.last_error}")
            await trio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, no secret
            pause_s = min(pause_s * 2, longest_s)

    async def _connect_and_serve(self) -> float | None:
        """One connection from its first byte to its last. Returns since when it served, None if it never did."""
        self._lost = None
        connected_at = None
        try:
            with trio.fail_after(CONNECT_WITHIN_S):
                stream, address = await self._open()
        except _LOST as error:
            self._lost = _reason(error, CONNECT_WITHIN_S)
        else:
            try:
                connected_at = await self._serve(stream, address)
            finally:
                self._disown()
                await trio.aclose_forcefully(stream)
        if self._lost != self.last_error or connected_at is not None:
            log.warning("redis_connection_lost", link=self._name, reason=self._lost)
        self.last_error = self._lost
        return connected_at

    async def _open(self) -> tuple[Stream, RedisAddress]:
        address = await self._primary()
        if address.unix_path is not None:
            return ConversationStream.over(await trio.open_unix_socket(address.unix_path)), address
        ((host, port),) = address.hosts
        context = address.tls_context() if address.tls else None
        socket_stream = await trio.open_tcp_stream(host, port)
        socket_stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_KEEPALIVE, 1)
        stream = ConversationStream.over(socket_stream)
        if context is None:
            return stream, address
        try:
            secured = trio.SSLStream(stream, context, server_hostname=host)
            await secured.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secured, address

    async def _serve(self, stream: Stream, address: RedisAddress) -> float | None:
        """Returns since when the queue was served, None where the introduction failed."""
        connected_at: float | None = None
        self._heard_at = trio.current_time()
        introduction = RequestQueue(timeout_s=self._timeout_s)

        async with trio.open_nursery() as nursery:

            async def until_lost(step: Callable[[], Awaitable[None]]) -> None:
                try:
                    await step()
                except (*_LOST, hiredis.ProtocolError) as error:
                    self._lost = self._lost or _reason(error, self._timeout_s)
                    nursery.cancel_scope.cancel()

            async def handshake() -> None:
                await self._handshake(introduction.pipeline, address)
                introduction.close()

            async def write() -> None:
                nonlocal connected_at
                await self._write(introduction.outlet, stream, wait_command=None)
                connected_at = trio.current_time()
                self._be_connected()
                nursery.start_soon(until_lost, self._beat)
                await self._write(self.queue.outlet, stream, wait_command=self._barrier)

            for step in (partial(self._read, stream), self._watch, handshake, write):
                nursery.start_soon(until_lost, step)
        return connected_at

    def _be_connected(self) -> None:
        self.connections += 1
        self.last_error = None
        self.queue.take_again()
        self.connected.set()
        log.info("redis_connected", link=self._name, connections=self.connections)

    def _disown(self) -> None:
        """Nothing more comes from this connection: whoever waits for it learns that now."""
        if self.connected.is_set():
            self.connected = trio.Event()
        for request in self._in_flight:
            lost = OutcomeUnknown(f"the connection to Redis was lost before it answered: {self._lost}")
            for unanswered in request.batch if type(request) is _DurabilityWait else (request,):
                unanswered.settle(lost)
        self._in_flight.clear()
        self._batches_in_flight.clear()
        self._room = None
        self._lost = self._lost or "stopped"

    async def _handshake(self, pipeline: Pipeline, address: RedisAddress) -> None:
        """Logs in, looks whom it speaks to, and lets the owner prepare. Raises ConnectionLost where that is in vain."""
        login: list[Command | Call] = []
        if address.password is not None:
            user = () if address.username is None else (address.username,)
            login.append(("AUTH", *user, address.password))
        if address.database:
            login.append(("SELECT", address.database))
        login += [("PING",), ("CLIENT", "SETNAME", f"galaxy-mail:{self._name}"), ("ROLE",)]
        *said, _named, role = await pipeline(login)
        for refused in said:
            if isinstance(refused, RedisRefused):  # LOADING, NOAUTH, BUSY, ...: ask again later
                raise ConnectionLost(str(refused))
        # A user without the right to ask (ROLE is @dangerous) learns it from READONLY.
        match role:
            case [b"slave", *_]:
                raise ConnectionLost("the server is a replica and takes no writes")
            case [b"sentinel", *_]:
                raise ConnectionLost(
                    "it is a sentinel: redis+sentinel://host:port/service asks it for its primary"
                )
        await self._prepare(pipeline)

    async def _write(
        self, outlet: trio.MemoryReceiveChannel[Request], stream: Stream, *, wait_command: Command | None
    ) -> None:
        """Ends when the queue does."""
        in_flight = self._in_flight
        while True:
            while len(self._batches_in_flight) >= BATCHES_IN_FLIGHT:
                self._room = trio.Event()
                await self._room.wait()
            try:
                request = await outlet.receive()
            except trio.EndOfChannel:
                return
            # From here to send_all nothing waits: a request is in the queue or in flight, never in between.
            batch: list[Request] = []
            commands = size = 0
            while True:
                if not request.abandoned:
                    request.written = True
                    batch.append(request)
                    commands += request.count
                    size += len(request.payload)
                    if commands >= BATCH_COMMANDS or size >= BATCH_BYTES:
                        break
                try:
                    request = outlet.receive_nowait()
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            if not batch:
                continue
            payloads = [request.payload for request in batch]
            if wait_command is not None:
                for request in batch:
                    request.barred = True
                batch.append(_DurabilityWait(wait_command, batch.copy(), self._timeout_s))
                payloads.append(batch[-1].payload)
            if not in_flight:
                self._heard_at = trio.current_time()
            in_flight.extend(batch)
            self._batches_in_flight.append(batch[-1])
            self.batches += 1
            await stream.send_all(payloads[0] if len(payloads) == 1 else b"".join(payloads))

    async def _read(self, stream: Stream) -> None:
        in_flight = self._in_flight
        parser = hiredis.Reader(replyError=RedisRefused, notEnoughData=_MISSING)
        parser.setmaxbuf(BATCH_BYTES)  # it keeps a buffer of this size instead of allocating one per reply
        next_reply = parser.gets
        while True:
            data = await stream.receive_some(READ_BYTES)
            if not data:
                raise ConnectionLost("Redis closed the connection")
            self._heard_at = trio.current_time()
            parser.feed(data)  # type: ignore[arg-type]  # its stub lacks bytearray, which it takes
            while (reply := next_reply()) is not _MISSING:
                if not in_flight:
                    raise ConnectionLost("Redis sent a reply that nobody asked for")
                request = in_flight[0]
                request.replies.append(reply)
                if type(reply) is RedisRefused:
                    request.refused = True
                    if reply.code == "READONLY":
                        self._lost = "the server has become a replica and takes no writes"
                if len(request.replies) == request.count:
                    in_flight.popleft()
                    self._answered(request)
            if self._lost is not None:
                raise ConnectionLost(self._lost)

    def _answered(self, request: Request) -> None:
        if type(request) is _DurabilityWait:
            shortfall = self._durability.shortfall(request.replies[0])
            error = None if shortfall is None else NotDurable(f"executed, but {shortfall}")
            for confirmed in request.batch:
                confirmed.settle(error)
        elif not request.barred:
            request.settle()
        if request is self._batches_in_flight[0]:
            self._batches_in_flight.popleft()
            if self._room is not None:
                self._room.set()

    async def _watch(self) -> None:
        """Gives the connection up when the server owes an answer and is silent for too long."""
        while True:
            if self._in_flight:
                due_at = self._heard_at + max(self._timeout_s, self._in_flight[0].timeout_s)
                if trio.current_time() >= due_at:
                    raise trio.TooSlowError
            else:
                due_at = trio.current_time() + self._timeout_s
            await trio.sleep_until(due_at)

    async def _beat(self) -> None:
        """Now and then asks for a sign of life, so that a dead peer is found before a caller needs it."""
        while True:
            await trio.sleep(self._heartbeat_s)
            with suppress(RedisFailure):  # `_watch` tells a dead server from a busy queue
                await self._heartbeat(self.queue.pipeline)


def _reason(error: BaseException, within_s: float) -> str:
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {within_s:g} s"
    cause = root_cause(error)  # trio says that all attempts failed, and gives the attempts as its cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate does not verify: {cause.verify_message}"
    return str(cause) or type(cause).__name__
