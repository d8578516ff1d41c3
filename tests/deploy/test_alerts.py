"""The alert rules ask for what exists, say what to do, and fire when they should."""

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy import promql
from tests.deploy.promtool import ROOT, needs_promtool, promtool

PROMETHEUS: Final = ROOT / "deploy" / "prometheus"
RUNBOOK: Final = ROOT / "docs" / "runbook.md"
WHAT_IS_WATCHED: Final = frozenset(  # the runbook's sections
    {
        "backlog-growth",
        "dead-letter-spikes",
        "mail-that-fails",
        "repeated-suppressions",
        "smtp-authentication-failures",
        "smtp-time-outs",
        "held-mail",
        "malformed-commands",
        "redis-trouble",
        "lost-claims",
        "lost-stream-entries",
        "exchanged-or-rolled-back-store",
        "full-disk-or-memory",
        "stuck-actor",
        "actor-restarts",
        "old-login-codes",
    }
)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@cache
def alerts() -> dict[str, dict[str, Any]]:
    rules = [rule for group in read(PROMETHEUS / "alerts.yaml")["groups"] for rule in group["rules"]]
    by_name = {rule["alert"]: rule for rule in rules}
    assert len(by_name) == len(rules), "a name comes twice"
    return by_name


NAMES: Final = sorted(alerts())


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_asks_only_for_what_the_service_shows(name: str) -> None:
    asked = list(promql.selectors(alerts()[name]["expr"]))
    assert asked
    assert problems(asked) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(name: str) -> None:
    alert = alerts()[name]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    annotations = alert["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    path, _, anchor = annotations["runbook_url"].partition("#")
    assert path == "docs/runbook.md"
    assert anchor in WHAT_IS_WATCHED


def test_every_section_of_the_runbook_about_a_failure_has_an_alert() -> None:
    named = {alert["annotations"]["runbook_url"].partition("#")[2] for alert in alerts().values()}
    assert named == WHAT_IS_WATCHED


def test_the_sections_that_alerts_name_are_in_the_runbook() -> None:
    headings = re.findall(r"^#+ +(.+?) *#*$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    assert WHAT_IS_WATCHED - {anchor(heading) for heading in headings} == set()


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_is_tested_where_it_fires_and_where_it_is_quiet(name: str) -> None:
    outcomes = {True: 0, False: 0}
    for case in read(PROMETHEUS / "alerts_test.yaml")["tests"]:
        for check in case.get("promql_expr_test", ()):
            if f'alertname="{name}",alertstate="firing"' in check["expr"]:
                outcomes[bool(check["exp_samples"])] += 1
    assert outcomes[True], "no case in which it fires"
    assert outcomes[False], "no case in which it is quiet"


@needs_promtool
def test_the_rules_are_rules() -> None:
    assert f"SUCCESS: {len(NAMES)} rules found" in promtool("check", "rules", PROMETHEUS / "alerts.yaml")


@needs_promtool
@pytest.mark.timeout(300)  # each case has a database of its own
def test_every_alert_fires_when_it_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", PROMETHEUS / "alerts_test.yaml")


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("sum by (lane) (galaxy_mail_claimz)", ["galaxy_mail_claimz is not shown"]),
        ('galaxy_mail_claims{lane="normal"}', ["galaxy_mail_claims has no label lane"]),
        (
            'rate(galaxy_mail_queue_wait_seconds_bucket{lane="slow"}[5m]) > 1e3',
            ['galaxy_mail_queue_wait_seconds_bucket: lane="slow" never comes'],
        ),
        (
            'galaxy_mail_attempts_total{status=~"timed_.*|gone"} offset 5m and on (job) galaxy_mail_claims',
            [],
        ),
    ],
)
def test_what_nobody_shows_is_noticed(expression: str, wrong: list[str]) -> None:
    assert problems(list(promql.selectors(expression))) == wrong


def problems(asked: list[promql.Selector]) -> list[str]:
    """What an expression asks for in vain."""
    shown = promql.shown()
    found = []
    for metric, matchers in asked:
        if metric not in shown:
            found.append(f"{metric} is not shown")
            continue
        for matcher in matchers:
            if matcher.label in promql.TARGET_LABELS:
                continue
            if matcher.label not in shown[metric]:
                found.append(f"{metric} has no label {matcher.label}")
                continue
            values = promql.values(metric, matcher.label)
            if values is not None and not any(map(matcher.takes, values)):
                found.append(f'{metric}: {matcher.label}{matcher.operator}"{matcher.value}" never comes')
    return found


def anchor(heading: str) -> str:
    """As a forge makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
