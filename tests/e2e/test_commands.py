"""Commands from Notification's stream to the outbox: both payload modes, duplicates, and what is no command."""

import base64
import email.policy
from email import message_from_bytes

import msgspec
import pytest

from galaxy_mail.domain.commands import FailureCode
from tests.ledger import command, template_command
from tests.testbed import Bed


async def test_commands_of_both_modes_arrive_as_they_were_meant(bed: Bed) -> None:
    service = await bed.fleet.ready()
    attachment = {
        "filename": "Rechnung für Ada.pdf",
        "content_type": "application/pdf",
        "content_base64": base64.b64encode(b"%PDF of nothing").decode(),
    }
    payload = {
        "envelope": {
            "to": ["ada@example.org"],
            "cc": ["grace@example.org"],
            "bcc": ["secret@example.org"],
            "reply_to": ["crew@example.org"],
        },
        "subject": "Grüße aus dem Orbit",
        "html_body": "<p>Alles <b>gut</b>.</p>",
        "attachments": [attachment],
    }
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    bed.ledger.publish(
        command("ready.1", payload=payload, request_id="r-1", trace_id="t-1", traceparent=traceparent),
        template_command("made.1", locale="es-MX"),
    )
    ready = await service.wait_status("ready.1", "sent")
    made = await service.wait_status("made.1", "sent")
    assert (ready["payload_mode"], ready["subject"], ready["request_id"], ready["trace_id"]) == (
        "rendered",
        "Grüße aus dem Orbit",
        "r-1",
        "t-1",
    )
    assert ready["envelope"]["bcc"] == ["secret@example.org"]
    assert (made["payload_mode"], made["locale_used"], made["locale_fallback_used"]) == (
        "template",
        "es",
        True,
    )
    [line] = service.events("attempt_finished", delivery_id="ready.1")
    assert (line["request_id"], line["trace_id"], line["attempt_no"]) == ("r-1", "t-1", 1)
    findings = await bed.close()
    assert findings.copies == {"ready.1": 1, "made.1": 1}

    raw = (bed.outbox / "ready.1.1.eml").read_bytes()
    assert b"secret@example.org" not in raw
    mail = message_from_bytes(raw, policy=email.policy.default)
    assert (mail["To"], mail["Cc"], mail["Reply-To"], mail["Subject"]) == (
        "ada@example.org",
        "grace@example.org",
        "crew@example.org",
        "Grüße aus dem Orbit",
    )
    [attached] = mail.iter_attachments()
    assert attached.get_filename() == "Rechnung für Ada.pdf"
    assert attached.get_content() == b"%PDF of nothing"
    html = mail.get_body(("html",))
    assert html is not None
    assert html.get_content().strip() == "<p>Alles <b>gut</b>.</p>"


async def test_a_repeat_is_no_second_mail_and_a_conflict_is_no_command(bed: Bed) -> None:
    """The same command again, in another spelling and from another request, is the same command."""
    service = await bed.fleet.ready()
    first = command("n1")
    respelt = dict(first, payload_json=first["payload_json"].replace(":", ": "), request_id="again")
    bed.ledger.publish(first, first, respelt)
    bed.ledger.publish(
        command("n2", idempotency_key=first["idempotency_key"]),
        command("n1", idempotency_key="another key"),
        malformed=True,
    )
    bed.ledger.publish(command("n3"))
    await service.wait_status("n3", "sent")
    malformed = (await service.get("malformed-commands"))["items"]
    assert [one["failure_code"] for one in malformed] == ["delivery_id_conflict", "idempotency_conflict"]
    assert await service.metric("galaxy_mail_duplicates_total") == 2
    findings = await bed.close()
    assert findings.copies == {"n1": 1, "n3": 1}


@pytest.mark.parametrize("after_a_restart", [False, True])
async def test_nothing_malformed_is_lost_or_holds_up_what_follows(bed: Bed, after_a_restart: bool) -> None:
    """Every kind of it is recorded once, with its reason, and shown without what could be secret."""
    service = await bed.fleet.ready(payload_max_bytes="2000")
    kinds = malformed_of_every_kind("bad")
    bed.ledger.publish(command("before"))
    await service.wait_status("before", "sent")  # else the kill may meet it unanswered, and it goes out again
    entries = {code: bed.ledger.publish_raw([fields], [None])[0] for code, fields in kinds.items()}
    if after_a_restart:
        service.kill()
        await service.wait_ended()
        service = await bed.fleet.ready(payload_max_bytes="2000")
    bed.ledger.publish(command("after"))
    await service.wait_status("after", "sent")
    shown = (await service.get("malformed-commands"))["items"]
    assert {one["entry_id"]: one["failure_code"] for one in shown} == {
        entry_id: code.value for code, entry_id in entries.items()
    }
    for code, entry_id in entries.items():
        one = await service.get(f"malformed-commands/{entry_id}")
        assert one["failure_code"] == code
        assert one["message"]
        assert "hunter2" not in str(one)
        if not after_a_restart:
            assert await service.metric("galaxy_mail_malformed_commands_total", code=code.value) == 1
    findings = await bed.close()
    assert findings.copies == {"before": 1, "after": 1}


def malformed_of_every_kind(name: str) -> dict[FailureCode, list[str | bytes]]:
    """Flat fields of entries, one for each code; conflicts are with the command `before`."""
    good = command(name)

    def flat(**changes: str | bytes | None) -> list[str | bytes]:
        fields = {**good, **changes}
        return [part for pair in fields.items() if pair[1] is not None for part in pair if part is not None]

    secret = msgspec.json.encode({"envelope": {"to": ["a@b.example"]}, "password": "hunter2"})
    return {
        FailureCode.MISSING_FIELD: flat(payload_json=None),
        FailureCode.UNKNOWN_FIELD: flat(priority="high"),
        FailureCode.INVALID_FIELD: flat(delivery_id="../etc/passwd"),
        FailureCode.UNSUPPORTED_SOURCE: flat(source="authsession"),
        FailureCode.UNSUPPORTED_PAYLOAD_MODE: flat(payload_mode="html"),
        FailureCode.INVALID_PAYLOAD: flat(payload_json=secret),
        FailureCode.PAYLOAD_TOO_LARGE: flat(payload_json="x" * 2001),
        FailureCode.IDEMPOTENCY_CONFLICT: flat(idempotency_key=command("before")["idempotency_key"]),
        FailureCode.DELIVERY_ID_CONFLICT: flat(delivery_id="before"),
    }
