"""Traces survive the queue and a restart: told by a real OTLP receiver about two real processes."""

import json
from pathlib import Path

from tests.collector import collector_running
from tests.servers import valkey_server
from tests.service_process import eventually, fleet_of

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_the_sending_span_links_to_the_accepting_one_of_a_process_that_died(tmp_path: Path) -> None:
    script = tmp_path / "stub.json"
    script.write_text(json.dumps({"default": ["transient_failure", "accepted"]}))
    with collector_running() as collector:
        async with (
            valkey_server("--appendonly", "yes") as valkey,
            fleet_of(
                {
                    "MAIL_REDIS_ADDR": valkey.url,
                    "MAIL_STUB_SCRIPT": str(script),
                    "MAIL_RETRY_DELAYS": "5s",
                    "MAIL_CLAIM_TTL": "2s",
                    "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                    "OTEL_BSP_SCHEDULE_DELAY": "20",
                }
            ) as fleet,
        ):
            first = await fleet.ready()
            answer = await first.client.request(
                "POST",
                "/api/v1/internal/login-code-deliveries",
                headers={"Idempotency-Key": "k", "traceparent": CALLER},
                json_body={"email": "ann@example.org", "code": "424242", "locale": "en"},
            )
            delivery_id = answer.headers["delivery-id"]
            await eventually(lambda: len(collector.spans("send")) == 1, "the first attempt's span")
            await first.wait_lines("attempt_finished", 1)  # the span ends before the attempt is recorded
            first.kill()
            await first.wait_ended()
            second = await fleet.ready()
            await second.wait_status(delivery_id, "sent")
            await fleet.stop()
        [accept] = collector.spans("accept")
        assert accept.trace_id == bytes.fromhex(CALLER[3:35])
        assert accept.parent_span_id == bytes.fromhex(CALLER[36:52])
        sends = collector.spans("send")
        assert len(sends) == 2
        for send in sends:
            assert [(link.trace_id, link.span_id) for link in send.links] == [
                (accept.trace_id, accept.span_id)
            ]
        assert len(collector.spans("render")) == 1
        assert "424242" not in str(collector.requests)
        assert "ann@example.org" not in str(collector.requests)
