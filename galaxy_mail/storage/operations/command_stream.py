"""The intake stream: its offset, its reader's lease, what it lost.

The offset moves inside the script that makes an entry safe, and only from the entry's predecessor. So a batch sent in one
pipeline stops at its first failure (everything behind it answers "not next"), and a second reader changes nothing.
The lease avoids duplicate work; the offset check guarantees correctness.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import DecodeError, Struct

from galaxy_mail.domain.records import (
    IdempotencyRecord,
    MalformedCommand,
    Source,
    decode,
    encode,
)
from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.links.errors import RedisRefused
from galaxy_mail.storage.links.protocol import Call, Command, Entry, RedisLink
from galaxy_mail.storage.links.replies import answered, as_int, as_optional_bytes, as_optional_bytes_list
from galaxy_mail.storage.operations.answers import AcceptReply, accept_answer, suppression_reason
from galaxy_mail.storage.operations.identity import StoreIdentity, entry_number
from galaxy_mail.storage.operations.lease import LEASE, LeaseArgs, LeaseKeys
from galaxy_mail.storage.operations.note_lost import NOTE_LOST, NoteLostArgs, NoteLostKeys
from galaxy_mail.storage.operations.operation import NoArgs
from galaxy_mail.storage.operations.read_commands import READ_COMMANDS, ReadCommandsArgs, ReadCommandsKeys
from galaxy_mail.storage.operations.record_malformed import (
    RECORD_MALFORMED,
    RecordMalformedArgs,
    RecordMalformedKeys,
)
from galaxy_mail.storage.operations.skip import SKIP, SkipArgs, SkipKeys
from galaxy_mail.storage.operations.store import StreamPosition
from galaxy_mail.storage.operations.stream_state import STREAM_STATE, StreamStateKeys
from galaxy_mail.storage.records.keys import Keys
from galaxy_mail.storage.records.retention import BACKSTOP_MS

BATCH_ENTRIES: Final = 250
BATCH_BYTES: Final = 4 * 1024 * 1024
UNREADABLE_UNTIL_MS: Final = 2**53  # for ever


class Known(Struct, frozen=True):
    """What Redis knew about a batch before it was accepted."""

    records: dict[tuple[Source, str], IdempotencyRecord]  # by (source, idempotency key)
    raw_records: dict[tuple[Source, str], bytes]
    deliveries: frozenset[str]  # ids that exist
    suppressed: dict[str, str]  # suppression entry -> reason


class StreamState(Struct, frozen=True, kw_only=True):
    """How the stream stands to the offset."""

    offset: str  # "" before the first entry
    length: int
    last_entry_id: str
    lag: int  # entries that nobody has read; exact while the stream lost none
    lost: int  # trimmed or deleted unread and not counted yet; less than 0: made anew, counting begins again
    restarted: bool  # it was deleted and begins again below the offset: nothing would ever be read
    consumed: int


class CommandStream:
    """One reader's view of the intake stream."""

    def __init__(
        self,
        link: RedisLink,
        *,
        keys: Keys,
        epoch: StoreIdentity,
        malformed_kept_ms: int,
        owner: str,
        clock: Clock,
    ) -> None:
        self._link = link
        self._keys = keys
        self.epoch = epoch
        self._owner = owner
        self._malformed_kept_ms = malformed_kept_ms
        self._clock = clock

    # The lease

    async def hold_lease(self, ttl_ms: int) -> bool:
        """Takes or keeps the right to read; False while another process has it. Raises RedisFailure."""
        return await LEASE.run(
            self._link,
            LeaseKeys(lease=self._keys.ingress_lease),
            LeaseArgs(
                owner=self._owner,
                now_ms=self._clock.script_ms(),
                ttl_ms=ttl_ms,
            ),
        )

    async def give_up_lease(self) -> None:
        """Lets the next reader in at once. Raises RedisFailure."""
        await self.hold_lease(0)

    # Reading

    async def offset(self) -> str:
        """The last entry that needs no more work; "" before the first one. Raises RedisFailure."""
        self.epoch.refuse_if_replaced()
        [reply] = await self._link.pipeline([("GET", self._keys.offset)])
        offset = as_optional_bytes(reply) or b""
        return offset.decode()

    async def read(self, after: str) -> tuple[list[Entry], bool]:
        """The entries behind `after`, bounded by number and bytes, and whether none before them is left to read.

        That may mean that entries were trimmed unread: `state` tells. Raises RedisFailure.
        """
        page = await READ_COMMANDS.run(
            self._link,
            ReadCommandsKeys(stream=self._keys.command_stream),
            ReadCommandsArgs(after=after or "0-0", max_entries=BATCH_ENTRIES, max_bytes=BATCH_BYTES),
        )
        return page.entries, entry_number(page.first_id) > entry_number(after)

    async def wait_for_more(self, after: str, *, block_ms: int) -> bool:
        """Waits until there is an entry behind `after`, at most `block_ms`. Raises RedisFailure."""
        return bool(
            await self._link.read_stream(
                self._keys.command_stream, after or "0-0", count=1, block_ms=block_ms
            )
        )

    async def read_known(
        self,
        idempotency: Sequence[tuple[Source, str]],
        delivery_ids: Sequence[str],
        suppressions: Sequence[str],
    ) -> Known:
        """Reads what decides how each entry of a batch is accepted, in one round trip. Raises RedisFailure."""
        commands: list[Command | Call] = []
        if idempotency:
            commands.append(("MGET", *(self._keys.idempotency(source, key) for source, key in idempotency)))
        if suppressions:
            commands.append(("HMGET", self._keys.suppressions, *suppressions))
        # Attempts outlive their delivery and stay readable by its id, so that the id stays taken: `accept` sees it so, too.
        commands += [
            ("EXISTS", self._keys.delivery(delivery_id), self._keys.attempt(delivery_id, 1))
            for delivery_id in delivery_ids
        ]
        replies = [answered(reply) for reply in await self._link.pipeline(commands)] if commands else []
        raw: dict[tuple[Source, str], bytes] = {}
        if idempotency:
            found = as_optional_bytes_list(replies.pop(0))
            raw = {key: data for key, data in zip(idempotency, found, strict=True) if data is not None}
        suppressed: dict[str, str] = {}
        if suppressions:
            found = as_optional_bytes_list(replies.pop(0))
            suppressed = {
                entry: suppression_reason(data)
                for entry, data in zip(suppressions, found, strict=True)
                if data is not None
            }
        return Known(
            records={key: _idempotency_record(data) for key, data in raw.items()},
            raw_records=raw,
            deliveries=frozenset(i for i, exists in zip(delivery_ids, replies, strict=True) if exists != 0),
            suppressed=suppressed,
        )

    # Accepting: calls for one pipeline, each moving the offset past its entry

    def skip_call(self, position: StreamPosition) -> Call:
        return SKIP.call(
            SkipKeys(offset=self._keys.offset, consumed=self._keys.consumed),
            SkipArgs(entry_id=position.entry_id, predecessor=position.predecessor),
        )

    def malformed_call(self, record: MalformedCommand, position: StreamPosition) -> Call:
        return RECORD_MALFORMED.call(
            RecordMalformedKeys(
                malformed=self._keys.malformed(record.entry_id),
                malformed_index=self._keys.malformed_index,
                offset=self._keys.offset,
                consumed=self._keys.consumed,
            ),
            RecordMalformedArgs(
                record=encode(record),
                recorded_at_ms=record.recorded_at_ms,
                backstop_ms=record.recorded_at_ms + self._malformed_kept_ms + BACKSTOP_MS,
                entry_id=position.entry_id,
                predecessor=position.predecessor,
            ),
        )

    async def apply(self, calls: Sequence[Call]) -> list[AcceptReply | RedisRefused]:
        """Runs the calls in order, as durably as configured. Raises RedisFailure: some may have been run."""
        self.epoch.refuse_if_replaced()
        replies = await self._link.accept_pipeline(calls)
        return [reply if isinstance(reply, RedisRefused) else accept_answer(reply) for reply in replies]

    # Losses

    async def state(self) -> StreamState:
        """How the stream stands to the offset. Raises RedisFailure."""
        keys = self._keys
        found = await STREAM_STATE.run(
            self._link,
            StreamStateKeys(stream=keys.command_stream, offset=keys.offset, consumed=keys.consumed),
            NoArgs(),
        )
        offset, consumed, stream = found.offset.decode(), int(found.consumed), found.stream
        if stream is None:  # never written to, or deleted: the next entry may come below the offset
            return StreamState(
                offset=offset, length=0, last_entry_id="", lag=0, lost=0, restarted=False, consumed=consumed
            )
        length, added = stream.length, stream.added
        last, first = stream.last_id, stream.first_id
        restarted = entry_number(last) < entry_number(offset)
        lost = 0
        # Trimming takes the oldest: while an entry that was consumed is still there, none was lost unread.
        everything_is_ahead = not first or entry_number(first) > entry_number(offset)
        if everything_is_ahead and not restarted:
            lost = added - length - consumed
        lag = length if everything_is_ahead else max(0, added - consumed)
        return StreamState(
            offset=offset,
            length=length,
            last_entry_id=last,
            lag=length if restarted else lag,  # none of them will be read
            lost=lost,
            restarted=restarted,
            consumed=consumed,
        )

    async def note_lost(self, state: StreamState) -> bool:
        """Counts what `state` says was lost, once over all processes; True where it was here. Raises RedisFailure."""
        counted = await NOTE_LOST.run(
            self._link,
            NoteLostKeys(consumed=self._keys.consumed, meta=self._keys.meta),
            NoteLostArgs(seen=state.consumed, lost=state.lost, now_ms=self._clock.now_ms()),
        )
        return state.lost > 0 and counted

    async def trim(self, *, keep_ms: int) -> int:
        """Removes entries older than `keep_ms`, never one past the offset; how many went. Raises RedisFailure."""
        self.epoch.refuse_if_replaced()
        state = await self.state()
        if not state.offset or state.restarted:  # what stands below the offset then was not read
            return 0
        old = self._clock.now_ms() - keep_ms
        milliseconds, sequence = entry_number(state.offset)
        # MINID keeps its argument; the entry at the offset may go, so the bound is the next possible id.
        bound = min((max(old, 0), 0), (milliseconds, sequence + 1))
        [reply] = await self._link.pipeline(
            [("XTRIM", self._keys.command_stream, "MINID", "=", f"{bound[0]}-{bound[1]}")]
        )
        return as_int(reply)


def _idempotency_record(data: bytes) -> IdempotencyRecord:
    """The record. One that this release can't read counts as another request's: its command is recorded as a conflict.

    An exception instead would block every command behind it.
    """
    try:
        return decode(data, IdempotencyRecord)
    except DecodeError:
        return IdempotencyRecord(
            fingerprint="", delivery_id="", outcome="", expires_at_ms=UNREADABLE_UNTIL_MS
        )
