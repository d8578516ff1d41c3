"""The real service in the test's own process, watched at every point of an attempt: what happens there is exact.

Redis, the relay and their connections are real.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

import trio

from galaxy_mail.actors.supervisor import Actor, Child, Heartbeat
from galaxy_mail.config import Config
from galaxy_mail.domain.records import SendResult
from galaxy_mail.providers.provider import Message, SendDeadline
from galaxy_mail.providers.smtp.opening import Connect
from galaxy_mail.providers.smtp.outcomes import Exchange
from galaxy_mail.providers.smtp.provider import SmtpProvider
from galaxy_mail.providers.smtp.settings import SmtpSettings, TlsMode
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.service.dependencies import ProductionDependencies
from galaxy_mail.service.service import Service
from galaxy_mail.storage.links.gateway import Gateway, OnConnect
from galaxy_mail.storage.links.protocol import Call, Command, Reply
from tests.relays.hostile.server import HangUp, Server, Talk

slot: Final[ContextVar[str]] = ContextVar("slot")  # in every task of a sender slot: its name


class Point(StrEnum):
    """The way of an attempt through one slot; SMTP's part of it is `Exchange`."""

    BEFORE_BEGIN = "before begin"
    IN_BEGIN = "in begin"  # Redis has run it, and nobody knows yet
    AFTER_BEGIN = "after begin"  # nothing was said to the relay yet
    AFTER_ANSWER = "after the answer"
    BEFORE_FINISH = "before finish"
    IN_FINISH = "in finish"
    AFTER_FINISH = "after finish"


Place = Point | Exchange
Action = Callable[[str], None]  # given the name of the slot that is at the place


class Watch:
    """What is to happen when a slot comes to a place for the next time."""

    def __init__(self) -> None:
        self._armed: dict[Place, Action] = {}
        self._hit = trio.Event()
        self.slots_by_port: dict[int, str] = {}  # a connection to the relay -> whose it is

    def arm(self, place: Place, action: Action) -> None:
        self._armed[place] = action
        self._hit = trio.Event()

    async def wait_hit(self) -> None:
        """Returns once the armed action has happened."""
        await self._hit.wait()

    def at(self, place: Place, name: str) -> bool:
        """A slot is there. True: it was awaited."""
        action = self._armed.pop(place, None)
        if action is None:
            return False
        action(name)
        self._hit.set()
        return True


class WatchedGateway(Gateway):
    """Tells where an attempt is by the script that is run for it."""

    def __init__(self, config: Config, watch: Watch, on_connect: OnConnect) -> None:
        super().__init__(config.redis_addr, on_connect=on_connect)
        self._watch = watch

    async def pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        first = commands[0]
        name = first.script.name if isinstance(first, Call) else ""
        places = _SCRIPT_PLACES.get(name)
        if places is None or (whose := slot.get(None)) is None:
            return await super().pipeline(commands, timeout_s=timeout_s)
        before, within, after = places
        self._watch.at(before, whose)
        replies = await super().pipeline(commands, timeout_s=timeout_s)
        if self._watch.at(within, whose):
            await (
                trio.lowlevel.checkpoint()
            )  # a kill takes effect here: the reply has come, its caller is gone
        self._watch.at(after, whose)
        return replies


_SCRIPT_PLACES: Final[Mapping[str, tuple[Point, Point, Point]]] = {
    "begin": (Point.BEFORE_BEGIN, Point.IN_BEGIN, Point.AFTER_BEGIN),
    "finish": (Point.BEFORE_FINISH, Point.IN_FINISH, Point.AFTER_FINISH),
}


class WatchedProvider:
    """The SMTP provider of one slot, whose connections are known to be that slot's."""

    name = SmtpProvider.name

    def __init__(self, settings: SmtpSettings, watch: Watch) -> None:
        self._watch = watch
        self._settings = settings
        self._provider = SmtpProvider(settings, addresses=self._addresses)

    async def __aenter__(self) -> Self:
        await self._provider.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._provider.__aexit__(kind, error, trace)

    async def close_idle(self, *, at_once: bool = False) -> None:
        await self._provider.close_idle(at_once=at_once)

    async def probe(self) -> SendResult | None:
        return await self._provider.probe()

    async def send(self, message: Message, *, may_finish: SendDeadline) -> SendResult:
        result = await self._provider.send(message, may_finish=may_finish)
        self._watch.at(Point.AFTER_ANSWER, slot.get())
        return result

    async def _addresses(self) -> list[Connect]:
        return [self._connect]

    async def _connect(self) -> trio.abc.Stream:
        stream = await trio.open_tcp_stream(self._settings.host, self._settings.port)
        self._watch.slots_by_port[stream.socket.getsockname()[1]] = slot.get()
        return stream


class WatchedRelay(Server):
    """Behaves, and tells at which exchange a slot is before it reacts.

    `silent_at_final`: once, after the action, it takes the message and never answers.
    """

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch
        self.silent_at_final = False
        self._slots: dict[Talk, str] = {}

    async def react(self, talk: Talk, exchange: Exchange, said: bytes) -> None:
        if exchange is Exchange.GREETING:
            self._slots[talk] = await self._whose(talk)
        if (
            self._watch.at(exchange, self._slots[talk])
            and exchange is Exchange.FINAL
            and self.silent_at_final
        ):
            self.messages.append(said)
            while True:  # until the client gives up: then HangUp is raised
                await talk.more()
        await self.behave(talk, exchange, said)

    async def _whose(self, talk: Talk) -> str:
        """The client may not have told yet whose this connection is: it runs in the same loop, and will at once."""
        assert isinstance(talk.stream, trio.SocketStream)
        try:
            port = talk.stream.socket.getpeername()[1]
        except OSError:  # it has left already
            raise HangUp from None
        while port not in self._watch.slots_by_port:
            await trio.lowlevel.checkpoint()
        return self._watch.slots_by_port[port]


class WatchedService(Service):
    """The service, each of whose slots can be told from the others."""

    def __init__(self, config: Config, *, dependencies: "WatchedDependencies") -> None:
        super().__init__(config, dependencies=dependencies)
        self.parts.slots = [_watched(child) for child in self.parts.slots]


def _watched(child: Child) -> Child:
    def build(heartbeat: Heartbeat) -> Actor:
        slot.set(child.name)  # in the slot's own task, whose children inherit it
        return child.build(heartbeat)

    return Child(name=child.name, build=build, turns_within_s=child.turns_within_s)


class WatchedDependencies:
    """What a service has around it, with a watch on it."""

    def __init__(self, config: Config, watch: Watch, answer_within_s: float) -> None:
        assert config.smtp_addr is not None
        assert config.smtp_from_email is not None
        self._config = config
        self._watch = watch
        self._reality = ProductionDependencies(config, config.redis_addr)
        self._settings = SmtpSettings(
            host=config.smtp_addr.host,
            port=config.smtp_addr.port,
            from_email=config.smtp_from_email,
            tls=TlsMode.NONE,
            stop_grace_s=answer_within_s,
        )

    def gateway(self, on_connect: OnConnect) -> WatchedGateway:
        return WatchedGateway(self._config, self._watch, on_connect)

    def provider(self) -> WatchedProvider:
        return WatchedProvider(self._settings, self._watch)

    def catalog(self) -> Catalog:
        return self._reality.catalog()
