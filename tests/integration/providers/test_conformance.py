"""What every provider keeps to, so that a sender need not know which one it has. Each test runs for each provider."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from galaxy_mail.domain.records import AttemptStatus, Result, SendResult, encode
from galaxy_mail.providers.mime import build
from galaxy_mail.providers.provider import Message, Provider
from galaxy_mail.providers.readable import readable
from galaxy_mail.providers.stub import StubOutcome
from tests.integration.providers.rigs import Rig, StubRig, smtp_rig
from tests.unit.providers.messages import SENDER, attachment, message

FAILURES = {
    StubOutcome.TRANSIENT_FAILURE: (Result.TRANSIENT_FAILURE, AttemptStatus.PROVIDER_REJECTED),
    StubOutcome.PERMANENT_FAILURE: (Result.PERMANENT_FAILURE, AttemptStatus.PROVIDER_REJECTED),
    StubOutcome.TIMEOUT: (Result.TRANSIENT_FAILURE, AttemptStatus.TIMED_OUT),
    StubOutcome.DISCONNECT: (Result.TRANSIENT_FAILURE, AttemptStatus.TRANSPORT_FAILED),
}


@pytest.fixture(params=["stub", "smtp"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    if request.param == "stub":
        yield StubRig(tmp_path)
    else:
        async with smtp_rig() as rig:
            yield rig


class Claim:
    """How much of it is left is asked once, when it counts."""

    def __init__(self, *, suffices: bool = True) -> None:
        self.suffices = suffices
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.suffices


async def send(provider: Provider, sent: Message) -> SendResult:
    return await provider.send(sent, may_finish=Claim())


async def test_what_is_accepted_has_arrived_once_and_whole(rig: Rig) -> None:
    sent = message(
        subject="Grüße",
        text=".\n..dots\n\nund ü\n",
        html="<p>Grüße\n.\n",
        bcc=("spy@b.example",),
        attachments=(attachment(b"\x00\xff" * 50_000),),
    )
    async with rig.make(StubOutcome.ACCEPTED) as provider:
        result = await send(provider, sent)
    assert (result.result, result.status) == (Result.ACCEPTED, AttemptStatus.PROVIDER_ACCEPTED)
    assert result.failure is None
    assert result.provider_code
    assert result.provider_code.startswith("250")
    assert not result.outcome_unknown
    assert rig.mails() == [build(sent, sender=SENDER, eight_bit=True, smtputf8=False)]


@pytest.mark.parametrize("outcome", FAILURES)
async def test_what_is_not_accepted_has_not_arrived_and_says_why(rig: Rig, outcome: StubOutcome) -> None:
    async with rig.make(outcome) as provider:
        result = await send(provider, message())
    assert (result.result, result.status) == FAILURES[outcome]
    assert result.failure
    assert result.failure.code
    assert result.failure.summary
    assert result.failure.summary.isprintable()
    assert not result.outcome_unknown
    assert rig.mails() == []


@pytest.mark.parametrize("outcome", FAILURES)
async def test_after_any_failure_the_next_message_goes_out(rig: Rig, outcome: StubOutcome) -> None:
    async with rig.make(outcome, StubOutcome.ACCEPTED) as provider:
        first = await send(provider, message(attempt_no=1))
        second = await send(provider, message(attempt_no=2))
    assert first.result is not Result.ACCEPTED
    assert second.result is Result.ACCEPTED
    assert len(rig.mails()) == 1


async def test_one_provider_sends_many_messages_in_order(rig: Rig) -> None:
    async with rig.make(StubOutcome.ACCEPTED) as provider:
        for n in range(5):
            assert (
                await send(provider, message(delivery_id=f"d.{n}", subject=f"No. {n}"))
            ).result is Result.ACCEPTED
    assert [f"Subject: No. {n}\n" in readable(mail) for n, mail in enumerate(rig.mails())] == [True] * 5


async def test_two_attempts_of_a_delivery_send_the_same_bytes(rig: Rig) -> None:
    async with rig.make(StubOutcome.ACCEPTED) as provider:
        for attempt_no in (1, 2):
            await send(provider, message(attempt_no=attempt_no, html="<p>ü", attachments=(attachment(),)))
    one, other = rig.mails()
    assert one == other


async def test_addresses_beyond_ascii_arrive(rig: Rig) -> None:
    sent = message(to=("пилот@пример.example", '"a b"@c.example'), reply_to=("x@bücher.example",))
    async with rig.make(StubOutcome.ACCEPTED) as provider:
        assert (await send(provider, sent)).result is Result.ACCEPTED
    (mail,) = rig.mails()
    assert 'To: пилот@xn--e1afmkfd.example, "a b"@c.example\r\n'.encode() in mail
    assert b"Reply-To: x@xn--bcher-kva.example\r\n" in mail


async def test_a_claim_that_ends_too_soon_is_asked_for_and_stops_the_message(rig: Rig) -> None:
    claim = Claim(suffices=False)
    async with rig.make(StubOutcome.ACCEPTED) as provider:
        result = await provider.send(message(), may_finish=claim)
    assert claim.asked == 1
    assert (result.result, result.status) == (Result.TRANSIENT_FAILURE, AttemptStatus.TRANSPORT_FAILED)
    assert result.failure
    assert result.failure.code == "claim_running_out"
    assert not result.outcome_unknown
    assert rig.mails() == []


async def test_the_claim_is_asked_for_once_by_what_is_sent_and_not_by_what_fails_before(rig: Rig) -> None:
    claim = Claim()
    async with rig.make(StubOutcome.PERMANENT_FAILURE, StubOutcome.ACCEPTED) as provider:
        await provider.send(message(attempt_no=1), may_finish=claim)
        assert claim.asked == 0
        await provider.send(message(attempt_no=2), may_finish=claim)
    assert claim.asked == 1


async def test_cancelled_before_the_far_side_could_have_it_nothing_was_sent(rig: Rig) -> None:
    async with trio.open_nursery() as nursery, rig.make_slow() as provider:
        nursery.start_soon(send, provider, message())
        await rig.wait_until_silent()
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught
    assert rig.mails() == []


async def test_what_has_no_spelling_as_a_mail_fails_for_good(rig: Rig) -> None:
    async with rig.make(StubOutcome.ACCEPTED) as provider:
        result = await send(provider, message(subject="code 123456\r\nBcc: spy@b.example"))
        assert (await send(provider, message())).result is Result.ACCEPTED
    assert (result.result, result.status) == (Result.PERMANENT_FAILURE, AttemptStatus.PROVIDER_REJECTED)
    assert result.failure
    assert result.failure.code == "message_malformed"
    assert b"123456" not in encode(result)
    assert len(rig.mails()) == 1


@pytest.mark.parametrize("outcome", [StubOutcome.ACCEPTED, *FAILURES])
async def test_no_result_has_a_word_of_the_content(rig: Rig, outcome: StubOutcome) -> None:
    async with rig.make(outcome) as provider:
        result = await send(
            provider, message(subject="code 123456", text="code 123456", html="<b>123456</b>")
        )
    assert b"123456" not in encode(result)


async def test_a_provider_that_sent_nothing_is_left_without_a_trace(rig: Rig) -> None:
    async with rig.make(StubOutcome.ACCEPTED) as provider:
        assert provider.name in {"stub", "smtp"}
    assert rig.mails() == []
