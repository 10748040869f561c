"""Leases survive hung loops, a held GIL, and frozen and killed processes."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from harness import Engine, Host, eventually, running_engine

if TYPE_CHECKING:
    from pathlib import Path

APP = "sample_app:registry"
SHORT_LEASE = ("--default-lease", "3", "--sweep-interval", "0.5")
StartHost = Callable[..., Host]


@pytest.mark.timeout(90)
def test_a_loop_that_hangs_beyond_its_limit_is_ended_and_the_guilty_named(
    engine: Engine, run_host: StartHost, tmp_path: Path
) -> None:
    """C11, C12: past limit and grace the process is ended; its neighbour's failure does not blame it."""
    journal = tmp_path / "journal"
    host = run_host(APP, "--cancel-grace", "1", processes=1, url=engine.url)
    [neighbour] = engine.submit(
        "wait", 1, settings={"retry": {"max_attempts": 1}}, seconds=30, journal=str(journal)
    )
    eventually(journal.exists, "a running neighbour")
    [guilty] = engine.submit(
        "hangs", 1, settings={"retry": {"max_attempts": 1}}, seconds=60, journal=str(journal)
    )
    engine.wait_for("fail", 2)
    assert "blocked worker process 0" in _error(engine, guilty)
    assert "its limit of 1 s" in _error(engine, guilty)
    assert "because activity 'hangs' blocked it" in _error(engine, neighbour)
    [hung] = host.log("process_hangs")
    assert (hung["name"], hung["workflow_id"], hung["seen"]) == ("hangs", guilty, 1)
    [stacks] = host.wait_for_log("stacks_of_dead_process")
    assert any("sample_app.py" in line and "hangs" in line for line in stacks["stacks"])
    host.wait_for_log("process_ready", 3)


@pytest.mark.timeout(60)
def test_the_line_that_blocks_a_loop_is_named(engine: Engine, run_host: StartHost) -> None:
    """The watchdog: file and line, once, in the log."""
    host = run_host(APP, processes=1, url=engine.url)
    engine.submit("block_loop", 1, seconds=1)
    engine.wait_for("complete", 1)
    [blocked] = host.wait_for_log("loop_blocked")
    assert "sample_app.py:" in blocked["place"]
    assert (blocked["name"], blocked["seen"]) == ("block_loop", 1)
    assert {"workflow_id", "activity_id", "activity_key"} <= set(blocked)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("seconds", [5, pytest.param(8, marks=pytest.mark.soak)])
def test_a_held_gil_loses_no_lease(run_host: StartHost, tmp_path: Path, seconds: int) -> None:
    """M8: 8 s of a held GIL under a 3 s lease: nothing is lost, no process is killed."""
    journal = tmp_path / "journal"
    with running_engine(*SHORT_LEASE) as engine:
        host = run_host(APP, "--default-lease", "3", processes=1, url=engine.url)
        engine.submit("hold_gil", 1, seconds=seconds, journal=str(journal))
        engine.wait_for("complete", 1, within_s=30)
        assert set(engine.claims_per_activity().values()) == {1}
        assert not host.log("process_died")


@pytest.mark.timeout(90)
def test_a_frozen_keeper_is_replaced_before_a_lease_is_lost(run_host: StartHost, tmp_path: Path) -> None:
    """A keeper that is stopped for good does not affect 16 activities under a 6 s lease."""
    journal = tmp_path / "journal"
    with running_engine("--default-lease", "6", "--sweep-interval", "0.5") as engine:
        host = run_host(APP, "--default-lease", "6", url=engine.url)
        engine.submit("wait", 16, seconds=9, journal=str(journal))
        eventually(
            lambda: journal.exists() and journal.read_text().count("start") == 16, "16 running activities"
        )
        os.kill(host.keeper(), signal.SIGSTOP)
        engine.wait_for("complete", 16, within_s=40)
        assert set(engine.claims_per_activity().values()) == {1}
        assert host.log("keeper_late")
        assert host.status()["totals"]["lost"] == 0


@pytest.mark.timeout(90)
def test_n3_settlements_that_are_slow_cost_no_living_activity_its_lease(
    run_host: StartHost, tmp_path: Path
) -> None:
    """N3: `/fail` takes 6 s while a killed process is settled; other leases are extended meanwhile."""
    journal = tmp_path / "journal"
    with running_engine(*SHORT_LEASE) as engine:
        run_host(APP, "-c", "100", "--default-lease", "3", url=engine.url)
        once = {"retry": {"max_attempts": 1}}
        engine.submit("wait", 80, settings=once, seconds=4.2, journal=str(journal))
        eventually(
            lambda: journal.exists() and journal.read_text().count("start") == 80, "80 running activities"
        )
        begun = [line.split() for line in journal.read_text().splitlines()]
        victim = Counter(int(pid) for _, _, pid in begun).most_common(1)[0][0]
        living = {activity_id for _, activity_id, pid in begun if int(pid) != victim}
        assert 16 < len(living) <= 40
        engine.post("/__test__/faults", {"route": "fail", "times": None, "delay_s": 6})
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: living <= set(engine.completions_per_activity()), "the end of the living")
        claims = engine.claims_per_activity()
        assert {claims[activity_id] for activity_id in living} == {1}
        assert not {entry["activity_id"] for entry in engine.entries("lapse")} & living
        engine.http.delete("/__test__/faults")


@pytest.mark.timeout(90)
def test_a_frozen_worker_keeps_its_leases_and_goes_on_afterwards(run_host: StartHost, tmp_path: Path) -> None:
    """C25: stopped for longer than the lease, then continued; its work went to no other worker."""
    journal = tmp_path / "journal"
    with running_engine(*SHORT_LEASE) as engine:
        host = run_host(APP, "--default-lease", "3", url=engine.url)
        engine.submit("wait", 4, seconds=2, journal=str(journal))
        eventually(
            lambda: journal.exists() and journal.read_text().count("start") == 4, "4 running activities"
        )
        victim = int(journal.read_text().split()[2])
        os.kill(victim, signal.SIGSTOP)
        engine.wait_for("heartbeat", 12)  # several leases long
        os.kill(victim, signal.SIGCONT)
        engine.wait_for("complete", 4)
        assert set(engine.claims_per_activity().values()) == {1}
        assert not host.log("process_died")


@pytest.mark.timeout(90)
def test_a_worker_that_has_done_its_share_is_replaced_without_a_crash(
    engine: Engine, run_host: StartHost
) -> None:
    """C26: --max-tasks-per-child, make before break."""
    host = run_host(APP, "--max-tasks-per-child", "20", url=engine.url)
    engine.submit("wait", 200, seconds=0.02)
    engine.wait_for("complete", 200, within_s=60)
    recycled = host.wait_for_log("recycling", 2)
    assert "activities" in recycled[0]["reason"]
    assert not host.log("process_died")
    assert set(engine.claims_per_activity().values()) == {1}
    assert host.status()["restarts"] == 0


@pytest.mark.timeout(90)
def test_a_worker_that_has_grown_is_replaced(engine: Engine, run_host: StartHost) -> None:
    """C26: --max-memory-per-child, growth over the fresh process."""
    host = run_host(APP, "--max-memory-per-child", "60", processes=1, url=engine.url)
    engine.submit("wait", 1, seconds=4)  # keeps the supervisor looking
    engine.submit("grow", 1, megabytes=100)
    host.wait_for_log("recycling")
    host.wait_for_log("process_ready", 3)
    assert not host.log("process_died")


def _error(engine: Engine, workflow: str) -> str:
    return str(engine.workflow(workflow)["activities"][0]["error"])


@pytest.mark.timeout(120)
def test_a_poison_is_found_among_its_neighbours_and_they_all_complete(
    engine: Engine, run_host: StartHost
) -> None:
    """C22, M10: neighbours have two attempts each: a healthy activity loses at most one to another's crash.

    From the second time on the killer runs in an isolate, where its crash affects no other activity.
    """
    host = run_host(APP, "--poison-after", "3", processes=4, url=engine.url)
    quickly = {"retry": {"max_attempts": 20, "strategy": "fixed", "base_seconds": 1}}
    neighbourly = {"retry": {"max_attempts": 2, "strategy": "fixed", "base_seconds": 1}}
    workflows = engine.submit("wait", 60, settings=neighbourly, seconds=0.1)
    [poison] = engine.submit("kill_self", 1, settings=quickly)
    workflows += engine.submit("wait", 60, settings=neighbourly, seconds=0.1)
    engine.wait_for("complete", 120, within_s=60)
    eventually(lambda: engine.workflow(poison)["status"] == "failed", "the end of the poison", within_s=30)
    error = _error(engine, poison)
    assert "3 processes died with it" in error
    assert error.count("was killed by SIGKILL") == 3
    assert (len(host.log("process_died")), len(host.log("isolate_died"))) == (1, 2)
    assert {engine.workflow(workflow)["status"] for workflow in workflows} == {"completed"}
