"""The dashboard asks for what exists and shows all of it."""

import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import yaml

from tests.deploy import promql
from tests.deploy.promtool import ROOT, needs_promtool, promtool
from tests.deploy.test_alerts import problems

DASHBOARD: Final = ROOT / "deploy" / "grafana" / "galaxy-mail.json"
VARIABLE: Final = re.compile(r"\$\{?(\w+)\}?")
BUILT_IN: Final = {"__rate_interval": "5m"}
OF_PROMETHEUS: Final = "ALERTS"


@cache
def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return document


def graphs() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Each with what it is for."""
    for panel in graphs():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for annotation in dashboard()["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"]["query"])
            assert asked, variable
            yield variable["name"], asked[1]


def filled_in(expression: str) -> str:
    return VARIABLE.sub(lambda found: BUILT_IN.get(found[1], "x"), expression)


def test_no_panel_asks_for_what_the_service_does_not_show() -> None:
    wrong = {}
    for title, expression in expressions():
        asked = [one for one in promql.selectors(filled_in(expression)) if one.metric != OF_PROMETHEUS]
        assert asked or OF_PROMETHEUS in expression
        if found := problems(asked):
            wrong[title] = found
    assert wrong == {}


def test_every_metric_of_ours_is_on_some_panel() -> None:
    seen = {one.metric for _, expression in expressions() for one in promql.selectors(filled_in(expression))}
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in promql.shown() if "galaxy_mail" in name}
    assert names - {re.sub(r"_(bucket|sum|count)$", "", name) for name in seen} == set()


def test_every_panel_shows_the_processes_that_were_chosen_alone() -> None:
    for panel in graphs():
        for target in panel["targets"]:
            for metric, matchers in promql.selectors(target["expr"]):
                chosen = {(one.label, one.value) for one in matchers}
                assert {("job", "$job"), ("instance", "$instance")} <= chosen, (panel["title"], metric)


def test_legends_name_labels_that_the_expression_keeps() -> None:
    for panel in graphs():
        for target in panel["targets"]:
            grouped = re.search(r"\bby \(([^)]*)\)", target["expr"])
            kept = (
                set(grouped[1].split(", "))
                if grouped
                else {"instance"} | promql.shown()[next(promql.selectors(target["expr"])).metric]
            )
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, target


def test_variables_exist() -> None:
    known = {variable["name"] for variable in dashboard()["templating"]["list"]} | set(BUILT_IN)
    used = set(VARIABLE.findall(json.dumps(dashboard()["panels"])))
    assert used <= known
    assert all(target["datasource"]["uid"] == "${datasource}" for p in graphs() for target in p["targets"])


def test_panels_are_told_apart_and_lie_side_by_side() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations(panels, 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or below, (one["title"], other["title"])
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_every_panel_says_what_it_means() -> None:
    for panel in graphs():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@needs_promtool
def test_every_expression_is_one(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": filled_in(expression)}
        for number, (_, expression) in enumerate(expressions())
    ]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", path)
