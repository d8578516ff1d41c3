import json
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from galaxy_mail.domain.records import AttemptStatus, Json, Result, SendResult
from galaxy_mail.providers.mime import build
from galaxy_mail.providers.stub import BadScript, StubOutcome, StubProvider, StubScript
from tests.unit.providers.messages import SENDER, attachment, message


def always() -> bool:
    return True


def never() -> bool:
    return False


def script(**members: Json) -> StubScript:
    return StubScript.parse(json.dumps(members).encode())


def stub(outbox: Path | None = None, **members: Json) -> StubProvider:
    return StubProvider(outbox=outbox, script=script(**members), sender=SENDER)


async def send(provider: StubProvider, to: str = "pilot@a.example", attempt_no: int = 1) -> SendResult:
    async with provider:
        return await provider.send(message(to=(to,), attempt_no=attempt_no), may_finish=always)


def kept(outbox: Path) -> dict[str, bytes]:
    """Everything in the outbox, and what is only half there as well."""
    return {file.name: file.read_bytes() for file in outbox.iterdir()}


# What it answers


@pytest.mark.parametrize(
    ("outcome", "result", "status", "code"),
    [
        ("accepted", Result.ACCEPTED, AttemptStatus.PROVIDER_ACCEPTED, None),
        ("suppressed", Result.SUPPRESSED, AttemptStatus.PROVIDER_REJECTED, "provider_suppressed"),
        ("transient_failure", Result.TRANSIENT_FAILURE, AttemptStatus.PROVIDER_REJECTED, "message_deferred"),
        ("permanent_failure", Result.PERMANENT_FAILURE, AttemptStatus.PROVIDER_REJECTED, "message_refused"),
        ("timeout", Result.TRANSIENT_FAILURE, AttemptStatus.TIMED_OUT, "envelope_timed_out"),
        ("disconnect", Result.TRANSIENT_FAILURE, AttemptStatus.TRANSPORT_FAILED, "disconnected"),
    ],
)
async def test_each_outcome_is_classified_as_a_relay_s_would_be(
    outcome: str, result: Result, status: AttemptStatus, code: str | None, tmp_path: Path
) -> None:
    answer = await send(stub(tmp_path, default=[outcome]))
    assert (answer.result, answer.status) == (result, status)
    assert (answer.failure.code if answer.failure else None) == code
    assert not answer.outcome_unknown
    assert bool(kept(tmp_path)) == (outcome == "accepted"), "it keeps what it took, and nothing else"


async def test_attempt_n_gets_outcome_n_and_the_last_one_repeats() -> None:
    provider = stub(default=["timeout", "transient_failure", "accepted"])
    results = [(await send(provider, attempt_no=attempt_no)).status for attempt_no in (1, 2, 3, 4, 99)]
    assert results == [
        AttemptStatus.TIMED_OUT,
        AttemptStatus.PROVIDER_REJECTED,
        *[AttemptStatus.PROVIDER_ACCEPTED] * 3,
    ]


@pytest.mark.parametrize(
    ("recipient", "outcome"),
    [
        ("pilot@slow.test", StubOutcome.TIMEOUT),
        ("Pilot@SLOW.test", StubOutcome.TIMEOUT),
        ("pilot@very.slow.test", StubOutcome.ACCEPTED),
        ("bounce-17@a.example", StubOutcome.PERMANENT_FAILURE),
        ("bounce-x@a.example", StubOutcome.ACCEPTED),
    ],
)
def test_the_first_rule_whose_glob_fits_counts(recipient: str, outcome: StubOutcome) -> None:
    rules = script(
        rules=[
            {"recipient": "*@Slow.test", "outcomes": ["timeout"]},
            {"recipient": "pilot@slow.test", "outcomes": ["disconnect"]},
            {"recipient": "bounce-[0-9]?@*", "outcomes": ["permanent_failure"]},
        ]
    )
    assert rules.rule_for(recipient).outcome(1) is outcome


async def test_the_first_recipient_is_asked_for_whichever_field_it_is_in() -> None:
    provider = stub(rules=[{"recipient": "b@*", "outcomes": ["permanent_failure"]}])
    async with provider:
        second = await provider.send(message(to=("a@x.example", "b@x.example")), may_finish=always)
        blind = await provider.send(message(to=(), bcc=("b@x.example",)), may_finish=always)
    assert (second.result, blind.result) == (Result.ACCEPTED, Result.PERMANENT_FAILURE)


async def test_the_latency_of_the_rule_passes_before_the_answer(autojump_clock: MockClock) -> None:
    provider = stub(rules=[{"recipient": "*@slow.test", "outcomes": ["accepted"], "latency": "1m30s"}])
    started = trio.current_time()
    await send(provider, "pilot@fast.test")
    assert trio.current_time() == started
    await send(provider, "pilot@slow.test")
    assert trio.current_time() == pytest.approx(started + 90)


async def test_even_without_latency_it_lets_others_run() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await send(stub())
    assert scope.cancelled_caught


async def test_cancelled_while_it_waits_it_leaves_no_mail_behind(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    provider = stub(tmp_path, rules=[{"recipient": "*", "outcomes": ["accepted"], "latency": "50ms"}])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, provider)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert kept(tmp_path) == {}


async def test_a_claim_too_close_to_its_end_sends_nothing(tmp_path: Path) -> None:
    async with stub(tmp_path) as provider:
        answer = await provider.send(message(), may_finish=never)
    assert (answer.result, answer.status) == (Result.TRANSIENT_FAILURE, AttemptStatus.TRANSPORT_FAILED)
    assert answer.failure
    assert answer.failure.code == "claim_running_out"
    assert kept(tmp_path) == {}


async def test_what_is_no_mail_is_refused_for_good(tmp_path: Path) -> None:
    for outbox in (None, tmp_path):
        async with stub(outbox) as provider:
            answer = await provider.send(message(subject="a\r\nBcc: spy@b.example"), may_finish=always)
        assert answer.result is Result.PERMANENT_FAILURE
        assert answer.failure
        assert answer.failure.code == "message_malformed"
        assert "spy" not in answer.failure.summary
    assert kept(tmp_path) == {}


# What it keeps


async def test_the_outbox_has_each_attempt_s_mail_as_it_would_be_sent(tmp_path: Path) -> None:
    outbox = tmp_path / "not" / "there" / "yet"
    attempts = [
        message(delivery_id="d.1~x", attempt_no=attempt_no, to=("ж@a.example",), html="<p>ü")
        for attempt_no in (1, 2)
    ]
    async with stub(outbox) as provider:
        for attempt in attempts:
            await provider.send(attempt, may_finish=always)
    expected = build(attempts[0], sender=SENDER, eight_bit=True, smtputf8=True)
    assert kept(outbox) == {"d.1~x.1.eml": expected, "d.1~x.2.eml": expected}


async def test_slots_share_an_outbox_without_getting_in_each_others_way(tmp_path: Path) -> None:
    async def slot(number: int) -> None:
        async with stub(tmp_path) as provider:
            for n in range(5):
                sent = message(delivery_id=f"d.{number}.{n}", attachments=(attachment(b"x" * 10_000),))
                assert (await provider.send(sent, may_finish=always)).result is Result.ACCEPTED

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(slot, number)
    assert kept(tmp_path).keys() == {f"d.{s}.{n}.1.eml" for s in range(4) for n in range(5)}


async def test_the_same_attempt_sent_again_replaces_its_mail(tmp_path: Path) -> None:
    await send(stub(tmp_path))
    await send(stub(tmp_path))
    assert list(kept(tmp_path)) == ["d.1.1.eml"]


async def test_an_outbox_that_cannot_be_written_is_a_failed_transport(tmp_path: Path) -> None:
    async with stub(tmp_path / "outbox") as provider:
        (tmp_path / "outbox").rmdir()
        answer = await provider.send(message(), may_finish=always)
    assert (answer.result, answer.status) == (Result.TRANSIENT_FAILURE, AttemptStatus.TRANSPORT_FAILED)
    assert answer.failure
    assert answer.failure.code == "outbox_failed"


# Its script


def test_a_script_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(
        '{"rules":[{"recipient":"*@slow.test","outcomes":["transient_failure","accepted"],"latency":"50ms"}],"default":["suppressed"]}'
    )
    read = StubScript.read(str(path))
    rule = read.rule_for("x@slow.test")
    assert (rule.outcomes, rule.latency_ms) == ((StubOutcome.TRANSIENT_FAILURE, StubOutcome.ACCEPTED), 50)
    assert read.rule_for("x@fast.test").outcome(1) is StubOutcome.SUPPRESSED


def test_without_rules_everything_is_accepted() -> None:
    for empty in (StubScript(), script(), script(rules=[])):
        assert empty.rule_for("pilot@a.example").outcome(1) is StubOutcome.ACCEPTED


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("[]", "the script: must be an object"),
        ("{", "not JSON"),
        ('{"rules":[]} x', "not JSON"),
        ('{"default":["accepted"],"default":["timeout"]}', "`default` comes twice"),
        ('{"rule":[]}', "the script: unknown field `rule`"),
        ('{"rules":{}}', "rules: must be a list"),
        ('{"rules":[1]}', r"rules\[0\]: must be an object"),
        ('{"rules":[{"outcomes":["accepted"]}]}', r"rules\[0\]: `recipient` is missing"),
        ('{"rules":[{"recipient":"*"}]}', r"rules\[0\]: `outcomes` is missing"),
        ('{"rules":[{"recipient":"","outcomes":["accepted"]}]}', r"rules\[0\].recipient: must be a glob"),
        ('{"rules":[{"recipient":7,"outcomes":["accepted"]}]}', r"rules\[0\].recipient: must be a glob"),
        ('{"rules":[{"recipient":"*","outcomes":[]}]}', r"rules\[0\].outcomes: must have at least one"),
        ('{"rules":[{"recipient":"*","outcomes":"accepted"}]}', r"rules\[0\].outcomes: must be a list"),
        (
            '{"rules":[{"recipient":"*","outcomes":["accepted","sent"]}]}',
            r"rules\[0\].outcomes\[1\]: must be one of accepted, suppressed, transient_failure, .*disconnect",
        ),
        ('{"rules":[{"recipient":"*","outcomes":[[]]}]}', r"rules\[0\].outcomes\[0\]: must be one of"),
        (
            '{"rules":[{"recipient":"*","outcomes":["accepted"],"latency":"fast"}]}',
            r"rules\[0\].latency: is not a dur",
        ),
        (
            '{"rules":[{"recipient":"*","outcomes":["accepted"],"latency":50}]}',
            r"rules\[0\].latency: must be text",
        ),
        (
            '{"rules":[{"recipient":"*","outcomes":["accepted"],"latency":"-1s"}]}',
            r"rules\[0\].latency: is not a dur",
        ),
        (
            '{"rules":[{"recipient":"*","outcomes":["accepted"],"delay":"1s"}]}',
            r"rules\[0\]: unknown field `delay`",
        ),
        ('{"default":"accepted"}', "default: must be a list"),
        ('{"default":["nope"]}', r"default\[0\]: must be one of"),
    ],
)
def test_a_script_with_a_mistake_says_where_it_is(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(text)
    with pytest.raises(BadScript, match=rf"is not a stub script: .*{problem}"):
        StubScript.read(str(path))


def test_a_script_that_cannot_be_read_is_a_bad_script(tmp_path: Path) -> None:
    with pytest.raises(BadScript, match="No such file"):
        StubScript.read(str(tmp_path / "none.json"))
