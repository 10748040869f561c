"""The demo as a user runs it: real engine, real supervisor, real processes, on a small part of the work."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.fork, pytest.mark.timeout(120)]

_RUN = "import sys; from flowherd_supervisor.demo.driver import run_demo; sys.exit(run_demo({}))"
_FIGURES = {
    "processes",
    "activities",
    "completed",
    "failed",
    "lost",
    "duplicates",
    "wall_s",
    "activities_per_s",
}


class Demo:
    """A demo in a separate process; everything it starts inherits a mark by which it can be found."""

    def __init__(self, folder: Path, options: str) -> None:
        self._mark = uuid.uuid4().hex
        hostile = {
            "KRUXIAFLOW_API_URL": "http://127.0.0.1:9",
            "KRUXIAFLOW_CLIENT_ID": "production",
            "KRUXIAFLOW_CLIENT_SECRET": "production",
            "KRUXIAFLOW_WORKER": "another",
            "KRUXIAFLOW_WORKER_PROCESSES": "no number",
            "KRUXIAFLOW_WORKER_CONFIG": "/nowhere/flowherd.toml",
            "HTTP_PROXY": "http://127.0.0.1:9",
        }
        (folder / "flowherd.toml").write_text("this is = not [toml")
        self.process = subprocess.Popen(
            [sys.executable, "-c", _RUN.format(options)],
            cwd=folder,
            env={**os.environ, **hostile, "DEMO_TEST_MARK": self._mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=110)
        return self.process.returncode, out, err

    def running(self) -> list[psutil.Process]:
        """Returns the processes of this demo that still run."""
        found = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get("DEMO_TEST_MARK") == self._mark
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[[str], Demo]]:
    begun: list[Demo] = []

    def start(options: str) -> Demo:
        begun.append(Demo(tmp_path, options))
        return begun[-1]

    yield start
    for each in begun:
        for process in each.running():
            process.kill()
        each.process.communicate()


def document(output: str) -> dict[str, Any]:
    assert output.count("\n") == 1, "one document, and nothing but it"
    return dict(json.loads(output))


def test_two_processes_give_the_answer_of_none_and_lose_nothing(demo: Callable[[str], Demo]) -> None:
    """A newcomer's first command must be right, whatever is exported or in the folder."""
    run = demo("processes=2, as_json=True, activities=40")
    code, out, err = run.finish()
    assert code == 0, err
    shown = document(out)
    assert _FIGURES | {"baseline_one_process", "speedup"} <= shown.keys()
    work = shown["activities"]
    assert work == 40
    for phase, processes in ((shown, 2), (shown["baseline_one_process"], 1)):
        assert phase.keys() >= _FIGURES
        assert phase["processes"] == processes
        assert (phase["activities"], phase["completed"]) == (work, work)
        assert (phase["failed"], phase["lost"], phase["duplicates"]) == (0, 0, 0)
        assert phase["correct"] is True
    assert shown["answer"]["signatures"]["bytes"] > 10_000, "a file went through the engine"
    assert f"on 2 processes: {work}/{work}" in err
    assert run.running() == []


@pytest.mark.soak
def test_killed_processes_change_nothing_about_the_answer(demo: Callable[[str], Demo]) -> None:
    """SIGKILL at any moment: the work comes back, runs again, and is accepted once (faults of group C)."""
    code, out, err = demo("processes=1, as_json=True, activities=120, chaos=True").finish()
    assert code == 0, err
    shown = document(out)
    assert shown["kills"] >= 1
    assert shown["completed"] == shown["activities"] > 0
    assert (shown["failed"], shown["lost"], shown["duplicates"]) == (0, 0, 0)
    assert shown["correct"] is True


def test_a_demo_that_is_killed_leaves_no_process_behind(demo: Callable[[str], Demo]) -> None:
    """The kernel ends engine and supervisor, and the workers end with the supervisor."""
    run = demo("processes=2, activities=100")
    assert run.process.stderr is not None
    while "on 1 process" not in run.process.stderr.readline():
        assert run.process.poll() is None
    begun: list[psutil.Process] = []

    def has_workers() -> bool:
        begun[:] = psutil.Process(run.process.pid).children(recursive=True)
        return len(begun) >= 5

    eventually(has_workers, "an engine, a supervisor, its keeper, its preload and a worker", within_s=60)
    run.process.kill()
    eventually(lambda: not any(_lives(process) for process in begun), "the end of all it had started")


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.soak
def test_a_stopped_demo_leaves_nothing_behind(demo: Callable[[str], Demo]) -> None:
    """Most users end a demo with Ctrl-C; engine and workers must not survive it."""
    run = demo("processes=2, activities=100")
    assert run.process.stderr is not None
    while "on 1 process" not in run.process.stderr.readline():
        assert run.process.poll() is None
    run.process.send_signal(signal.SIGINT)
    code, out, err = run.finish()
    assert code == 130
    assert (out, err) == ("", "The demo was stopped by SIGINT; everything it started has ended.\n")
    assert run.running() == []
