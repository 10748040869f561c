"""`flowherd advise` as text and as JSON, and the keeper's document of it."""

from __future__ import annotations

import io
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from worker_kit import open_segment

from flowherd.errors import ConfigurationError
from flowherd.execution.activity_costs import ActivityProfiles
from flowherd.ledger import Cause, Ledger, RecordWriter
from flowherd.ledger.activity_cost_table import LOADS, Load, Where
from flowherd.link.messages import SupervisorState
from flowherd_supervisor.advise.advice_document import Adviser, host_load, judged, summary
from flowherd_supervisor.cli.advise import render, show_advice

if TYPE_CHECKING:
    from pathlib import Path

    from flowherd.ledger import Segment

SAID = SupervisorState(state="running", wanted=1, total_slots=4, restarts={})


def worked(ledger: Ledger, places: dict[str, Where], *, attempts: int = 40, incarnation: int = 1) -> Segment:
    """A live segment whose activities each blocked the loop for 30 ms an attempt, in 10 s of work."""
    segment = open_segment(ledger, incarnation=incarnation)
    RecordWriter(segment)
    measures = ActivityProfiles(places, segment.work)
    for measure in measures.by_name.values():
        for _ in range(attempts):
            measure.long_step(0.03)
            measure.step_cpu(0.03)
            measure.kept_loop(0.03, 0.03)
            measure.sampled(cpu_s=0.03, wall_s=0.03, wait_s=0.0, growth_bytes=2_000)
            measure.probed(waited_s=0.005, released=False)
    load = [0.0] * LOADS
    load[Load.ACTIVE_S], load[Load.BUSY_S], load[Load.LATE + 5] = 10.0, 9.7, 10.0
    load[Load.CPU_S] = 2.0
    measures.publish(load)
    return segment


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(processes=2, records=4)


def document(ledger: Ledger) -> dict[str, Any]:
    return Adviser(ledger, cpus=2).document(SAID)


def shown(found: dict[str, Any]) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=80, highlight=False).print(*render(found), sep="\n")
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_the_keys_are_those_of_the_interface(ledger: Ledger) -> None:
    """Adding is free, renaming is not."""
    worked(ledger, {"resize": Where.LOOP})
    [row] = document(ledger)["activities"]
    assert row.keys() >= {
        "activity", "samples", "cpu_ms_p50", "cpu_share", "block_ms_max", "gil_released_share", "verdict", "criteria",
    }  # fmt: skip
    assert row["criteria"].keys() == {"cpu_bound", "loop_is_bottleneck", "gain"}
    assert row["criteria"]["cpu_bound"] == {
        "metric": "CPU ms of an attempt", "value": 30.0, "threshold": 5.0, "met": True,
    }  # fmt: skip
    assert row["criteria"]["loop_is_bottleneck"].keys() == {"metric", "value", "threshold", "met"}
    assert row["criteria"]["gain"].keys() == {"metric", "now", "estimated", "cost"}
    assert row["criteria"]["gain"]["metric"] == "p95 of other activities"
    assert (row["samples"], row["cpu_share"], row["block_ms_max"], row["gil_released_share"]) == (
        40,
        1.0,
        30.0,
        0.0,
    )
    assert 16 < row["cpu_ms_p50"] <= 33, "the middle of its bucket"
    assert row["memory_growth_kb"] == 2.0
    assert (row["verdict"], row["change"]) == ("process", True)


def test_people_read_a_row_a_reason_and_a_size(ledger: Ledger) -> None:
    """A verdict, its evidence, and what it would gain and cost."""
    worked(ledger, {"resize": Where.LOOP, "new": Where.THREAD}, attempts=29)
    worked(ledger, {"resize": Where.LOOP})
    text = "\n".join(shown(document(ledger)))
    assert ["resize", "async", "process", "69"] in [line.split()[:4] for line in text.splitlines()]
    assert "new: needs 1 more measured run" in text
    assert "resize: process: it computes 30 ms and keeps the GIL (0% released); others wait" in text
    assert "2 processes instead of 1: the loop is busy 97% of the time with work" in text
    assert "4 slots, no change: all are taken 0% of the time" in text


def test_on_a_terminal_of_80_columns_no_figure_is_cut(ledger: Ledger) -> None:
    """The name alone may take a second line."""
    worked(ledger, {"a_rather_long_name_for_an_activity": Where.LOOP})
    lines = shown(document(ledger))
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)


def test_where_nothing_gains_it_says_no_change(ledger: Ledger) -> None:
    """Needless advice would cost trust."""
    worked(ledger, {"in_isolate": Where.PROCESS})
    found = document(ledger)
    assert "in_isolate: no change: its 30.0 ms of CPU in its own process delay no others" in shown(found)
    assert summary(found)["activities"] == [
        {
            "activity": "in_isolate", "runs": "process", "verdict": "process", "change": False,
            "reason": "its 30.0 ms of CPU in its own process delay no others",
        }
    ]  # fmt: skip


def test_the_settings_that_follow_the_advice_can_be_pasted(ledger: Ledger) -> None:
    """Whatever characters an activity's name has."""
    names = ("resize", "to grey", 'say "hi"\\now', "größer")
    worked(ledger, dict.fromkeys(names, Where.LOOP) | {"isolated": Where.PROCESS})
    lines = shown(document(ledger))
    begin = next(number for number, line in enumerate(lines) if line.startswith("[activities."))
    pasted = tomllib.loads("\n".join(lines[begin:]))
    assert pasted == {"activities": {name: {"offload": "process"} for name in names}}


def test_an_activity_that_was_moved_begins_anew(ledger: Ledger) -> None:
    """Measurements on the loop do not apply to the thread it runs in now."""
    old = worked(ledger, {"job": Where.LOOP})
    old.end(Cause.STOP)
    ledger.absorb(old)
    new = worked(ledger, {"job": Where.THREAD}, attempts=3, incarnation=2)
    assert [(row["runs"], row["samples"]) for row in document(ledger)["activities"]] == [("thread", 3)]
    new.end(Cause.STOP)
    ledger.absorb(new)
    assert [(row["runs"], row["samples"]) for row in document(ledger)["activities"]] == [("thread", 3)], (
        "the keeper's last word comes when all have ended"
    )


def test_what_computes_beside_the_loop_fills_slots_that_more_of_them_would_not_help(ledger: Ledger) -> None:
    """CPU counts whether it is spent on the loop, in threads or in isolates."""
    places = {"thread": Where.THREAD, "isolated": Where.PROCESS, "loop": Where.LOOP}
    worked(ledger, places, attempts=100)
    work = ledger.work()
    advice = judged(work, set(work.entries))
    load = host_load(work, advice, processes=1, slots=4, cpus=2)
    assert load.cpu == pytest.approx(0.2 + 0.6), (
        "20 % of the loop's own, and 3 s each in 10 s of the other two"
    )
    assert load.movable == pytest.approx(0.3 * sum(found.is_change for found in advice))


def test_before_any_work_there_is_a_document(ledger: Ledger) -> None:
    """Right after the start the verdict is unknown."""
    assert document(ledger)["activities"] == []
    found = Adviser(ledger, cpus=2).document(None)
    assert found["host"]["processes"]["advised"] is None
    assert "processes: unknown: 0.0 s of work" in "\n".join(shown(found))


def test_without_a_supervisor_it_says_how_to_get_a_sample(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to measure without work."""
    folder: Path = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    with pytest.raises(ConfigurationError, match="To get a sample, start `flowherd run APP`"):
        show_advice(admin=None, pid=None, as_json=False)
