"""The supervisor is killed: its workers end by themselves, and the keeper ends those that cannot (faults.md P1, M5)."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from harness import eventually

if TYPE_CHECKING:
    from chaos.world import World


def test_workers_end_by_themselves_when_the_supervisor_is_gone(world: World) -> None:
    """P1: idle ones within 2 s, before the keeper would think of it."""
    host = world.start_host(processes=4)
    os.kill(host.pid, signal.SIGKILL)
    host.process.wait()
    eventually(lambda: not host.tree(), "the end of all", within_s=2)


def test_the_keeper_ends_what_holds_the_gil(world: World) -> None:
    """P1: a worker whose threads cannot run hears nothing; all gone within 5 s, its activity given back."""
    host = world.start_host(processes=1, slots=2)
    world.engine.submit("hold_gil", 1, seconds=30)
    eventually(lambda: world.notes("start"), "a held GIL")
    os.kill(host.pid, signal.SIGKILL)
    host.process.wait()
    eventually(lambda: not host.tree(), "the end of all", within_s=5.5)
    assert len(world.engine.entries("fail")) == 1
