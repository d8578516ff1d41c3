"""A provider that discards mail and returns scripted results. For development, tests and rehearsals.

If an outbox folder is configured, accepted mail is written there as `<delivery_id>.<attempt_no>.eml`.
"""

import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import trio
from msgspec import Struct

from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.records import AttemptStatus, Blame, Failure, Json, Result, SendResult
from galaxy_mail.domain.strict_json import StrictJsonError, loads, shown_name
from galaxy_mail.providers import mime
from galaxy_mail.providers.mime import BadMessage, MailFrom
from galaxy_mail.providers.provider import Message, SendDeadline
from galaxy_mail.settings.kinds import duration_ms

_LATENCY: Final = duration_ms(at_least="0ms", at_most="1h")


class BadScript(GalaxyMailError, ValueError):
    """Not a valid stub script. The message says where."""


class StubOutcome(StrEnum):
    """What a rule may ask for: one of the four results, or a connection that times out or is lost."""

    ACCEPTED = "accepted"
    SUPPRESSED = "suppressed"
    TRANSIENT_FAILURE = "transient_failure"
    PERMANENT_FAILURE = "permanent_failure"
    TIMEOUT = "timeout"
    DISCONNECT = "disconnect"


class StubRule(Struct, frozen=True, kw_only=True):
    outcomes: tuple[StubOutcome, ...]  # attempt n gets the nth; the last one repeats
    recipient: str = "*"  # a glob for the first recipient, in lower case
    latency_ms: int = 0

    def outcome(self, attempt_no: int) -> StubOutcome:
        return self.outcomes[min(attempt_no, len(self.outcomes)) - 1]


class StubScript(Struct, frozen=True, kw_only=True):
    """Which mail gets which result. The first matching rule applies."""

    rules: tuple[StubRule, ...] = ()
    default: StubRule = StubRule(outcomes=(StubOutcome.ACCEPTED,))

    def rule_for(self, recipient: str) -> StubRule:
        address = recipient.lower()
        return next((rule for rule in self.rules if fnmatchcase(address, rule.recipient)), self.default)

    @classmethod
    def parse(cls, data: bytes) -> "StubScript":
        """Decodes the JSON of MAIL_STUB_SCRIPT. Raises BadScript."""
        try:
            script = _object("the script", loads(data), optional=("rules", "default"))
        except StrictJsonError as error:
            raise BadScript(str(error)) from None
        rules = _list("rules", script.get("rules", []))
        return cls(
            rules=tuple(_rule(f"rules[{at}]", rule) for at, rule in enumerate(rules)),
            default=StubRule(outcomes=_outcomes("default", script.get("default", ["accepted"]))),
        )

    @classmethod
    def read(cls, path: str) -> "StubScript":
        """Reads and decodes a file. Raises BadScript, also if the file can't be read."""
        try:
            return cls.parse(Path(path).read_bytes())
        except BadScript as error:
            raise BadScript(f"is not a stub script: {error}") from None
        except OSError as error:
            raise BadScript(f"can't be read: {error.strerror}") from None


class StubProvider:
    """Returns each message's scripted result after the rule's latency. Several stubs may share an outbox."""

    name: str = "stub"

    def __init__(self, *, outbox: Path | None, script: StubScript, sender: MailFrom) -> None:
        self._outbox = outbox
        self._script = script
        self._sender = sender

    async def __aenter__(self) -> Self:
        if self._outbox is not None:
            await trio.Path(self._outbox).mkdir(parents=True, exist_ok=True)
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
        """The scripted result. If cancelled during the latency, nothing is written; the write can't be cancelled."""
        rule = self._script.rule_for(next(iter(message.envelope.recipients()), ""))
        outcome = rule.outcome(message.attempt_no)
        await trio.sleep(rule.latency_ms / 1000)
        if outcome is not StubOutcome.ACCEPTED:
            return RESULTS[outcome]
        if not may_finish():
            return CLAIM_RUNNING_OUT
        try:
            if self._outbox is None:
                self._build(message)
            else:
                await trio.to_thread.run_sync(self._keep, message, self._outbox)
        except BadMessage as bad:
            return _refusal("message_malformed", str(bad))
        except OSError as error:
            return _loss(AttemptStatus.TRANSPORT_FAILED, "outbox_failed", f"outbox: {error.strerror}")
        return RESULTS[outcome]

    def _build(self, message: Message) -> bytes:
        smtputf8 = mime.needs_smtputf8(message, self._sender)
        return mime.build(message, sender=self._sender, eight_bit=True, smtputf8=smtputf8)

    def _keep(self, message: Message, outbox: Path) -> None:
        """Writes the mail under another name first, so that readers of the outbox see only complete mails."""
        mail = self._build(message)
        partial = outbox / f".{os.getpid()}.{next(_PARTIAL)}.partial"
        try:
            partial.write_bytes(mail)
            partial.replace(outbox / f"{message.delivery_id}.{message.attempt_no}.eml")
        finally:
            partial.unlink(missing_ok=True)


_PARTIAL: Final = count(1)


def _refusal(code: str, summary: str, provider_code: str | None = None) -> SendResult:
    return SendResult(
        result=Result.PERMANENT_FAILURE,
        status=AttemptStatus.PROVIDER_REJECTED,
        failure=Failure(code=code, summary=summary),
        blame=Blame.MESSAGE,
        provider_code=provider_code,
    )


def _loss(status: AttemptStatus, code: str, summary: str, provider_code: str | None = None) -> SendResult:
    return SendResult(
        result=Result.TRANSIENT_FAILURE,
        status=status,
        failure=Failure(code=code, summary=summary),
        blame=Blame.MESSAGE,
        provider_code=provider_code,
    )


# The failure codes are a relay's, but the blame is always `message`: the stub never opens the breaker.
RESULTS: Final[Mapping[StubOutcome, SendResult]] = {
    StubOutcome.ACCEPTED: SendResult(
        result=Result.ACCEPTED, status=AttemptStatus.PROVIDER_ACCEPTED, provider_code="250 2.0.0"
    ),
    StubOutcome.SUPPRESSED: SendResult(
        result=Result.SUPPRESSED,
        status=AttemptStatus.PROVIDER_REJECTED,
        failure=Failure(code="provider_suppressed", summary="suppressed by the stub, as scripted"),
    ),
    StubOutcome.PERMANENT_FAILURE: _refusal(
        "message_refused", "refused by the stub, as scripted", "550 5.7.1"
    ),
    StubOutcome.TRANSIENT_FAILURE: _loss(
        AttemptStatus.PROVIDER_REJECTED,
        "message_deferred",
        "deferred by the stub, as scripted",
        "451 4.3.0",
    ),
    StubOutcome.TIMEOUT: _loss(
        AttemptStatus.TIMED_OUT, "envelope_timed_out", "the stub timed out before the message, as scripted"
    ),
    StubOutcome.DISCONNECT: _loss(
        AttemptStatus.TRANSPORT_FAILED,
        "disconnected",
        "the stub disconnected before the message, as scripted",
    ),
}
CLAIM_RUNNING_OUT: Final = SendResult(
    result=Result.TRANSIENT_FAILURE,
    status=AttemptStatus.TRANSPORT_FAILED,
    failure=Failure(code="claim_running_out", summary="the claim would have ended too soon to send safely"),
    blame=Blame.SERVICE,
)


def _rule(where: str, value: Json) -> StubRule:
    rule = _object(where, value, required=("recipient", "outcomes"), optional=("latency",))
    recipient = rule["recipient"]
    if not isinstance(recipient, str) or not recipient:
        raise BadScript(f"{where}.recipient: must be a glob such as *@slow.test")
    return StubRule(
        recipient=recipient.lower(),
        outcomes=_outcomes(f"{where}.outcomes", rule["outcomes"]),
        latency_ms=_latency(f"{where}.latency", rule.get("latency", "0ms")),
    )


def _outcomes(where: str, value: Json) -> tuple[StubOutcome, ...]:
    names = _list(where, value)
    if not names:
        raise BadScript(f"{where}: must have at least one outcome")
    return tuple(_outcome(f"{where}[{at}]", name) for at, name in enumerate(names))


def _outcome(where: str, value: Json) -> StubOutcome:
    try:
        return StubOutcome(value)
    except ValueError:
        raise BadScript(f"{where}: must be one of {', '.join(StubOutcome)}") from None


def _latency(where: str, value: Json) -> int:
    if not isinstance(value, str):
        raise BadScript(f"{where}: must be text such as 50ms")
    try:
        return _LATENCY(value)
    except ValueError as error:
        raise BadScript(f"{where}: {error}") from None


def _list(where: str, value: Json) -> Sequence[Json]:
    if not isinstance(value, list):
        raise BadScript(f"{where}: must be a list")
    return value


def _object(
    where: str, value: Json, *, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()
) -> Mapping[str, Json]:
    if not isinstance(value, dict):
        raise BadScript(f"{where}: must be an object")
    for name in required:
        if name not in value:
            raise BadScript(f"{where}: `{name}` is missing")
    for name in value:
        if name not in required + optional:
            raise BadScript(f"{where}: unknown field `{shown_name(name)}`")
    return value
