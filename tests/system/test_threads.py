"""Workers that are threads of one process: they behave as processes, but end together.

With a GIL a hidden variable enables them for these tests; speed is not tested.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from harness import Engine, Host, eventually, running_host

from flowherd.free_threading import OVERRIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flowherd_supervisor.testkit.supervisor_program import SupervisorProgram


RESTARTS = "flowherd_process_restarts_total"


@pytest.fixture
def threads(tmp_path: Path, engine: Engine) -> Iterator[Callable[..., Host]]:
    """Starts a supervisor whose workers are threads, and returns it when they are ready."""
    started: list[SupervisorProgram] = []

    def start(app: str, *flags: str, workers: int = 3) -> Host:
        words = ("--parallel", "threads", "-p", str(workers), *flags)
        host = Host(tmp_path, app, *words, url=engine.url, env={OVERRIDE: "1"})
        started.append(host)
        return host.ready(1)

    yield start
    for host in started:
        if host.process.poll() is None:  # running work need not end
            host.signal(signal.SIGQUIT)
        host.stop()


def rows(host: Host) -> list[dict[str, Any]]:
    return host.status()["children"]  # type: ignore[no-any-return]


def running(host: Host, wanted: int) -> list[dict[str, Any]]:
    """Waits until exactly `count` workers run; returns their rows."""

    def look() -> list[dict[str, Any]]:
        found = rows(host)
        return found if [row["phase"] for row in found] == ["running"] * wanted else []

    return eventually(look, f"{wanted} workers")


def settled(host: Host, name: str) -> int:
    """How often an activity of that name was handed back after the end of its process."""
    return sum(line["name"] == name for line in host.log("activity_failed"))


def test_status_shows_each_thread_and_counts_memory_once(
    threads: Callable[..., Host], engine: Engine
) -> None:
    """N rows of one pid; the budget is split over them as over processes (faults.md P18)."""
    host = threads("threads_app:registry", "-c", "7")
    found = running(host, 3)
    assert [row["process"] for row in found] == [0, 1, 2]
    assert sorted((row["slots"] for row in found), reverse=True) == [3, 2, 2]
    assert len({row["pid"] for row in found}) == 1
    assert [row["rss_mb"] is None for row in found] == [False, True, True]
    document = host.status()
    assert document["processes"] == {"wanted": 3, "ready": 3}
    assert (document["parallel"], document["concurrency"]["total"]) == ("threads", 7)
    engine.submit("where", 30)
    engine.wait_for("complete", 30)
    assert host.status()["totals"]["completed"] == 30


def test_each_thread_is_a_worker_of_its_own_and_so_are_its_isolates(
    threads: Callable[..., Host], engine: Engine
) -> None:
    """Its own loop, lifespan and number; isolates of two threads are never confused."""
    host = threads("threads_app:registry", "-c", "6", "--poll-max", "1")
    processes, isolates = Counter[int](), Counter[int]()
    for workflow in engine.submit("where", 12):
        engine.ended(workflow)
        output = engine.output(workflow)
        assert output["is_own_state"]
        assert output["variables"] == ["0", "1"], "the environment speaks of the process"
        processes[output["process"]] += 1
    for workflow in engine.submit("where_apart", 12):
        engine.ended(workflow)
        output = engine.output(workflow)
        assert output["variables"] == [str(output["process"]), "3"], "an isolate has one of its own"
        assert output["pid"] != rows(host)[0]["pid"]
        isolates[output["process"]] += 1
    assert len(processes) > 1
    assert len(isolates) > 1


def test_the_end_of_the_process_is_one_restart_and_all_threads_are_settled(
    threads: Callable[..., Host], engine: Engine, tmp_path: Path
) -> None:
    """The unit of failure is the process: what ran in any of its threads goes back at once."""
    host = threads("sample_app:registry", "-c", "6", "--poll-max", "2")
    pid = running(host, 3)[0]["pid"]
    engine.submit("wait", 6, seconds=60)
    engine.wait_for("claim", 6)
    eventually(lambda: sum(row["in_flight"] for row in rows(host)) == 6, "six at work")
    os.kill(pid, signal.SIGKILL)
    engine.wait_for("fail", 6)
    assert {line["pid"] for line in host.wait_for_log("activity_failed", 6)} == {pid}
    assert len({line["process"] for line in host.log("activity_failed")}) > 1
    assert running(host, 3)[0]["pid"] != pid
    assert host.status()["restarts"] == 1
    assert len(host.log("process_died")) == 1


def test_a_drain_waits_for_the_work_of_all_threads(threads: Callable[..., Host], engine: Engine) -> None:
    """faults.md P2: exit 0 means that nothing was given back."""
    host = threads("sample_app:registry", "-c", "6", "--poll-max", "2")
    engine.submit("wait", 6, seconds=1.0)
    engine.wait_for("claim", 6)
    host.signal(signal.SIGTERM)
    assert host.wait() == 0
    assert len(engine.entries("complete")) == 6
    assert not engine.entries("fail")


def test_the_second_signal_gives_the_work_of_all_threads_back(
    threads: Callable[..., Host], engine: Engine
) -> None:
    """faults.md P4: within a second, also of a loop that is blocked."""
    host = threads("sample_app:registry", "-c", "6", "--poll-max", "2")
    engine.submit("wait", 5, seconds=60)
    engine.submit("block_loop", 1, seconds=60)
    engine.wait_for("claim", 6)
    host.signal(signal.SIGTERM)
    host.wait_for_log("draining")
    host.signal(signal.SIGTERM)
    assert host.wait() == 6
    assert len(engine.wait_for("fail", 6)) == 6


def test_one_that_hangs_ends_all_threads_and_is_named(
    threads: Callable[..., Host], engine: Engine, tmp_path: Path
) -> None:
    """The one that hung has timed out, the work of the other threads is requeued."""
    host = threads("sample_app:registry", "-c", "3", "--cancel-grace", "0.5")
    beside = engine.submit("wait", 2, seconds=60, settings={"retry": {"max_attempts": 1}})
    engine.wait_for("claim", 2)
    guilty = engine.submit(
        "hangs", 1, seconds=60, settings={"timeout_seconds": 1, "retry": {"max_attempts": 1}}
    )
    said = str(engine.ended(guilty[0]))
    assert "the handler blocked worker process" in said
    for workflow in beside:
        assert "was ended because activity 'hangs' blocked it" in str(engine.ended(workflow))
    assert len(host.log("process_hangs")) == 1
    running(host, 3)


def test_a_poison_costs_a_healthy_activity_in_another_thread_one_attempt_at_most(
    threads: Callable[..., Host], engine: Engine, tmp_path: Path
) -> None:
    """All that ran in any thread is suspect, and runs in isolates from then on."""
    settings = {"retry": {"max_attempts": 5, "backoff_seconds": 0.2}}
    host = threads("sample_app:registry", "-c", "6", "--poison-after", "3")
    healthy = engine.submit("wait", 4, seconds=0.4, settings=settings)
    engine.wait_for("claim", 4)
    poison = engine.submit("kill_self", settings=settings)[0]
    for deaths in (1, 2):
        eventually(lambda n=deaths: settled(host, "kill_self") == n, f"death {deaths}")  # type: ignore[misc]
        engine.advance(5.0)  # the retry delay
    assert "given up after 3 processes died with it" in str(engine.ended(poison))
    for workflow in healthy:
        assert engine.ended(workflow)["status"] == "completed"
    claims = engine.claims_per_activity()
    assert max(claims.values()) == 3, "the poison's"
    assert sorted(claims.values())[-2] <= 2, "a healthy one has lost more than one attempt"
    assert len(host.log("process_died")) == 1


def test_more_and_fewer_threads_come_with_a_new_process_that_is_ready_before_the_old_one_ends(
    threads: Callable[..., Host], engine: Engine
) -> None:
    """TTIN and TTOU change the number of threads; what runs is not disturbed, and the budget stays (N25)."""
    host = threads("sample_app:registry", "-c", "8", workers=2)
    before = running(host, 2)[0]["pid"]
    engine.submit("wait", 4, seconds=1.5)
    engine.wait_for("claim", 4)
    host.signal(signal.SIGTTIN)
    after = running(host, 3)
    assert before not in {row["pid"] for row in after}
    eventually(lambda: sum(row["slots"] for row in rows(host)) == 8, "the whole budget")
    host.signal(signal.SIGTTOU)
    assert {row["pid"] for row in running(host, 2)}.isdisjoint(row["pid"] for row in after)
    engine.wait_for("complete", 4)
    assert not engine.entries("fail")
    before = running(host, 2)[0]["pid"]
    host.signal(signal.SIGHUP)
    host.wait_for_log("reloaded")
    assert before not in {row["pid"] for row in running(host, 2)}, "one successor with as many threads"
    assert not host.log("process_died")
    causes = eventually(
        lambda: (found := [line["cause"] for line in host.log("process_exited")])[2:] and found, "three ends"
    )
    assert causes == ["scale", "scale", "reload"]
    restarts = [line for line in host.get("/metrics").text.splitlines() if line.startswith(RESTARTS)]
    assert restarts
    assert all('planned="true"' in line for line in restarts)


def test_all_threads_together_run_one_of_a_kind_at_a_time(
    threads: Callable[..., Host], engine: Engine, tmp_path: Path
) -> None:
    """`max_concurrent` holds for the host, although all threads share the kernel's locks."""
    config = tmp_path / "flowherd.toml"
    config.write_text("[activities.wait]\nmax_concurrent = 1\n")
    threads("sample_app:registry", "-c", "12", "--poll-max", "2", "--config", str(config))
    journal = tmp_path / "journal"
    engine.submit("wait", 12, seconds=0.05, journal=str(journal))
    engine.wait_for("complete", 12)
    events = [line.split()[0] for line in journal.read_text().splitlines()]
    assert events == ["start", "end"] * 12


def test_without_a_supervisor_all_threads_give_their_work_back(
    threads: Callable[..., Host], engine: Engine
) -> None:
    """faults.md P1: the process ends by itself, and nothing waits for the end of its lease."""
    host = threads("sample_app:registry", "-c", "6", "--poll-max", "2")
    pid = running(host, 3)[0]["pid"]
    engine.submit("wait", 6, seconds=60)
    engine.wait_for("claim", 6)
    pidfd = os.pidfd_open(pid)
    host.signal(signal.SIGKILL)
    engine.wait_for("fail", 6)
    eventually(lambda: not _lives(pid), "the end of the workers")
    os.close(pidfd)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_where_threads_take_turns_they_are_refused_with_the_remedy(tmp_path: Path) -> None:
    """Exit 2: with a GIL, in the build or switched on, threads gain nothing."""
    gil = {"PYTHON_GIL": "1"}
    with running_host(tmp_path, "sample_app:registry", "--parallel", "threads", env=gil) as host:
        assert host.wait() == 2
        said = host.log_path.read_text()
    assert "--parallel threads" in said
    assert "--parallel processes" in said
