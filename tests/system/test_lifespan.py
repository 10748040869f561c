"""An app's lifespan in real processes: once in each, before Ready, and left at the end of the drain."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from harness import eventually, running_host

from flowherd.free_threading import OVERRIDE

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Engine

APP = "lifespan_app:registry"
VERSION = """
from contextlib import asynccontextmanager
from flowherd import Registry

@asynccontextmanager
async def lifespan():
    {fault}
    yield

registry = Registry(lifespan=lifespan)

@registry.activity
async def version() -> dict:
    return {{"number": {number}}}
"""


def test_every_process_enters_and_leaves_it_and_handlers_see_its_state(
    engine: Engine, tmp_path: Path
) -> None:
    """One connection pool a process, made after the fork and closed after the last activity."""
    journal = tmp_path / "journal"
    with running_host(tmp_path, APP, "-p", "2", url=engine.url, env={"JOURNAL": str(journal)}) as host:
        host.ready(2)
        pids = set(host.children().values())
        (workflow,) = engine.submit("look")
        engine.wait_for("complete", 1)
        output = engine.output(workflow)
        assert output["state"] == output["expected"]
        host.signal(signal.SIGTERM)
        assert host.wait() == 0
    expected = Counter(f"{event} {pid}" for pid in pids for event in ("entered", "left"))
    assert Counter(journal.read_text().splitlines()) == expected


@pytest.mark.parametrize("parallel", ["processes", "threads"])
def test_nothing_is_claimed_before_the_supervisor_has_got_the_ready(
    engine: Engine, tmp_path: Path, parallel: str
) -> None:
    """Law 5 of the state machine: a starting process holds nothing, so a drain, a timeout or TTOU may kill it."""
    journal, gate = tmp_path / "journal", tmp_path / "gate"
    os.mkfifo(gate)
    flags = ("-p", "1", "--no-preload", "--parallel", parallel)
    env = {"JOURNAL": str(journal), "GATE": str(gate), OVERRIDE: "1"}
    engine.submit("look")
    with running_host(tmp_path, APP, *flags, url=engine.url, env=env) as host:
        open_gate = eventually(lambda: _opened(gate), "a worker at the gate")
        host.signal(signal.SIGSTOP)
        os.waitpid(host.pid, os.WUNTRACED)
        os.close(open_gate)
        eventually(journal.exists, "a worker that says Ready to nobody")
        assert engine.journal(wait_s=1.0) == []
        host.signal(signal.SIGCONT)
        engine.wait_for("complete", 1)


def _opened(gate: Path) -> int:
    """Opens the pipe; returns its descriptor, 0 while it has no reader."""
    try:
        return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 0


def test_one_that_raises_ends_the_host_with_code_3_and_one_traceback(tmp_path: Path) -> None:
    """C18: a boot failure like a failed import."""
    with running_host(tmp_path, APP, "-p", "2", env={"JOURNAL": "/dev/null", "REFUSE": "1"}) as host:
        assert host.wait() == 3
        (failure,) = host.log("boot_failed")
        assert "RuntimeError: no database here" in failure["reason"]
        text = host.log_path.read_text()
        assert text.count("Traceback (most recent call last)") == 1
        assert "in lifespan" in text


def test_c20_a_new_version_whose_lifespan_raises_leaves_the_old_one_to_fork_from(
    engine: Engine, tmp_path: Path
) -> None:
    """It imports well. A process that dies after the reload has failed is replaced by the old version."""
    app = tmp_path / "my_app.py"
    app.write_text(VERSION.format(number=1, fault="pass"))
    with running_host(tmp_path, "my_app:registry", "-p", "2", url=engine.url, app_dir=tmp_path) as host:
        host.ready(2)
        app.write_text(VERSION.format(number=2, fault="1 / 0"))
        host.signal(signal.SIGHUP)
        [failed] = host.wait_for_log("reload_failed")
        assert failed["note"] == "the old version goes on"
        for pid in host.children().values():
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: host.status()["processes"]["ready"] == 2, "both processes")
        [workflow] = engine.submit("version")
        engine.wait_for("complete", 1)
        assert engine.output(workflow) == {"number": 1}
