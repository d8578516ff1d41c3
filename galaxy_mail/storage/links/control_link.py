"""The link for what needs redis-py's breadth: Sentinel, the blocking XREAD, INFO.

The only module that imports redis-py and trio-asyncio, and only once somebody asks for something: they take memory,
and trio-asyncio changes what `asyncio.run` does in the whole process. One owner task alone sees the loop. Each lane
serves one queue over one connection of its own, one request after the other, so that a read that blocks holds up
nothing but reads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from galaxy_mail.settings.redis_address import RedisAddress
from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisFailure, RedisRefused, RedisUnavailable
from galaxy_mail.storage.links.protocol import Call, Command, Entry, Reply
from galaxy_mail.storage.links.replies import as_entries, as_int, as_list, as_parts, as_text
from galaxy_mail.storage.links.request_queue import Request, RequestQueue

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

CONNECT_WITHIN_S: Final = 3.0
CLOSE_WITHIN_S: Final = 0.5  # also when cancelled: a stop waits for it
RESTART_PAUSE_S: Final = 1.0

log = structlog.get_logger()


class ControlLink:
    """Serves `pipeline`, `read_stream` and `primary`. Idle until the first of them is called; ends only when cancelled."""

    def __init__(self, address: RedisAddress, *, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._wanted = trio.Event()
        self._commands = RequestQueue(timeout_s=timeout_s)
        self._reads = RequestQueue(timeout_s=timeout_s)
        self._discoveries = RequestQueue(timeout_s=timeout_s)

    async def pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        """See RedisLink.pipeline; one at a time."""
        self._wanted.set()
        return await self._commands.pipeline(commands, timeout_s=timeout_s)

    async def read_stream(self, stream: str, after: str, *, count: int, block_ms: int) -> list[Entry]:
        """See RedisLink.read_stream. Raises RedisRefused where the server won't let it be read."""
        self._wanted.set()
        command = ("XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", stream, after)
        (reply,) = await self._reads.pipeline([command], timeout_s=block_ms / 1000 + self._timeout_s)
        if isinstance(reply, RedisRefused):
            raise reply
        return _entries(reply)

    async def primary(self) -> RedisAddress:
        """Where the server is that takes writes: what the sentinels say, or simply the address."""
        service = self._address.sentinel_service
        if service is None:
            return self._address
        self._wanted.set()
        (reply,) = await self._discoveries.pipeline([("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)])
        host, port = as_parts(reply, 2)
        return self._address.at(as_text(host), as_int(port))

    async def run(self) -> None:
        queues = (self._commands, self._reads, self._discoveries)
        for queue in queues:
            queue.take_again()
        try:
            await self._wanted.wait()
            while True:
                try:
                    await self._serve_in_loop()
                except Exception:  # any stray asyncio callback ends the loop; nobody else should notice
                    log.exception("redis_control_link_crashed")
                await trio.sleep(RESTART_PAUSE_S)
        finally:
            for queue in queues:
                queue.refuse("the gateway to Redis has stopped")

    async def _serve_in_loop(self) -> None:
        import trio_asyncio

        async with trio_asyncio.open_loop(), trio.open_nursery() as nursery:
            nursery.start_soon(self._serve_connection, self._commands, "control")
            nursery.start_soon(self._serve_connection, self._reads, "reader")
            nursery.start_soon(self._serve_sentinels)

    async def _serve_connection(self, queue: RequestQueue, name: str) -> None:
        connection: AbstractConnection | None = None
        try:
            async for request in queue.outlet:
                if request.abandoned:
                    continue
                async with _answering(request):
                    if connection is not None and not await _usable(connection):
                        await _close(connection)
                        connection = None
                    if connection is None:
                        connection = await self._connect(name)
                    request.written = True
                    await _in_loop(_exchange, connection, request)
                if request.error is not None:
                    await _close(connection)
                    connection = None
                request.settle(request.error)
        finally:
            await _close(connection)

    async def _connect(self, name: str) -> AbstractConnection:
        address = await self.primary()
        connection = _connection(address)
        try:
            with trio.fail_after(CONNECT_WITHIN_S):
                await _in_loop(connection.connect)
                # For CLIENT LIST alone; redis-py itself would take a refusal for a broken connection.
                named = Request([("CLIENT", "SETNAME", f"galaxy-mail:{name}")], CONNECT_WITHIN_S)
                await _in_loop(_exchange, connection, named)
        except BaseException:  # cancelled, too: redis-py closes only what it was reading or writing
            await _close(connection)
            raise
        return connection

    async def _serve_sentinels(self) -> None:
        async for request in self._discoveries.outlet:
            if request.abandoned:
                continue
            async with _answering(request):
                request.replies = [await self._discover()]
            request.settle(request.error)

    async def _discover(self) -> list[Reply]:
        from redis.asyncio.sentinel import Sentinel

        address = self._address
        options = _options(address) | {
            "username": address.sentinel_username,
            "password": address.sentinel_password,
            "db": 0,
            "socket_timeout": CONNECT_WITHIN_S,
        }
        if address.tls:
            options |= {"ssl": True, **_tls_options(address)}
        sentinel = Sentinel(address.hosts, sentinel_kwargs=options)  # type: ignore[no-untyped-call]  # redis-py's lapse
        try:
            host, port = await _in_loop(sentinel.discover_master, address.sentinel_service)
            return [host.encode() if isinstance(host, str) else host, int(port)]
        finally:
            with trio.move_on_after(CLOSE_WITHIN_S, shield=True):
                for client in sentinel.sentinels:
                    await _in_loop(client.aclose)


@asynccontextmanager
async def _answering(request: Request) -> AsyncIterator[None]:
    """Turns whatever ends a request early into its error. When the lane itself is cancelled, its caller learns it here."""
    from redis.exceptions import RedisError

    reason = "the gateway to Redis has stopped"
    try:
        with trio.fail_after(request.timeout_s):
            yield
        return
    except trio.TooSlowError:
        reason = f"Redis gave no answer within {request.timeout_s:g} s"
    except RedisFailure as error:
        request.error = error
        return
    except (RedisError, OSError) as error:
        if _is_loading(error):
            request.written = False  # what LOADING answers was not executed
        reason = str(error) or type(error).__name__
    except BaseException:
        request.settle(_failure(request, reason))
        raise
    request.error = _failure(request, reason)


def _failure(request: Request, reason: str) -> RedisFailure:
    return OutcomeUnknown(reason) if request.written else RedisUnavailable(reason)


def _is_loading(error: Exception) -> bool:
    from redis.exceptions import BusyLoadingError

    return isinstance(error, BusyLoadingError)


async def _in_loop(function: Callable[..., Awaitable[Any]], *args: object) -> Any:
    import trio_asyncio

    return await trio_asyncio.aio_as_trio(function)(*args)


async def _exchange(connection: AbstractConnection, request: Request) -> None:
    """Runs in the loop: writes the commands, and gathers what each of them answers."""
    from redis.exceptions import ResponseError

    await connection.send_packed_command(request.payload, check_health=False)
    for _ in range(request.count):
        try:
            reply = _reply(await connection.read_response(disable_decoding=True))
        except ResponseError as error:
            reply = _refused(error)
        request.refused |= isinstance(reply, RedisRefused)
        request.replies.append(reply)


def _reply(value: Any) -> Reply:
    """redis-py's reply as ours: errors within an array (of a script, of EXEC) are values, too."""
    if isinstance(value, list):
        return [_reply(element) for element in value]
    if isinstance(value, Exception):
        return _refused(value)
    reply: Reply = value
    return reply


def _refused(error: Exception) -> RedisRefused:
    """redis-py takes the code off the codes that it knows."""
    code = getattr(error, "status_code", None)
    return RedisRefused(f"{code} {error}" if code else str(error))


async def _usable(connection: AbstractConnection) -> bool:
    """Whether an idle connection still is one, and holds nothing that belongs to somebody else."""
    from redis.exceptions import RedisError

    try:
        return not await _in_loop(connection.can_read)
    except RedisError:
        return False


async def _close(connection: AbstractConnection | None) -> None:
    if connection is not None:
        with trio.move_on_after(CLOSE_WITHIN_S, shield=True):
            await _in_loop(connection.disconnect, True)


def _connection(address: RedisAddress) -> AbstractConnection:
    from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

    options = _options(address)
    if address.unix_path is not None:
        return UnixDomainSocketConnection(path=address.unix_path, **options)
    ((host, port),) = address.hosts
    options |= {"host": host, "port": port, "socket_keepalive": True}
    if address.tls:
        return SSLConnection(**options, **_tls_options(address))
    return Connection(**options)


def _options(address: RedisAddress) -> dict[str, Any]:
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return {
        "db": address.database,
        "username": address.username,
        "password": address.password,
        # RESP3 switches redis-py's check against mixed-up replies off, and starts tasks for maintenance notifications.
        "protocol": 2,
        # By default it repeats what may have been executed, ten times.
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,  # a trio deadline is around every use
        "socket_connect_timeout": CONNECT_WITHIN_S,
        "driver_info": None,  # no CLIENT SETINFO: one command less that an ACL may refuse
    }


def _tls_options(address: RedisAddress) -> dict[str, Any]:
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": address.ca_file,
        "ssl_certfile": address.cert_file,
        "ssl_keyfile": address.key_file,
    }


def _entries(reply: Reply) -> list[Entry]:
    """The entries of the one stream that XREAD was asked for: [[stream, [[id, [field, value, ...]], ...]]], or nothing."""
    if reply is None:
        return []
    [stream] = as_list(reply)
    _name, entries = as_parts(stream, 2)
    return as_entries(entries)
