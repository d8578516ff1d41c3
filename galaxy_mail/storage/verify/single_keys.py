"""Checks the single keys: the lanes, the claims, the stream's offset and count, `meta`, the suppression list, the holds."""

import re
from collections.abc import AsyncIterator, Sequence
from typing import Final

from galaxy_mail.domain.records import Lane, Suppression
from galaxy_mail.storage.links.replies import as_bytes_list
from galaxy_mail.storage.operations.hold_store import stored_hold
from galaxy_mail.storage.operations.identity import entry_number
from galaxy_mail.storage.operations.note_lost import NOTE_LOST, NoteLostArgs, NoteLostKeys
from galaxy_mail.storage.operations.operation import NoArgs
from galaxy_mail.storage.operations.stream_state import STREAM_STATE, StreamStateKeys
from galaxy_mail.storage.records.encoding import readable
from galaxy_mail.storage.verify.reading import Reading
from galaxy_mail.storage.verify.violation import Repair, Violation

TOKEN: Final = re.compile(r"([0-9]+)-([0-9]+)")  # microseconds - sequence number
LEASE: Final = re.compile(r"\S+ [0-9]+")


async def schedule(reading: Reading) -> AsyncIterator[Violation]:
    """A scheduled id has a record. One without is reported, but never removed."""
    for lane in Lane:
        async for members in reading.members([reading.keys.lane(lane)]):
            exist = await reading.exist([reading.keys.delivery(member) for _, member, _ in members])
            for (_, member, _), exists in zip(members, exist, strict=True):
                if not exists:
                    yield Violation(where=member, what="is scheduled, but has no record")


async def claims(reading: Reading) -> AsyncIterator[Violation]:
    """Each claim has its own token and expires. Lost claims are counted for existing deliveries only."""
    owners: dict[str, str] = {}
    sequence = -1
    async for held in reading.fields(reading.keys.claims):
        raw = await reading.value(reading.keys.claim_sequence) or b"0"  # after the tokens
        if not raw.isdigit():
            yield Violation(where=reading.keys.claim_sequence, what=f"is not a number: {raw!r}")
        sequence = int(raw) if raw.isdigit() else sequence
        for delivery_id, value in held:
            token = value.decode(errors="backslashreplace")
            parts = TOKEN.fullmatch(token)
            if parts is None:
                yield Violation(where=delivery_id, what=f"its claim has no valid token: {token!r}")
            elif raw.isdigit() and int(parts[2]) > sequence:
                yield Violation(where=delivery_id, what="its token is ahead of the claim sequence")
            if owners.setdefault(token, delivery_id) != delivery_id:
                yield Violation(where=delivery_id, what=f"its token is also that of {owners[token]}")
            scheduled = await reading.run(
                [("ZSCORE", reading.keys.lane(lane), delivery_id) for lane in Lane]
                + [("HGET", reading.keys.claims, delivery_id)]
            )
            if scheduled == [None, None, value]:
                yield Violation(
                    where=delivery_id,
                    what="is claimed, but not scheduled: its claim would never expire",
                    repair=Repair("claim dropped", (("HDEL", reading.keys.claims, delivery_id),)),
                )
    async for lost in reading.fields(reading.keys.claim_losses):
        exist = await reading.exist([reading.keys.delivery(delivery_id) for delivery_id, _ in lost])
        for (delivery_id, _), exists in zip(lost, exist, strict=True):
            if not exists:
                yield Violation(
                    where=delivery_id,
                    what="its lost claims are counted, but it has no record",
                    repair=Repair("count removed", (("HDEL", reading.keys.claim_losses, delivery_id),)),
                )


async def stream(reading: Reading) -> AsyncIterator[Violation]:
    """The offset, the count of consumed entries and the stream agree."""
    keys = reading.keys
    lease = await reading.value(reading.keys.ingress_lease)
    if lease is not None and LEASE.fullmatch(lease.decode(errors="backslashreplace")) is None:
        yield Violation(where=reading.keys.ingress_lease, what="has no valid owner and expiry")
    reply = await reading.one(
        STREAM_STATE.call(
            StreamStateKeys(stream=keys.command_stream, offset=keys.offset, consumed=keys.consumed), NoArgs()
        )
    )
    if reply is None:  # one of the three has a wrong type
        return
    state = STREAM_STATE.decode(reply)
    counted, stream = state.consumed, state.stream
    if not counted.isdigit():
        yield Violation(where=keys.consumed, what=f"is not a number: {counted!r}")
    try:
        reached = entry_number(state.offset.decode())
    except ValueError:
        yield Violation(where=keys.offset, what="is not a stream entry id")
        return
    if stream is None or not counted.isdigit():
        return
    consumed, added, first = int(counted), stream.added, stream.first_id
    if entry_number(stream.last_id) < reached:
        yield Violation(
            where=keys.offset,
            what=f"is after the stream's last entry, {stream.last_id}: no entries are read",
        )
        return
    # While a consumed entry is still there, no unread entry was trimmed.
    gone = added - stream.length if entry_number(first) > reached or not first else None
    if gone is not None and gone != consumed:
        what = (
            f"{gone - consumed} entries were removed unread and not counted"
            if gone > consumed
            else f"{consumed} entries are counted as consumed, but at most {gone} can be"
        )
        call = NOTE_LOST.call(
            NoteLostKeys(consumed=keys.consumed, meta=reading.keys.meta),
            NoteLostArgs(seen=consumed, lost=gone - consumed, now_ms=reading.now_ms),
        )
        yield Violation(where=keys.consumed, what=what, repair=Repair("counted", (call,)))
    elif consumed > added:
        yield Violation(
            where=keys.consumed,
            what=f"{consumed} entries are counted as consumed, but only {added} were added",
        )


async def meta(reading: Reading) -> AsyncIterator[Violation]:
    """A store that is not empty has an id, by which processes notice that the store was replaced."""
    raw = as_bytes_list(await reading.one(("HGETALL", reading.keys.meta)) or [])
    about = dict(zip((name.decode() for name in raw[::2]), raw[1::2], strict=True))
    if not about.get("id") and await reading.one(
        ("EXISTS", reading.keys.created_at_index, reading.keys.offset)
    ):
        yield Violation(where=reading.keys.meta, what="has no id, but there are deliveries or an offset")
    for name in ("created_at_ms", "stream_lost", "stream_lost_at_ms"):
        if not about.get(name, b"0").isdigit():
            yield Violation(where=reading.keys.meta, what=f"{name} is not a number")


async def suppressions(reading: Reading) -> AsyncIterator[Violation]:
    """An entry that can't be read still suppresses its address, but is not listed."""
    async for entries in reading.fields(reading.keys.suppressions):
        for address, data in entries:
            entry = readable(data, Suppression)
            if entry is None:
                yield Violation(where=reading.keys.suppressions, what=f"the entry of {address} can't be read")
            elif entry.address != address:
                yield Violation(
                    where=reading.keys.suppressions,
                    what=f"the entry of {address} has the address {entry.address}",
                )


async def probe_leases(reading: Reading, names: Sequence[str]) -> AsyncIterator[Violation]:
    for name in names:
        lease = await reading.value(name)
        if lease is not None and LEASE.fullmatch(lease.decode(errors="backslashreplace")) is None:
            yield Violation(where=name, what="has no valid owner and expiry")


async def holds(reading: Reading) -> AsyncIterator[Violation]:
    """A hold that can't be read may hold its scope until somebody lifts it."""
    async for entries in reading.fields(reading.keys.holds):
        for field, data in entries:
            if not stored_hold(field, data).readable:
                yield Violation(where=reading.keys.holds, what=f"the hold {field} can't be read")
