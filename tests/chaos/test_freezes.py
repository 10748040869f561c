"""A host that is stopped as a whole and goes on (faults.md N4): a laptop's lid, `docker pause`, a stolen CPU."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import eventually

if TYPE_CHECKING:
    from chaos.world import World
    from harness import Host

FAULTS = (
    "keeper_late", "keeper_died", "keeper_killed", "process_hangs", "process_died", "process_killed",
    "preload_late", "preload_died", "isolate_died", "boot_timed_out", "draining", "supervisor_error",
)  # fmt: skip


def tree_of(pid: int) -> list[int]:
    """A process and all below it, the eldest first."""
    found = [pid]
    for parent in found:
        found += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return found


def freeze(host: Host, seconds: float) -> None:
    """Stops the whole tree, and lets it go on; the supervisor wakes first and finds all others late."""
    pids = tree_of(host.pid)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)  # the fault itself, not a synchronisation
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.timeout(60)
def test_n4_a_host_that_is_frozen_again_and_again_ends_nobody(world: World) -> None:
    """N4: limits that pass meanwhile are reported as such; nobody is killed for them, nobody is late."""
    host = world.start_host("--activity-timeout", "3", "--cancel-grace", "1", processes=2, slots=8)
    world.submit_work(6, (20.0, 20.0), in_thread=0.0, max_attempts=1)
    world.submit_work(1, (20.0, 20.0), in_isolate=1.0, max_attempts=1)
    eventually(lambda: len(world.notes("start")) == 7, "7 running activities")
    before = {host.pid, *(line["pid"] for line in host.log() if line["event"].endswith("_started"))}
    _frozen_again_and_again(world, host, before, [2.2, 2.8])
    assert len(world.engine.wait_for("fail", 7)) == 7  # all took too long: that is their own fault
    assert not [line["event"] for line in host.log() if line.get("event") in FAULTS]


def _frozen_again_and_again(world: World, host: Host, before: set[int], lengths: list[float]) -> None:
    for seconds in lengths:
        freeze(host, seconds)
        time.sleep(world.rng.uniform(0.2, 0.6))  # how long it is awake
        assert {pid for pid in before if not Path(f"/proc/{pid}").exists()} == set(), (
            host.log_path.read_text()
        )
