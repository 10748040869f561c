"""Isolates are children of the supervisor: whichever process dies, none is left, and requests are met (A17, M5)."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from harness import eventually, running_host

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Engine, Host

APP = "hung_from_app:registry"
ONCE = {"retry": {"max_attempts": 1}}


def start(folder: Path, engine: Engine, *flags: str) -> Any:
    return running_host(folder, APP, "-p", "1", *flags, url=engine.url)


def lines(journal: Path, count: int) -> list[list[int]]:
    def look() -> list[list[int]]:
        found = [[int(word) for word in line.split()] for line in journal.read_text().splitlines()]
        return found if len(found) >= count else []

    eventually(journal.exists, "a running isolate")
    return eventually(look, f"{count} running isolates")


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("flags", [(), ("--no-preload",)], ids=["forked from the preload", "forked directly"])
def test_an_isolate_is_a_child_of_the_supervisor_in_a_group_of_its_own(
    engine: Engine, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """It has its worker's index, and the kernel may kill it first."""
    journal = tmp_path / "journal"
    with start(tmp_path, engine, *flags) as host:
        [workflow] = engine.submit("who", 1, seconds=1, journal=str(journal))
        engine.wait_for("complete", 1)
        [[pid, parent, group]] = lines(journal, 1)
        assert (parent, group) == (host.pid, pid)
        assert engine.output(workflow) == {"pid": pid, "process": "0", "expendable": True}
        host.signal(signal.SIGTERM)
        assert host.wait() == 0
        assert is_gone(pid)


def test_c15_what_an_isolate_has_started_ends_with_it(engine: Engine, tmp_path: Path) -> None:
    """Faults C15: its group is killed before the reap, when its id cannot be reused."""
    journal = tmp_path / "journal"
    with start(tmp_path, engine):
        engine.submit("with_program", 1, settings=ONCE, journal=str(journal))
        engine.wait_for("fail", 1)
        [[program]] = lines(journal, 1)
        eventually(lambda: is_gone(program), "the end of its program")


def test_an_isolate_does_not_outlive_its_worker(engine: Engine, tmp_path: Path) -> None:
    """A second after the worker, at most; the work itself has been handed back by then."""
    journal = tmp_path / "journal"
    with start(tmp_path, engine) as host:
        engine.submit("who", 1, settings=ONCE, seconds=60, journal=str(journal))
        [[pid, *_]] = lines(journal, 1)
        os.kill(host.children()[0], signal.SIGKILL)
        eventually(lambda: is_gone(pid), "the end of the isolate", within_s=5)
        engine.wait_for("fail", 1)


@pytest.mark.parametrize("state", ["running", "frozen"])
def test_m5_an_isolate_does_not_outlive_the_supervisor(engine: Engine, tmp_path: Path, state: str) -> None:
    """M5: one that cannot see the end of its channel is killed by the kernel."""
    journal = tmp_path / "journal"
    with start(tmp_path, engine) as host:
        engine.submit("who", 1, settings=ONCE, seconds=60, journal=str(journal))
        [[pid, *_]] = lines(journal, 1)
        if state == "frozen":
            os.kill(pid, signal.SIGSTOP)
        os.kill(host.pid, signal.SIGKILL)
        eventually(lambda: is_gone(pid), "the end of the isolate", within_s=5)
        eventually(lambda: not host.tree(), "the end of all others")


def test_an_isolate_that_a_dead_zygote_has_not_made_is_made_by_the_next(
    engine: Engine, tmp_path: Path
) -> None:
    """The zygote is frozen first, so that it cannot have answered."""
    journal = tmp_path / "journal"
    with start(tmp_path, engine) as host:
        host.ready(1)
        zygote = _zygote(host)
        os.kill(zygote, signal.SIGSTOP)
        engine.submit("who", 2, settings=ONCE, seconds=0, journal=str(journal))
        engine.wait_for("claim", 2)
        os.kill(zygote, signal.SIGKILL)
        engine.wait_for("complete", 2)
        assert _zygote(host) != zygote


def _zygote(host: Host) -> int:
    return host.log("preload_started")[-1]["pid"]
