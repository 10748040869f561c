"""Isolates and their programs end with their worker, whatever is killed in whatever order (A17, M5)."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import eventually, running_host

from flowherd.crashpoints import ISOLATE_POINTS, VARIABLE

if TYPE_CHECKING:
    from harness import Engine, Host

APP = "isolated_app:registry"
ONCE = {"retry": {"max_attempts": 1}}
PARTS = ("supervisor", "keeper", "worker")
ORDERS = [*((part,) for part in PARTS), *itertools.permutations(PARTS, 2)]
GONE_WITHIN_S = 5.0


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def noted(folder: Path, count: int) -> list[int]:
    """Waits for `count` begun attempts; returns their isolates and the programs that these started."""

    def look() -> list[int]:
        files = [path for path in folder.iterdir() if path.suffix[1:].isdigit()]
        pids = [int(word) for path in files for word in (path.suffix[1:], *path.read_text().split())]
        return pids if len(files) >= count else []

    return eventually(look, f"{count} attempts in {folder}")


def pid_of(host: Host, part: str) -> int:
    return {"supervisor": lambda: host.pid, "keeper": host.keeper, "worker": lambda: host.children()[0]}[
        part
    ]()


def kill_all(engine: Engine, folder: Path, victims: tuple[str, ...]) -> None:
    """One isolate ignores its stop, one holds the GIL; both have started a program."""
    notes = folder / "notes"
    notes.mkdir(parents=True)
    with running_host(folder, APP, "-p", "1", "-c", "4", url=engine.url) as host:
        host.ready(1)
        for name in ("hang", "hold"):
            engine.submit(name, settings=ONCE, folder=str(notes))
        pids = noted(notes, 2)
        assert len(pids) == 4
        doomed = [pid_of(host, part) for part in victims]
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)
        killed_at = time.monotonic()
        if victims == ("keeper",):
            host.wait_for_log("keeper_died")
            assert not any(map(is_gone, pids)), "a keeper that dies is replaced, and costs nobody anything"
            os.kill(host.pid, signal.SIGKILL)
        try:
            eventually(lambda: all(map(is_gone, pids)), f"the end of {pids}", within_s=GONE_WITHIN_S)
        finally:
            print(
                f"{victims}: {time.monotonic() - killed_at:.2f} s, left {[p for p in pids if not is_gone(p)]}"
            )
            for pid in pids:
                if not is_gone(pid):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("victims", ORDERS, ids="-".join)
def test_m5_isolates_and_their_programs_end_with_whatever_is_killed(
    engine: Engine, tmp_path: Path, victims: tuple[str, ...]
) -> None:
    kill_all(engine, tmp_path, victims)


STARTS = {"before_isolated": (1,), "before_begin": (1,), "after_begin": (1, 2)}


@pytest.mark.parametrize("point", ISOLATE_POINTS)
def test_a_worker_that_dies_while_it_starts_an_isolate_lets_nothing_run_twice_at_once(
    engine: Engine, tmp_path: Path, point: str
) -> None:
    """`Begin` is sent once the record says that the activity is isolated, and an isolate ends with its worker."""
    marker, notes = tmp_path / "struck", tmp_path / "notes"
    notes.mkdir()
    env = {VARIABLE: f"{point}:1:SIGKILL:{marker}"}
    with running_host(tmp_path, APP, "-p", "1", url=engine.url, env=env) as host:
        host.ready(1)
        engine.submit("exclusive", settings={"retry": {"max_attempts": 3}}, folder=str(notes))
        engine.wait_for("complete", 1)
        assert marker.exists(), "the point was not reached"
        host.wait_for_log("process_died")
    assert set(engine.completions_per_activity().values()) == {1}
    assert not list(notes.glob("overlap.*"))
    assert len([path for path in notes.iterdir() if path.suffix[1:].isdigit()]) in STARTS[point]


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victims", ORDERS, ids="-".join)
def test_m5_the_same_ten_of_ten_times(engine: Engine, tmp_path: Path, victims: tuple[str, ...]) -> None:
    for number in range(10):
        kill_all(engine, tmp_path / str(number), victims)
