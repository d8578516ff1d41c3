"""The way of a delivery through the store: accept, claim, begin, finish, release, renew."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, cast

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from galaxy_mail.domain.conclusion import (
    Begun,
    begin,
    conclude_late_suppression,
    conclude_lost_owner,
    conclude_render_failure,
    give_back,
    suppress_late,
)
from galaxy_mail.domain.records import (
    Attempt,
    AttemptStatus,
    Content,
    DeadLetter,
    DeliveryStatus,
    Envelope,
    Failure,
    IdempotencyRecord,
    Lane,
    RenderedContent,
    SendResult,
    decode,
)
from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisFailure, RedisRefused
from galaxy_mail.storage.operations.answers import (
    Accepted,
    DeliveryExists,
    NewlySuppressed,
    Replay,
    accept_answer,
)
from galaxy_mail.storage.operations.claims import CONTENT_WITH_CLAIM_BYTES, Claim, StaleClaim
from galaxy_mail.storage.operations.identity import StoreReplaced, Verdict
from galaxy_mail.storage.operations.store import LOST_PLACES
from galaxy_mail.storage.records.retention import BACKSTOP_MS
from tests.deliveries import (
    ACCEPTED,
    DAY_MS,
    DEFERRED,
    REFUSED,
    acceptance_of,
    login_code_of,
    request_of,
)
from tests.keys import k
from tests.servers import ValkeyServer
from tests.storehouse import POLICY, START_MS, TTL_MS, Held, Storehouse

RENDERED: Final = RenderedContent(subject="s", text_body="t", locale_used="en", locale_fallback_used=False)
S = DeliveryStatus


def ids(claims: list[Claim]) -> list[str]:
    return [claim.delivery_id for claim in claims]


async def test_a_store_that_was_never_used_is_sound(house: Storehouse) -> None:
    assert await house.verify() == []
    assert house.verdicts == [Verdict.SAME]


# Accept


async def test_an_acceptance_writes_everything_in_one_go(house: Storehouse) -> None:
    assert await house.accept(request_of()) == Accepted()
    dump = house.dump()
    assert set(dump) == {
        "mail:meta",
        "mail:deliveries:d1",
        "mail:payloads:d1",
        "mail:attempts:d1:1",
        "mail:idempotency:notification:key of d1",
        "mail:attempt_schedule",
        "mail:idx:created_at",
        "mail:idx:source:notification",
        "mail:idx:status:queued",
        "mail:idx:recipient:d1@example.org",
        "mail:idx:idempotency:notification:key of d1",
    }
    stood_in = [str(START_MS).encode()]
    for key in dump:
        if key.startswith("mail:idx:"):
            assert dump[key][0] == [b"d1", *stood_in], key
    assert dump["mail:attempt_schedule"][0] == [b"d1", *stood_in], "due at once"
    assert house.link.asked == ["identify", "accept"]


async def test_nothing_of_a_delivery_expires_while_it_is_on_its_way(house: Storehouse) -> None:
    await house.accept(request_of())
    ends = {key: ends_ms for key, (_, ends_ms) in house.dump().items() if ends_ms != -1}
    assert ends == {"mail:idempotency:notification:key of d1": START_MS + 7 * DAY_MS + BACKSTOP_MS}


async def test_login_codes_go_to_the_priority_lane(house: Storehouse) -> None:
    await house.accept(login_code_of())
    assert house.score(house.keys.priority_schedule, "c1") == START_MS
    assert house.score(house.keys.schedule, "c1") is None


async def test_mail_that_nobody_may_get_is_recorded_and_not_scheduled(house: Storehouse) -> None:
    acceptance = acceptance_of(suppressed={"@example.org": "a domain"}, now_ms=house.clock.ms)
    assert await house.store.accept(acceptance) == Accepted()
    dump = house.dump()
    assert not {"mail:attempts:d1:1", "mail:attempt_schedule"} & set(dump)
    purge_at_ms = START_MS + 30 * DAY_MS
    assert dump["mail:idx:expires"][0] == [b"d1", str(purge_at_ms).encode()]
    assert dump["mail:deliveries:d1"][1] == dump["mail:payloads:d1"][1] == purge_at_ms + BACKSTOP_MS
    assert "mail:idx:recipient:d1@example.org" in dump, "operators find it"
    assert (await house.claim()).claims == []


async def test_a_repeat_is_told_what_the_first_one_was(house: Storehouse) -> None:
    await house.accept(request_of())
    before = house.dump()
    house.clock.ms += 1_000
    again = await house.accept(replace(request_of("d2"), idempotency_key="key of d1"))
    assert isinstance(again, Replay)
    assert again.record == acceptance_of(now_ms=START_MS).idempotency
    assert decode(again.raw, IdempotencyRecord) == again.record
    assert house.dump() == before


async def test_keys_of_two_sources_have_nothing_to_do_with_each_other(house: Storehouse) -> None:
    await house.accept(request_of())
    answer = await house.accept(login_code_of(idempotency_key="key of d1"))
    assert answer == Accepted()


async def test_a_record_past_its_time_is_replaced_by_who_read_it(house: Storehouse) -> None:
    await house.accept(request_of())
    house.clock.ms += 8 * DAY_MS
    later = acceptance_of(request_of("d2", idempotency_key="key of d1"), now_ms=house.clock.ms)
    replay = await house.store.accept(later)
    assert isinstance(replay, Replay), "the script does not judge by itself"
    assert replay.record.expires_at_ms < house.clock.ms
    assert await house.store.accept(later, replaced=replay.raw) == Accepted()
    third = acceptance_of(request_of("d3", idempotency_key="key of d1"), now_ms=house.clock.ms)
    answer = await house.store.accept(third, replaced=replay.raw)
    assert isinstance(answer, Replay), "somebody else was faster"
    assert answer.record.delivery_id == "d2"


async def test_another_delivery_of_the_same_id_is_refused(house: Storehouse) -> None:
    await house.accept(request_of())
    before = house.dump()
    answer = await house.accept(request_of("d1", idempotency_key="another", fingerprint="another"))
    assert answer == DeliveryExists()
    assert house.dump() == before


async def test_an_id_stays_taken_while_the_attempts_of_its_delivery_are_kept(house: Storehouse) -> None:
    """They stay readable by it; those of another delivery must not be mixed with them."""
    await house.sent(request_of(), DEFERRED)
    house.clock.ms += 60_000
    await house.finish(await house.begin(await house.claim_one()), ACCEPTED)
    house.clock.ms += 31 * DAY_MS
    assert await house.upkeep.purge() == 1
    before = house.dump()
    again = request_of("d1", idempotency_key="another")
    assert await house.accept(again) == DeliveryExists()
    assert (await house.stream.read_known([], ["d1", "d2"], [])).deliveries == {"d1"}
    assert house.dump() == before
    house.clock.ms += 60 * DAY_MS
    assert await house.upkeep.purge() == 1
    assert (await house.stream.read_known([], ["d1"], [])).deliveries == frozenset()
    assert await house.accept(again) == Accepted()


async def test_recipients_suppressed_meanwhile_are_named_and_nothing_is_written(house: Storehouse) -> None:
    await house.suppress("@example.org", "the whole domain")
    before = house.dump()
    answer = await house.accept(request_of(to=("a@x.example", "b@example.org")), look=True)
    assert answer == NewlySuppressed({"@example.org": "the whole domain"})
    assert house.dump() == before


async def test_a_replaced_store_takes_nothing_in(house: Storehouse) -> None:
    house.run("FLUSHALL")
    await house.epoch.check(house.link.pipeline)
    with pytest.raises(StoreReplaced):
        await house.accept(request_of())
    assert house.dump() == {}


async def test_a_reply_that_nobody_foresaw_is_a_bug_and_no_acceptance() -> None:
    with pytest.raises(AssertionError):
        accept_answer([99])
    with pytest.raises(RedisRefused):
        accept_answer(RedisRefused("OOM no"))


# Claim


async def test_a_claim_owns_what_is_due_and_brings_its_records(house: Storehouse) -> None:
    await house.accept(login_code_of())
    claimed = await house.claim()
    [claim] = claimed.claims
    acceptance = acceptance_of(login_code_of(), now_ms=START_MS)
    assert (claim.delivery, claim.attempt) == (acceptance.delivery, acceptance.attempt)
    assert (claim.content, claim.rendered) == (acceptance.content, None)
    assert (claim.lane, claim.losses, claim.epoch) == (Lane.PRIORITY, 0, 0)
    assert house.run("HGET", k.claims, "c1") == claim.token.encode()
    assert house.score(house.keys.priority_schedule, "c1") == START_MS + TTL_MS
    assert (claimed.now_ms, claimed.more, claimed.parked) == (START_MS, frozenset(), [])
    assert (await house.claim()).claims == [], "nobody else gets it"


@pytest.mark.parametrize(("late_ms", "due"), [(-1, False), (0, True), (1, True)])
async def test_nothing_is_claimed_before_it_is_due(late_ms: int, due: bool, house: Storehouse) -> None:
    await house.sent(request_of(), DEFERRED)
    house.clock.ms += 60_000 + late_ms
    claimed = await house.claim()
    assert len(claimed.claims) == due
    if not due:
        assert claimed.next_due_ms == house.clock.ms + 1


async def test_lost_work_comes_first_then_the_priority_lane_then_the_normal_one(house: Storehouse) -> None:
    await house.accept(request_of("lost"))
    await house.claim()
    house.clock.ms += TTL_MS
    for name in ("normal-1", "normal-2"):
        await house.accept(request_of(name))
    for name in ("code-1", "code-2"):
        await house.accept(login_code_of(name))
    claimed = await house.claim(2)
    assert ids(claimed.claims) == ["lost", "code-1", "code-2", "normal-1", "normal-2"]


async def test_within_a_lane_what_is_due_longest_comes_first(house: Storehouse) -> None:
    for name in ("z", "y", "x"):
        await house.accept(request_of(name))
        house.clock.ms += 1
    assert ids((await house.claim(2)).claims) == ["z", "y"]
    assert ids((await house.claim(2)).claims) == ["x"]


@pytest.mark.parametrize(("priority", "normal"), [(0, 0), (0, 1), (1, 0), (2, 3), (9, 9)])
async def test_no_more_is_claimed_than_there_are_places(
    priority: int, normal: int, house: Storehouse
) -> None:
    for number in range(4):
        await house.accept(request_of(f"n{number}"))
        await house.accept(login_code_of(f"c{number}"))
    claimed = await house.store.claim(priority_places=priority, normal_places=normal, check_lost=False)
    lanes = [claim.lane for claim in claimed.claims]
    assert lanes.count(Lane.PRIORITY) == min(priority, 4)
    assert lanes.count(Lane.NORMAL) == min(normal, 4)
    waiting = {Lane.PRIORITY: priority < 4, Lane.NORMAL: normal < 4}
    assert claimed.more == {lane for lane, more in waiting.items() if more}


async def test_a_backlog_does_not_hide_what_owners_lost(house: Storehouse) -> None:
    await house.accept(request_of("lost"))
    await house.claim()
    house.clock.ms += 1
    for number in range(50):
        await house.accept(request_of(f"waits-{number}"))
    house.clock.ms += TTL_MS - 1
    assert "lost" not in ids((await house.claim(20, lost=False)).claims), "it is behind them in its lane"
    claimed = await house.claim(0)
    assert ids(claimed.claims) == ["lost"]
    assert claimed.claims[0].losses == 1


async def test_lost_work_is_taken_over_a_bounded_number_at_a_time(house: Storehouse) -> None:
    for number in range(LOST_PLACES + 5):
        await house.accept(request_of(f"d{number:03}"))
    await house.claim()
    house.clock.ms += TTL_MS
    assert len((await house.claim(0)).claims) == LOST_PLACES
    assert len((await house.claim(0)).claims) == 5


async def test_a_claim_that_is_alive_is_nobody_elses(house: Storehouse) -> None:
    await house.accept(request_of())
    first = await house.claim_one()
    house.clock.ms += TTL_MS - 1
    assert (await house.claim()).claims == []
    house.clock.ms += 1
    second = await house.claim_one()
    assert second.losses == 1
    assert second.token != first.token
    with pytest.raises(StaleClaim):
        await house.store.renew(first)
    house.clock.ms += TTL_MS
    assert (await house.claim_one()).losses == 2


async def test_tokens_grow_and_none_comes_twice(house: Storehouse) -> None:
    tokens = []
    for number in range(5):
        await house.accept(request_of(f"d{number}"))
        tokens.append((await house.claim_one()).token)
    numbers = [int(token.partition("-")[2]) for token in tokens]
    assert numbers == [1, 2, 3, 4, 5]
    house.run("SET", k.claim_sequence, 0)  # rolled back
    await house.accept(request_of("again"))
    token = (await house.claim_one()).token
    assert token.endswith("-1")
    assert token not in tokens
    house.run("SET", k.claim_sequence, 6)


async def test_large_sequences_stay_exact(house: Storehouse) -> None:
    house.run("SET", k.claim_sequence, 2**53 - 2)
    await house.accept(request_of())
    assert (await house.claim_one()).token.endswith(f"-{2**53 - 1}")


async def test_a_claim_tells_the_identity_how_far_the_store_has_come(house: Storehouse) -> None:
    await house.accept(request_of())
    await house.claim()
    house.run("SET", k.claim_sequence, 0)
    assert await house.epoch.check(house.link.pipeline) is Verdict.ROLLED_BACK
    house.run("SET", k.claim_sequence, 1)


async def test_when_the_next_one_is_due(house: Storehouse) -> None:
    assert (await house.claim()).next_due_ms is None
    await house.sent(request_of("later"), DEFERRED)
    assert (await house.claim()).next_due_ms == START_MS + 60_000
    await house.accept(login_code_of("sooner"))
    assert (await house.claim()).next_due_ms == START_MS + TTL_MS, "its own claim's end"


async def test_what_is_due_and_left_hides_no_later_one_of_the_other_lane(house: Storehouse) -> None:
    """A held lane has no places."""
    await house.sent(request_of("later"), DEFERRED)
    await house.accept(login_code_of("held"))
    claimed = await house.store.claim(priority_places=0, normal_places=5, check_lost=False)
    assert (claimed.claims, claimed.more) == ([], frozenset({Lane.PRIORITY}))
    assert claimed.next_due_ms == START_MS + 60_000


@pytest.mark.parametrize("size", [CONTENT_WITH_CLAIM_BYTES // 2, CONTENT_WITH_CLAIM_BYTES + 1])
async def test_large_content_is_left_to_the_slot_that_sends_it(size: int, house: Storehouse) -> None:
    content = Content(envelope=Envelope(to=("a@x.example",)), subject="s", text_body="x" * size)
    await house.accept(request_of(content=content))
    claim = await house.claim_one()
    assert (claim.content is None) is (size > CONTENT_WITH_CLAIM_BYTES)
    house.link.asked.clear()
    loaded = await house.store.load(claim)
    assert loaded == replace(claim, content=content)
    assert house.link.asked == ([] if claim.content is not None else ["HMGET"])


async def test_what_was_rendered_comes_with_large_content_too(house: Storehouse) -> None:
    content = replace(login_code_of().content, variables={"code": "x" * 70_000})
    await house.accept(login_code_of(content=content))
    await house.release(await house.begin(await house.claim_one(), rendered=RENDERED))
    claim = await house.claim_one()
    assert (claim.content, claim.rendered) == (None, None)
    loaded = await house.store.load(claim)
    assert (loaded.content, loaded.rendered) == (content, RENDERED)


async def test_content_that_is_gone_can_not_be_loaded(house: Storehouse) -> None:
    content = Content(envelope=Envelope(to=("a@x.example",)), subject="s", text_body="x" * 70_000)
    await house.accept(request_of(content=content))
    claim = await house.claim_one()
    house.run("DEL", k.payload("d1"))
    house.broken = True
    with pytest.raises(StaleClaim):
        await house.store.load(claim)


BREAKAGES: Final[dict[str, tuple[str, ...]]] = {
    "no record": ("DEL", "mail:deliveries:d1"),
    "a record that can't be read": ("SET", "mail:deliveries:d1", '{"status":"teleported"}'),
    "no content": ("DEL", "mail:payloads:d1"),
    "content that can't be read": ("HSET", "mail:payloads:d1", "content", "?"),
    "rendered content that can't be read": ("HSET", "mail:payloads:d1", "rendered", "?"),
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=list(BREAKAGES))
async def test_what_can_not_be_read_is_quarantined_and_holds_nobody_up(
    breakage: tuple[str, ...], house: Storehouse
) -> None:
    await house.accept(request_of())
    await house.accept(request_of("d2"))
    house.run(*breakage)
    house.broken = True
    claimed = await house.claim()
    assert claimed.parked == ["d1"]
    assert ids(claimed.claims) == ["d2"]
    assert house.run("ZSCORE", house.keys.schedule, "d1") == b"inf", "visible, and never discarded"
    assert house.run("HEXISTS", k.claims, "d1") == 0
    house.clock.ms += 100 * DAY_MS
    claimed = await house.claim()
    assert ids(claimed.claims) == ["d2"]
    assert claimed.next_due_ms == house.clock.ms + TTL_MS


@pytest.mark.parametrize("record", [None, b"?"])
async def test_a_begun_attempt_that_can_not_be_read_is_quarantined(
    record: bytes | None, house: Storehouse
) -> None:
    await house.begun(request_of())
    house.broken = True
    if record is None:
        house.run("DEL", k.attempt("d1", 1))
    else:
        house.run("SET", k.attempt("d1", 1), record)
    house.clock.ms += TTL_MS
    assert (await house.claim()).parked == ["d1"]


async def test_only_quarantined_work_makes_nobody_wake_up(house: Storehouse) -> None:
    await house.accept(request_of())
    house.run("DEL", k.payload("d1"))
    house.broken = True
    await house.claim()
    claimed = await house.claim()
    assert (claimed.next_due_ms, claimed.more) == (None, frozenset())


async def test_without_a_clock_of_ours_the_servers_counts(
    empty_valkey: ValkeyServer, house: Storehouse
) -> None:
    seconds, microseconds = cast("list[bytes]", house.run("TIME"))
    house.clock.scripts = lambda: None
    house.clock.ms = int(seconds) * 1000 + int(microseconds) // 1000
    await house.accept(request_of())
    before_ms = house.clock.ms
    claimed = await house.claim()
    assert before_ms <= claimed.now_ms < before_ms + 60_000
    [claim] = claimed.claims
    assert claim.token.startswith(str(int(seconds))[:5])
    held = await house.begin(claim)
    await house.store.renew(claim)
    expiry_ms = house.score(house.keys.schedule, "d1")
    assert expiry_ms is not None
    assert before_ms + TTL_MS <= expiry_ms < before_ms + TTL_MS + 60_000
    await house.finish(held, ACCEPTED)


# Begin


async def test_a_begin_fixes_content_and_state_and_renews_the_claim(house: Storehouse) -> None:
    await house.accept(login_code_of())
    claim = await house.claim_one()
    house.clock.ms += 10_000
    held = await house.begin(claim, rendered=RENDERED)
    assert house.delivery("c1") == held.begun.delivery
    assert house.delivery("c1").status is S.SENDING
    assert house.attempt("c1", 1) == held.begun.attempt
    stored = cast("bytes", house.run("HGET", k.payload("c1"), "rendered"))
    assert decode(stored, RenderedContent) == RENDERED
    assert house.score(house.keys.priority_schedule, "c1") == house.clock.ms + TTL_MS
    assert house.score(k.status_index(S.QUEUED), "c1") is None
    assert house.score(k.status_index(S.SENDING), "c1") == START_MS


async def test_content_is_fixed_by_the_first_begin_alone(house: Storehouse) -> None:
    await house.accept(login_code_of())
    held = await house.begin(await house.claim_one(), rendered=RENDERED)
    other = replace(RENDERED, subject="another")
    await house.store.begin(held.claim, held.begun, rendered=other)
    stored = cast("bytes", house.run("HGET", k.payload("c1"), "rendered"))
    assert decode(stored, RenderedContent) == RENDERED


@pytest.mark.parametrize("late_ms", [0, 1, 10 * TTL_MS])
async def test_a_claim_that_ran_out_does_not_begin_even_if_nobody_took_it(
    late_ms: int, house: Storehouse
) -> None:
    await house.accept(request_of())
    claim = await house.claim_one()
    house.clock.ms += TTL_MS + late_ms
    before = house.dump()
    with pytest.raises(StaleClaim):
        await house.begin(claim)
    assert house.dump() == before


async def test_who_was_suppressed_since_keeps_an_attempt_from_beginning(house: Storehouse) -> None:
    await house.accept(request_of())
    claim = await house.claim_one()
    await house.suppress("d1@example.org")
    begun = begin(claim.delivery, claim.attempt, rendered=None, provider="stub", now_ms=house.clock.ms)
    before = house.dump()
    answer = await house.store.begin(
        claim, begun, rendered=None, unless_suppressed=("@example.org", "d1@example.org")
    )
    assert answer == NewlySuppressed({"d1@example.org": "bounced"})
    assert house.dump() == before
    delivery = suppress_late(claim.delivery, {"d1@example.org": "bounced"})
    ended = conclude_late_suppression(delivery, claim.attempt, now_ms=house.clock.ms)
    await house.store.finish(claim, ended)
    assert house.delivery("d1").status is S.SUPPRESSED


# Finish


async def test_an_end_is_recorded_and_nothing_is_owned_or_scheduled_any_more(house: Storehouse) -> None:
    await house.sent(request_of(), ACCEPTED)
    dump = house.dump()
    assert not {k.claims, house.keys.schedule, k.claim_losses} & set(dump)
    assert house.delivery("d1").status is S.SENT
    assert house.attempt("d1", 1).status is AttemptStatus.PROVIDER_ACCEPTED
    assert house.score(k.status_index(S.SENT), "d1") == START_MS
    assert house.score(k.status_index(S.SENDING), "d1") is None
    assert house.score(k.expires_index, "d1") == START_MS + 30 * DAY_MS


async def test_time_to_live_counts_from_the_end(house: Storehouse) -> None:
    held = await house.begun(request_of())
    house.clock.ms += 5_000
    await house.finish(held, REFUSED)
    end_ms = START_MS + 5_000
    ends = {key: ends_ms for key, (_, ends_ms) in house.dump().items() if ends_ms != -1}
    assert ends == {
        "mail:idempotency:notification:key of d1": START_MS + 7 * DAY_MS + BACKSTOP_MS,
        "mail:deliveries:d1": end_ms + 30 * DAY_MS + BACKSTOP_MS,
        "mail:payloads:d1": end_ms + 30 * DAY_MS + BACKSTOP_MS,
        "mail:attempts:d1:1": end_ms + 90 * DAY_MS + BACKSTOP_MS,
    }


async def test_a_retry_is_scheduled_for_its_time_and_nothing_expires(house: Storehouse) -> None:
    await house.sent(request_of(), DEFERRED)
    assert house.score(house.keys.schedule, "d1") == START_MS + 60_000
    assert house.attempt("d1", 2) == Attempt(
        delivery_id="d1", attempt_no=2, status=AttemptStatus.SCHEDULED, scheduled_for_ms=START_MS + 60_000
    )
    assert house.score(k.expires_index, "d1") is None
    assert all(
        ends_ms == -1
        for key, (_, ends_ms) in house.dump().items()
        if not key.startswith(k.idempotency_records)
    )


async def test_a_dead_letter_is_kept_with_all_its_attempts_and_its_content(house: Storehouse) -> None:
    await house.sent(request_of(), DEFERRED)
    for _ in range(3):
        house.clock.ms += 1_800_000
        await house.finish(await house.begin(await house.claim_one()), DEFERRED)
    end_ms = house.clock.ms
    dead = cast("bytes", house.run("GET", house.keys.dead_letter("d1")))
    assert decode(dead, DeadLetter).attempt_count == 4
    assert house.score(k.dead_letters_index, "d1") == end_ms
    kept = {
        key: ends_ms
        for key, (_, ends_ms) in house.dump().items()
        if not key.startswith(k.idempotency_records)
    }
    for key in ("mail:deliveries:d1", "mail:payloads:d1", "mail:dead_letters:d1"):
        assert kept[key] == end_ms + 90 * DAY_MS + BACKSTOP_MS
    for number in range(1, 5):
        assert kept[f"mail:attempts:d1:{number}"] == end_ms + 90 * DAY_MS + BACKSTOP_MS


async def test_a_render_failure_ends_a_delivery_that_never_began(house: Storehouse) -> None:
    await house.accept(login_code_of())
    claim = await house.claim_one()
    failure = Failure(code="missing_variables", summary="code")
    ended = conclude_render_failure(claim.delivery, claim.attempt, failure, now_ms=house.clock.ms)
    await house.store.finish(claim, ended)
    assert house.delivery("c1").status is S.FAILED
    assert house.score(k.status_index(S.QUEUED), "c1") is None


async def test_a_claim_that_ran_out_can_still_be_finished_while_nobody_took_it(house: Storehouse) -> None:
    """What the provider answered is known; to throw it away would only make a second copy."""
    held = await house.begun(request_of())
    house.clock.ms += 10 * TTL_MS
    await house.finish(held, ACCEPTED)
    assert house.delivery("d1").status is S.SENT


async def test_a_stale_owner_records_nothing(house: Storehouse) -> None:
    held = await house.begun(request_of())
    house.clock.ms += TTL_MS
    new = await house.claim_one()
    before = house.dump()
    with pytest.raises(StaleClaim):
        await house.finish(held, ACCEPTED)
    with pytest.raises(StaleClaim):
        await house.release(held)
    with pytest.raises(StaleClaim):
        await house.store.renew(held.claim)
    with pytest.raises(StaleClaim):
        await house.store.begin(held.claim, held.begun, rendered=None)
    assert house.dump() == before
    ended = conclude_lost_owner(new.delivery, new.attempt, POLICY, losses=new.losses, now_ms=house.clock.ms)
    assert ended is not None
    await house.store.finish(new, ended)
    with pytest.raises(StaleClaim):
        await house.finish(held, ACCEPTED)
    assert (house.delivery("d1").status, house.delivery("d1").attempt_count) == (S.QUEUED, 2)


async def test_losses_are_counted_until_the_end_and_then_dropped(house: Storehouse) -> None:
    await house.accept(request_of())
    await house.claim()
    house.clock.ms += TTL_MS
    assert (await house.claim_one()).losses == 1
    house.clock.ms += TTL_MS
    claim = await house.claim_one()
    assert claim.losses == 2
    await house.release(claim)
    claim = await house.claim_one()
    assert claim.losses == 0, "returned, not lost"
    assert house.run("HGET", k.claim_losses, "d1") == b"2"
    held = await house.begin(claim)
    await house.finish(held, DEFERRED)
    assert house.run("HGET", k.claim_losses, "d1") == b"2"
    house.clock.ms += 60_000
    await house.finish(await house.begin(await house.claim_one()), ACCEPTED)
    assert house.run("HGET", k.claim_losses, "d1") is None


# Release and renew


async def test_what_had_not_begun_goes_back_as_it_was(house: Storehouse) -> None:
    await house.accept(request_of())
    before = {key: value for key, value in house.dump().items() if key != k.claim_sequence}
    house.clock.ms += 1_000
    await house.release(await house.claim_one())
    assert {key: value for key, value in house.dump().items() if key != k.claim_sequence} == before


async def test_what_had_begun_goes_back_with_its_content_fixed(house: Storehouse) -> None:
    await house.accept(login_code_of())
    house.clock.ms += 1_000
    await house.release(await house.begin(await house.claim_one(), rendered=RENDERED))
    assert house.delivery("c1").status is S.RENDERED
    assert house.score(k.status_index(S.RENDERED), "c1") == START_MS
    assert house.score(k.status_index(S.SENDING), "c1") is None
    assert house.score(house.keys.priority_schedule, "c1") == START_MS, "due when it was"
    claim = await house.claim_one()
    assert claim.rendered == RENDERED
    assert (claim.attempt.attempt_no, claim.attempt.status) == (1, AttemptStatus.SCHEDULED)
    await house.finish(await house.begin(claim), ACCEPTED)
    assert house.delivery("c1").status is S.SENT


async def test_a_returned_retry_is_not_sent_before_its_time(house: Storehouse) -> None:
    await house.sent(request_of(), DEFERRED)
    house.clock.ms += 60_000
    await house.release(await house.begin(await house.claim_one()))
    assert house.score(house.keys.schedule, "d1") == START_MS + 60_000
    assert house.delivery("d1").next_attempt_at_ms == START_MS + 60_000


async def test_another_process_takes_returned_work_in_the_same_moment(
    empty_valkey: ValkeyServer, house: Storehouse
) -> None:
    other = Storehouse(empty_valkey.socket, clock=house.clock, owner="other")
    await other.epoch.check(other.link.pipeline)
    await house.accept(request_of())
    await house.release(await house.claim_one())
    held = await other.begin(await other.claim_one())
    assert held.claim.losses == 0
    await other.finish(held, ACCEPTED)
    other.close()


async def test_a_renewed_claim_lives_on(house: Storehouse) -> None:
    held = await house.begun(request_of())
    for _ in range(5):
        house.clock.ms += TTL_MS - 1
        await house.store.renew(held.claim)
        assert (await house.claim()).claims == []
    await house.finish(held, ACCEPTED)


async def test_a_claim_that_ran_out_untaken_is_renewed(house: Storehouse) -> None:
    held = await house.begun(request_of())
    house.clock.ms += 3 * TTL_MS
    await house.store.renew(held.claim)
    assert (await house.claim()).claims == []
    await house.finish(held, ACCEPTED)


async def test_after_a_roll_back_every_held_claim_is_worth_nothing(house: Storehouse) -> None:
    held = await house.begun(request_of())
    waiting = request_of("d2")
    await house.accept(waiting)
    claim = await house.claim_one()
    house.run("SET", k.claim_sequence, 0)
    await house.epoch.check(house.link.pipeline)
    house.run("SET", k.claim_sequence, 2)
    asked = list(house.link.asked)
    for use in (
        house.finish(held, ACCEPTED),
        house.release(claim),
        house.store.renew(claim),
        house.begin(claim),
    ):
        with pytest.raises(StaleClaim):
            await use
    assert house.link.asked == asked, "Redis is not even asked"
    house.clock.ms += TTL_MS
    assert sorted(ids((await house.claim()).claims)) == ["d1", "d2"]


# A lost reply is followed by the same call


async def _accepting(house: Storehouse) -> Callable[[], Awaitable[object]]:
    acceptance = acceptance_of(now_ms=house.clock.ms)
    return lambda: house.store.accept(acceptance)


async def _beginning(house: Storehouse) -> Callable[[], Awaitable[object]]:
    await house.accept(login_code_of())
    claim = await house.claim_one()
    begun: Begun = begin(
        claim.delivery, claim.attempt, rendered=RENDERED, provider="stub", now_ms=house.clock.ms
    )
    return lambda: house.store.begin(claim, begun, rendered=RENDERED)


async def _finishing(house: Storehouse) -> Callable[[], Awaitable[object]]:
    held = await house.begun(request_of())
    conclusion = house.conclusion(held, DEFERRED)
    return lambda: house.store.finish(held.claim, conclusion)


async def _ending(house: Storehouse) -> Callable[[], Awaitable[object]]:
    held = await house.begun(request_of())
    conclusion = house.conclusion(held, ACCEPTED)
    return lambda: house.store.finish(held.claim, conclusion)


async def _renewing(house: Storehouse) -> Callable[[], Awaitable[object]]:
    held = await house.begun(request_of())
    return lambda: house.store.renew(held.claim)


async def _releasing(house: Storehouse) -> Callable[[], Awaitable[object]]:
    held: Held = await house.begun(request_of())
    returned = give_back(held.begun.delivery, held.begun.attempt, now_ms=house.clock.ms)

    async def release() -> None:
        with trio.CancelScope():
            try:
                await house.store.release(held.claim, returned)
            except StaleClaim:
                assert house.link.asked.count("release") == 2, "it is done, or another's"

    return release


@pytest.mark.parametrize("lost", ["lost_reply", "lost_call"])
@pytest.mark.parametrize(
    ("script", "prepare"),
    [
        ("accept", _accepting),
        ("begin", _beginning),
        ("finish", _finishing),
        ("finish", _ending),
        ("renew", _renewing),
        ("release", _releasing),
    ],
    ids=["accept", "begin", "finish", "end", "renew", "release"],
)
async def test_a_call_repeated_after_its_reply_was_lost_has_one_outcome(
    script: str,
    prepare: Callable[[Storehouse], Awaitable[Callable[[], Awaitable[object]]]],
    lost: str,
    house: Storehouse,
    empty_valkey: ValkeyServer,
) -> None:
    call = await prepare(house)
    house.link.fail(script, "lost_reply" if lost == "lost_reply" else "lost_call")
    with pytest.raises(OutcomeUnknown):
        await call()
    await call()
    once_lost = house.dump()
    assert await house.verify() == []
    house.run("FLUSHALL")
    undisturbed = Storehouse(empty_valkey.socket)
    await undisturbed.epoch.check(undisturbed.link.pipeline)
    await (await prepare(undisturbed))()
    assert _without_chance(undisturbed.dump()) == _without_chance(once_lost)
    undisturbed.close()


def _without_chance(dump: dict[str, tuple[object, int]]) -> dict[str, object]:
    """Less the store's name and the tokens' time."""
    held = cast("dict[bytes, bytes]", dump.get(k.claims, ({}, 0))[0])
    return {
        **{key: value for key, value in dump.items() if key not in {k.meta, k.claims}},
        "claimed": {name: token.partition(b"-")[2] for name, token in held.items()},
    }


async def test_a_claim_whose_reply_was_lost_is_taken_over_after_its_time(house: Storehouse) -> None:
    await house.accept(request_of())
    house.link.fail("claim", "lost_reply")
    with pytest.raises(OutcomeUnknown):
        await house.claim()
    assert (await house.claim()).claims == []
    house.clock.ms += TTL_MS
    claim = await house.claim_one()
    assert claim.losses == 1
    await house.finish(await house.begin(claim), ACCEPTED)


@pytest.mark.parametrize("name", ["accept", "claim", "begin", "finish", "release", "renew"])
async def test_what_redis_refuses_is_raised(name: str, house: Storehouse) -> None:
    """A server that became a replica, or that is loading: nothing is taken for done."""

    async def everything() -> None:
        await house.accept(request_of())
        held = await house.begin(await house.claim_one())
        await house.store.renew(held.claim)
        await house.release(held)
        await house.finish(await house.begin(await house.claim_one()), ACCEPTED)

    real = house.raw.run

    def refusing(commands: list[object]) -> list[object]:
        if any(getattr(getattr(c, "script", None), "name", None) == name for c in commands):
            return [RedisRefused("READONLY You can't write against a read only replica.") for _ in commands]
        return real(commands)  # type: ignore[arg-type,return-value]  # passed through as it is

    house.raw.run = refusing  # type: ignore[method-assign,assignment]  # one server in one test
    with pytest.raises(RedisRefused, match="READONLY"):
        await everything()
    house.raw.run = real  # type: ignore[method-assign]  # likewise


# Anything in any order


ACTIONS: Final = st.sampled_from(
    [
        "accept",
        "accept_code",
        "claim",
        "begin",
        "sent",
        "deferred",
        "refused",
        "release",
        "renew",
        "wait",
        "wait_long",
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    actions=st.lists(st.tuples(ACTIONS, st.integers(0, 7)), max_size=40),
    faults=st.lists(st.integers(0, 30), max_size=4, unique=True),
)
def test_whatever_two_processes_do_in_whatever_order_the_store_is_sound(
    actions: list[tuple[str, int]], faults: list[int], empty_valkey: ValkeyServer
) -> None:
    """They hold claims for too long, lose replies, and go on with what is another's by now."""
    trio.run(_act, empty_valkey, actions, frozenset(faults))


class Owned:
    """A claim, and how far its owner came with it as far as the owner knows."""

    def __init__(self, process: Storehouse, claim: Claim) -> None:
        self.process = process
        self.claim = claim
        self.begun: Begun | None = None

    async def begin(self) -> None:
        if self.begun is None:
            rendered = None if self.claim.rendered or self.claim.content is None else RENDERED
            if self.claim.content is not None and self.claim.content.rendered() is not None:
                rendered = None
            self.begun = begin(
                self.claim.delivery,
                self.claim.attempt,
                rendered=rendered,
                provider="stub",
                now_ms=self.process.clock.ms,
            )
            self.rendered = rendered
        await self.process.store.begin(self.claim, self.begun, rendered=self.rendered)

    async def end(self, answer: SendResult) -> None:
        if self.begun is not None:
            await self.begin()  # had its reply been lost, it is not known
            await self.process.finish(Held(self.claim, self.begun), answer)

    async def release(self) -> None:
        if self.begun is None:
            await self.process.release(self.claim)
        else:
            await self.begin()
            await self.process.release(Held(self.claim, self.begun))


async def _act(valkey: ValkeyServer, actions: list[tuple[str, int]], faults: frozenset[int]) -> None:
    one = Storehouse(valkey.socket)
    one.run("FLUSHALL")
    two = Storehouse(valkey.socket, clock=one.clock)
    for process in (one, two):
        await process.epoch.check(process.link.pipeline)
    owned: list[Owned] = []
    accepted = 0
    answers = {"sent": ACCEPTED, "deferred": DEFERRED, "refused": REFUSED}
    for number, (action, which) in enumerate(actions):
        process = (one, two)[which % 2]
        some = owned[which % len(owned)] if owned else None
        if number in faults:
            for script in ("accept", "claim", "begin", "finish", "release", "renew"):
                one.link.fail(script, "lost_reply")
                two.link.fail(script, "lost_reply")
        with suppress(StaleClaim, RedisFailure):
            match action:
                case "accept" | "accept_code":
                    accepted += 1
                    request = request_of if action == "accept" else login_code_of
                    await process.accept(request(f"d{accepted}"))
                case "claim":
                    for claim in (await process.claim(2)).claims:
                        ended = conclude_lost_owner(
                            claim.delivery, claim.attempt, POLICY, losses=claim.losses, now_ms=one.clock.ms
                        )
                        if claim.losses and ended is not None:
                            await process.store.finish(claim, ended)
                        else:
                            owned.append(Owned(process, claim))
                case "begin" if some:
                    await some.begin()
                case "sent" | "deferred" | "refused" if some:
                    await some.end(answers[action])
                case "release" if some:
                    await some.release()
                case "renew" if some:
                    await some.process.store.renew(some.claim)
                case "wait":
                    one.clock.ms += 1_000
                case "wait_long":
                    one.clock.ms += TTL_MS
                case _:
                    pass
        for each in (one, two):
            each.link.faults.clear()
    problems = await one.verify()
    one.close()
    two.close()
    assert list(map(str, problems)) == []
