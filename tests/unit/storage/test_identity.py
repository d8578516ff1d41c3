"""Whether the store is still the one that this process knows."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisFailure, RedisRefused
from galaxy_mail.storage.links.protocol import Call, Command, Reply
from galaxy_mail.storage.operations.identity import StoreIdentity, StoreReplaced, Verdict, entry_number
from galaxy_mail.storage.records.keys import Keys
from tests.clocks import FixedClock
from tests.keys import k

OFFSET = "mail:stream_offsets:mail:delivery_commands"


class FakeStore:
    """What identify would find, and what happens while its answer is on the way."""

    def __init__(self) -> None:
        self.store_id = ""
        self.sequence = 0
        self.offset = ""
        self.asked: list[Call] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.trouble: RedisFailure | None = None

    async def pipeline(self, commands: Sequence[Command | Call]) -> list[Reply]:
        [call] = commands
        assert isinstance(call, Call)
        self.asked.append(call)
        if isinstance(self.trouble, RedisRefused):
            return [self.trouble]
        if self.trouble is not None:
            raise self.trouble
        self.store_id = self.store_id or str(call.args[0])
        reply: Reply = [self.store_id.encode(), str(self.sequence).encode(), self.offset.encode()]
        self.meanwhile()
        return [reply]


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def verdicts() -> list[Verdict]:
    return []


@pytest.fixture
def identity(verdicts: list[Verdict]) -> StoreIdentity:
    return StoreIdentity(Keys(), clock=FixedClock(1234), on_verdict=verdicts.append)


async def test_the_first_process_names_the_store(identity: StoreIdentity, store: FakeStore) -> None:
    assert await identity.check(store.pipeline) is Verdict.SAME
    [call] = store.asked
    assert call.script.name == "identify"
    assert call.keys == (k.meta, k.claim_sequence, OFFSET)
    assert call.args[1] == 1234
    assert identity.store_id == store.store_id
    assert len(store.store_id) == 16
    assert identity.number == 0


async def test_two_processes_never_choose_the_same_name(store: FakeStore) -> None:
    names = set()
    for _ in range(50):
        store.store_id = ""
        await StoreIdentity(Keys(), clock=FixedClock(0), on_verdict=lambda _: None).check(store.pipeline)
        names.add(store.store_id)
    assert len(names) == 50


async def test_a_later_process_learns_the_name_that_the_store_has(
    identity: StoreIdentity, store: FakeStore
) -> None:
    store.store_id, store.sequence, store.offset = "named long ago", 900, "17-3"
    assert await identity.check(store.pipeline) is Verdict.SAME
    assert identity.store_id == "named long ago"
    assert await identity.check(store.pipeline) is Verdict.SAME


async def test_a_process_names_a_store_once_and_never_another_one(
    identity: StoreIdentity, store: FakeStore
) -> None:
    await identity.check(store.pipeline)
    store.store_id = ""  # wiped
    assert await identity.check(store.pipeline) is Verdict.REPLACED
    assert store.asked[-1].args[0] == ""
    assert store.store_id == "", "the operator decides whose it is now"


async def test_a_wiped_store_stops_intake_and_drops_what_is_held(
    identity: StoreIdentity, store: FakeStore, verdicts: list[Verdict]
) -> None:
    await identity.check(store.pipeline)
    identity.refuse_if_replaced()
    store.store_id = ""
    await identity.check(store.pipeline)
    with pytest.raises(StoreReplaced):
        identity.refuse_if_replaced()
    assert identity.number == 1
    assert verdicts == [Verdict.SAME, Verdict.REPLACED]


async def test_another_store_is_a_replaced_one_however_far_it_has_come(
    identity: StoreIdentity, store: FakeStore
) -> None:
    await identity.check(store.pipeline)
    store.store_id, store.sequence, store.offset = "another", 10**9, "99999999999999-0"
    assert await identity.check(store.pipeline) is Verdict.REPLACED


async def test_once_the_known_store_is_back_intake_goes_on(identity: StoreIdentity, store: FakeStore) -> None:
    await identity.check(store.pipeline)
    name = store.store_id
    store.store_id = "another"
    await identity.check(store.pipeline)
    store.store_id = name
    assert await identity.check(store.pipeline) is Verdict.SAME
    identity.refuse_if_replaced()
    assert identity.number == 1, "what was claimed before is worth nothing all the same"


async def test_what_another_store_had_makes_no_roll_back_of_the_known_one(
    identity: StoreIdentity, store: FakeStore
) -> None:
    store.sequence, store.offset = 7, "7-0"
    await identity.check(store.pipeline)
    replaced = FakeStore()
    replaced.store_id, replaced.sequence, replaced.offset = "another", 500, "500-0"
    assert await identity.check(replaced.pipeline) is Verdict.REPLACED
    identity.saw_sequence(501)
    identity.saw_offset("501-0")
    assert await identity.check(store.pipeline) is Verdict.SAME
    store.sequence = 6
    assert await identity.check(store.pipeline) is Verdict.ROLLED_BACK


@pytest.mark.parametrize(
    ("sequence", "offset", "verdict"),
    [
        (10, "5-5", Verdict.SAME),
        (11, "5-6", Verdict.SAME),
        (11, "6-0", Verdict.SAME),
        (10, "10-0", Verdict.SAME),
        (9, "5-5", Verdict.ROLLED_BACK),
        (9, "7-0", Verdict.ROLLED_BACK),
        (10, "5-4", Verdict.ROLLED_BACK),
        (10, "4-9", Verdict.ROLLED_BACK),
        (11, "", Verdict.ROLLED_BACK),
        (0, "", Verdict.ROLLED_BACK),
    ],
)
async def test_a_store_that_has_not_come_as_far_was_rolled_back(
    sequence: int, offset: str, verdict: Verdict, identity: StoreIdentity, store: FakeStore
) -> None:
    store.sequence, store.offset = 10, "5-5"
    await identity.check(store.pipeline)
    store.sequence, store.offset = sequence, offset
    assert await identity.check(store.pipeline) is verdict
    assert identity.number == (verdict is Verdict.ROLLED_BACK)
    identity.refuse_if_replaced()  # the service goes on either way


async def test_what_this_process_saw_since_it_connected_counts(
    identity: StoreIdentity, store: FakeStore
) -> None:
    store.sequence, store.offset = 10, "5-5"
    await identity.check(store.pipeline)
    identity.saw_sequence(12)
    assert await identity.check(store.pipeline) is Verdict.ROLLED_BACK
    identity.saw_offset("5-6")
    assert await identity.check(store.pipeline) is Verdict.ROLLED_BACK


async def test_what_was_seen_late_does_not_lower_what_was_seen(
    identity: StoreIdentity, store: FakeStore
) -> None:
    await identity.check(store.pipeline)
    for sequence, offset in ((12, "9-0"), (11, "8-9")):
        identity.saw_sequence(sequence)
        identity.saw_offset(offset)
    store.sequence, store.offset = 11, "9-0"
    assert await identity.check(store.pipeline) is Verdict.ROLLED_BACK


async def test_after_a_roll_back_it_is_measured_anew(identity: StoreIdentity, store: FakeStore) -> None:
    store.sequence, store.offset = 10, "5-5"
    await identity.check(store.pipeline)
    store.sequence, store.offset = 3, "2-0"
    await identity.check(store.pipeline)
    assert await identity.check(store.pipeline) is Verdict.SAME
    store.sequence = 2
    assert await identity.check(store.pipeline) is Verdict.ROLLED_BACK
    assert identity.number == 2


async def test_what_is_seen_while_the_answer_is_on_its_way_is_no_roll_back(
    identity: StoreIdentity, store: FakeStore
) -> None:
    """One link reconnects while the other one goes on: claims and offsets come in that are newer than the answer."""
    store.sequence, store.offset = 10, "5-5"
    await identity.check(store.pipeline)

    def meanwhile() -> None:
        identity.saw_sequence(11)
        identity.saw_offset("6-0")

    store.meanwhile = meanwhile
    assert await identity.check(store.pipeline) is Verdict.SAME
    assert identity.number == 0
    store.meanwhile = lambda: None
    assert await identity.check(store.pipeline) is Verdict.ROLLED_BACK, "and it is not forgotten"


@pytest.mark.parametrize("trouble", [RedisRefused("LOADING wait"), OutcomeUnknown("lost")])
async def test_without_an_answer_there_is_no_verdict(
    trouble: RedisFailure, identity: StoreIdentity, store: FakeStore, verdicts: list[Verdict]
) -> None:
    store.trouble = trouble
    with pytest.raises(type(trouble)):
        await identity.check(store.pipeline)
    assert (verdicts, identity.store_id, identity.number) == ([], None, 0)
    store.trouble = None
    assert await identity.check(store.pipeline) is Verdict.SAME


def test_entry_ids_are_compared_as_numbers() -> None:
    ordered = ["", "0-1", "9-0", "9-10", "10-0", "18446744073709551615-18446744073709551615"]
    numbers = list(map(entry_number, ordered))
    assert all(earlier < later for earlier, later in pairwise(numbers))
    assert entry_number("") == entry_number("0-0") == entry_number("0") == (0, 0)


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_an_entry_id_is_two_integers(milliseconds: int, sequence: int) -> None:
    assert entry_number(f"{milliseconds}-{sequence}") == (milliseconds, sequence)
