"""A login code from the POST of Auth to a real relay, and what operators read of it."""

import email.policy
from collections.abc import Iterator
from contextlib import ExitStack
from email import message_from_bytes
from pathlib import Path

import pytest
import trio
import trustme

from tests.ledger import Arrival, arrival
from tests.relays.aiosmtpd_relay import aiosmtpd_running
from tests.relays.postfix import Postfix
from tests.relays.real import Certificates, Relay, Unavailable, running, skip_without
from tests.relays.sink import Sink, sink_running
from tests.service_process import API
from tests.testbed import FROM, Bed, smtp_settings

CODE = "731-904"


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    ca = trustme.CA()
    issued = ca.issue_cert("localhost", "127.0.0.1")
    return Certificates(
        ca=ca.cert_pem.bytes(),
        chain=b"".join(pem.bytes() for pem in issued.cert_chain_pems),
        key=issued.private_key_pem.bytes(),
    )


@pytest.fixture(scope="module", params=["aiosmtpd", "postfix"])
def relay(
    request: pytest.FixtureRequest, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Relay, Sink, str]]:
    """A relay that we did not write, and the next hop that it passes mail on to."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    (folder / "ca.pem").write_bytes(certificates.ca)
    with ExitStack() as stack:
        sink = stack.enter_context(sink_running())
        try:
            if request.param == "aiosmtpd":
                relay = stack.enter_context(aiosmtpd_running(certificates, sink.port, folder))
            else:
                relay = stack.enter_context(running(Postfix(), certificates, sink.port))
        except Unavailable as why:
            skip_without(request.param, why)
        yield relay, sink, str(folder / "ca.pem")


async def test_a_login_code_arrives_through_a_real_relay_and_tells_its_story(
    bed: Bed, relay: tuple[Relay, Sink, str]
) -> None:
    """With STARTTLS, and without the code in anything that an operator can read."""
    server, sink, ca_file = relay
    settings = {**smtp_settings(server.ports.plain), "smtp_addr": f"localhost:{server.ports.plain}"}
    service = await bed.fleet.ready(
        **{**settings, "smtp_tls": "starttls", "smtp_ca_file": ca_file, "log_level": "debug"}
    )
    arrivals: list[Arrival] = []
    bed.ledger.sources.append(lambda: arrivals)

    answer = await bed.login_code(service, "first", email="ada@example.net", code=CODE, locale="de")
    assert answer is not None
    assert (answer.status_code, answer.json()) == (200, {"outcome": "sent"})
    delivery_id = answer.headers["Delivery-Id"]
    arrived = await sink.next_mail()
    arrivals.append(arrival(arrived.without_trace()))
    mail = message_from_bytes(arrived.content, policy=email.policy.default)
    body = mail.get_body(("plain",))
    assert body is not None
    assert CODE in body.get_content()
    assert (arrived.sender, arrived.recipients) == (FROM.encode(), [b"ada@example.net"])
    assert (mail["To"], mail["From"], mail["Message-ID"]) == (
        "ada@example.net",
        FROM,
        f"<{delivery_id}@galaxy.test>",
    )

    story = await service.wait_status(delivery_id, "sent")
    assert (story["source"], story["template_id"], story["locale_used"], story["locale_fallback_used"]) == (
        "authsession",
        "auth.login_code",
        "de",
        False,
    )
    assert story["envelope"]["to"] == ["ada@example.net"]
    assert story["created_at_ms"] <= story["rendered_at_ms"] <= story["finished_at_ms"]
    [attempt] = await service.attempts(delivery_id)
    assert (attempt["attempt_no"], attempt["status"], attempt["provider"], attempt["result"]) == (
        1,
        "provider_accepted",
        "smtp",
        "accepted",
    )
    assert attempt["provider_code"].startswith("250")
    [listed] = (await service.get("deliveries?recipient=ADA@example.net"))["items"]
    assert listed["delivery_id"] == delivery_id

    assert await service.metric("galaxy_mail_attempts_total", status="provider_accepted") == 1
    shown = f"{story}{attempt}{listed}{(await service.client.get('/metrics')).text}"
    await service.stop()
    assert CODE not in shown + service.story()


async def test_fifty_identical_posts_at_once_make_one_delivery(bed: Bed) -> None:
    service = await bed.fleet.ready()
    replays: list[bool] = []

    async def post() -> None:
        answer = await bed.login_code(service, "same", code=CODE)
        assert answer is not None
        assert (answer.status_code, answer.json()) == (200, {"outcome": "sent"})
        replays.append("Idempotency-Replayed" in answer.headers)

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(post)
    assert sorted(replays) == [False] + [True] * 49
    await service.wait_status(bed.ledger.keys["same"], "sent")
    assert len((await service.get("deliveries"))["items"]) == 1
    findings = await bed.close()
    assert findings.copies == {bed.ledger.keys["same"]: 1}


async def test_a_key_that_is_used_for_another_request_is_refused(bed: Bed) -> None:
    service = await bed.fleet.ready()
    first = await bed.login_code(service, "key", code="1")
    assert first is not None
    other = await service.post_login_code("key", code="2")
    assert (other.status_code, other.json()["code"]) == (422, "invalid_request")
    assert other.headers["Content-Type"] == "application/problem+json"
    again = await bed.login_code(service, "key", code="1")
    assert again is not None
    assert again.headers["Delivery-Id"] == first.headers["Delivery-Id"]
    await bed.ledger.wait_quiet()


async def test_who_is_suppressed_is_answered_so_and_never_mailed(bed: Bed) -> None:
    """By the list, which operators change while it runs, and by the allowlist of a rehearsal."""
    service = await bed.fleet.ready(recipient_allowlist="@example.org,@example.com")
    added = await service.client.request(
        "PUT", f"{API}/suppressions/@example.com", json_body={"reason": "left us"}
    )
    assert added.status_code == 201
    for key, address in (("listed", "ada@Example.com"), ("not-allowed", "ada@elsewhere.test")):
        answer = await bed.login_code(service, key, email=address)
        assert answer is not None
        assert (answer.status_code, answer.json()) == (200, {"outcome": "suppressed"})
        story = await service.delivery(bed.ledger.keys[key])
        assert story["status"] == "suppressed"
        assert [one["address"].lower() for one in story["suppressed_recipients"]] == [address.lower()]
        assert await service.attempts(bed.ledger.keys[key]) == []
        again = await bed.login_code(service, key, email=address)
        assert again is not None
        assert again.json() == {"outcome": "suppressed"}
    welcome = await bed.login_code(service, "welcome", email="ada@example.org")
    assert welcome is not None
    await service.wait_status(bed.ledger.keys["welcome"], "sent")
    findings = await bed.close()
    assert findings.copies == {bed.ledger.keys["welcome"]: 1}


async def test_a_locale_falls_back_to_its_language_and_then_to_english(bed: Bed) -> None:
    service = await bed.fleet.ready()
    asked = {
        "fr": ("fr", False),
        "fr-CA": ("fr", True),
        "pt-BR": ("en", True),
        "RU": ("ru", False),
    }
    for locale, (used, fell_back) in asked.items():
        answer = await bed.login_code(service, locale, locale=locale)
        assert answer is not None
        assert answer.status_code == 200
        story = await service.wait_status(bed.ledger.keys[locale], "sent")
        assert (story["locale_used"], story["locale_fallback_used"]) == (used, fell_back), locale
    assert await service.metric("galaxy_mail_locale_fallbacks_total") == 2
