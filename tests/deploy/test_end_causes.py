"""The causes of a process's end: log, metric, alert, `explain` and reference go through one list, and agree."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
import yaml
from brain import Brain, exited
from deploy_kit import DEPLOY, run_tool
from prometheus_client.parser import text_string_to_metric_families

from flowherd.ledger import Cause, Ledger
from flowherd.link import messages
from flowherd_supervisor.cli.explain import render
from flowherd_supervisor.keeper.metrics import HostMetrics
from flowherd_supervisor.keeper.status import StatusBoard
from flowherd_supervisor.reference import CLONE

if TYPE_CHECKING:
    from pathlib import Path

RULES = DEPLOY / "prometheus" / "flowherd.rules.yaml"
EVENT = {
    "source": "host",
    "at": 1.0,
    "activity_id": "a",
    "key": "a",
    "name": "a",
    "process": 0,
    "message": "m",
}


def labels_of(cause: Cause) -> dict[str, str]:
    """Returns the labels of a scrape after a replacement for that cause, which the supervisor has told the keeper."""
    ledger = Ledger(processes=1, records=1)
    board = StatusBoard(ledger, "http://engine", "0", 1, time.monotonic())
    told = messages.SupervisorState("running", 1, 1, {}, {0: {cause: 1}})
    board.supervisor = messages.decode_downward(messages.encode(told))  # type: ignore[assignment]
    page = HostMetrics(ledger, board).page().decode()
    [sample] = (
        sample
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "flowherd_process_restarts_total"
    )
    return dict(sample.labels)


@pytest.mark.parametrize("cause", Cause, ids=lambda cause: cause.label)
def test_the_metric_names_every_cause_and_says_if_it_was_planned(cause: Cause) -> None:
    """The alert asks for `planned`, so that a new cause needs no new rule."""
    planned = "true" if cause.is_planned else "false"
    assert labels_of(cause) == {"process": "0", "cause": cause.label, "planned": planned}


def test_n25_the_alert_on_crashes_counts_every_cause_that_was_not_planned_and_no_other(
    tmp_path: Path,
) -> None:
    """N25: a scale-down under `--parallel threads` was a crash for it."""
    tests = []
    for cause in Cause:
        labels = ",".join(f'{name}="{text}"' for name, text in {"instance": "a", **labels_of(cause)}.items())
        series = {"series": f"flowherd_process_restarts_total{{{labels}}}", "values": "0+2x20"}
        count = [] if cause.is_planned else [{"labels": "{}", "value": 1}]
        query = 'count(ALERTS{alertname="FlowherdCrashes",alertstate="firing"})'
        wanted = [{"expr": query, "eval_time": "15m", "exp_samples": count}]
        tests.append(
            {"name": cause.label, "interval": "1m", "input_series": [series], "promql_expr_test": wanted}
        )
    (tmp_path / "rules.yaml").write_text(RULES.read_text())
    (tmp_path / "tests.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests})
    )
    assert "SUCCESS" in run_tool("promtool", "test", "rules", tmp_path / "tests.yaml")


def test_no_rule_and_no_panel_names_a_cause_that_there_is_not() -> None:
    """The alerts on memory and on hangs ask for one each."""
    texts = [RULES.read_text(), (DEPLOY / "grafana" / "flowherd.json").read_text()]
    found = (words for text in texts for words in re.findall(r'cause[!=]~?\\?"([\w|]+)', text))
    named = {word for words in found for word in words.split("|")}
    assert named == {Cause.OUT_OF_MEMORY.label, Cause.HUNG.label}


@pytest.mark.parametrize("cause", Cause, ids=lambda cause: cause.label)
def test_the_reference_has_a_row_for_every_cause(cause: Cause) -> None:
    page = (CLONE / "supervisor" / "docs" / "log-events.md").read_text(encoding="utf-8")
    planned = "yes" if cause.is_planned else "no"
    assert f"| `{cause.label}` | {planned} | {cause.meaning} |" in page
    metric = (CLONE / "supervisor" / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert cause is Cause.STOP or re.search(rf"Processes replaced after .*\b{cause.label}\b", metric)


@pytest.mark.parametrize("cause", Cause, ids=lambda cause: cause.label)
def test_explain_names_every_cause(cause: Cause) -> None:
    for event in ("crashed", "hung", "stopped"):
        document = {
            "definition": "d",
            "workflow_id": "w",
            "status": "running",
            "engine": {"url": "u", "error": None},
        }
        document |= {
            "hosts": [],
            "left_out": 0,
            "next": "",
            "events": [EVENT | {"event": event, "cause": cause.label}],
        }
        [_, table, _] = render(document)
        assert f"({cause.label}): m" in str(table.columns[-1]._cells[0])  # type: ignore[union-attr]


def test_the_log_has_the_cause_of_the_list() -> None:
    """`how` says it in words."""
    brain = Brain().serve()
    brain.hears(exited(1, status=11, running=1), after=10.0)
    [died] = [note for note in brain.notes if note.event == "process_died"]
    assert died.fields["cause"] == Cause.SIGNAL.label
