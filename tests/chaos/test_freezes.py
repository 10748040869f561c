"""A host that is stopped as a whole and goes on (faults.md N4): a laptop's lid, `docker pause`, a stolen CPU."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chaos.world import World
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    """Stops the whole tree and resumes it; the supervisor wakes first and finds all others late."""
    pids = tree_of(host.pid)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)  # the fault itself, not a synchronisation
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def _freezes(world: World, host: Host, lengths: Iterable[float]) -> None:
    """Freezes repeatedly with short pauses; afterwards the same processes exist as before."""
    before = {host.pid, *(line["pid"] for line in host.log() if line["event"].endswith("_started"))}
    for seconds in lengths:
        freeze(host, seconds)
        time.sleep(world.rng.uniform(0.2, 0.6))
        gone = {pid for pid in before if not Path(f"/proc/{pid}").exists()}
        assert not gone, host.log_path.read_text()


@pytest.mark.timeout(60)
def test_n4_a_host_that_is_frozen_again_and_again_ends_no_process(world: World) -> None:
    """N4: limits that pass meanwhile are reported; no process is killed for them or late."""
    host = world.start_host("--activity-timeout", "3", "--cancel-grace", "1", processes=2, slots=8)
    world.submit_work(6, (20.0, 20.0), in_thread=0.0, max_attempts=1)
    world.submit_work(1, (20.0, 20.0), in_isolate=1.0, max_attempts=1)
    eventually(lambda: len(world.notes("start")) == 7, "7 running activities")
    _freezes(world, host, [2.2, 2.8])
    assert len(world.engine.wait_for("fail", 7)) == 7  # all exceeded their limit
    eventually(lambda: len(world.notes("end")) == 7, "the end of all handlers, by themselves")
    assert not [line for line in host.log() if line.get("event") in FAULTS]


@pytest.mark.timeout(60)
def test_n4_a_freeze_costs_no_handler_its_time(world: World) -> None:
    """N4: `docker pause` for longer than their limits; those on the loop, in threads and in isolates all complete."""
    host = world.start_host("--activity-timeout", "4", processes=2, slots=12)
    for share in ({}, {"in_thread": 1.0}, {"in_isolate": 1.0}):
        world.submit_work(3, (3.0, 3.0), **({"in_thread": 0.0} | share), max_attempts=1)
    eventually(lambda: len(world.notes("start")) == 9, "9 running activities")
    _freezes(world, host, [6.0])
    world.until_done(20)
    assert set(world.engine.completions_per_activity().values()) == {1}
    assert len(world.engine.completions_per_activity()) == 9
    assert not world.engine.entries("fail")
    assert not [line for line in host.log() if line.get("event") in FAULTS]


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_n4_leases_that_lapse_in_a_long_freeze_cost_their_handlers_and_nothing_else(tmp_path: Path) -> None:
    """N4: 2 to 30 s, again and again, under leases of 6 s: a 409 cancels that handler; all end in time."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    with World(tmp_path, seed=seed, lease_s=6) as world:
        host = world.start_host(processes=2, slots=16)
        world.submit_work(60, (1.0, 8.0), in_isolate=0.2)
        eventually(lambda: len(world.notes("start")) >= 8, "running activities")
        _freezes(world, host, [30.0, *(world.rng.uniform(2.0, 20.0) for _ in range(8))])
        world.until_done(120.0)
        assert world.ended() == 60
        assert not [line for line in host.log() if line.get("event") in FAULTS]
