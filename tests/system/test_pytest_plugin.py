"""The pytest plugin: a real engine and a real supervisor, whose processes can be killed and frozen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd_supervisor.testkit import EngineProgram, SupervisorProgram

APP, APPS = "sample_app:registry", Path(__file__).parent / "apps"


def test_an_app_is_run_and_its_outputs_are_read(
    flowherd_engine: EngineProgram, flowherd_supervisor: Callable[..., SupervisorProgram]
) -> None:
    """The example of worker/docs/testing.md."""
    host = flowherd_supervisor(APP, processes=1, app_dir=APPS)
    [workflow] = host.submit("hello", name="you")
    assert flowherd_engine.ended(workflow)["status"] == "completed"
    assert flowherd_engine.output(workflow) == {"greeting": "hello you"}


def test_the_output_of_what_has_none_says_why(
    flowherd_engine: EngineProgram, flowherd_supervisor: Callable[..., SupervisorProgram]
) -> None:
    """A comparison with an empty dict would fail without a reason."""
    [waiting] = flowherd_engine.submit("hello")
    with pytest.raises(AssertionError, match=r"no output: it has not ended, it is \w+: `ended` waits for it"):
        flowherd_engine.output(waiting)
    flowherd_supervisor(APP, processes=1, app_dir=APPS)
    assert flowherd_engine.ended(waiting)["status"] == "failed"
    with pytest.raises(
        AssertionError, match=f"workflow {waiting} has no output: it failed: .*name: Field required"
    ):
        flowherd_engine.output(waiting)


def test_work_outlives_the_process_that_is_killed_and_another_that_is_frozen(
    flowherd_engine: EngineProgram,
    flowherd_supervisor: Callable[..., SupervisorProgram],
    tmp_path: Path,
) -> None:
    """Killed: replaced at once, its work handed back. Frozen: its work waits, and nothing is lost."""
    host = flowherd_supervisor(APP, "-c", "2", app_dir=APPS)
    journal = tmp_path / "journal"
    workflows = host.submit("wait", 2, seconds=1.5, journal=str(journal))
    eventually(lambda: journal.exists() and journal.read_text().count("start") == 2, "two that run")
    killed = host.kill(0)
    host.wait_ready()
    assert host.children()[0] != killed
    frozen = host.freeze(1)
    assert Path(f"/proc/{frozen}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    host.thaw(1)
    assert {flowherd_engine.ended(workflow)["status"] for workflow in workflows} == {"completed"}


def test_a_supervisor_that_ends_says_why(
    flowherd_supervisor: Callable[..., SupervisorProgram],
) -> None:
    """The error has the log, not only a timeout."""
    with pytest.raises(AssertionError, match=r"(?s)exited with 3.*broken_app"):
        flowherd_supervisor("broken_app:registry", processes=1, app_dir=APPS)


def test_the_plugin_costs_other_projects_hardly_anything() -> None:
    """Every pytest run in the same environment loads it, so it must import no client, engine or supervisor."""
    program = (
        "import flowherd_supervisor.pytest_plugin, sys;"
        "print([name for name in ('httpx', 'flowherd', 'fastapi', 'structlog') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
