"""What blocks the loop leaves it, on a real host of an app that says nothing about it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from harness import eventually

from flowherd_supervisor.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import Engine, Host

APP = "unnamed_app:registry"


def pid_of(engine: Engine, name: str, **parameters: object) -> int:
    """Returns the process in which an activity ran."""
    [workflow_id] = engine.submit(name, 1, **parameters)
    engine.ended(workflow_id)
    return int(engine.output(workflow_id)["pid"])


def test_what_blocks_the_loop_is_moved_said_shown_and_brought_back_by_an_order(
    engine: Engine, run_host: Callable[..., Host], capfd: pytest.CaptureFixture[str]
) -> None:
    """N30: two runs, then isolates; a killed process knows it when it is back; a reload forgets it."""
    host = run_host(APP, processes=2, url=engine.url)
    workers = set(host.children().values())
    assert {pid_of(engine, "blocks"), pid_of(engine, "stays"), pid_of(engine, "stays")} <= workers
    assert pid_of(engine, "blocks") in workers
    [line] = host.wait_for_log("activity_moved")
    assert (line["name"], line["place"].rpartition("/")[2]) == ("blocks", "unnamed_app.py:22")
    assert 0.05 < line["blocked_s"] < 1.0, "without the time in which it waited for a CPU"
    assert pid_of(engine, "blocks", text="ä" * 70_000) not in workers
    assert pid_of(engine, "stays") in workers, "its author has said where it runs"

    status = host.status()
    assert [one["activity"] for one in status["moved"]] == ["blocks"]
    rows = {row["activity"]: row["moved"] for row in status["by_activity"]}
    assert rows == {"light": False, "blocks": True, "stays": False}
    assert 'flowherd_activities_moved_total{name="blocks"} 1.0' in host.get("/metrics").text

    host.kill(0)
    host.wait_for_log("process_ready", 4)
    for _ in range(6):
        assert pid_of(engine, "blocks") not in set(host.children().values())
    assert len(host.log("activity_moved")) == 1

    def keep(name: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["ctl", "keep", name, "--admin", address])
        return int(ended.value.code or 0)

    address = f"unix:{host.folder}/r/flowherd/{host.process.pid}.sock"
    assert keep("block") == 2
    assert "did you mean 'blocks'?" in capfd.readouterr().err
    assert keep("blocks") == 0
    assert "moves back to the event loop" in capfd.readouterr().out
    host.wait_for_log("activity_kept")
    for _ in range(3):
        assert pid_of(engine, "blocks") in set(host.children().values())
    assert host.status()["kept"] == ["blocks"]

    os.kill(host.process.pid, signal.SIGHUP)
    host.wait_for_log("reloaded")
    assert host.status()["kept"] == []
    assert [pid_of(engine, "blocks") for _ in range(2)]
    host.wait_for_log("activity_moved", 2)


def test_nothing_moves_where_the_user_has_said_so(engine: Engine, run_host: Callable[..., Host]) -> None:
    """`--offload declared`; one process means the same by default."""
    host = run_host(APP, "--offload", "declared", processes=2, url=engine.url)
    workers = set(host.children().values())
    assert {pid_of(engine, "blocks", seconds=0.1) for _ in range(4)} <= workers
    eventually(lambda: host.status()["totals"]["completed"] == 4, "all four")
    assert host.status()["moved"] == []
    assert host.log("activity_moved") == []


def test_one_that_holds_a_permit_when_it_is_moved_does_not_wait_for_it_behind_others(
    engine: Engine, run_host: Callable[..., Host]
) -> None:
    """N30: with `max_concurrent`, what the loop hands over begins anew, also with its permit."""
    run_host("one_blocker_app:registry", processes=2, url=engine.url).wait_for_log("process_ready", 3)
    engine.submit("blocks", 8)
    engine.wait_for("complete", 8)
