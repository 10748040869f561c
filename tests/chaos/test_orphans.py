"""The supervisor is killed: its workers end by themselves, and the keeper ends those that cannot (faults.md P1, M5)."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from harness import eventually

if TYPE_CHECKING:
    from chaos.oracle import Note
    from chaos.world import World


def test_workers_end_by_themselves_when_the_supervisor_is_gone(world: World) -> None:
    """P1: idle ones within 2 s, before the keeper would act."""
    host = world.start_host(processes=4)
    os.kill(host.pid, signal.SIGKILL)
    host.process.wait()
    eventually(lambda: not host.tree(), "the end of all", within_s=2)


def test_the_keeper_ends_what_holds_the_gil(world: World) -> None:
    """P1: a worker whose threads cannot run gets no message; all end within 5 s, its activity is requeued."""
    host = world.start_host(processes=1, slots=2)
    world.engine.submit("hold_gil", 1, seconds=30)
    eventually(lambda: world.notes("start"), "a held GIL")
    os.kill(host.pid, signal.SIGKILL)
    host.process.wait()
    eventually(lambda: not host.tree(), "the end of all", within_s=5.5)
    assert len(world.engine.entries("fail")) == 1


def test_nothing_outlives_a_supervisor_that_dies_beside_a_process_that_has_exited(world: World) -> None:
    """N1: two hold the GIL, one has exited; workers gone within 5 s, the keeper within 6."""
    host = world.start_host("--admin", "127.0.0.1:0", processes=3, slots=3)
    world.engine.submit("hold_gil", 2, seconds=30)
    busy = {note.pid for note in eventually(lambda: _noted_by(world, 2), "the GIL held in two processes")}
    [idle] = set(host.children().values()) - busy
    keeper = host.keeper()
    host.signal(signal.SIGSTOP)  # it must not reap what exits now
    os.kill(idle, signal.SIGKILL)
    os.kill(host.pid, signal.SIGKILL)
    host.process.wait()
    eventually(lambda: not set(host.tree()) - {keeper}, "the end of all workers", within_s=5.5)
    eventually(lambda: not host.tree(), "the end of the keeper", within_s=2.0)
    world.engine.wait_for("fail", 2)


def _noted_by(world: World, processes: int) -> list[Note]:
    """Waits until begun attempts are in `count` processes; returns them."""
    notes = world.notes("start")
    return notes if len({note.pid for note in notes}) == processes else []
