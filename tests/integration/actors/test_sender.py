"""A sender slot that is stopped in the middle of things: what it gives back, and to whom."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from galaxy_mail.actors.lanes import Lanes
from galaxy_mail.actors.sender import RECORD_WITHIN_S, Sender
from galaxy_mail.actors.supervisor import Heartbeat
from galaxy_mail.domain.acceptance import NOT_ALLOWED
from galaxy_mail.domain.records import (
    AttemptStatus,
    DeliveryStatus,
    Result,
    SendResult,
    SuppressedRecipient,
)
from galaxy_mail.providers.provider import Message, Provider, SendDeadline
from galaxy_mail.providers.smtp.provider import SmtpProvider
from galaxy_mail.providers.smtp.settings import SmtpSettings, TlsMode
from galaxy_mail.relays.relay import Relay
from galaxy_mail.rendering.bundled import bundled_templates
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.rendering.limits import RenderLimits
from galaxy_mail.telemetry.metrics import Metrics
from galaxy_mail.telemetry.traces import Traces
from tests.deliveries import ACCEPTED, request_of
from tests.keys import k
from tests.storehouse import POLICY, START_MS, TTL_MS, Storehouse

CATALOG: Final = Catalog.load(bundled_templates(), limits=RenderLimits())


async def sender_with_one(
    house: Storehouse, provider: Provider, *to: str, allowlist: frozenset[str] = frozenset()
) -> Sender:
    """A slot whose lane has one claim."""
    await house.accept(request_of(to=to or ("d1@example.org",)))
    lanes = Lanes(1)
    lanes.put(await house.claim_one(), since_s=trio.current_time())
    return Sender(
        lanes=lanes,
        store=house.store,
        clock=house.clock,
        provider=provider,
        relay=Relay("default", slots=1, clock=house.clock),
        catalog=CATALOG,
        policy=POLICY,
        metrics=Metrics(),
        traces=Traces(),
        heartbeat=Heartbeat(),
        allowlist=allowlist,
    )


@contextmanager
def full_listener() -> Iterator[int]:
    """A port to which nobody gets connected: its backlog is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()[1]
        finally:
            for one in waiting:
                one.close()


class InItsOwnNursery:
    """A provider that waits for ever in a task of its own, from where a cancellation comes out as a group."""

    name = "nursery"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def close_idle(self, *, at_once: bool = False) -> None:
        pass

    async def probe(self) -> SendResult | None:
        return None

    async def send(self, message: Message, *, may_finish: SendDeadline) -> SendResult:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(trio.sleep_forever)
            inner.start_soon(trio.sleep_forever)
        raise AssertionError("it was not cancelled")


class Takes(InItsOwnNursery):
    """A provider that takes everything, and keeps it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def send(self, message: Message, *, may_finish: SendDeadline) -> SendResult:
        await trio.lowlevel.checkpoint()
        self.messages.append(message)
        return ACCEPTED


def was_given_back(house: Storehouse) -> None:
    assert house.run("HLEN", k.claims) == 0
    assert house.score(house.keys.schedule, "d1") == START_MS
    assert house.delivery("d1").status is DeliveryStatus.RENDERED
    assert house.attempt("d1", 1).status is AttemptStatus.SCHEDULED


async def test_a_stop_while_the_relay_does_not_let_it_in_gives_the_work_back(house: Storehouse) -> None:
    with full_listener() as port:
        provider = SmtpProvider(
            SmtpSettings(host="127.0.0.1", port=port, from_email="a@b.example", tls=TlsMode.NONE)
        )
        sender = await sender_with_one(house, provider)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.run)
            await wait_all_tasks_blocked()
            assert house.link.asked[-1] == "begin"
            nursery.cancel_scope.cancel()
    was_given_back(house)


async def test_a_cancellation_that_comes_out_of_a_nursery_is_one(house: Storehouse) -> None:
    sender = await sender_with_one(house, InItsOwnNursery())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    was_given_back(house)


async def test_a_hiccup_of_redis_does_not_keep_work_from_being_given_back(
    house: Storehouse, autojump_clock: MockClock
) -> None:
    sender = await sender_with_one(house, InItsOwnNursery())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await wait_all_tasks_blocked()
        house.link.fail("begin", "refused", "lost_reply")
        house.link.fail("release", "lost_call", "lost_reply")
        nursery.cancel_scope.cancel()
    was_given_back(house)
    assert trio.current_time() < RECORD_WITHIN_S


async def test_a_claim_that_another_took_over_is_counted(
    house: Storehouse, autojump_clock: MockClock
) -> None:
    sender = await sender_with_one(house, InItsOwnNursery())
    house.clock.ms += TTL_MS
    other = await house.claim_one()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert b"galaxy_mail_stale_claims_total 1" in sender.metrics.exposition()
    await house.release(other)


async def test_an_allowlist_that_came_after_a_delivery_counts_for_it(house: Storehouse) -> None:
    """A copy of production's store behind a test system: whom that may not mail is not mailed, however old the mail."""
    provider = Takes()
    to = ("qa@test.example", "customer@example.org", "dev@Staging.example")
    allowlist = frozenset({"qa@test.example", "@staging.example"})
    sender = await sender_with_one(house, provider, *to, allowlist=allowlist)
    assert isinstance(sender.lanes, Lanes)
    sender.lanes.close()
    await sender.run()
    assert [message.envelope.to for message in provider.messages] == [(to[0], to[2])]
    delivery = house.delivery("d1")
    assert delivery.status is DeliveryStatus.SENT
    assert delivery.suppressed_recipients == (SuppressedRecipient(address=to[1], reason=NOT_ALLOWED),)


async def test_where_the_allowlist_leaves_nobody_the_provider_is_not_called(house: Storehouse) -> None:
    provider = Takes()
    sender = await sender_with_one(house, provider, allowlist=frozenset({"@test.example"}))
    assert isinstance(sender.lanes, Lanes)
    sender.lanes.close()
    await sender.run()
    assert provider.messages == []
    assert house.delivery("d1").status is DeliveryStatus.SUPPRESSED
    assert house.attempt("d1", 1).result is Result.SUPPRESSED
