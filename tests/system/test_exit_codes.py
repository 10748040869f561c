"""Each exit code of supervisor/docs/exit-codes.md by a real run: people script against them."""

from __future__ import annotations

import os
import signal
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from harness import Engine, Host, eventually, running_host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

APP = "sample_app:registry"
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there

ENDS_BY_ITSELF = """
import os, signal
from flowherd import activity

def arm():  # every worker ends by SIGALRM soon after it is ready, with no thread and nothing running
    signal.setitimer(signal.ITIMER_REAL, 0.3)

if "FLOWHERD_PROCESS_INDEX" in os.environ:
    arm()
os.register_at_fork(after_in_child=arm)

@activity
async def nothing(): ...
"""
HANGS_AT_IMPORT = "import threading\nthreading.Event().wait()\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_0_after_a_clean_stop(engine: Engine, run_host: Callable[..., Host], number: signal.Signals) -> None:
    """Also after INT, which Ctrl-C sends."""
    host = run_host(APP, url=engine.url)
    engine.submit("hello", 2, name="x")
    engine.wait_for("complete", 2)
    host.signal(number)
    assert host.wait() == 0
    assert not host.tree()
    assert "Traceback" not in host.log_path.read_text()


def test_0_after_a_clean_stop_while_the_engine_is_away(run_host: Callable[..., Host]) -> None:
    """An unreachable engine is never a crash, and does not hold up a stop."""
    host = run_host(APP, url=NOBODY)
    host.wait_for_log("engine_unreachable", 2)
    host.signal(signal.SIGTERM)
    assert host.wait() == 0
    assert _took_s(host, since="draining") < 5


def test_0_once_a_burst_is_worked_off(engine: Engine, tmp_path: Path) -> None:
    """--burst: work queued before and during the run is done; then it drains by itself."""
    first = engine.submit("hello", 5, name="x")
    flags = ("-p", "2", "--burst", "--burst-idle", "1.5s")
    with running_host(tmp_path, APP, *flags, url=engine.url) as host:
        host.ready(2)
        then = engine.submit("hello", 5, name="y")
        assert host.wait() == 0
        assert host.log("worked_off")[0]["idle_s"] == 1.5
        assert [engine.workflow(one)["status"] for one in (*first, *then)] == ["completed"] * 10
        assert not host.tree()


def test_1_when_the_keeper_is_killed_three_times_in_10_s(
    engine: Engine, run_host: Callable[..., Host]
) -> None:
    """That is a defect: it drains, logs it and exits."""
    host = run_host(APP, url=engine.url)
    for round_number in (1, 2, 3):
        os.kill(host.keeper(), signal.SIGKILL)
        host.wait_for_log("keeper_died", round_number)
        if round_number < 3:
            started = 2 + round_number + 1
            host.wait_for_log("process_started", started)
    assert host.wait() == 1
    assert not host.tree()


@pytest.mark.parametrize(
    ("app", "flags", "said"),
    [
        (APP, ["--proceses", "2"], "--processes"),
        (APP, ["-p", "none"], "--processes"),
        (APP, ["-p", "4", "-c", "2"], "--concurrency 4 or more"),
        (APP, ["--config", "missing.toml"], "--config"),
        ("no_such_module:registry", [], "no_such_module"),
        ("sample_app:regisrty", [], "did you mean registry"),
        ("sample_app:os", [], "sample_app:os"),
        ("stock_shapes:nothing_here", [], "nothing_here"),
    ],
)
def test_2_for_usage_configuration_and_a_wrong_app(
    tmp_path: Path, app: str, flags: list[str], said: str
) -> None:
    """One line that names the place; no traceback."""
    with running_host(tmp_path, app, *flags, url=NOBODY) as host:
        assert host.wait() == 2
        text = host.log_path.read_text()
        assert said in text
        assert "Traceback" not in text
        assert not host.tree()
        assert [line["code"] for line in host.log("boot_failed")] in ([], [2]), "none for a wrong setting"


def test_3_when_the_app_cannot_be_imported(tmp_path: Path) -> None:
    """C18: its traceback once, within 5 s."""
    with running_host(tmp_path, "broken_app:registry", "-p", "2", url=NOBODY) as host:
        assert host.wait() == 3
        assert _took_s(host) < 5
        assert host.log_path.read_text().count("Traceback (most recent call last)") == 1
        last = host.log()[-1]
        assert (last["event"], last["code"]) == ("ended", 3)
        assert [line["code"] for line in host.log("boot_failed")] == [3]
        assert "broken_app could not be imported: " in last["reason"]


@pytest.mark.parametrize(
    ("way", "ended"), [("--preload", "preload_exited"), ("--no-preload", "process_exited")]
)
def test_3_when_the_app_hangs_at_import(tmp_path: Path, way: str, ended: str) -> None:
    """C19: as a boot failure, after --boot-timeout; the line names the flag and the app's current line."""
    (tmp_path / "hangs.py").write_text(HANGS_AT_IMPORT)
    flags = ("-p", "2", "--boot-timeout", "1", way)
    with running_host(tmp_path, "hangs", *flags, url=NOBODY, app_dir=tmp_path) as host:
        assert host.wait() == 3
        assert _took_s(host) < 6
        [line] = host.log("boot_timed_out")
        assert line["remedy"] == "--boot-timeout"
        assert (
            host.log()[-1]["reason"]
            == f"not ready within 1 s (--boot-timeout): {tmp_path}/hangs.py:2 <module>"
        )
        assert line["at"] == f"{tmp_path}/hangs.py:2 <module>"
        assert host.log(ended)[0]["how"] == "was stopped by flowherd: it was not ready in time"
        assert not host.tree()


def test_5_after_more_short_ends_than_allowed_with_waits_between(tmp_path: Path) -> None:
    """C21: the third short end in the window is one too many; before the second restart there was a wait."""
    (tmp_path / "ends.py").write_text(ENDS_BY_ITSELF)
    flags = ("-p", "1", "--max-restarts", "2", "--restart-window", "30", "--no-preload")
    with running_host(tmp_path, "ends", *flags, url=NOBODY, app_dir=tmp_path) as host:
        assert host.wait() == 5
        died = host.log("process_died")
        assert [line["how"] for line in died] == ["was killed by SIGALRM"] * 3
        assert host.log()[-1]["reason"] == "3 short ends within 30 s (--max-restarts)"
        started = [line for line in host.log("process_started") if line["process"] == 0]
        assert len(started) == 3
        assert [line["again_in_s"] for line in died[:1]] == [0]
        assert 0.4 <= died[1]["again_in_s"] <= 0.6  # 0.5 s ± 20 %
        assert _at(started[2]) - _at(died[1]) >= died[1]["again_in_s"] - 0.01
        [line] = host.log("crash_loop")
        assert line["short_ends"] == 3
        assert not host.tree()


def test_6_when_something_was_given_back(
    engine: Engine, run_host: Callable[..., Host], tmp_path: Path
) -> None:
    """An orchestrator can detect a stop that was too short."""
    journal = tmp_path / "journal"
    host = run_host(APP, "--graceful-timeout", "0.5", url=engine.url)
    engine.submit("wait", 1, seconds=60, journal=str(journal))
    eventually(journal.exists, "a running activity")
    host.signal(signal.SIGTERM)
    assert host.wait() == 6
    assert _took_s(host, since="draining") < 3
    assert len(engine.entries("fail")) == 1


def _took_s(host: Host, since: str = "starting") -> float:
    """Seconds up to its last log line, by its own clock, without the start of Python on a busy machine."""
    lines = host.log()
    [first] = [line for line in lines if line.get("event") == since]
    return max(_at(line) for line in lines if "time" in line) - _at(first)


def _at(line: dict[str, str]) -> float:
    return datetime.fromisoformat(line["time"]).timestamp()
