"""The main job on real processes: work is done, crashes are recovered, leases survive, stops lose nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from harness import Engine, Host, eventually, running_engine, running_host

if TYPE_CHECKING:
    from pathlib import Path

APP = "sample_app:registry"
StartHost = Callable[..., Host]


def test_a_queue_of_real_activities_runs_to_its_end_on_both_processes(
    engine: Engine, run_host: StartHost
) -> None:
    """The whole path: submit, claim, run, report; nothing twice."""
    host = run_host(APP, url=engine.url)
    workflows = engine.submit("hello", 40, name="flowherd")
    engine.submit("wait", 20, seconds=0.05)
    engine.wait_for("complete", 60)
    assert engine.output(workflows[0]) == {"greeting": "hello flowherd"}
    assert set(engine.claims_per_activity().values()) == {1}
    assert {row["process"] for row in host.status()["children"] if row["completed"]} == {0, 1}
    host.signal(signal.SIGTERM)
    assert host.wait() == 0


@pytest.mark.timeout(150)
@pytest.mark.parametrize("many", [3_000, pytest.param(10_000, marks=pytest.mark.soak)])
def test_thousands_of_noops_leave_no_descriptor_thread_or_file_behind(
    engine: Engine, run_host: StartHost, many: int
) -> None:
    """faults.md M2, M17: nothing runs twice on a calm day, and nothing grows."""
    host = run_host(APP, "--poll-max", "50", "-c", "64", url=engine.url)
    engine.submit("noop", 200)
    engine.wait_for("complete", 200)
    before = {pid: _belongings(pid) for pid in host.children().values()}
    files_before = sorted(path.name for path in host.folder.rglob("*"))
    engine.submit("noop", many - 200)
    engine.wait_for("complete", many, within_s=120)
    assert len(engine.claims_per_activity()) == many
    assert set(engine.claims_per_activity().values()) == {1}
    assert set(engine.completions_per_activity().values()) == {1}
    assert {pid: _belongings(pid) for pid in host.children().values()} == before
    assert all(
        _sockets(pid) <= 32 + 2 + 3 for pid in before
    )  # a connection a slot and two, link, wakeup pair
    assert sorted(path.name for path in host.folder.rglob("*")) == files_before


@pytest.mark.timeout(150)
def test_the_work_of_a_killed_process_is_handed_back_at_once(
    engine: Engine, run_host: StartHost, tmp_path: Path
) -> None:
    """C4: one SIGKILL while 50 run; the lease is 60 s, the work is back in well under a second, nothing is lost."""
    host = run_host(APP, "-c", "50", "--poll-max", "50", url=engine.url)
    journal = tmp_path / "journal"
    engine.submit("wait", 50, seconds=3, journal=str(journal))
    eventually(lambda: journal.exists() and journal.read_text().count("start") == 50, "50 running activities")
    victim = host.children()[1]
    held = {line.split()[1] for line in journal.read_text().splitlines() if line.endswith(f" {victim}")}
    assert len(held) == 25
    killed_at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    engine.wait_for("fail", 25, within_s=1.0)
    host.wait_for_log("process_ready", 4, within_s=1.0)
    assert time.monotonic() - killed_at < 2.0
    engine.wait_for("complete", 50, within_s=90)
    claims = engine.claims_per_activity()
    assert {activity_id for activity_id, count in claims.items() if count == 2} == held
    assert set(engine.completions_per_activity().values()) == {1}
    [died] = host.log("process_died")
    assert died["how"].startswith("was killed by SIGKILL")
    assert {line["activity_id"] for line in host.log("activity_failed")} == held


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_names_its_signal(engine: Engine, run_host: StartHost, number: signal.Signals) -> None:
    """C7."""
    host = run_host(APP, url=engine.url)
    engine.submit("kill_self", settings={"retry": {"max_attempts": 1}}, number=int(number))
    [failure] = engine.wait_for("fail", 1)
    [died] = host.wait_for_log("process_died")
    assert died["how"] == f"was killed by {number.name}"
    host.wait_for_log("process_ready", 4)
    assert failure["attempt"] == 1


def test_exit_0_of_a_process_that_was_not_told_to_stop_is_a_crash(
    engine: Engine, run_host: StartHost
) -> None:
    """C8, C23."""
    host = run_host(APP, url=engine.url)
    engine.submit("exit_quietly", settings={"retry": {"max_attempts": 1}})
    engine.wait_for("fail", 1)
    [died] = host.wait_for_log("process_died")
    assert died["how"] == "exited with code 0"


@pytest.mark.timeout(90)
@pytest.mark.parametrize("seconds", [7, pytest.param(12, marks=pytest.mark.soak)])
def test_a_handler_that_blocks_its_loop_keeps_a_lease_that_is_much_shorter(
    run_host: StartHost, tmp_path: Path, seconds: int
) -> None:
    """C11, M8: 12 s of a blocked loop under a 3 s lease: heartbeats from the keeper, no repeat, no kill."""
    journal = tmp_path / "journal"
    with running_engine("--default-lease", "3", "--sweep-interval", "0.5") as engine:
        host = run_host(APP, "--default-lease", "3", url=engine.url)
        engine.submit("block_loop", 1, seconds=seconds, journal=str(journal))
        engine.submit("block_loop", 1, seconds=seconds, journal=str(journal))
        engine.wait_for("complete", 2, within_s=60)
        assert set(engine.claims_per_activity().values()) == {1}
        assert journal.read_text().count("start") == 2
        assert not host.log("process_died")
        assert host.status()["totals"]["lost"] == 0


def test_sigterm_lets_running_work_end_and_exits_0(
    engine: Engine, run_host: StartHost, tmp_path: Path
) -> None:
    """P2, M6: nothing is released, nothing runs twice."""
    journal = tmp_path / "journal"
    host = run_host(APP, "--graceful-timeout", "15", url=engine.url)
    engine.submit("wait", 4, seconds=1.5, journal=str(journal))
    engine.submit("wait_in_thread", 4, seconds=1.5, journal=str(journal))
    eventually(lambda: journal.exists() and journal.read_text().count("start") == 8, "8 running activities")
    host.signal(signal.SIGTERM)
    assert host.wait(within_s=10) == 0
    assert len(engine.entries("complete")) == 8
    assert not engine.entries("fail")
    assert not host.tree()


def test_at_the_drain_limit_the_rest_is_given_back_and_said(
    engine: Engine, run_host: StartHost, tmp_path: Path
) -> None:
    """M7: 60 s handlers against a grace of 1 s; loop and thread alike."""
    journal = tmp_path / "journal"
    host = run_host(APP, "--graceful-timeout", "1", url=engine.url)
    engine.submit("wait", 3, seconds=60, journal=str(journal))
    engine.submit("wait_in_thread", 3, seconds=60, journal=str(journal))
    eventually(lambda: journal.exists() and journal.read_text().count("start") == 6, "6 running activities")
    host.signal(signal.SIGTERM)
    assert host.wait(within_s=10) == 6
    assert len(engine.entries("fail")) == 6
    assert not host.tree()


def test_a_second_signal_gives_everything_back_at_once(
    engine: Engine, run_host: StartHost, tmp_path: Path
) -> None:
    """P4: also the work of a blocked loop, which the keeper releases."""
    journal = tmp_path / "journal"
    host = run_host(APP, url=engine.url)
    engine.submit("wait", 2, seconds=60, journal=str(journal))
    eventually(lambda: journal.exists() and journal.read_text().count("start") == 2, "2 waiting activities")
    engine.submit("block_loop", 1, seconds=60, journal=str(journal))
    eventually(lambda: journal.read_text().count("start") == 3, "a blocked loop")
    host.signal(signal.SIGTERM)
    host.wait_for_log("draining")
    host.signal(signal.SIGTERM)
    started_at = time.monotonic()
    assert host.wait(within_s=5) == 6
    assert time.monotonic() - started_at < 2.0
    assert len(engine.entries("fail")) == 3
    assert not host.tree()


@pytest.mark.parametrize("doing", ["nothing", "wait", "block_loop"])
def test_no_process_outlives_a_killed_supervisor_by_5_s(
    engine: Engine, run_host: StartHost, tmp_path: Path, doing: str
) -> None:
    """P1, M5: the workers release their work, the keeper settles the rest."""
    journal = tmp_path / "journal"
    host = run_host(APP, url=engine.url)
    if doing != "nothing":
        engine.submit(doing, 2, seconds=60, journal=str(journal))
        eventually(lambda: journal.exists() and journal.read_text().count("start") >= 1, "a running activity")
    started = {line.split()[1] for line in journal.read_text().splitlines()} if journal.exists() else set()
    os.kill(host.pid, signal.SIGKILL)
    host.process.wait()
    eventually(lambda: not host.tree(), "the end of all processes", within_s=5)
    assert started <= {entry["activity_id"] for entry in engine.entries("fail")}


def test_an_app_that_cannot_be_imported_fails_once(tmp_path: Path) -> None:
    """C18: exit 3, one traceback, no restart loop."""
    with running_host(tmp_path, "broken_app:registry", "-p", "4") as host:
        assert host.wait() == 3
        text = host.log_path.read_text()
        # its line in the log, the traceback, and the last line
        assert text.count("ZeroDivisionError: division by zero") == 3
        assert text.count("Traceback (most recent call last)") == 1
        assert len(host.log("preload_started")) == 1
        assert [line["process"] for line in host.log("process_started")] == ["keeper"]
        assert not host.tree()


def test_a_killed_keeper_is_replaced_and_beats_on(run_host: StartHost, tmp_path: Path) -> None:
    """The leases are in the ledger, which the new keeper reads."""
    journal = tmp_path / "journal"
    with running_engine("--default-lease", "3", "--sweep-interval", "0.5") as engine:
        host = run_host(APP, "--default-lease", "3", url=engine.url)
        engine.submit("wait", 4, seconds=6, journal=str(journal))
        eventually(
            lambda: journal.exists() and journal.read_text().count("start") == 4, "4 running activities"
        )
        os.kill(host.keeper(), signal.SIGKILL)
        engine.wait_for("complete", 4, within_s=20)
        assert set(engine.claims_per_activity().values()) == {1}
        assert len(host.log("keeper_died")) == 1
        assert {line.get("process", line) for line in host.log()} == {0, 1, "keeper", "preload", "supervisor"}


def _belongings(pid: int) -> tuple[list[str], int]:
    """Returns a process's descriptors, sockets separately, and its number of threads."""
    return sorted(target for target in _targets(pid) if not target.startswith("socket:")), len(
        os.listdir(f"/proc/{pid}/task")
    )


def _sockets(pid: int) -> int:
    return sum(target.startswith("socket:") for target in _targets(pid))


def _targets(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    return [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
