"""Rules and dashboard: every query names metrics that there are, and every alert fires when it should and only then."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest
import yaml
from deploy_kit import DEPLOY, run_tool
from prometheus_client.parser import text_string_to_metric_families

from flowherd.ledger import Cause, Ledger
from flowherd.ledger.activity_counts import Ended
from flowherd.link.messages import SupervisorState
from flowherd_supervisor.keeper.metrics import STATES, HostMetrics
from flowherd_supervisor.keeper.status import StatusBoard

if TYPE_CHECKING:
    from pathlib import Path

RULES = DEPLOY / "prometheus" / "flowherd.rules.yaml"
RULE_TESTS = DEPLOY / "prometheus" / "flowherd.rules.test.yaml"
DASHBOARD = DEPLOY / "grafana" / "flowherd.json"
VALUES = {
    "state": set(STATES),
    "cause": {cause.label for cause in Cause},
    "planned": {"true", "false"},
    "outcome": {*(how.name.lower() for how in Ended), "work", "empty", "error", "told", "given_up"},
}


@pytest.fixture(scope="module")
def series() -> set[str]:
    """Every name that a scrape can hold."""
    ledger = Ledger(processes=2, records=2)
    board = StatusBoard(ledger, "http://engine", "0", 1, time.monotonic())
    board.supervisor = SupervisorState("running", 2, 8, {}, {0: {Cause.SIGNAL: 1}})
    page = HostMetrics(ledger, board).page().decode()
    return {sample.name for family in text_string_to_metric_families(page) for sample in family.samples}


def rules() -> list[dict[str, str]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard_queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def keda_query() -> str:
    text = (DEPLOY / "kubernetes" / "overlays" / "keda" / "scaledobject.yaml").read_text()
    return yaml.safe_load(text)["spec"]["triggers"][0]["metadata"]["query"]


QUERIES = [*dashboard_queries(), *(rule["expr"] for rule in rules()), keda_query()]


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_names_only_metrics_and_label_values_that_there_are(query: str, series: set[str]) -> None:
    """A renamed metric must not live on in a dashboard that shows nothing, or an alert that never fires."""
    named = set(re.findall(r"\bflowherd_\w+", query))
    assert named
    assert named <= series
    for label, values in re.findall(r'(\w+)[!=]~?"([\w|]+)"', query):
        assert set(values.split("|")) <= VALUES[label]


def test_the_dashboard_shows_every_metric_that_there_is(series: set[str]) -> None:
    """A metric that is not shown need not be counted."""
    shown = {name for query in dashboard_queries() for name in re.findall(r"\bflowherd_\w+", query)}
    counted = {re.sub(r"_(bucket|sum|count)$", "", name) for name in series}
    assert counted == {re.sub(r"_bucket$", "", name) for name in shown}


def test_panels_have_titles_places_and_units_and_do_not_overlap() -> None:
    """Grafana lets overlaps pass, and draws one panel over the other."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells


def test_every_alert_says_what_is_wrong_and_what_to_look_at_and_has_a_test() -> None:
    """It is read in an incident."""
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) >= 10
    tested = RULE_TESTS.read_text()
    for alert in alerts:
        assert alert["labels"]["severity"] in {"info", "warning", "critical"}
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["description"].endswith(".") or "?" in alert["annotations"]["description"]
        assert tested.count(alert["alert"]) == 2, "once where all is calm, once where all is wrong"


def test_promtool_accepts_the_rules_and_their_tests() -> None:
    """Each alert is silent on a calm host and fires on one in trouble."""
    assert "SUCCESS" in run_tool("promtool", "check", "rules", RULES)
    assert "SUCCESS" in run_tool("promtool", "test", "rules", RULE_TESTS)


def test_promtool_can_read_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """As rules: Grafana's own variables are put in first."""
    queries = [
        query.replace("$__rate_interval", "5m").replace("$instance", ".*") for query in dashboard_queries()
    ]
    group = {
        "name": "dashboard",
        "rules": [{"record": f"panel:query:{n}", "expr": query} for n, query in enumerate(queries)],
    }
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    assert f"{len(queries)} rules found" in run_tool("promtool", "check", "rules", tmp_path / "rules.yaml")


def test_promtool_has_nothing_against_a_scrape(tmp_path: Path, series: set[str]) -> None:
    """`promtool check metrics` knows the conventions for names, units and help."""
    del series
    ledger = Ledger(processes=2, records=2)
    board = StatusBoard(ledger, "http://engine", "0", 1, time.monotonic())
    board.supervisor = SupervisorState("running", 2, 8, {}, {0: {Cause.SIGNAL: 1}})
    (tmp_path / "page").write_bytes(HostMetrics(ledger, board).page())
    said = run_tool("promtool", "check", "metrics", stdin=tmp_path / "page")
    assert said.strip() == ""
