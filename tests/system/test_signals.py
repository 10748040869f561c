"""What signals do to a real supervisor: reload, scale, pause, look inside (supervisor/docs/signals.md)."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from harness import APPS, Engine, Host, eventually, running_host

if TYPE_CHECKING:
    from pathlib import Path

APP = "sample_app:registry"
StartHost = Callable[..., Host]


@pytest.mark.timeout(120)
def test_rolling_restarts_under_load_lose_nothing_and_keep_the_budget(
    engine: Engine, run_host: StartHost, tmp_path: Path
) -> None:
    """P6: HUP repeatedly; the handlers' own journal shows how many ran at a time."""
    journal = tmp_path / "journal"
    host = run_host(APP, "-c", "8", "--graceful-timeout", "20", url=engine.url)
    engine.submit("wait", 400, seconds=0.1, journal=str(journal))
    for round_number in range(1, 4):
        host.signal(signal.SIGHUP)
        host.wait_for_log("reloaded", round_number)
    engine.wait_for("complete", 400, within_s=60)
    assert set(engine.claims_per_activity().values()) == {1}
    assert _most_at_a_time(journal) <= 8
    assert not engine.entries("fail")
    assert {row["incarnation"] for row in _settled_children(host)} == {4}
    host.signal(signal.SIGTERM)
    assert host.wait() == 0


def test_a_new_version_that_does_not_import_leaves_the_old_one_running(
    engine: Engine, tmp_path: Path
) -> None:
    """C20: it is logged, and the old version goes on."""
    app = tmp_path / "apps"
    app.mkdir()
    good = (APPS / "sample_app.py").read_text()
    (app / "changing_app.py").write_text(good)
    with running_host(tmp_path, "changing_app:registry", "-p", "2", url=engine.url, app_dir=app) as host:
        host.ready(2)
        (app / "changing_app.py").write_text("raise RuntimeError('a bad deploy')")
        host.signal(signal.SIGHUP)
        host.wait_for_log("reload_failed")
        engine.submit("hello", 4, name="old")
        engine.wait_for("complete", 4)
        assert {row["incarnation"] for row in _settled_children(host)} == {1}
        (app / "changing_app.py").write_text(good.replace("hello {name}", "welcome {name}"))
        host.signal(signal.SIGHUP)
        host.wait_for_log("reloaded")
        [workflow] = engine.submit("hello", 1, name="new")
        engine.wait_for("complete", 5)
        assert engine.output(workflow) == {"greeting": "welcome new"}


def test_ttin_and_ttou_change_the_number_of_processes_and_split_the_budget_anew(
    engine: Engine, run_host: StartHost
) -> None:
    """The sum of slots stays what --concurrency says."""
    host = run_host(APP, "-c", "12", url=engine.url)
    host.signal(signal.SIGTTIN)
    eventually(lambda: _slots(host) == [4, 4, 4], "three shares of 4")
    host.signal(signal.SIGTTOU)
    eventually(lambda: _slots(host) == [6, 6], "two shares of 6")
    host.signal(signal.SIGTTOU)
    eventually(lambda: _slots(host) == [12], "all slots in one process")
    host.signal(signal.SIGTTOU)
    host.wait_for_log("scale_refused")


def test_hup_applies_a_changed_file_and_refuses_what_only_a_restart_can_do(
    engine: Engine, tmp_path: Path
) -> None:
    """A changed number of processes applies; another engine is refused in one line."""
    config = tmp_path / "flowherd.toml"
    config.write_text("processes = 2\nconcurrency = 6\n")
    with running_host(tmp_path, APP, "--config", str(config), url=engine.url) as host:
        host.ready(2)
        config.write_text("processes = 3\nconcurrency = 6\n")
        host.signal(signal.SIGHUP)
        eventually(lambda: _slots(host) == [2, 2, 2], "three shares of 2")
        config.write_text("procesess = 4\n")
        host.signal(signal.SIGHUP)
        [refused] = host.wait_for_log("reload_refused")
        assert "did you mean 'processes'" in refused["reason"]
        assert _slots(host) == [2, 2, 2]


def test_tstp_stops_polling_and_cont_resumes_it(engine: Engine, run_host: StartHost, tmp_path: Path) -> None:
    """P7: what runs goes on meanwhile."""
    journal = tmp_path / "journal"
    host = run_host(APP, url=engine.url)
    engine.submit("wait", 1, seconds=1.5, journal=str(journal))
    eventually(journal.exists, "a running activity")
    host.signal(signal.SIGTSTP)
    host.wait_for_log("polling_paused")
    engine.wait_for("complete", 1)
    engine.submit("hello", 3, name="later")
    assert len(engine.journal(wait_s=1.0)) == len(engine.journal())
    assert len(engine.entries("claim")) == 1
    host.signal(signal.SIGCONT)
    engine.wait_for("complete", 4)


def test_usr1_shows_what_every_process_is_doing_also_a_blocked_one(
    engine: Engine, run_host: StartHost, tmp_path: Path
) -> None:
    """The stack of a blocked loop names the handler."""
    journal = tmp_path / "journal"
    host = run_host(APP, url=engine.url)
    engine.submit("block_loop", 1, seconds=3, journal=str(journal))
    eventually(journal.exists, "a blocked loop")
    host.signal(signal.SIGUSR1)
    seen = eventually(
        lambda: [line for line in host.log("stack_of_thread") if "block_loop" in str(line["stack"])],
        "its stack",
    )
    process = seen[0]["process"]
    assert process in {0, 1}
    assert seen[0]["at"].endswith(" block_loop"), "the user's own line, before all that it calls"
    [named] = [line for line in host.log("activity_at_work") if line["process"] == process]
    assert (named["name"], named["seen"], named["for_s"] < 4) == ("block_loop", 1, True)
    stacks = [line for line in host.log("stack_of_thread") if line["process"] == process]
    assert stacks[0] == seen[0], "threads in users' code come first"


def test_quit_gives_back_at_once(engine: Engine, run_host: StartHost, tmp_path: Path) -> None:
    """QUIT counts as two TERMs."""
    journal = tmp_path / "journal"
    host = run_host(APP, url=engine.url)
    engine.submit("wait", 2, seconds=60, journal=str(journal))
    eventually(lambda: journal.exists() and journal.read_text().count("start") == 2, "2 running activities")
    started_at = time.monotonic()
    host.signal(signal.SIGQUIT)
    assert host.wait(within_s=5) == 6
    assert time.monotonic() - started_at < 2
    assert len(engine.entries("fail")) == 2


def _slots(host: Host) -> list[int]:
    return sorted(row["slots"] for row in host.status().get("children", []))


def _settled_children(host: Host) -> list[dict[str, int]]:
    """The workers, once none of them retires any more."""
    return eventually(lambda: (rows := host.status()["children"]) and len(rows) == 2 and rows, "two workers")


def _most_at_a_time(journal: Path) -> int:
    """How many executions overlapped at most, by the order of the handlers' own lines."""
    running = most = 0
    for line in journal.read_text().splitlines():
        running += 1 if line.startswith("start") else -1
        most = max(most, running)
    return most


def test_a_signal_while_the_host_starts_is_obeyed_once_it_has_started(engine: Engine, tmp_path: Path) -> None:
    """From the line `starting` on: its exit code is that of a drain, and no socket is left."""
    with running_host(tmp_path, APP, "-p", "1", url=engine.url) as host:
        host.wait_for_log("starting")
        host.signal(signal.SIGTERM)
        assert host.wait() == 0
        assert host.log("ended")
        assert not list((host.folder / "r").rglob("*.sock"))


def test_a_signal_after_the_end_leaves_the_exit_code_as_the_log_says(engine: Engine, tmp_path: Path) -> None:
    """The program takes some milliseconds to exit, and a user may press Ctrl-C twice."""
    with running_host(tmp_path, APP, "-p", "1", url=engine.url) as host:
        host.ready(1)
        host.signal(signal.SIGTERM)
        while not host.log("ended"):
            assert host.program.process.poll() is None
        while host.program.process.poll() is None:
            host.program.process.send_signal(signal.SIGHUP)
        assert host.wait() == host.log("ended")[0]["code"] == 0
