"""Accepting mail from either intake: the domain decides, the store applies."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

import structlog
import trio
from msgspec import Struct
from msgspec.structs import replace

from galaxy_mail.domain.acceptance import (
    OUTCOME_SENT,
    Acceptance,
    MailRequest,
    Suppressed,
    accept,
    not_allowed,
    suppression_entries,
)
from galaxy_mail.domain.commands import (
    CommandLimits,
    FailureCode,
    Malformed,
    decode_command,
    malformed_record,
)
from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.records import Source
from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisFailure, RedisRefused
from galaxy_mail.storage.links.protocol import Call, Entry, Reply
from galaxy_mail.storage.operations.answers import (
    Accepted,
    DeliveryExists,
    NewlySuppressed,
    NotNext,
    Replay,
    accept_answer,
)
from galaxy_mail.storage.operations.command_stream import CommandStream, Known
from galaxy_mail.storage.operations.identity import entry_number
from galaxy_mail.storage.operations.store import Store, StreamPosition
from galaxy_mail.telemetry.logs import delivery_fields
from galaxy_mail.telemetry.metrics import Metrics
from galaxy_mail.telemetry.traces import Traces

log = structlog.get_logger()

DECODED_AT_A_TIME: Final = 16  # entries between two looks at what else is to be done
APPLIED_AT_A_TIME: Final = 50  # entries in one pipeline: Redis works on them while the next ones are planned
LARGE_ENTRY_BYTES: Final = 256 * 1024  # decoded in a thread: the loop must not stand still for one command


class IdempotencyConflict(GalaxyMailError):
    """The idempotency key was used for another request. Nothing was written."""


class AcceptResult(Struct, frozen=True, kw_only=True):
    """What a caller is told: the same for a repeat."""

    outcome: str  # "sent" | "suppressed"
    delivery_id: str
    replayed: bool


class Progress(Struct, frozen=True, kw_only=True):
    """How far a batch of stream entries has come."""

    offset: str  # the last entry that needs no more work
    accepted: int = 0
    duplicates: int = 0
    malformed: int = 0
    refusal: RedisRefused | None = None  # why the batch stopped before its end


class Intake:
    """The one way by which mail comes in. `on_accepted` is called when something is due at once."""

    def __init__(
        self,
        store: Store,
        *,
        allowlist: frozenset[str],  # empty: everyone may be mailed
        message_domain: str,
        metrics: Metrics,
        traces: Traces,
        on_accepted: Callable[[], None],
    ) -> None:
        self._store = store
        self._allowlist = allowlist
        self._message_domain = message_domain
        self._metrics = metrics
        self._traces = traces
        self._on_accepted = on_accepted

    async def accept(self, request: MailRequest) -> AcceptResult:
        """Makes one request durable, or repeats its first answer. Raises IdempotencyConflict, RedisTrouble.

        A lost reply is followed by the same call once: had the first one been run, this one says so.
        """
        with self._traces.accepting(request.source, request.traceparent) as span:
            request = replace(request, traceparent=span.traceparent(request.traceparent))
            return await self._accept(request)

    async def _accept(self, request: MailRequest) -> AcceptResult:
        suppressed: dict[str, str] = {}
        look_for = suppression_entries(request.content.envelope)
        replaced = b""
        repeated = False
        while True:
            acceptance = self.acceptance(request, suppressed)
            try:
                answer = await self._store.accept(acceptance, unless_suppressed=look_for, replaced=replaced)
            except OutcomeUnknown:
                if repeated:
                    raise
                repeated = True
                continue
            match answer:
                case Accepted():
                    return self.accepted(acceptance)
                case Replay(record) if record.delivery_id == request.delivery_id and repeated:
                    return self.accepted(acceptance)  # by the call whose reply was lost
                case Replay(record, raw) if record.expires_at_ms <= self._store.now_ms():
                    replaced = raw
                case Replay(record):
                    if record.fingerprint != request.fingerprint:
                        self._metrics.conflict(request.source)
                        raise IdempotencyConflict("this idempotency key was used for another request")
                    self._metrics.duplicate(request.source)
                    return AcceptResult(outcome=record.outcome, delivery_id=record.delivery_id, replayed=True)
                case NewlySuppressed(entries):
                    suppressed, look_for = entries, ()
                case DeliveryExists() | NotNext():
                    raise AssertionError(f"a new delivery id was answered {answer}")

    @property
    def durable(self) -> bool:
        """Whether each pipeline that accepts waits for the disk or for a replica."""
        return self._store.durable

    def now_ms(self) -> int:
        """Epoch milliseconds on Redis' clock."""
        return self._store.now_ms()

    def acceptance(self, request: MailRequest, suppressed: Suppressed) -> Acceptance:
        """What this request becomes, with those entries of the suppression list and with the allowlist."""
        return accept(
            request,
            suppressed=not_allowed(request.content.envelope, self._allowlist) | dict(suppressed),
            message_domain=self._message_domain,
            idempotency_ttl_ms=self._store.retention.idempotency_ms,
            now_ms=self._store.now_ms(),
        )

    def accept_call(self, acceptance: Acceptance, *, position: StreamPosition, replaced: bytes) -> Call:
        """The script call that accepts a stream entry; suppression has been looked up."""
        return self._store.accept_call(acceptance, position=position, replaced=replaced)

    def accepted(self, acceptance: Acceptance) -> AcceptResult:
        """Tells everyone that it is durable."""
        delivery = acceptance.delivery
        self._metrics.accepted(delivery)
        log.info(
            "delivery_accepted",
            **delivery_fields(delivery),
            outcome=acceptance.outcome,
        )
        if acceptance.outcome == OUTCOME_SENT:
            self._on_accepted()
        return AcceptResult(outcome=acceptance.outcome, delivery_id=delivery.delivery_id, replayed=False)


class CommandIntake:
    """Accepts stream entries in batches: one look-up, then pipelines in which every entry moves the offset.

    The pipelines of a batch are under way together. None waits for the one before it: an entry whose predecessor was
    not made safe changes nothing, in whatever pipeline it is.
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

    async def accept(self, batch: "Batch", *, offset: str) -> Progress:
        """Accepts the entries behind `offset`, in order, up to the first that Redis refuses. Raises RedisTrouble.

        After an exception the stored offset tells how far it came.
        """
        requests = [request for request in batch.decoded if isinstance(request, MailRequest)]
        known = await self._stream.read_known(
            list(dict.fromkeys((r.source, r.idempotency_key) for r in requests)),
            list(dict.fromkeys(r.delivery_id for r in requests)),
            list(dict.fromkeys(e for r in requests for e in suppression_entries(r.content.envelope))),
        )
        plan = self._plan(batch, known, offset)
        # Where each pipeline waits for the disk, the others would wait behind it.
        at_a_time = len(batch.entries) if self._intake.durable else APPLIED_AT_A_TIME
        progress = Progress(offset=offset)
        if len(batch.entries) <= at_a_time:
            steps = list(plan)
            return self._progress(steps, await self._stream.apply([step.call for step in steps]), progress)
        trouble: RedisFailure | None = None
        async with trio.open_nursery() as nursery:
            under_way: list[_Pipeline] = []
            while steps := list(islice(plan, at_a_time)):
                under_way.append(_Pipeline(steps))
                await nursery.start(under_way[-1].run, self._stream)
            for pipeline in under_way:
                await pipeline.ended.wait()
                if isinstance(pipeline.outcome, RedisFailure):
                    trouble = (
                        trouble or pipeline.outcome
                    )  # out of the nursery by hand, so that it stays itself
                else:
                    progress = self._progress(pipeline.steps, pipeline.outcome, progress)
        if trouble is not None:
            raise trouble
        return progress

    async def decode(self, entries: Sequence[Entry]) -> "Batch":
        """What each entry asks for, or why it asks for nothing; needs no Redis, so it may be done ahead."""
        decoded: list[MailRequest | Malformed] = []
        for number, (entry_id, fields) in enumerate(entries):
            if sum(len(value) for _, value in fields) > LARGE_ENTRY_BYTES:
                decoded.append(await trio.to_thread.run_sync(decode_command, entry_id, fields, self._limits))
                continue
            if number % DECODED_AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
            decoded.append(decode_command(entry_id, fields, self._limits))
        return Batch(entries, decoded)

    def _plan(self, batch: "Batch", known: Known, offset: str) -> Iterator["Step"]:
        """What is to be done for each entry, told apart by what Redis knew and by the entries before it."""
        now_ms = self._intake.now_ms()
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
                if before == request.fingerprint:
                    yield Step(position, self._stream.skip_call(position), request)
                    continue
                if before is None and request.delivery_id not in taken:
                    fingerprints[key] = request.fingerprint
                    taken.add(request.delivery_id)
                    acceptance = self._intake.acceptance(self._traced(request), known.suppressed)
                    call = self._intake.accept_call(
                        acceptance, position=position, replaced=known.raw_records.get(key, b"")
                    )
                    yield Step(position, call, acceptance)
                    continue
                request = _conflict(entry_id, same_key=before is not None)
            record = malformed_record(entry_id, fields, request.failure_code, request.message, now_ms)
            yield Step(position, self._stream.malformed_call(record, position), request)

    def _traced(self, request: MailRequest) -> MailRequest:
        if not self._traces.on:
            return request
        with self._traces.accepting(request.source, request.traceparent) as span:
            return replace(request, traceparent=span.traceparent(request.traceparent))

    def _progress(self, steps: "Sequence[Step]", replies: Sequence[Reply], before: Progress) -> Progress:
        """How far it has come with these steps."""
        offset, refusal = before.offset, before.refusal
        accepted, duplicates, malformed = before.accepted, before.duplicates, before.malformed
        for step, reply in zip(steps, replies, strict=True):
            if isinstance(reply, RedisRefused):
                refusal = refusal or reply
                continue
            if not isinstance(accept_answer(reply), Accepted):
                # It was not next: an earlier one was refused. Or another reader was here; then, once that one has come
                # so far, a later one may be next again.
                continue
            offset = step.position.entry_id
            match step.made:
                case Acceptance():
                    accepted += 1
                    self._intake.accepted(step.made)
                    waited_ms = self._intake.now_ms() - entry_number(offset)[0]
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


class Batch(Struct, frozen=True):
    """Stream entries as they were read, and what was read from each."""

    entries: Sequence[Entry]
    decoded: Sequence[MailRequest | Malformed]


class Step(Struct, frozen=True):
    """One entry of a batch: what to run for it, and what it is when that was answered."""

    position: StreamPosition
    call: Call
    made: Acceptance | MailRequest | Malformed  # accepted | a duplicate | malformed


class _Pipeline:
    """Steps that Redis is to take in one go, and what came of it."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.ended = trio.Event()
        self.outcome: Sequence[Reply] | RedisFailure = ()

    async def run(
        self, stream: CommandStream, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()  # whoever started this goes on when the calls are in the queue, in their turn
        try:
            self.outcome = await stream.apply([step.call for step in self.steps])
        except RedisFailure as trouble:
            self.outcome = trouble
        self.ended.set()


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
