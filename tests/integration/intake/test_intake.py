"""Mail comes in: one request at a time, or a batch of commands; whatever is lost on the way, it comes in once."""

import json
from collections import Counter
from collections.abc import Sequence
from copy import copy
from typing import Any, Final

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from galaxy_mail.domain.records import DeliveryStatus, Source
from galaxy_mail.intake.intake import AcceptResult, IdempotencyConflict
from galaxy_mail.intake.stream_intake import APPLIED_AT_A_TIME, LARGE_ENTRY_BYTES, Progress
from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisFailure, RedisRefused, RedisUnavailable
from galaxy_mail.storage.links.protocol import Call, Command, Entry, Reply
from galaxy_mail.storage.operations.answers import AcceptReply
from galaxy_mail.storage.operations.identity import StoreReplaced
from tests.deliveries import DAY_MS, login_code_of, request_of
from tests.integration.intake.desk import LIMITS, Desk, count, entry, malformed_code
from tests.keys import k
from tests.servers import ValkeyServer
from tests.spans import Spans
from tests.storehouse import Fault, Storehouse


@pytest.fixture
def desk(house: Storehouse) -> Desk:
    return Desk(house)


# One request


async def test_a_request_is_durable_when_it_is_answered(desk: Desk, house: Storehouse) -> None:
    outcome = await desk.intake.accept(login_code_of())
    assert outcome == AcceptResult(outcome="sent", delivery_id="c1", replayed=False)
    assert house.delivery("c1").status is DeliveryStatus.QUEUED
    assert house.delivery("c1").message_id == "c1@mail.example"
    assert desk.rung == 1
    assert desk.metrics.accepted_total.value("authsession") == 1


async def test_a_repeat_gets_the_first_answer_and_creates_nothing(desk: Desk, house: Storehouse) -> None:
    await desk.intake.accept(login_code_of())
    before = house.dump()
    again = login_code_of("c2", idempotency_key="key of c1", fingerprint="fingerprint of c1")
    assert await desk.intake.accept(again) == AcceptResult(outcome="sent", delivery_id="c1", replayed=True)
    assert house.dump() == before
    assert desk.rung == 1
    assert desk.metrics.duplicates_total.value("authsession") == 1
    assert desk.metrics.accepted_total.value("authsession") == 1


async def test_the_same_key_for_another_request_is_a_conflict(desk: Desk, house: Storehouse) -> None:
    await desk.intake.accept(login_code_of())
    before = house.dump()
    with pytest.raises(IdempotencyConflict):
        await desk.intake.accept(login_code_of("c2", idempotency_key="key of c1"))
    assert house.dump() == before
    assert desk.metrics.conflicts_total.value("authsession") == 1


async def test_fifty_identical_requests_at_once_make_one_delivery(desk: Desk, house: Storehouse) -> None:
    outcomes: list[AcceptResult] = []

    async def ask(number: int) -> None:
        request = login_code_of(f"c{number}", idempotency_key="k", fingerprint="f")
        outcomes.append(await desk.intake.accept(request))

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(ask, number)
    assert len({outcome.delivery_id for outcome in outcomes}) == 1
    assert Counter(outcome.replayed for outcome in outcomes) == {False: 1, True: 49}
    assert count(house) == 1


async def test_a_key_past_its_time_counts_as_new(desk: Desk, house: Storehouse) -> None:
    await desk.intake.accept(login_code_of())
    house.clock.ms += 7 * DAY_MS - 1
    again = login_code_of("c2", idempotency_key="key of c1", fingerprint="fingerprint of c1")
    assert (await desk.intake.accept(again)).replayed
    house.clock.ms += 1
    assert await desk.intake.accept(again) == AcceptResult(outcome="sent", delivery_id="c2", replayed=False)
    other = login_code_of("c3", idempotency_key="key of c1")
    with pytest.raises(IdempotencyConflict):
        await desk.intake.accept(other)


async def test_the_suppressed_are_recorded_and_nothing_is_due(desk: Desk, house: Storehouse) -> None:
    await house.suppress("@example.org", "whole domain")
    outcome = await desk.intake.accept(login_code_of())
    assert outcome == AcceptResult(outcome="suppressed", delivery_id="c1", replayed=False)
    assert house.delivery("c1").status is DeliveryStatus.SUPPRESSED
    assert house.delivery("c1").suppressed_recipients[0].reason == "whole domain"
    assert desk.rung == 0
    again = login_code_of("c2", idempotency_key="key of c1", fingerprint="fingerprint of c1")
    house.run("DEL", k.suppressions)
    assert await desk.intake.accept(again) == AcceptResult(
        outcome="suppressed", delivery_id="c1", replayed=True
    )


@pytest.mark.parametrize(
    ("allowed", "outcome"),
    [
        ({"c1@example.org"}, "sent"),
        ({"@example.org"}, "sent"),
        ({"other@example.org", "@sub.example.org"}, "suppressed"),
    ],
)
async def test_where_there_is_an_allowlist_nobody_else_is_mailed(
    allowed: set[str], outcome: str, house: Storehouse
) -> None:
    desk = Desk(house, allowlist=frozenset(allowed))
    assert (await desk.intake.accept(login_code_of())).outcome == outcome


async def test_the_suppression_list_counts_within_the_allowlist(house: Storehouse) -> None:
    desk = Desk(house, allowlist=frozenset({"@example.org"}))
    await house.suppress("a@example.org", "bounced")
    request = request_of(to=("A@example.org", "b@example.org", "c@elsewhere.example"))
    assert (await desk.intake.accept(request)).outcome == "sent"
    delivery = house.delivery("d1")
    assert delivery.envelope.recipients() == ("b@example.org",)
    assert [(r.address, r.reason) for r in delivery.suppressed_recipients] == [
        ("A@example.org", "bounced"),
        ("c@elsewhere.example", "not on the recipient allowlist"),
    ]


# Lost on the way


@pytest.mark.parametrize("suppressed", [False, True])
@pytest.mark.parametrize("expired", [False, True])
@pytest.mark.parametrize("fault", ["lost_reply", "lost_call"])
async def test_after_a_lost_reply_the_same_call_says_what_the_first_one_did(
    fault: Fault, expired: bool, suppressed: bool, desk: Desk, house: Storehouse
) -> None:
    if expired:
        await desk.intake.accept(login_code_of("old", idempotency_key="key of c1"))
        house.clock.ms += 8 * DAY_MS
    if suppressed:
        await house.suppress("c1@example.org")
    # The last call is the one that writes: the ones before it ask, or are told that something is in the way.
    for _ in range(expired + suppressed):
        house.link.fail("accept", "none")
    house.link.fail("accept", fault)
    outcome = await desk.intake.accept(login_code_of())
    assert outcome == AcceptResult(
        outcome="suppressed" if suppressed else "sent", delivery_id="c1", replayed=False
    )
    assert count(house) == 1 + expired
    assert desk.metrics.accepted_total.value("authsession") == 1 + expired
    assert desk.rung == (not suppressed) + expired


async def test_what_stays_unknown_is_raised_and_a_repeat_finds_it(desk: Desk, house: Storehouse) -> None:
    house.link.fail("accept", "lost_reply", "lost_reply")
    with pytest.raises(OutcomeUnknown):
        await desk.intake.accept(login_code_of())
    again = login_code_of("c2", idempotency_key="key of c1", fingerprint="fingerprint of c1")
    assert await desk.intake.accept(again) == AcceptResult(outcome="sent", delivery_id="c1", replayed=True)
    assert count(house) == 1


async def test_what_was_certainly_not_done_is_raised_at_once(desk: Desk, house: Storehouse) -> None:
    house.link.fail("accept", "refused")
    with pytest.raises(RedisUnavailable):
        await desk.intake.accept(login_code_of())
    assert house.link.asked.count("accept") == 1
    assert count(house) == 0


async def test_a_full_redis_takes_nothing_in(desk: Desk, house: Storehouse) -> None:
    before = house.dump()
    house.run("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(RedisRefused, match="OOM"):
        await desk.intake.accept(login_code_of())
    assert house.dump() == before


async def test_a_replaced_store_takes_nothing_in(desk: Desk, house: Storehouse) -> None:
    house.run("FLUSHALL")
    await house.epoch.check(house.link.pipeline)
    with pytest.raises(StoreReplaced):
        await desk.intake.accept(login_code_of())
    with pytest.raises(StoreReplaced):
        await desk.take(entry("1-0", "n1"))
    assert house.dump() == {}


# Commands


async def test_a_batch_is_taken_in_in_its_order(desk: Desk, house: Storehouse) -> None:
    progress = await desk.take(entry("1-0", "n1"), entry("1-1", "n2"), entry("2-0", "n3"))
    assert progress == Progress(offset="2-0", accepted=3, duplicates=0, malformed=0, refusal=None)
    assert await house.stream.offset() == "2-0"
    assert house.run("ZRANGE", house.keys.schedule, 0, -1) == [b"n1", b"n2", b"n3"]
    assert desk.rung == 3


async def test_a_repeat_is_passed_and_noted_as_one(desk: Desk, house: Storehouse) -> None:
    await desk.take(entry("1-0", "n1"))
    progress = await desk.take(entry("2-0", "n1", request_id="again"), entry("3-0", "n1", trace_id="t"))
    assert progress == Progress(offset="3-0", accepted=0, duplicates=2, malformed=0, refusal=None)
    assert count(house) == 1
    assert desk.metrics.duplicates_total.value("notification") == 2


async def test_a_repeat_within_its_own_batch_is_one(desk: Desk, house: Storehouse) -> None:
    progress = await desk.take(entry("1-0", "n1"), entry("2-0", "n1"), entry("3-0", "n2"), entry("4-0", "n2"))
    assert (progress.offset, progress.accepted, progress.duplicates) == ("4-0", 2, 2)
    assert count(house) == 2


@pytest.mark.parametrize("same_batch", [True, False])
async def test_conflicts_are_malformed_and_hold_nobody_up(
    same_batch: bool, desk: Desk, house: Storehouse
) -> None:
    entries = [
        entry("1-0", "n1"),
        entry("2-0", "n2", idempotency_key="key of n1"),
        entry("3-0", "n1", idempotency_key="another"),
        entry("4-0", "n3"),
    ]
    for batch in [entries] if same_batch else [[one] for one in entries]:
        assert (await desk.take(*batch)).refusal is None
    assert await house.stream.offset() == "4-0"
    assert malformed_code(house, "2-0") == "idempotency_conflict"
    assert malformed_code(house, "3-0") == "delivery_id_conflict"
    assert house.run("ZRANGE", k.created_at_index, 0, -1) == [b"n1", b"n3"]
    assert desk.metrics.malformed_total.value("idempotency_conflict") == 1
    assert desk.metrics.conflicts_total.value("notification") == 1


async def test_what_a_malformed_command_would_have_taken_stays_free(desk: Desk, house: Storehouse) -> None:
    await desk.take(
        entry("1-0", "n1", payload_json="{"),
        entry("2-0", "n1"),
        entry("3-0", "n2", idempotency_key="key of n1"),  # a conflict
        entry("4-0", "n2"),  # and its id is still free
    )
    assert (malformed_code(house, "1-0"), malformed_code(house, "3-0")) == (
        "invalid_payload",
        "idempotency_conflict",
    )
    assert house.run("ZRANGE", k.created_at_index, 0, -1) == [b"n1", b"n2"]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"delivery_id": ""}, "missing_field"),
        ({"unknown": "x"}, "unknown_field"),
        ({"source": "authsession"}, "unsupported_source"),
        ({"payload_mode": "telepathy"}, "unsupported_payload_mode"),
        ({"delivery_id": "a..b"}, "invalid_field"),
        ({"payload_json": "[]"}, "invalid_payload"),
        ({"payload_json": "x" * (LIMITS.payload_max_bytes + 1)}, "payload_too_large"),
    ],
)
async def test_a_bad_command_is_kept_for_operators_and_holds_nobody_up(
    wrong: dict[str, str], code: str, desk: Desk, house: Storehouse
) -> None:
    progress = await desk.take(entry("1-0", "n1", **wrong), entry("2-0", "n2"))
    assert progress == Progress(offset="2-0", accepted=1, duplicates=0, malformed=1, refusal=None)
    assert malformed_code(house, "1-0") == code
    assert house.score(k.malformed_index, "1-0") == house.clock.ms
    assert desk.metrics.malformed_total.value(code) == 1


async def test_large_commands_are_read_in_a_thread_and_taken_in_all_the_same(
    desk: Desk, house: Storehouse
) -> None:
    payload = {
        "envelope": {"to": ["a@x.example"]},
        "subject": "s",
        "text_body": "x" * (LARGE_ENTRY_BYTES + 1),
    }
    await desk.take(entry("1-0", "n1", payload_json=json.dumps(payload)), entry("2-0", "n2"))
    assert count(house) == 2
    claims = {claim.delivery_id: claim for claim in (await house.claim()).claims}
    loaded = await house.store.load(claims["n1"])
    assert loaded.content is not None
    assert loaded.content.text_body == payload["text_body"]


async def test_commands_to_the_suppressed_are_recorded(desk: Desk, house: Storehouse) -> None:
    await house.suppress("n1@example.org")
    progress = await desk.take(entry("1-0", "n1"), entry("2-0", "n2"))
    assert progress.accepted == 2
    assert house.delivery("n1").status is DeliveryStatus.SUPPRESSED
    assert house.delivery("n2").status is DeliveryStatus.QUEUED
    assert desk.rung == 1


async def test_a_commands_key_past_its_time_counts_as_new(desk: Desk, house: Storehouse) -> None:
    await desk.take(entry("1-0", "n1"))
    house.clock.ms += 7 * DAY_MS
    progress = await desk.take(
        entry("2-0", "n2", idempotency_key="key of n1"), entry("3-0", "n3", idempotency_key="key of n1")
    )
    assert (progress.accepted, progress.malformed) == (1, 1)
    assert malformed_code(house, "3-0") == "idempotency_conflict"


async def test_a_promise_that_can_not_be_read_holds_nobody_up(desk: Desk, house: Storehouse) -> None:
    """Another release wrote it: nothing is taken for its repeat, nothing replaces it, and what follows is read."""
    house.broken = True
    house.run("SET", k.idempotency(Source.NOTIFICATION, "key of n1"), '{"spelt":"otherwise"}')
    before = house.run("GET", k.idempotency(Source.NOTIFICATION, "key of n1"))
    progress = await desk.take(entry("1-0", "n1"), entry("2-0", "n2"))
    assert progress == Progress(offset="2-0", accepted=1, duplicates=0, malformed=1, refusal=None)
    assert malformed_code(house, "1-0") == "idempotency_conflict"
    assert house.run("GET", k.idempotency(Source.NOTIFICATION, "key of n1")) == before


async def test_a_suppression_that_can_not_be_read_suppresses_and_holds_nobody_up(
    desk: Desk, house: Storehouse
) -> None:
    """Somebody wrote it by hand, perhaps."""
    house.broken = True
    house.run("HSET", k.suppressions, "@example.org", "bounced", "c1@example.org", "\xff")
    await desk.take(entry("1-0", "n1"))
    assert house.delivery("n1").status is DeliveryStatus.SUPPRESSED
    assert (await desk.intake.accept(login_code_of())).outcome == "suppressed"


MANY: Final = APPLIED_AT_A_TIME * 3 - 7  # three pipelines, the last one shorter


def many() -> list[Entry]:
    return [entry(f"{number}-0", f"n{number}") for number in range(1, MANY + 1)]


async def test_a_batch_is_taken_in_several_pipelines(desk: Desk, house: Storehouse) -> None:
    batch = [*many(), entry("1000-0", "n1"), entry("1001-0", "n2", subject="", payload_json="?")]
    progress = await desk.take(*batch)
    assert progress == Progress(offset="1001-0", accepted=MANY, duplicates=1, malformed=1)
    assert house.link.asked.count("accept") == MANY
    assert count(house) == desk.rung == MANY
    assert house.run("GET", house.keys.consumed) == str(MANY + 2).encode()


@pytest.mark.parametrize("fault", ["lost_call", "lost_reply"])
@pytest.mark.parametrize("which", [0, 1, 2])
async def test_a_pipeline_that_is_lost_stops_those_behind_it_and_no_other(
    which: int, fault: Fault, desk: Desk, house: Storehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was accepted before is told; what comes behind found its predecessor missing, or is safe with it."""
    real, calls = house.stream.apply, 0

    async def apply(given: Sequence[Call]) -> list[AcceptReply | RedisRefused]:
        nonlocal calls
        if calls == which:
            house.link.fail("accept", fault)
        calls += 1
        return await real(given)

    monkeypatch.setattr(house.stream, "apply", apply)
    batch = many()
    with pytest.raises(OutcomeUnknown):
        await desk.take(*batch)
    stored = MANY if fault == "lost_reply" else which * APPLIED_AT_A_TIME
    assert await house.stream.offset() == f"{stored}-0".removeprefix("0-0")
    assert count(house) == stored
    lost = min(APPLIED_AT_A_TIME, MANY - which * APPLIED_AT_A_TIME) if fault == "lost_reply" else 0
    assert desk.rung == stored - lost
    monkeypatch.undo()
    rest = batch[stored:]
    if rest:
        assert await desk.take(*rest) == Progress(offset=f"{MANY}-0", accepted=len(rest))
    assert count(house) == MANY


async def test_where_each_pipeline_waits_for_the_disk_there_is_one(
    house: Storehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.store.durable = True
    desk = Desk(house)
    sizes: list[int] = []
    real = house.link.accept_pipeline

    async def counted(calls: Sequence[Command | Call], *, timeout_s: float | None = None) -> list[Reply]:
        sizes.append(len(calls))
        return await real(calls, timeout_s=timeout_s)

    monkeypatch.setattr(house.link, "accept_pipeline", counted)
    assert (await desk.take(*many())).accepted == MANY
    assert sizes == [MANY]


async def test_who_comes_second_is_told_what_it_accepted_all_the_same(
    desk: Desk, house: Storehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another reader takes the second pipeline's entries; then the third one's are next again."""
    real, calls, taken = house.stream.apply, 0, trio.Event()
    other = Desk(house)
    batch = many()

    async def apply(given: Sequence[Call]) -> list[AcceptReply | RedisRefused]:
        nonlocal calls
        calls += 1
        match calls:
            case 2:
                await other.take(*batch[APPLIED_AT_A_TIME : 2 * APPLIED_AT_A_TIME])
                taken.set()
            case 3:
                await taken.wait()
        return await real(given)

    monkeypatch.setattr(house.stream, "apply", apply)
    monkeypatch.setattr(other.commands, "_stream", copy(house.stream))
    vars(other.commands._stream).pop("apply")
    progress = await desk.take(*batch)
    assert (desk.rung, other.rung) == (MANY - APPLIED_AT_A_TIME, APPLIED_AT_A_TIME)
    assert progress == Progress(offset=f"{MANY}-0", accepted=MANY - APPLIED_AT_A_TIME)
    assert count(house) == MANY


async def test_with_redis_full_a_batch_stops_and_nothing_is_lost(desk: Desk, house: Storehouse) -> None:
    await desk.take(entry("1-0", "n1"))
    house.run("CONFIG", "SET", "maxmemory", "1")
    batch = (entry("2-0", "n1"), entry("3-0", "n2"), entry("4-0", "n1"))
    progress = await desk.take(*batch)
    assert progress.refusal is not None
    assert progress.refusal.code == "OOM"
    assert (progress.offset, progress.duplicates) == ("2-0", 1), "what needs no room is passed"
    assert await house.stream.offset() == "2-0"
    house.run("CONFIG", "SET", "maxmemory", "0")
    progress = await desk.take(*batch[1:])
    assert progress == Progress(offset="4-0", accepted=1, duplicates=1, malformed=0, refusal=None)


@pytest.mark.parametrize("race", ["same command", "same id", "same key"])
async def test_what_another_process_does_between_read_and_write_changes_nothing_silently(
    race: str, desk: Desk, house: Storehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch stops there; the next look knows better."""
    real = house.stream.apply

    async def apply(calls: Sequence[Call]) -> list[AcceptReply | RedisRefused]:
        monkeypatch.undo()
        changes: dict[str, Any] = {
            "same command": {"delivery_id": "n1", "idempotency_key": "key of n1"},
            "same id": {"delivery_id": "n1"},
            "same key": {"idempotency_key": "key of n1"},
        }[race]
        await house.accept(replace(request_of("elsewhere"), **changes))
        return await real(calls)

    monkeypatch.setattr(house.stream, "apply", apply)
    batch = (entry("1-0", "n1"), entry("2-0", "n2"))
    progress = await desk.take(*batch)
    assert progress == Progress(offset="", accepted=0, duplicates=0, malformed=0, refusal=None)
    progress = await desk.take(*batch)
    assert progress == Progress(offset="2-0", accepted=1, duplicates=0, malformed=1, refusal=None)


# Spans


CALLER: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Spans:
    return Spans()


def accepts(spans: Spans) -> dict[object, str | None]:
    """By the delivery that each span of an acceptance names: what it failed with."""
    return {
        (span.attributes or {}).get("galaxy_mail.delivery_id"): span.status.description
        for span in spans.named("accept")
    }


async def test_the_span_of_a_request_names_its_delivery_and_fails_with_it(
    house: Storehouse, spans: Spans
) -> None:
    desk = Desk(house, traces=spans.traces)
    await desk.intake.accept(login_code_of())
    again = login_code_of("c2", idempotency_key="key of c1", fingerprint="fingerprint of c1")
    await desk.intake.accept(again)
    with pytest.raises(IdempotencyConflict):
        await desk.intake.accept(login_code_of("c3", idempotency_key="key of c1"))
    assert accepts(spans) == {"c1": None, "c3": "IdempotencyConflict"}
    assert len(spans.named("accept")) == 3, "a repeat names the delivery that exists"


async def test_the_span_of_a_command_is_what_its_delivery_stores(house: Storehouse, spans: Spans) -> None:
    await Desk(house, traces=spans.traces).take(entry("1-0", "n1", traceparent=CALLER))
    context, parent = spans.only().context, spans.only().parent
    assert context is not None
    assert parent is not None
    assert f"{parent.span_id:016x}" == CALLER[36:52]
    stored = house.delivery("n1").traceparent
    assert stored == f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


async def test_the_span_of_a_command_lasts_until_its_batch_is_answered(
    house: Storehouse, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = house.stream.apply

    async def apply(calls: Sequence[Call]) -> list[AcceptReply | RedisRefused]:
        assert spans.ended() == ()
        replies = await real(calls)
        assert spans.ended() == ()
        return replies

    monkeypatch.setattr(house.stream, "apply", apply)
    await Desk(house, traces=spans.traces).take(entry("1-0", "n1"), entry("2-0", "n2"))
    assert accepts(spans) == {"n1": None, "n2": None}


async def test_the_span_of_a_command_that_was_not_accepted_fails(house: Storehouse, spans: Spans) -> None:
    await Desk(house, traces=spans.traces).take(
        entry("1-0", "n1"),
        entry("2-0", "n1"),  # a repeat, which is none
        entry("3-0", "n2", idempotency_key="key of n1"),
        entry("4-0", "n3", payload_json="{", traceparent=CALLER),
        entry("5-0", "a..b", traceparent="nonsense"),
    )
    assert accepts(spans) == {
        "n1": None,
        "n2": "idempotency_conflict",
        "n3": "invalid_payload",
        None: "invalid_field",  # a delivery_id that breaks its grammar is not told
    }
    assert len(spans.ended()) == 5
    assert [span.parent is not None for span in spans.ended()] == [False, False, False, True, False]


async def test_the_span_of_a_command_that_redis_refuses_fails(house: Storehouse, spans: Spans) -> None:
    desk = Desk(house, traces=spans.traces)
    house.run("CONFIG", "SET", "maxmemory", "1")
    await desk.take(entry("1-0", "n1"))
    house.run("CONFIG", "SET", "maxmemory", "0")
    assert accepts(spans) == {"n1": "RedisRefused"}


@pytest.mark.parametrize("pipelines", [1, 3])
async def test_the_spans_of_a_pipeline_that_is_lost_fail(
    pipelines: int, house: Storehouse, spans: Spans
) -> None:
    desk = Desk(house, traces=spans.traces)
    batch = many() if pipelines > 1 else many()[:1]
    house.link.fail("accept", "lost_call")
    with pytest.raises(OutcomeUnknown):
        await desk.take(*batch)
    fates = accepts(spans)
    assert len(fates) == len(batch)
    lost = {fates[f"n{number}"] for number in range(1, len(batch) + 1) if number <= APPLIED_AT_A_TIME}
    assert lost == {"OutcomeUnknown"}
    assert set(fates.values()) <= {"OutcomeUnknown", "NotNext"}, "those behind it found nothing before them"


async def test_a_cancelled_batch_ends_its_spans(
    house: Storehouse, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def apply(calls: Sequence[Call]) -> list[Reply]:
        nursery.cancel_scope.cancel()
        await trio.sleep_forever()
        raise AssertionError("it was cancelled")

    monkeypatch.setattr(house.stream, "apply", apply)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Desk(house, traces=spans.traces).take, *many())
    assert set(accepts(spans).values()) == {"Cancelled"}


# Any commands, cut anywhere


class CutLink:
    """A link that is lost after so many commands: what came before was run, and nobody was told."""

    def __init__(self, house: Storehouse) -> None:
        self.house = house
        self.left = 0
        self.real = house.link.pipeline

    async def pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        run = list(commands)[: self.left]
        self.left -= len(run)
        replies = await self.real(run) if run else []
        if len(run) < len(commands):
            raise OutcomeUnknown("the process or Redis crashed here")
        return replies


NAMES: Final = st.sampled_from(["n1", "n2", "n3", "n4"])
COMMANDS: Final = st.lists(
    st.builds(
        lambda name, key, bad, extra: (name, key, bad, extra),
        NAMES,
        NAMES,
        st.sampled_from(["", "", "", "payload", "field"]),
        st.sampled_from(["", "again"]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    commands=COMMANDS,
    cuts=st.lists(st.integers(0, 25), max_size=6),
    batch=st.integers(1, 12),
    suppressed=st.booleans(),
)
def test_commands_cut_anywhere_leave_what_the_same_commands_leave_uncut(
    commands: list[tuple[str, str, str, str]],
    cuts: list[int],
    batch: int,
    suppressed: bool,
    empty_valkey: ValkeyServer,
) -> None:
    entries = [
        entry(
            f"{number}-0",
            name,
            idempotency_key=key,
            request_id=extra,
            **({"payload_json": "{"} if bad == "payload" else {"source": "x"} if bad == "field" else {}),
        )
        for number, (name, key, bad, extra) in enumerate(commands, start=1)
    ]

    async def run(cuts: list[int], batch: int) -> dict[str, object]:
        house = Storehouse(empty_valkey.socket)
        house.run("FLUSHALL")
        if suppressed:
            await house.suppress("n2@example.org")
        for cut in [*cuts, 10_000]:
            desk, link = Desk(house), CutLink(house)
            house.link.pipeline = link.pipeline  # type: ignore[method-assign]  # the process that is about to crash
            link.left = cut
            try:
                while True:
                    offset = await house.stream.offset()
                    left = [one for one in entries if int(one[0][:-2]) > int(offset[:-2] or 0)][:batch]
                    if not left:
                        break
                    progress = await desk.take(*left)
                    assert progress.refusal is None
            except RedisFailure:
                pass
            house.link.pipeline = link.real  # type: ignore[method-assign]  # the next process
        dump: dict[str, object] = dict(house.dump())
        house.close()
        return dump

    assert trio.run(run, cuts, batch) == trio.run(run, [], 1)
