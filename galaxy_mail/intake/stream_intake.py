"""Accepting stream commands in batches: one look-up, then pipelines in which every entry moves the offset."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import structlog
import trio
from msgspec import Struct
from msgspec.structs import replace

from galaxy_mail.domain.acceptance import Acceptance, MailRequest, suppression_entries
from galaxy_mail.domain.commands import (
    CommandLimits,
    FailureCode,
    Fields,
    Malformed,
    decode_command,
    malformed_record,
    tracing_fields,
)
from galaxy_mail.domain.records import Source
from galaxy_mail.intake.intake import Intake
from galaxy_mail.storage.links.errors import RedisFailure, RedisRefused
from galaxy_mail.storage.links.protocol import Call, Entry
from galaxy_mail.storage.operations.answers import Accepted, AcceptReply
from galaxy_mail.storage.operations.command_stream import CommandStream, Known
from galaxy_mail.storage.operations.identity import entry_number
from galaxy_mail.storage.operations.store import StreamPosition
from galaxy_mail.telemetry.metrics import Metrics
from galaxy_mail.telemetry.traces import OFF, Span, Traces

log = structlog.get_logger()

DECODED_AT_A_TIME: Final = 16  # entries between two checkpoints
APPLIED_AT_A_TIME: Final = 50  # entries in one pipeline: Redis executes it while the next one is planned
LARGE_ENTRY_BYTES: Final = (
    256 * 1024
)  # larger ones are decoded in a thread, so that they don't block the loop


class Progress(Struct, frozen=True, kw_only=True):
    """How far a batch of stream entries has come."""

    offset: str  # the last entry that needs no more work
    accepted: int = 0
    duplicates: int = 0
    malformed: int = 0
    refusal: RedisRefused | None = None  # why the batch stopped before its end


class Batch(Struct, frozen=True):
    """Stream entries as they were read, and each of them decoded."""

    entries: Sequence[Entry]
    decoded: Sequence[MailRequest | Malformed]


class EntryStep(Struct, frozen=True):
    """One entry of a batch: the call for it, and what the entry is once that call was answered."""

    position: StreamPosition
    call: Call
    made: Acceptance | MailRequest | Malformed  # accepted | a duplicate | malformed
    span: Span  # ends when the pipeline is answered

    def answered(self, reply: AcceptReply | RedisRefused) -> None:
        """Ends the span: failed, unless the command is accepted or repeats one that was."""
        if self.span is not OFF:
            if not isinstance(reply, Accepted):
                self.span.failed(type(reply).__name__)
            elif isinstance(self.made, Malformed):
                self.span.failed(self.made.failure_code)
        self.span.end()


class CommandIntake:
    """Accepts stream entries in batches: one look-up, then pipelines in which every entry moves the offset.

    All pipelines of a batch are in flight at once, and none waits for the one before it. That is safe because the script
    changes nothing for an entry whose predecessor was not recorded.
    """

    def __init__(
        self,
        intake: Intake,
        stream: CommandStream,
        *,
        limits: CommandLimits,
        metrics: Metrics,
        traces: Traces,
    ) -> None:
        self._intake = intake
        self._stream = stream
        self._limits = limits
        self._metrics = metrics
        self._traces = traces

    async def accept(self, batch: Batch, *, offset: str) -> Progress:
        """Accepts the entries behind `offset`, in order, up to the first that Redis refuses. Raises RedisFailure.

        After an exception the stored offset tells how far it came.
        """
        requests = [request for request in batch.decoded if isinstance(request, MailRequest)]
        known = await self._stream.read_known(
            list(dict.fromkeys((r.source, r.idempotency_key) for r in requests)),
            list(dict.fromkeys(r.delivery_id for r in requests)),
            list(dict.fromkeys(e for r in requests for e in suppression_entries(r.content.envelope))),
        )
        plan = self._plan(batch, known, offset)
        # Where each pipeline waits for the disk, several would wait one after the other.
        at_a_time = len(batch.entries) if self._intake.durable else APPLIED_AT_A_TIME
        progress = Progress(offset=offset)
        if len(batch.entries) <= at_a_time:
            steps = list(plan)
            return self._progress(steps, await _apply(self._stream, steps), progress)
        failures: list[RedisFailure] = []
        async with trio.open_nursery() as nursery:
            under_way: list[_Pipeline] = []
            while steps := list(islice(plan, at_a_time)):
                under_way.append(_Pipeline(steps))
                await nursery.start(under_way[-1].run, self._stream)
            for pipeline in under_way:
                await pipeline.ended.wait()
                if isinstance(pipeline.outcome, RedisFailure):
                    failures.append(pipeline.outcome)
                else:
                    progress = self._progress(pipeline.steps, pipeline.outcome, progress)
        if failures:
            raise failures[0]
        return progress

    async def decode(self, entries: Sequence[Entry]) -> Batch:
        """Each entry decoded, as a request or as malformed. Needs no Redis, so it can be done ahead."""
        decoded: list[MailRequest | Malformed] = []
        for number, (entry_id, fields) in enumerate(entries):
            if sum(len(value) for _, value in fields) > LARGE_ENTRY_BYTES:
                decoded.append(await trio.to_thread.run_sync(decode_command, entry_id, fields, self._limits))
                continue
            if number % DECODED_AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
            decoded.append(decode_command(entry_id, fields, self._limits))
        return Batch(entries, decoded)

    def _plan(self, batch: Batch, known: Known, offset: str) -> Iterator[EntryStep]:
        """The step for each entry, by what Redis knows and by the entries before it."""
        now_ms = self._intake.clock.now_ms()
        fingerprints = {
            key: record.fingerprint for key, record in known.records.items() if record.expires_at_ms > now_ms
        }
        taken = set(known.deliveries)
        predecessor = offset
        for (entry_id, fields), request in zip(batch.entries, batch.decoded, strict=True):
            position = StreamPosition(entry_id, predecessor)
            predecessor = entry_id
            if isinstance(request, MailRequest):
                key = (request.source, request.idempotency_key)
                before = fingerprints.get(key)
                span = self._traces.accepting(request.source, request.delivery_id, request.traceparent)
                if before == request.fingerprint:
                    yield EntryStep(position, self._stream.skip_call(position), request, span)
                    continue
                if before is None and request.delivery_id not in taken:
                    fingerprints[key] = request.fingerprint
                    taken.add(request.delivery_id)
                    if self._traces.on:
                        request = replace(request, traceparent=span.traceparent(request.traceparent))
                    acceptance = self._intake.acceptance(request, known.suppressed)
                    call = self._intake.accept_call(
                        acceptance, position=position, replaced=known.raw_records.get(key, b"")
                    )
                    yield EntryStep(position, call, acceptance, span)
                    continue
                request = _conflict(entry_id, same_key=before is not None)
            else:
                span = self._malformed_span(fields)
            record = malformed_record(entry_id, fields, request.failure_code, request.message, now_ms)
            yield EntryStep(position, self._stream.malformed_call(record, position), request, span)

    def _malformed_span(self, fields: Fields) -> Span:
        if not self._traces.on:
            return OFF
        delivery_id, traceparent = tracing_fields(fields)
        return self._traces.accepting(Source.NOTIFICATION, delivery_id, traceparent)

    def _progress(
        self, steps: Sequence[EntryStep], replies: Sequence[AcceptReply | RedisRefused], before: Progress
    ) -> Progress:
        """Counts and logs what these replies say; how far the batch has come with them."""
        offset, refusal = before.offset, before.refusal
        accepted, duplicates, malformed = before.accepted, before.duplicates, before.malformed
        for step, reply in zip(steps, replies, strict=True):
            if isinstance(reply, RedisRefused):
                refusal = refusal or reply
                continue
            if not isinstance(reply, Accepted):
                # It was not next: an earlier entry was refused, or another reader moved the offset. In the second case a
                # later entry may be next again.
                continue
            offset = step.position.entry_id
            match step.made:
                case Acceptance():
                    accepted += 1
                    self._intake.accepted(step.made)
                    waited_ms = self._intake.clock.now_ms() - entry_number(offset)[0]
                    self._metrics.took_in(step.made.delivery.source, max(0, waited_ms) / 1000)
                case MailRequest():
                    duplicates += 1
                    self._metrics.duplicate(step.made.source)
                case Malformed():
                    malformed += 1
                    self._metrics.malformed(step.made.failure_code)
                    if step.made.failure_code is FailureCode.IDEMPOTENCY_CONFLICT:
                        self._metrics.conflict(Source.NOTIFICATION)
                    log.warning(
                        "command_malformed",
                        entry_id=offset,
                        failure_code=step.made.failure_code,
                        message=step.made.message,
                    )
        self._stream.epoch.saw_offset(offset)
        return Progress(
            offset=offset, accepted=accepted, duplicates=duplicates, malformed=malformed, refusal=refusal
        )


class _Pipeline:
    """Steps that are sent in one pipeline, and the replies to them."""

    def __init__(self, steps: Sequence[EntryStep]) -> None:
        self.steps = steps
        self.ended = trio.Event()
        self.outcome: Sequence[AcceptReply | RedisRefused] | RedisFailure = ()

    async def run(
        self, stream: CommandStream, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()  # the next pipeline starts once these calls are in the queue
        try:
            self.outcome = await _apply(stream, self.steps)
        except RedisFailure as failure:
            self.outcome = failure
        self.ended.set()


async def _apply(stream: CommandStream, steps: Sequence[EntryStep]) -> Sequence[AcceptReply | RedisRefused]:
    """Runs these steps in one pipeline and ends their spans. Raises RedisFailure."""
    try:
        replies = await stream.apply([step.call for step in steps])
    except BaseException as error:
        for step in steps:
            step.span.failed(type(error).__name__)
            step.span.end()
        raise
    for step, reply in zip(steps, replies, strict=True):
        step.answered(reply)
    return replies


def _conflict(entry_id: str, *, same_key: bool) -> Malformed:
    if same_key:
        return Malformed(
            entry_id=entry_id,
            failure_code=FailureCode.IDEMPOTENCY_CONFLICT,
            message="idempotency_key: was used for another command",
        )
    return Malformed(
        entry_id=entry_id,
        failure_code=FailureCode.DELIVERY_ID_CONFLICT,
        message="delivery_id: another delivery has it",
    )
