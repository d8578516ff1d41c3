"""The spans of a whole service: every step of each mail has one, and what fails fails its span."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from opentelemetry.sdk.trace import ReadableSpan

from galaxy_mail.intake.intake import IdempotencyConflict
from tests.deliveries import login_code_of
from tests.integration.intake.desk import entry
from tests.integration.service.instance import STREAM, Instance, left, until
from tests.servers import ValkeyServer, run_commands
from tests.spans import Spans


def fates(spans: list[ReadableSpan], attribute: str = "delivery_id") -> list[tuple[object, str | None]]:
    """What each span is about, and the reason why it failed, sorted."""
    found = [
        ((span.attributes or {}).get(f"galaxy_mail.{attribute}"), span.status.description) for span in spans
    ]
    return sorted(found, key=str)


async def test_every_step_has_its_span_and_fails_with_it(valkey: ValkeyServer, tmp_path: Path) -> None:
    script = '{"rules":[{"recipient":"refused*","outcomes":["permanent_failure"]}]}'
    spans = Spans()
    async with Instance(valkey, tmp_path, script=script, traces=spans.traces).running() as instance:
        parts = instance.service.parts
        await instance.accept("sent-code", "refused-code")
        code = login_code_of("broken-code")
        await parts.intake.accept(replace(code, content=replace(code.content, variables={})))
        instance.publish("sent-command", "refused-command")
        _, malformed = entry("", "malformed", payload_json="{")
        run_commands(valkey.socket, [("XADD", STREAM, "*", *(part for field in malformed for part in field))])
        await until(lambda: left(valkey, 5) == 0)
        clone = await parts.resending.resend("sent-command", idempotency_key="k")
        with pytest.raises(IdempotencyConflict):
            await parts.resending.resend("refused-command", idempotency_key="k")
        await until(lambda: left(valkey, 6) == 0)
        malformed_commands = 'malformed_commands_total{code="invalid_payload"}'
        await until(lambda: instance.metrics()[malformed_commands] == 1)

    assert fates(spans.named("render")) == [
        ("broken-code", "missing_variables"),
        ("refused-code", None),
        ("sent-code", None),
    ]
    sent = {
        ("refused-code", "message_refused"),
        ("refused-command", "message_refused"),
        ("sent-code", None),
        ("sent-command", None),
        (clone.delivery_id, None),
    }
    assert fates(spans.named("send")) == sorted(sent, key=str)
    accepted = fates(spans.named("accept"))
    assert {("malformed", "invalid_payload"), ("broken-code", None)} < set(accepted)
    assert {(name, None) for name, _ in sent} < set(accepted)
    assert len(accepted) == 8

    assert fates(spans.named("resend"), "parent_delivery_id") == [
        ("refused-command", "IdempotencyConflict"),
        ("sent-command", None),
    ]
    by_id = {span.context.span_id: span for span in spans.ended() if span.context is not None}
    for resend in spans.named("resend"):
        assert resend.context is not None
        [accept] = [
            span for span in by_id.values() if span.parent and span.parent.span_id == resend.context.span_id
        ]
        assert (accept.name, accept.status.description) == ("accept", resend.status.description)
    for step in (*spans.named("render"), *spans.named("send")):
        [link] = step.links
        assert (by_id[link.context.span_id].attributes or {})["galaxy_mail.delivery_id"] == (
            step.attributes or {}
        )["galaxy_mail.delivery_id"]
